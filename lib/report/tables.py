"""Tables of results, numbers in the cells; `styled` shows one, in a notebook and on the page alike.

A cell is a number, a text or an `Interval`, which `styled` writes as "3.30 [3.11, 3.49]".
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from IPython.display import HTML
from markupsafe import Markup, escape
from pandas.io.formats.style import Styler

from lib.cases.cohort import Cohort
from lib.diffusion.samplers import leading_grid
from lib.diffusion.schedule import cosine_alpha_bar, noise_gain
from lib.metrics.statistics import holm, paired_difference
from lib.report import frames
from lib.report.statements import ACCURACY, patients
from lib.studies.results import REFERENCE_GRID, Results, add_labels, select

SAME_GY = 0.05  # planned values that differ by less are told once
LESS = "less the U-Net's / Gy"
COUNTS = ("patients", "steps", "network calls", "members", "met", "plans judged", "first t")
# how a quantity is written where two decimals do not fit it
FORMATS = {
    **dict.fromkeys((*COUNTS, "goals as planned / %", "met / %", "volume / cc"), "{:.0f}"),
    **dict.fromkeys(("bias / Gy", LESS, "effect size d_z"), "{:+z.2f}"),
    **dict.fromkeys(("training / min", "minutes", "times as fast"), "{:.1f}"),
    **dict.fromkeys(("Wilcoxon p", "p after Holm"), "{:.2g}"),
    "gain at the first t": "{:,.2f}",
}


class Interval(NamedTuple):
    """A mean or median with the edges of what it stands for, None where there are too few patients."""

    middle: float
    low: float | None = None
    high: float | None = None


def styled(table: pd.DataFrame, caption: str = "") -> Styler | HTML:
    """A table as it is shown: rounded, all text escaped; of no rows, a sentence says so."""
    if not len(table):
        return HTML(Markup("<p class=missing>{} Not in this run.</p>").format(caption))
    usual = "{:.0f}" if str(table.index.name).endswith(" %") else "{:z.2f}"  # a table of shares
    shown = pd.DataFrame({c: [cell(value, FORMATS.get(c, usual)) for value in table[c]] for c in table})
    shown = shown.set_axis(table.index.astype(str)).rename_axis(columns=str(escape(table.index.name or "")))
    style = shown.rename_axis(index=None).style
    style = style.format(escape="html").format_index(escape="html").format_index(escape="html", axis=1)
    return style.set_caption(str(escape(caption)))


def pairs(values: dict[str, Any], name: str) -> pd.DataFrame:
    """Names and values as a table of two columns."""
    lists = {key: v for key, v in values.items() if isinstance(v, list | tuple)}
    texts = {key: ", ".join(map(str, v)) or "none" for key, v in lists.items()}
    return pd.Series(values | texts, dtype=object).astype(str).to_frame("value").rename_axis(name)


def cell(value: Any, form: str) -> str:
    """A value as text, nothing where it is missing."""
    if isinstance(value, Interval):
        edges = [form.format(edge) for edge in value[1:] if pd.notna(edge)]
        return cell(value.middle, form) + (f" [{', '.join(edges)}]" if edges else "")
    if isinstance(value, (str, int, np.integer)):
        return str(value)
    return "" if pd.isna(value) else form.format(value)


def means(rows: pd.DataFrame, index: str) -> pd.Series:
    """The mean of the rows' values by `index`."""
    return rows.groupby(index, sort=False)["value"].mean()


def intervals(rows: pd.DataFrame, index: str) -> pd.Series:
    """The mean of the rows' values by `index` with its 95 % interval."""
    groups = rows.groupby(index, sort=False)["value"]
    return pd.Series({key: Interval(*frames.mean_of(values)[1:4]) for key, values in groups}, dtype=object)


def pack(rows: pd.DataFrame, middle: str, low: str = "low", high: str = "high") -> pd.Series:
    """Three columns as one of intervals."""
    packed = [Interval(*row) for row in rows[[middle, low, high]].itertuples(index=False)]
    return pd.Series(packed, rows.index, dtype=object)


def join(name: str, columns: dict[str, pd.Series]) -> pd.DataFrame:
    """Columns of one index side by side."""
    return pd.concat(columns, axis=1).rename_axis(name) if columns else pd.DataFrame()


def scores_of(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """quantity -> its rows, those of the first table."""
    return {
        "MAE / Gy": frames.rows_of(frame),
        "RMSE / Gy": frames.rows_of(frame, "rmse_gy"),
        "DVH score / Gy": frames.dvh_errors(frame),
    }


def key(results: Results, statements: pd.DataFrame) -> pd.DataFrame:
    """The first table: one form of each method, seeds averaged, against the U-Net as the statements say."""
    scores = {name: frames.average(r) for name, r in scores_of(results.frames["04_comparison"]).items()}
    values, about = frames.answers(scores["MAE / Gy"])
    against = select(statements, question=ACCURACY, second="baseline", quantity="MAE").set_index("first")
    columns = {"MAE / Gy": intervals(add_labels(scores.pop("MAE / Gy")), "label")}
    columns |= {LESS: pack(against, "difference"), "verdict": against["verdict"]}
    columns |= {name: means(add_labels(rows), "label") for name, rows in scores.items()}
    return join("method", columns).loc[[n for n in values if n == "control" or n in frames.one_form(about)]]


def comparison(frame: pd.DataFrame) -> pd.DataFrame:
    """Every answer's errors, scores and cost, best first."""
    frame = add_labels(frame)
    rows = scores_of(frame) | {
        "bias / Gy": frames.rows_of(frame, "bias_gy"),
        "MAE, whole volume / Gy": frames.rows_of(frame, region="whole volume"),
        "dose score on the network's grid / Gy": select(frame, measure="grid_dose_score_gy"),
        "goals as planned / %": frames.goal_rows(frame),
        "s per patient": select(frame, measure="seconds"),
    }
    columns = {name: means(of, "label") for name, of in rows.items()}
    columns |= {name: intervals(rows[name], "label") for name in ("MAE / Gy", "RMSE / Gy")}
    return join("answer", columns).sort_values("MAE / Gy")


def differences(results: Results) -> pd.DataFrame:
    """Each answer, seeds averaged, less the U-Net, paired by patient; p by Wilcoxon, after Holm for all."""
    values, _ = frames.answers(frames.average(frames.rows_of(results.frames["04_comparison"])))
    differences = {n: paired_difference(values[n], values["baseline"]) for n in values if n != "baseline"}
    names = ["patients", LESS, "effect size d_z", "Wilcoxon p", "p after Holm"]
    after = holm([d.p for d in differences.values()])
    rows = [(d.n, Interval(*d[1:4]), d.effect, d.p, p) for d, p in zip(differences.values(), after)]
    return pd.DataFrame(rows, pd.Index(differences, name="method"), names)


def by_label(rows: pd.DataFrame, index: str, name: str) -> pd.DataFrame:
    """Mean values by `index` and number of patients, a column for one form of each method and the control."""
    rows = add_labels(frames.average(rows))
    about = rows.drop_duplicates("label").set_index("label")
    order = [*frames.one_form(about), *about.index[about["method"] == "control"]]
    table = rows.pivot_table("value", index, "label", sort=False)[order].rename_axis(index=name, columns=None)
    table.insert(0, "patients", rows.groupby(index)["case_id"].nunique())
    return table


def structure_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """MAE / Gy by structure and method, over the patients that have the structure."""
    rows = select(frame, measure="mae_gy")
    return by_label(rows[rows["structure"] != ""], "structure", "MAE / Gy in")


def organ_points(frame: pd.DataFrame) -> pd.DataFrame:
    """Planned and error / Gy of the mean dose and D0.1cc of organs that reach beyond the known dose: of all
    voxels, those beyond counted as 0 Gy as OpenKBP does, and of those of known dose alone; same patients.
    What both tell alike, as most D0.1cc, is left out."""
    inside = frame[frame["measure"].str.endswith("_inside_gy")]
    whole = inside.assign(measure=inside["measure"].str.replace("_inside", ""))
    columns = frame.columns.difference(["value", "planned"]).tolist()
    whole = frame.merge(whole[columns], on=columns)
    rows = pd.concat([whole.assign(part="whole"), inside.assign(part="known dose")])
    point = rows["measure"].str.replace("_inside", "").str.removesuffix("_gy")
    rows["point"] = rows["structure"] + ", " + point + ", " + rows["part"]
    planned = rows.drop_duplicates(["case_id", "point"]).groupby("point")["planned"].mean()
    rows["value"] = (rows["value"] - rows["planned"]).abs()
    table = by_label(rows, "point", "error / Gy of").sort_index(ascending=False)
    table.insert(1, "planned / Gy", planned)
    both = planned.groupby(lambda name: name.rpartition(", ")[0])
    return table[both.transform(np.ptp).reindex(table.index) > SAME_GY]


def goals_predicted(frame: pd.DataFrame) -> pd.DataFrame:
    """The share of plans / % that meets each goal, as planned and by each method's dose."""
    goals = frames.goal_rows(frame)
    table = by_label(goals.assign(value=100 * goals["met"]), "measure", "met / %")
    planned = select(goals, training="control").groupby("measure")["planned_met"].mean()
    table.insert(1, "planned", 100 * planned)
    return table


def goals_off(frame: pd.DataFrame) -> pd.DataFrame:
    """How far each goal's predicted value is from the planned one, in the goal's unit."""
    off = (frame["value"] - frame["planned"]).abs()
    return by_label(frames.goal_rows(frame).assign(value=off), "measure", "predicted off by")


def gamma(frame: pd.DataFrame) -> pd.DataFrame:
    """Gamma pass rates / %, mean over patients."""
    titles = {f"gamma_{n}pct_{n}mm_pass_pct": f"{n} % / {n} mm" for n in (3, 2)}
    frame = add_labels(frame).assign(title=lambda rows: rows["region"] + ", " + rows["measure"].map(titles))
    table = frame.pivot_table("value", "label", "title", sort=False).rename_axis("pass / %")
    table.insert(0, "patients", frame.groupby("label")["case_id"].nunique())
    return table


def indices(frame: pd.DataFrame) -> pd.DataFrame:
    """Conformity and homogeneity of the primary target, planned and predicted; Dice of isodose volumes."""
    frame, columns = add_labels(frame), {}
    for measure in ("conformity", "homogeneity"):
        rows = select(frame, measure=measure).dropna(subset=["value", "planned"])
        columns[f"{measure}, planned"] = means(rows.assign(value=rows["planned"]), "label")
        columns[f"{measure}, predicted"] = means(rows, "label")
    for level in (30, 50, 80, 95):
        columns[f"Dice of {level} %"] = means(select(frame, measure=f"dice_{level}"), "label")
    return join("answer", columns)


def costs(results: Results) -> pd.DataFrame:
    """What each training costs: minutes, how it is sampled, network calls and seconds per patient."""
    frame = select(results.frames["04_comparison"], averaged_over="none")
    sampled = pd.DataFrame.from_dict(frames.setting(results, "samplings", {}), orient="index", columns=None)
    sampled = sampled.reindex(columns=["nfe", "text"])
    columns = {
        "training / min": results.frames["04_history"].groupby("training")["seconds"].last() / 60,
        "network calls": sampled["nfe"],
        "sampled": sampled["text"],
        "s per patient": means(select(frame, measure="seconds"), "training"),
        "MAE / Gy": means(frames.rows_of(frame), "training"),
    }
    return join("training", columns).loc[sampled.index]


def step_grids(n_steps: Sequence[int], held_at: Sequence[int] = ()) -> pd.DataFrame:
    """Where the reference's grid starts by number of steps, and held starts: how a noise error is multiplied
    there, and how much of the dose x_t still holds."""
    alpha_bar, grids = cosine_alpha_bar(), [leading_grid(n) for n in n_steps]
    first = [int(grid[0]) for grid in grids] + list(held_at)
    table = pd.DataFrame({"network calls": [len(grid) for grid in grids] + [None] * len(held_at)})
    table["first t"], table["gain at the first t"] = first, noise_gain(alpha_bar)[first].tolist()
    table["dose left in x_t / %"] = (100 * alpha_bar[first].sqrt()).tolist()
    return table.set_axis([*map(str, n_steps), *(f"any, held at {t}" for t in held_at)]).rename_axis("steps")


def step_curves(steps: pd.DataFrame, switch: str) -> pd.DataFrame:
    """MAE in the dose mask / Gy by setting of a switch, beside the reference's, and number of steps."""
    rows = pd.concat([select(steps, setting=REFERENCE_GRID), select(steps, switch=switch)])
    rows = frames.rows_of(rows.drop_duplicates()).astype({"n_steps": "Int64"})
    columns = {name: intervals(part, "n_steps") for name, part in rows.groupby("setting", sort=False)}
    return join("steps (MAE / Gy)", columns).sort_index()


def step_costs(steps: pd.DataFrame) -> pd.DataFrame:
    """Network calls and seconds per patient beside the error, of each setting at its most steps."""
    most = steps[steps["n_steps"] == steps.groupby("setting")["n_steps"].transform("max")]
    first = most.groupby("setting", sort=False)[["n_steps", "nfe"]].first()
    columns = {"steps": first["n_steps"], "network calls": first["nfe"]}
    columns["s per patient"] = means(select(most, measure="seconds"), "setting")
    return join("setting", columns | {"MAE / Gy": intervals(frames.rows_of(most), "setting")})


def levels(frame: pd.DataFrame) -> pd.DataFrame:
    """MAE / Gy of the dose that a network sees in one call, given the planned dose with noise of level t."""
    return frame.astype({"t": int}).pivot_table("value", "t", "training", sort=False).sort_index()


def decomposition(results: Results) -> pd.DataFrame:
    """Expected squared error / Gy² of one sample, as what no averaging removes and the samples' variance."""
    rows = results.frames["02_decomposition"].rename(columns={"n_steps": "steps"})
    table = rows.pivot_table("value", ["setting", "steps"], "measure", sort=False).reset_index("steps")
    table = table.reindex(columns=["steps", "floor_gy2", "b_gy2"])
    table["sum / Gy²"] = table["floor_gy2"] + table["b_gy2"]
    regressed = select(results.frames["02_steps"], switch="regression", measure="rmse_gy")["value"]
    table.loc["regression", "sum / Gy²"] = (regressed**2).mean()
    return table.rename(columns={"floor_gy2": "floor / Gy²", "b_gy2": "b / Gy²"})


def ensemble(results: Results) -> pd.DataFrame:
    """Errors by number of answers averaged, the law of averages and the spread, a column per source."""
    rx_gy, maes, laws = frames.setting(results, "rx_gy", np.nan), {}, {}
    for name, rows in frames.sources(results).items():
        value = rows.groupby(["region", "measure"])["value"].mean()
        floor, b = value["dose mask", "floor_gy2"], value["dose mask", "b_gy2"]
        maes[name] = means(frames.rows_of(rows), "members")
        laws[name] = {
            "MAE of the members' median / Gy": value["dose mask", "median_mae_gy"],
            "floor / Gy²": floor,
            "b / Gy²": b,
            "floor / b (exact posterior: 1)": floor / b,
            "RMSE of a mean of infinitely many / regression's": frames.limit_ratio(results, rows).mean,
            "spread in the dose mask / Gy": value["dose mask", "spread_gy"],
            "spread, whole volume / % of rx": 100 * value["whole volume", "spread_gy"] / rx_gy,
        }
    maes = pd.DataFrame(maes).sort_index().rename("MAE of a mean of {:.0f} / Gy".format)
    return pd.concat([maes, pd.DataFrame(laws)]).rename_axis("quantity")


def spread_by_structure(results: Results) -> pd.DataFrame:
    """Mean spread / Gy in each structure, over the patients that have it, a column per source."""
    sources = frames.sources(results).items()
    columns = {name: means(rows[rows["structure"] != ""], "structure") for name, rows in sources}
    return join("spread / Gy in", columns).sort_index()


def calibration(results: Results) -> pd.DataFrame:
    """Whether the spread tells the error, as sampled and by the factor chosen on validation patients."""
    table = []
    for name, rows in frames.sources(results).items():
        for factor, part in rows.dropna(subset="factor").groupby("factor", sort=False):
            row = {"source": name, "spread times": factor, "members": rows["members"].max()}
            row["network calls"] = rows["nfe"].max()
            row["CRPS / Gy"] = select(part, measure="crps_gy")["value"].mean()
            row["spread / error"] = frames.spread_ratio(results, rows, factor).mean
            for level, share in means(select(part, measure="coverage_pct"), "level_pct").sort_index().items():
                row[f"{level:.0f} % interval holds / %"] = share
            in_range = select(rows, measure="dvh_band_pct")["value"].mean()
            table.append(row | {"DVH points in the members' range / %": in_range})
    return pd.DataFrame(table, columns=None if table else ["source"]).set_index("source")


def statement_table(statements: pd.DataFrame) -> pd.DataFrame:
    """Statements as a table."""
    titles = {"first": "of", "second": "against", "n": "patients"}
    table = statements.assign(**{"value or difference": pack(statements, "difference")})
    table = table.rename(columns=titles).set_index("of")
    table = table[["against", "quantity", "value or difference", "unit", "patients", "verdict"]]
    return table.loc[:, table.ne("").any()]


def cohort(results: Results) -> pd.DataFrame:
    """Who is in the cohort: its source, patients by part, voxels, findings, who was left out."""
    frame, about = results.frames["00_cohort"], results.settings.get("00_cohort", {})
    sizes = frame[frame["measure"].str.match("voxels|spacing")].groupby("measure", sort=False)["value"]
    rows = {"source": about.get("source"), "site": about.get("site")}
    rows |= {part: patients(n) for part, n in about.get("split", {}).items()}
    rows |= {name.replace("_", " "): ends(size, "{:g}") for name, size in sizes}
    rows |= beyond(frame)
    rows["with findings"] = patients(len({row["case_id"] for row in about.get("findings", [])}))
    rows["left out"] = "; ".join(f"{n}: {why}" for n, why in about.get("left_out", {}).items()) or "none"
    return pd.Series(rows).to_frame(about.get("name", "")).rename_axis("cohort")


def ends(values: pd.Series, form: str) -> str:
    """The least and the largest value; one, where they are equal."""
    return " to ".join(form.format(n) for n in sorted({values.min(), values.max()}))


def beyond(frame: pd.DataFrame) -> dict[str, str]:
    """Voxel sizes, CT and low doses of the data set, and the structures that reach beyond the known dose."""
    values = {name: rows["value"] for name, rows in frame.groupby("measure")}
    spacings = frame[frame["measure"].str.match("spacing")].pivot_table("value", "case_id", "measure")
    n = len(spacings.drop_duplicates())
    rows = {"voxel sizes": f"{n} different" if n > 1 else "one"}
    if "ct_least_hu" in values:
        rows["CT stored"] = f"{values['ct_least_hu'].min():g} to {values['ct_most_hu'].max():g} HU"
        low = values["low_dose_pct"]
        rows["dose mask below 1 Gy"] = f"{low.min():.0f} to {low.max():.0f} %, median {low.median():.0f} %"
    judged = select(frame, measure="mean_gy").groupby("structure")["case_id"].agg(set)
    for name, part in select(frame, measure="covered_pct").groupby("structure"):
        lost = len(set(part["case_id"]) - judged.get(name, set()))
        text = f"{patients(len(part))}, {ends(part['value'], '{:.4g}')} % of it inside; not judged: {lost}"
        rows[f"{name} beyond the dose"] = text
    return rows


def overlaps(frame: pd.DataFrame) -> pd.DataFrame:
    """In how many of the patients who have both a target overlaps another structure, and how much there."""
    volumes = select(frame, measure="overlap_cc").groupby("structure", sort=False)["value"]
    table = volumes.agg(["size", lambda cc: (cc > 0).sum(), lambda cc: cc[cc > 0].median()])
    titles = ["patients", "overlapping", "median overlap / cc"]
    return table.set_axis(titles, axis=1).rename_axis("structures")


def structures(frame: pd.DataFrame) -> pd.DataFrame:
    """Presence, volume and planned mean dose of every structure: median, least and most."""
    columns = {"patients": select(frame, measure="volume_cc").groupby("structure")["case_id"].nunique()}
    for measure, quantity in (("volume_cc", "volume / cc"), ("mean_gy", "planned mean dose / Gy")):
        numbers = select(frame, measure=measure).groupby("structure")["value"].agg(["median", "min", "max"])
        columns[quantity] = pack(numbers, "median", "min", "max")
    return join("median [least, most]", columns)


def goals_met(frame: pd.DataFrame) -> pd.DataFrame:
    """How many plans meet each clinical goal; plans without the structure do not count."""
    met = frame.dropna(subset="met").groupby("measure", sort=False)["met"].agg(["size", "sum", "mean"])
    met["mean"] *= 100
    return met.set_axis(["plans judged", "met", "met / %"], axis=1).rename_axis("goal")


def findings(settings: dict[str, Any]) -> pd.DataFrame:
    """Every finding of the checks, by patient."""
    rows = settings.get("findings") or [{"case_id": "all", "text": "nothing looks wrong"}]
    table = pd.DataFrame(rows, columns=["case_id", "part", "text"])
    return table.set_axis(["patient", "part", "finding"], axis=1).set_index("patient")


def imports(cohort: Cohort) -> pd.DataFrame | None:
    """What the import took from each patient's files, or None if the source has nothing to say."""
    cases = cohort.card["cases"].items()
    rows = {case_id: import_row(case["import"]) for case_id, case in cases if case.get("import")}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("patient") if rows else None


def import_row(details: dict[str, Any]) -> dict[str, str]:
    """What was taken from a patient's files; of what reaches beyond the dose's grid the share inside it."""
    structures, get = details.get("structures", {}).items(), details.get
    shares = {"body": get("body_inside_dose_grid_pct", 100)} | get("covered_pct", {})
    return {
        "warnings": "; ".join(get("warnings", [])),
        "structures missing": ", ".join(get("missing", [])),
        "taken as": ", ".join(f"{to} ← {name}" for to, name in structures if to != name),
        "ignored": ", ".join(get("ignored", [])),
        "prescription from": ", ".join(sorted(set(get("prescription_from", {}).values()))),
        "dose mask from": get("dose_mask_from", ""),
        "in the dose grid": ", ".join(f"{name} {pct:.1f} %" for name, pct in shares.items() if pct < 100),
    }


def speed(frame: pd.DataFrame) -> pd.DataFrame:
    """Seconds of the straightforward way and of this code, and their ratio with its range."""
    frame = frame.set_index("part")
    times = frame[["against", "plain_s", "ours_s"]]
    times = times.assign(ratio=pack(frame, "ratio", "ratio_low", "ratio_high"))
    return times.set_axis(["against", "straightforward / s", "here / s", "times as fast"], axis=1)


def ceilings(frame: pd.DataFrame) -> pd.DataFrame:
    """Counted work, the time it took, and its share of what the machine can do."""
    table = frame.set_index("part")[["gflop", "gbyte", "seconds", "of_peak_flop_pct", "of_peak_byte_pct"]]
    shares = ["of the matrix product's rate / %", "of the copy's rate / %"]
    return table.set_axis(["GFLOP", "GB moved", "seconds", *shares], axis=1)

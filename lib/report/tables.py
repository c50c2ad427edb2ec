"""Tables of results, numbers in the cells; `styled` shows one, in a notebook and on the page alike.

The columns have two levels, (quantity, statistic): a quantity is one number, its statistic "", or a mean over
patients with its 95 % interval, "mean", "low" and "high", which `styled` shows as "3.30 [3.11, 3.49]".
"""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import escape
from pandas.io.formats.style import Styler

from lib.cases.cohort import Cohort
from lib.diffusion.samplers import leading_grid
from lib.diffusion.schedule import cosine_alpha_bar, noise_gain
from lib.metrics.statistics import holm, paired_difference
from lib.report import frames
from lib.report.statements import ACCURACY, judge
from lib.studies.results import Results, add_labels, select

INTERVAL = ("mean", "low", "high")
# how a quantity is written where two decimals do not fit it
FORMATS = {
    **dict.fromkeys(("bias / Gy", "less the U-Net's / Gy", "effect size d_z"), "{:+.2f}"),
    **dict.fromkeys(("Wilcoxon p", "p after Holm"), "{:.2g}"),
    **dict.fromkeys(("goals as planned / %", "met / %", "planned / %", "volume / cc"), "{:.0f}"),
    **dict.fromkeys(("training / min", "minutes", "times as fast"), "{:.1f}"),
    "gain at the first t": "{:,.2f}",
}


def styled(table: pd.DataFrame, caption: str = "") -> Styler:
    """A table as it is shown: rounded, intervals in one cell, all text escaped; a sentence if it is empty."""
    texts = {
        quantity: cells(table[quantity], quantity)
        for quantity in dict.fromkeys(table.columns.get_level_values(0))
    }
    shown = pd.DataFrame(texts, index=table.index)
    shown = shown.rename_axis(index=None, columns=table.index.name)
    if table.empty:
        shown, caption = pd.DataFrame(index=["not in this run"]), caption or "Nothing to show"
    style = shown.style.format(escape="html").format_index(escape="html").format_index(escape="html", axis=1)
    return style.set_caption(str(escape(caption))).set_table_attributes('class="table"')


def cells(values: pd.DataFrame | pd.Series, quantity: str) -> pd.Series:
    """The cells of one quantity as text."""
    form = FORMATS.get(quantity, "{:.2f}")
    parts = values.to_frame("") if isinstance(values, pd.Series) else values
    texts = parts.apply(lambda column: column.map(lambda value: cell(value, form)))
    if "low" not in texts:
        return texts.iloc[:, 0]
    intervals = " [" + texts["low"] + ", " + texts["high"] + "]"
    return texts["mean"] + intervals.where(texts["low"] != "", "")


def cell(value: Any, form: str) -> str:
    if isinstance(value, str):
        return value
    if value is None or pd.isna(value):
        return ""
    return str(value) if isinstance(value, (int, np.integer)) else form.format(value)


def means(rows: pd.DataFrame, index: str | list[str], quantity: str, interval: bool = False) -> pd.DataFrame:
    """The mean of the rows' values by `index`, with its interval if asked for."""
    groups = rows.groupby(index, sort=False)["value"]
    if not interval:
        return pd.DataFrame({(quantity, ""): groups.mean()})
    found = {key: frames.mean_of(values) for key, values in groups}
    columns = pd.MultiIndex.from_product([[quantity], INTERVAL])
    numbers = [
        [d.mean, *(np.nan if edge is None else edge for edge in (d.low, d.high))] for d in found.values()
    ]
    return pd.DataFrame(
        numbers, pd.Index(found, name=groups.keys if isinstance(index, str) else None), columns
    )


def plain(table: pd.DataFrame, first: str) -> pd.DataFrame:
    """A table of single numbers with columns of two levels, `first` as its index."""
    table = table.set_index(first)
    return table.set_axis(pd.MultiIndex.from_product([table.columns, [""]]), axis=1)


def join(parts: Iterable[pd.DataFrame], name: str) -> pd.DataFrame:
    return pd.concat(list(parts), axis=1).rename_axis(index=name)


# --- the comparison ---


def key(results: Results, told: pd.DataFrame) -> pd.DataFrame:
    """The first table: one form of each method, seeds averaged, against the U-Net as the statements say."""
    frame = results.frames["04_comparison"]
    means_of = {measure: frames.average(rows) for measure, rows in scores_of(frame).items()}
    mae = add_labels(means_of["MAE / Gy"])
    about = mae.drop_duplicates("label").set_index("label")
    names = [*frames.one_form(about), *about.index[about["method"] == "control"]]
    against = select(told, question=ACCURACY, second="baseline", quantity="MAE").set_index("first")
    against = against[["difference", "low", "high", "verdict"]].set_axis(
        [*((("less the U-Net's / Gy", statistic) for statistic in INTERVAL)), ("so it is", "")], axis=1
    )
    parts = [
        means(add_labels(rows), "label", quantity, quantity == "MAE / Gy")
        for quantity, rows in means_of.items()
    ]
    table = join([parts[0], against, *parts[1:]], "method").loc[names]
    return table.sort_values(("MAE / Gy", "mean")) if len(table) else table


def scores_of(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """quantity -> its rows, those of the first table."""
    return {
        "MAE / Gy": frames.rows_of(frame),
        "RMSE / Gy": frames.rows_of(frame, "rmse_gy"),
        "dose score / Gy": select(frame, measure="dose_score_gy"),
        "DVH score / Gy": frames.dvh_errors(frame),
    }


def comparison(frame: pd.DataFrame) -> pd.DataFrame:
    """Every answer's errors, scores and cost, best first."""
    frame = add_labels(frame)
    quantities = scores_of(frame) | {
        "bias / Gy": frames.rows_of(frame, "bias_gy"),
        "MAE, whole volume / Gy": frames.rows_of(frame, region="whole volume"),
        "dose score on the network's grid / Gy": select(frame, measure="grid_dose_score_gy"),
        "goals as planned / %": frames.goal_rows(frame),
        "s per patient": select(frame, measure="seconds"),
    }
    parts = [
        means(rows, "label", name, name in ("MAE / Gy", "RMSE / Gy")) for name, rows in quantities.items()
    ]
    return join(parts, "answer").sort_values(("MAE / Gy", "mean"))


def differences(results: Results) -> pd.DataFrame:
    """Each answer, seeds averaged, less the U-Net, paired by patient; p by Wilcoxon, after Holm for all."""
    values, _ = frames.answers(frames.average(frames.rows_of(results.frames["04_comparison"])))
    found = {
        name: paired_difference(values[name], values["baseline"]) for name in values if name != "baseline"
    }
    margin_gy, corrected = frames.setting(results, "margin_gy", 0.1), holm([d.p for d in found.values()])
    rows = [
        (d.n, d.mean, d.low, d.high, d.effect, d.p, p, judge(d, margin_gy))
        for d, p in zip(found.values(), corrected)
    ]
    columns = [("patients", ""), *((("less the U-Net's / Gy", part)) for part in INTERVAL)]
    columns += [(name, "") for name in ("effect size d_z", "Wilcoxon p", "p after Holm", "so it is")]
    return pd.DataFrame(rows, pd.Index(found, name="method"), pd.MultiIndex.from_tuples(columns))


def structure_errors(frame: pd.DataFrame) -> pd.DataFrame:
    """MAE / Gy by structure and method, seeds averaged, over the patients that have the structure."""
    rows = select(frame, measure="mae_gy")
    return by_label(rows[rows["structure"] != ""], "structure", "MAE / Gy in")


def by_label(rows: pd.DataFrame, index: str, name: str) -> pd.DataFrame:
    """Mean values by `index` and number of patients, a column for one form of each method."""
    rows = add_labels(frames.average(rows))
    about = rows.drop_duplicates("label").set_index("label")
    table = rows.pivot_table("value", index, "label", sort=False)
    counts = rows.groupby(index)["case_id"].nunique().reindex(table.index)
    order = [*frames.one_form(about), *about.index[about["method"] == "control"]]
    return plain(table[order].assign(patients=counts)[["patients", *order]].reset_index(), index).rename_axis(
        name
    )


def gamma(frame: pd.DataFrame) -> pd.DataFrame:
    """Gamma pass rates / %, mean over patients."""
    frame = add_labels(frame)
    counts = pd.DataFrame({("patients", ""): frame.groupby("label", sort=False)["case_id"].nunique()})
    parts = [
        means(rows, "label", f"{region}, {measure[6]} % / {measure[11]} mm")
        for (region, measure), rows in frame.groupby(["region", "measure"], sort=False)
    ]
    return join([counts, *parts], "gamma pass / %")


def goals_predicted(frame: pd.DataFrame) -> pd.DataFrame:
    """The share of plans / % that meets each goal, as planned and by each method's dose."""
    goals = frame.dropna(subset=["met", "planned_met"])
    planned = select(goals, training="control").assign(value=lambda rows: 100 * rows["planned_met"])
    table = by_label(goals.assign(value=100 * goals["met"]), "measure", "met / %")
    table.insert(1, ("planned", ""), means(planned, "measure", "planned"))
    return table


def goals_off(frame: pd.DataFrame) -> pd.DataFrame:
    """How far each goal's predicted value is from the planned one, in the goal's unit."""
    goals = frame.dropna(subset=["met", "planned_met"])
    return by_label(
        goals.assign(value=(goals["value"] - goals["planned"]).abs()), "measure", "predicted off by"
    )


def indices(frame: pd.DataFrame) -> pd.DataFrame:
    """Conformity and homogeneity of the primary target, planned and predicted; Dice of isodose volumes."""
    frame, parts = add_labels(frame), []
    for measure in ("conformity", "homogeneity"):
        rows = select(frame, measure=measure).dropna(subset=["value", "planned"])
        planned = rows.assign(value=rows["planned"])
        parts += [
            means(planned, "label", f"{measure}, planned"),
            means(rows, "label", f"{measure}, predicted"),
        ]
    for level in (30, 50, 80, 95):
        parts.append(means(select(frame, measure=f"dice_{level}"), "label", f"Dice of {level} %"))
    return join(parts, "answer")


def costs(results: Results) -> pd.DataFrame:
    """What each training costs: minutes, how it is sampled, network calls and seconds per patient."""
    frame = select(results.frames["04_comparison"], averaged_over="none")
    seconds = results.frames["04_history"].groupby("training", sort=False)["seconds"].last()
    samplings = frames.setting(results, "samplings", {})
    calls = {name: {"network calls": s["nfe"], "sampled": s["text"]} for name, s in samplings.items()}
    sampled = pd.DataFrame.from_dict(calls, orient="index", columns=["network calls", "sampled"])
    sampled.columns = pd.MultiIndex.from_product([sampled.columns, [""]])
    parts = [
        pd.DataFrame({("training / min", ""): seconds / 60}),
        sampled,
        means(select(frame, measure="seconds"), "training", "s per patient"),
        means(frames.rows_of(frame), "training", "MAE / Gy"),
    ]
    return join(parts, "training").loc[list(calls)]


# --- sampling steps ---


def step_grids(n_steps: Sequence[int], held_at: Sequence[int] = ()) -> pd.DataFrame:
    """Where the reference's grid starts by number of steps, and held starts: how a noise error is multiplied
    there, and how much of the dose x_t still holds."""
    alpha_bar = cosine_alpha_bar()
    starts = [(str(n), len(leading_grid(n)), int(leading_grid(n)[0])) for n in n_steps]
    starts += [(f"any, held at {t}", np.nan, t) for t in held_at]
    rows = [
        {
            "steps": steps,
            "network calls": calls,
            "first t": t,
            "gain at the first t": float(noise_gain(alpha_bar)[t]),
            "dose left in x_t / %": 100 * float(alpha_bar[t] ** 0.5),
        }
        for steps, calls, t in starts
    ]
    return plain(pd.DataFrame(rows), "steps")


def step_curves(steps: pd.DataFrame, switch: str) -> pd.DataFrame:
    """MAE in the dose mask / Gy by setting of a switch and number of steps."""
    rows = frames.rows_of(select(steps, switch=switch)).astype({"n_steps": int})
    parts = [means(own, "n_steps", name, True) for name, own in rows.groupby("setting", sort=False)]
    return join(parts, "steps (MAE / Gy)").sort_index() if parts else pd.DataFrame()


def step_costs(steps: pd.DataFrame) -> pd.DataFrame:
    """Network calls and seconds per patient beside the error, of each setting at its most steps."""
    steps = steps.dropna(subset="n_steps")
    most = steps[steps["n_steps"] == steps.groupby("setting")["n_steps"].transform("max")]
    counts = most.groupby("setting", sort=False)[["n_steps", "nfe"]].first().astype(int)
    counts.columns = pd.MultiIndex.from_product([["steps", "network calls"], [""]])
    seconds = means(select(most, measure="seconds"), "setting", "s per patient")
    return join([counts, seconds, means(frames.rows_of(most), "setting", "MAE / Gy", True)], "setting")


def levels(frame: pd.DataFrame) -> pd.DataFrame:
    """MAE / Gy of the dose that a network sees in one call, given the planned dose with noise of level t."""
    table = frame.astype({"t": int}).pivot_table("value", "t", "training", sort=False)
    return plain(table.sort_index().reset_index(), "t") if len(table) else table


def decomposition(results: Results) -> pd.DataFrame:
    """Expected squared error / Gy² of one sample, as what no averaging removes and the samples' variance."""
    rows = results.frames["02_decomposition"].astype({"n_steps": int})
    table = rows.pivot_table("value", ["setting", "n_steps"], "measure", sort=False)
    if not len(table):
        return table
    table = table.reset_index().rename(
        columns={"n_steps": "steps", "floor_gy2": "floor / Gy²", "b_gy2": "b / Gy²"}
    )
    regressed = select(results.frames["02_steps"], switch="regression", measure="rmse_gy")
    table["sum / Gy²"] = table["floor / Gy²"] + table["b / Gy²"]
    table.loc[len(table)] = {"setting": "regression", "sum / Gy²": (regressed["value"] ** 2).mean()}
    return plain(table[["setting", "steps", "floor / Gy²", "b / Gy²", "sum / Gy²"]], "setting")


# --- several answers ---


def ensemble(results: Results) -> pd.DataFrame:
    """Errors by number of answers averaged, the law of averages and the spread, a column per source."""
    rx_gy, columns = frames.setting(results, "rx_gy", np.nan), {}
    for name, rows in frames.sources(results).items():
        value = rows.groupby(["region", "measure"])["value"].mean()
        floor, b = value["dose mask", "floor_gy2"], value["dose mask", "b_gy2"]
        maes = frames.rows_of(rows).groupby("members")["value"].mean()
        columns[name] = {f"MAE of a mean of {n:.0f} / Gy": mae for n, mae in maes.items()} | {
            "MAE of the members' median / Gy": value["dose mask", "median_mae_gy"],
            "floor / Gy²": floor,
            "b / Gy²": b,
            "floor / b (exact posterior: 1)": floor / b,
            "RMSE of a mean of infinitely many / regression's": frames.limit_ratio(results, rows).mean,
            "spread in the dose mask / Gy": value["dose mask", "spread_gy"],
            "spread over the whole volume / prescription": value["whole volume", "spread_gy"] / rx_gy,
        }
    table = pd.DataFrame(columns).rename_axis("quantity").reset_index()
    return plain(table, "quantity") if columns else pd.DataFrame()


def spread_by_structure(results: Results) -> pd.DataFrame:
    """Mean spread / Gy in each structure, over the patients that have it, a column per source."""
    parts = [
        means(rows[rows["structure"] != ""], "structure", name)
        for name, rows in frames.sources(results).items()
    ]
    return join(parts, "spread / Gy in").sort_index() if parts else pd.DataFrame()


def calibration(results: Results) -> pd.DataFrame:
    """Whether the spread tells the error, as sampled and by the factor chosen on validation patients."""
    table = {}
    for name, rows in frames.sources(results).items():
        for factor in frames.scores(rows, "crps_gy"):
            own = rows[(rows["factor"] == factor)]
            covered = select(own, measure="coverage_pct").groupby("level_pct")["value"].mean()
            table[name, factor] = {
                "members": int(rows["members"].max()),
                "network calls": int(rows["nfe"].max()),
                "spread / error": frames.spread_ratio(results, rows, factor).mean,
                **{f"{level:.0f} % interval holds / %": share for level, share in covered.items()},
                "CRPS / Gy": select(own, measure="crps_gy")["value"].mean(),
                "DVH points in the members' range / %": select(rows, measure="dvh_band_pct")["value"].mean(),
            }
    frame = (
        pd.DataFrame.from_dict(table, orient="index").rename_axis(["source", "spread times"]).reset_index()
    )
    return plain(frame, "source") if table else frame


# --- what is said ---


def told_rows(told: pd.DataFrame) -> pd.DataFrame:
    """Statements as a table."""
    rows = told.rename(columns={"first": "of", "second": "against", "n": "patients"}).reset_index(drop=True)
    numbers = rows[["difference", "low", "high"]].set_axis(
        [("value or difference", part) for part in INTERVAL], axis=1
    )
    texts = rows[["of", "against", "quantity", "unit", "patients", "verdict"]]
    texts.columns = [(name, "") for name in texts]
    table = pd.concat([texts.iloc[:, 1:3], numbers, texts.iloc[:, 3:]], axis=1).set_index(rows["of"])
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table


# --- the cohort ---


def cohort(results: Results) -> pd.DataFrame:
    """Who is in the cohort: its source, patients by part, voxels, findings, who was left out."""
    frame, found = results.frames["00_cohort"], results.settings.get("00_cohort", {})
    size = {
        name: "  x  ".join(ranges(frame, name, axis) for axis in "zyx")
        for name in ("voxels_{}", "spacing_{}_mm")
    }
    left_out = "; ".join(f"{k}: {v}" for k, v in found.get("left_out", {}).items())
    rows = {
        "source": found.get("source", ""),
        "site": found.get("site", ""),
        "patients": ", ".join(f"{n} {part}" for part, n in found.get("split", {}).items()),
        "voxels (z, y, x)": size["voxels_{}"],
        "spacing (z, y, x) / mm": size["spacing_{}_mm"],
        "patients with findings": str(len({row["case_id"] for row in found.get("findings", [])})),
        "left out at import": left_out or "none",
    }
    return plain(pd.DataFrame({"": rows.keys(), "cohort": rows.values()}), "") if found else pd.DataFrame()


def ranges(frame: pd.DataFrame, name: str, axis: str) -> str:
    """The least and most of a measure along an axis as "2 to 3.5"."""
    values = select(frame, measure=name.format(axis))["value"]
    least, most = values.min(), values.max()
    return f"{least:.3g}" + (f" to {most:.3g}" if most > least else "")


def structures(frame: pd.DataFrame) -> pd.DataFrame:
    """Presence, volume and planned mean dose of every structure, medians with the least and most."""
    parts = []
    for measure, quantity in (("volume_cc", "volume / cc"), ("mean_gy", "planned mean dose / Gy")):
        groups = select(frame, measure=measure).groupby("structure")["value"]
        numbers = groups.agg(["median", "min", "max"])
        parts.append(numbers.set_axis(pd.MultiIndex.from_product([[f"{quantity}"], INTERVAL]), axis=1))
    counts = select(frame, measure="volume_cc").groupby("structure")["case_id"].nunique()
    return join([pd.DataFrame({("patients", ""): counts}), *parts], "structure: median [least, most]")


def goals_met(frame: pd.DataFrame) -> pd.DataFrame:
    """How many plans meet each clinical goal; plans without the structure do not count."""
    groups = frame.dropna(subset="met").groupby("measure", sort=False)["met"]
    table = pd.DataFrame(
        {"plans judged": groups.size(), "met": groups.sum().astype(int), "met / %": 100 * groups.mean()}
    )
    return plain(table.rename_axis("goal").reset_index(), "goal")


def findings(settings: dict[str, Any]) -> pd.DataFrame:
    """Every finding of the checks, by patient."""
    rows = settings.get("findings") or [{"case_id": "all", "part": "", "text": "nothing looks wrong"}]
    table = pd.DataFrame(rows)[["case_id", "part", "text"]]
    return plain(table.rename(columns={"case_id": "patient", "text": "finding"}), "patient")


def imports(cohort: Cohort) -> pd.DataFrame | None:
    """What the import took from each patient's files, or None if the source has nothing to say."""
    said = {case_id: case["import"] for case_id, case in cohort.card["cases"].items() if case.get("import")}
    rows = [
        {
            "patient": case_id,
            "warnings": "; ".join(d.get("warnings", [])),
            "structures missing": ", ".join(d.get("missing", [])),
            "taken as": ", ".join(
                f"{to} ← {name}" for to, name in d.get("structures", {}).items() if to != name
            ),
            "ignored": ", ".join(d.get("ignored", [])),
            "prescription from": ", ".join(sorted(set(d.get("prescription_from", {}).values()))),
            "dose mask from": d.get("dose_mask_from", ""),
        }
        for case_id, d in said.items()
    ]
    return plain(pd.DataFrame(rows), "patient") if rows else None


# --- speed ---


def speed(frame: pd.DataFrame) -> pd.DataFrame:
    """Seconds of the straightforward way and of this code, and their ratio with its range."""
    table = frame.rename(columns={"plain_s": "straightforward / s", "ours_s": "here / s"})
    table.columns = [(name, "") for name in table.columns[:5]] + [
        ("times as fast", part) for part in INTERVAL[1:]
    ]
    table = table.rename(columns={("ratio", ""): ("times as fast", "mean")})
    table.columns = pd.MultiIndex.from_tuples(table.columns)
    return table.set_index(("part", "")).rename_axis("part")


def ceilings(frame: pd.DataFrame) -> pd.DataFrame:
    """Counted work, the time it took, and its share of what the machine can do."""
    names = {
        "part": "part",
        "gflop": "GFLOP",
        "gbyte": "GB moved",
        "seconds": "seconds",
        "of_peak_flop_pct": "of the matrix product's rate / %",
        "of_peak_byte_pct": "of the copy's rate / %",
    }
    return plain(frame[list(names)].rename(columns=names), "part")


def notebook_times(frame: pd.DataFrame) -> pd.DataFrame:
    return plain(frame, "notebook")

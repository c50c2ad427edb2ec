"""Tables of results, numbers in the cells; `styled` shows one, in a notebook and on the page alike.

A column is a number or a text; a mean over patients with its 95 % interval is three columns of two levels,
(quantity, "mean" | "low" | "high"), which `styled` shows as one, "3.30 [3.11, 3.49]".
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from markupsafe import escape
from pandas.io.formats.style import Styler

from lib.cases.cohort import Cohort
from lib.diffusion.samplers import leading_grid
from lib.diffusion.schedule import cosine_alpha_bar, noise_gain
from lib.metrics.statistics import Difference, holm, paired_difference
from lib.report import frames
from lib.report.statements import ACCURACY, judge
from lib.studies.results import Results, add_labels, select

INTERVAL, LESS = ["mean", "low", "high"], "less the U-Net's / Gy"
COUNTS = ("patients", "steps", "network calls", "members", "met", "plans judged", "first t")
# how a quantity is written where two decimals do not fit it
FORMATS = {
    **dict.fromkeys((*COUNTS, "goals as planned / %", "met / %", "volume / cc"), "{:.0f}"),
    **dict.fromkeys(("bias / Gy", LESS, "effect size d_z"), "{:+.2f}"),
    **dict.fromkeys(("training / min", "minutes", "times as fast"), "{:.1f}"),
    **dict.fromkeys(("Wilcoxon p", "p after Holm"), "{:.2g}"),
    "gain at the first t": "{:,.2f}",
}


def styled(table: pd.DataFrame, caption: str = "") -> Styler:
    """A table as it is shown: rounded, intervals in one cell, all text escaped; of no rows, it says so."""
    corner = str(escape(table.index.name or ""))
    shown = pd.DataFrame(index=table.index.astype(str)).rename_axis(index=None, columns=corner)
    for quantity in dict.fromkeys(table.columns.get_level_values(0)):
        texts = pd.DataFrame(table[quantity]).map(cell, form=FORMATS.get(quantity, "{:.2f}")).to_numpy()
        shown[quantity] = [f"{row[0]} [{', '.join(row[1:])}]" if any(row[1:]) else row[0] for row in texts]
    style = (shown if len(shown) else pd.DataFrame(index=["not in this run"])).style
    style = style.format(escape="html").format_index(escape="html").format_index(escape="html", axis=1)
    return style.set_caption(str(escape(caption)))


def cell(value: Any, form: str) -> str:
    """A value as text, nothing where it is missing."""
    if isinstance(value, (str, int, np.integer)):
        return str(value)
    return "" if pd.isna(value) else form.format(value)


def means(rows: pd.DataFrame, index: str, quantity: str) -> pd.DataFrame:
    """The mean of the rows' values by `index`."""
    return rows.groupby(index, sort=False)["value"].mean().to_frame(quantity)


def intervals(rows: pd.DataFrame, index: str, quantity: str) -> pd.DataFrame:
    """The mean of the rows' values by `index` with its 95 % interval."""
    found = {key: frames.mean_of(values)[1:4] for key, values in rows.groupby(index, sort=False)["value"]}
    return edges(pd.DataFrame.from_dict(found, orient="index", columns=INTERVAL), quantity)


def edges(table: pd.DataFrame, quantity: str) -> pd.DataFrame:
    """Three columns, a middle and two edges, as those of one quantity."""
    return table.astype(float).set_axis(pd.MultiIndex.from_product([[quantity], INTERVAL]), axis=1)


def join(parts: Sequence[pd.DataFrame], name: str) -> pd.DataFrame:
    """Tables of one index side by side, columns of one level given a second."""
    parts = [p if p.columns.nlevels == 2 else pd.concat({"": p}, axis=1).swaplevel(axis=1) for p in parts]
    return pd.concat(parts, axis=1).rename_axis(index=name) if parts else pd.DataFrame()


def scores_of(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """quantity -> its rows, those of the first table."""
    return {
        "MAE / Gy": frames.rows_of(frame),
        "RMSE / Gy": frames.rows_of(frame, "rmse_gy"),
        "dose score / Gy": select(frame, measure="dose_score_gy"),
        "DVH score / Gy": frames.dvh_errors(frame),
    }


def key(results: Results, told: pd.DataFrame) -> pd.DataFrame:
    """The first table: one form of each method, seeds averaged, against the U-Net as the statements say."""
    scores = scores_of(results.frames["04_comparison"])
    rows_of = {name: frames.average(rows) for name, rows in scores.items()}
    values, about = frames.answers(rows_of["MAE / Gy"])
    against = select(told, question=ACCURACY, second="baseline", quantity="MAE").set_index("first")
    less = edges(against[["difference", "low", "high"]], LESS)
    mae, *others = (
        (intervals if name == "MAE / Gy" else means)(add_labels(rows), "label", name)
        for name, rows in rows_of.items()
    )
    table = join([mae, less, against[["verdict"]], *others], "method")
    return table.loc[[name for name in values if name == "control" or name in frames.one_form(about)]]


def comparison(frame: pd.DataFrame) -> pd.DataFrame:
    """Every answer's errors, scores and cost, best first."""
    frame = add_labels(frame)
    mae, rmse, *others = (
        scores_of(frame)
        | {
            "bias / Gy": frames.rows_of(frame, "bias_gy"),
            "MAE, whole volume / Gy": frames.rows_of(frame, region="whole volume"),
            "dose score on the network's grid / Gy": select(frame, measure="grid_dose_score_gy"),
            "goals as planned / %": frames.goal_rows(frame),
            "s per patient": select(frame, measure="seconds"),
        }
    ).items()
    parts = [intervals(rows, "label", name) for name, rows in (mae, rmse)]
    parts += [means(rows, "label", name) for name, rows in others]
    return join(parts, "answer").sort_values(("MAE / Gy", "mean"))


def differences(results: Results) -> pd.DataFrame:
    """Each answer, seeds averaged, less the U-Net, paired by patient; p by Wilcoxon, after Holm for all."""
    values, _ = frames.answers(frames.average(frames.rows_of(results.frames["04_comparison"])))
    found = {
        name: paired_difference(values[name], values["baseline"]) for name in values if name != "baseline"
    }
    table = pd.DataFrame.from_dict(found, orient="index", columns=Difference._fields)
    table["after"] = holm([d.p for d in found.values()])
    table["verdict"] = [judge(d, frames.setting(results, "margin_gy", 0.1)) for d in found.values()]
    names = {"n": "patients", "effect": "effect size d_z", "p": "Wilcoxon p", "after": "p after Holm"}
    rest = table[["effect", "p", "after", "verdict"]].rename(columns=names)
    return join([table[["n"]].rename(columns=names), edges(table[INTERVAL], LESS), rest], "method")


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


def goals_predicted(frame: pd.DataFrame) -> pd.DataFrame:
    """The share of plans / % that meets each goal, as planned and by each method's dose."""
    goals = frames.goal_rows(frame)
    table = by_label(goals.assign(value=100 * goals["met"]), "measure", "met / %")
    table.insert(
        1, "planned", 100 * select(goals, training="control").groupby("measure")["planned_met"].mean()
    )
    return table


def goals_off(frame: pd.DataFrame) -> pd.DataFrame:
    """How far each goal's predicted value is from the planned one, in the goal's unit."""
    goals = frames.goal_rows(frame)
    return by_label(
        goals.assign(value=(frame["value"] - frame["planned"]).abs()), "measure", "predicted off by"
    )


def gamma(frame: pd.DataFrame) -> pd.DataFrame:
    """Gamma pass rates / %, mean over patients."""
    titles = {f"gamma_{n}pct_{n}mm_pass_pct": f"{n} % / {n} mm" for n in (3, 2)}
    frame = add_labels(frame).assign(title=lambda rows: rows["region"] + ", " + rows["measure"].map(titles))
    table = frame.pivot_table("value", "label", "title", sort=False).rename_axis(
        index="pass / %", columns=None
    )
    table.insert(0, "patients", frame.groupby("label")["case_id"].nunique())
    return table


def indices(frame: pd.DataFrame) -> pd.DataFrame:
    """Conformity and homogeneity of the primary target, planned and predicted; Dice of isodose volumes."""
    frame, parts = add_labels(frame), []
    for measure in ("conformity", "homogeneity"):
        rows = select(frame, measure=measure).dropna(subset=["value", "planned"])
        parts.append(means(rows.assign(value=rows["planned"]), "label", f"{measure}, planned"))
        parts.append(means(rows, "label", f"{measure}, predicted"))
    for level in (30, 50, 80, 95):
        parts.append(means(select(frame, measure=f"dice_{level}"), "label", f"Dice of {level} %"))
    return join(parts, "answer")


def costs(results: Results) -> pd.DataFrame:
    """What each training costs: minutes, how it is sampled, network calls and seconds per patient."""
    frame = select(results.frames["04_comparison"], averaged_over="none")
    seconds = results.frames["04_history"].groupby("training")["seconds"].last() / 60
    samplings = pd.DataFrame.from_dict(frames.setting(results, "samplings", {}), orient="index", columns=None)
    sampled = samplings.reindex(columns=["nfe", "text"]).set_axis(["network calls", "sampled"], axis=1)
    parts = [
        seconds.to_frame("training / min"),
        sampled,
        means(select(frame, measure="seconds"), "training", "s per patient"),
    ]
    return join([*parts, means(frames.rows_of(frame), "training", "MAE / Gy")], "training").loc[
        samplings.index
    ]


def step_grids(n_steps: Sequence[int], held_at: Sequence[int] = ()) -> pd.DataFrame:
    """Where the reference's grid starts by number of steps, and held starts: how a noise error is multiplied
    there, and how much of the dose x_t still holds."""
    alpha_bar, grids = cosine_alpha_bar(), {n: leading_grid(n) for n in n_steps}
    table = pd.DataFrame({"network calls": [len(grid) for grid in grids.values()] + [None] * len(held_at)})
    table["first t"] = first = [int(grid[0]) for grid in grids.values()] + list(held_at)
    table["gain at the first t"] = noise_gain(alpha_bar)[first].tolist()
    table["dose left in x_t / %"] = (100 * alpha_bar[first].sqrt()).tolist()
    return table.set_axis([*map(str, n_steps), *(f"any, held at {t}" for t in held_at)]).rename_axis("steps")


def step_curves(steps: pd.DataFrame, switch: str) -> pd.DataFrame:
    """MAE in the dose mask / Gy by setting of a switch and number of steps."""
    rows = frames.rows_of(select(steps, switch=switch)).astype({"n_steps": "Int64"})
    parts = [intervals(own, "n_steps", name) for name, own in rows.groupby("setting", sort=False)]
    return join(parts, "steps (MAE / Gy)").sort_index()


def step_costs(steps: pd.DataFrame) -> pd.DataFrame:
    """Network calls and seconds per patient beside the error, of each setting at its most steps."""
    most = steps[steps["n_steps"] == steps.groupby("setting")["n_steps"].transform("max")]
    counts = (
        most.groupby("setting", sort=False)[["n_steps", "nfe"]]
        .first()
        .set_axis(["steps", "network calls"], axis=1)
    )
    seconds = means(select(most, measure="seconds"), "setting", "s per patient")
    return join([counts, seconds, intervals(frames.rows_of(most), "setting", "MAE / Gy")], "setting")


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
    rx_gy, columns = frames.setting(results, "rx_gy", np.nan), {}
    for name, rows in frames.sources(results).items():
        value = rows.groupby(["region", "measure"])["value"].mean()
        floor, b = value["dose mask", "floor_gy2"], value["dose mask", "b_gy2"]
        columns[name] = frames.rows_of(rows).groupby("members")["value"].mean().to_dict() | {
            "MAE of the members' median / Gy": value["dose mask", "median_mae_gy"],
            "floor / Gy²": floor,
            "b / Gy²": b,
            "floor / b (exact posterior: 1)": floor / b,
            "RMSE of a mean of infinitely many / regression's": frames.limit_ratio(results, rows).mean,
            "spread in the dose mask / Gy": value["dose mask", "spread_gy"],
            "spread over the whole volume / prescription": value["whole volume", "spread_gy"] / rx_gy,
        }
    table = pd.DataFrame(columns).rename_axis("quantity")
    sizes = sorted(size for size in table.index if not isinstance(size, str))
    table = table.loc[[*sizes, *(name for name in table.index if isinstance(name, str))]]
    return table.rename({size: f"MAE of a mean of {size:.0f} / Gy" for size in sizes})


def spread_by_structure(results: Results) -> pd.DataFrame:
    """Mean spread / Gy in each structure, over the patients that have it, a column per source."""
    sources = frames.sources(results).items()
    parts = [means(rows[rows["structure"] != ""], "structure", name) for name, rows in sources]
    return join(parts, "spread / Gy in").sort_index()


def calibration(results: Results) -> pd.DataFrame:
    """Whether the spread tells the error, as sampled and by the factor chosen on validation patients."""
    table = []
    for name, rows in frames.sources(results).items():
        for factor, own in rows.dropna(subset="factor").groupby("factor", sort=False):
            covered = select(own, measure="coverage_pct").groupby("level_pct")["value"].mean()
            table.append({"source": name, "spread times": factor, "members": rows["members"].max()})
            table[-1] |= {
                "network calls": rows["nfe"].max(),
                "CRPS / Gy": frames.scores(own, "crps_gy").mean().iloc[0],
            }
            table[-1]["spread / error"] = frames.spread_ratio(results, rows, factor).mean
            table[-1] |= {f"{level:.0f} % interval holds / %": share for level, share in covered.items()}
            table[-1]["DVH points in the members' range / %"] = select(rows, measure="dvh_band_pct")[
                "value"
            ].mean()
    return pd.DataFrame(table, columns=None if table else ["source"]).set_index("source")


def told_rows(told: pd.DataFrame) -> pd.DataFrame:
    """Statements as a table."""
    told = told.rename(columns={"second": "against", "n": "patients"}).set_index("first")
    numbers = edges(told[["difference", "low", "high"]], "value or difference")
    return join([told[["against", "quantity"]], numbers, told[["unit", "patients", "verdict"]]], "of")


def cohort(results: Results) -> pd.DataFrame:
    """Who is in the cohort: its source, patients by part, voxels, findings, who was left out."""
    frame, found = results.frames["00_cohort"], results.settings.get("00_cohort", {})
    sizes = frame[frame["measure"].str.match("voxels|spacing")].groupby("measure", sort=False)["value"]
    rows = {"source": found.get("source"), "site": found.get("site")}
    rows |= {part: f"{n} patients" for part, n in found.get("split", {}).items()}
    rows |= {
        name: f"{size.min():g}" + (f" to {size.max():g}" if size.min() < size.max() else "")
        for name, size in sizes
    }
    for name, inside in select(frame, measure="covered_pct").groupby("structure")["value"]:
        shares = f"{inside.min():.1f} to {inside.max():.1f} % in the dose grid"
        rows[f"{name} not judged"] = f"{len(inside)} patients, {shares}"
    rows["with findings"] = f"{len({row['case_id'] for row in found.get('findings', [])})} patients"
    rows["left out"] = (
        "; ".join(f"{name}: {why}" for name, why in found.get("left_out", {}).items()) or "none"
    )
    return pd.Series(rows).to_frame(found.get("name", "")).rename_axis("cohort")


def structures(frame: pd.DataFrame) -> pd.DataFrame:
    """Presence, volume and planned mean dose of every structure: median, least and most."""
    parts = [
        select(frame, measure="volume_cc").groupby("structure")["case_id"].nunique().to_frame("patients")
    ]
    for measure, quantity in (("volume_cc", "volume / cc"), ("mean_gy", "planned mean dose / Gy")):
        numbers = select(frame, measure=measure).groupby("structure")["value"].agg(["median", "min", "max"])
        parts.append(edges(numbers, quantity))
    return join(parts, "median [least, most]")


def goals_met(frame: pd.DataFrame) -> pd.DataFrame:
    """How many plans meet each clinical goal; plans without the structure do not count."""
    met = frame.dropna(subset="met").groupby("measure", sort=False)["met"].agg(["size", "sum", "mean"])
    met["mean"] *= 100
    return met.set_axis(["plans judged", "met", "met / %"], axis=1).rename_axis("goal")


def findings(settings: dict[str, Any]) -> pd.DataFrame:
    """Every finding of the checks, by patient."""
    rows = settings.get("findings") or [{"case_id": "all", "text": "nothing looks wrong"}]
    table = pd.DataFrame(rows, columns=["case_id", "part", "text"]).rename(columns={"text": "finding"})
    return table.set_index("case_id").rename_axis("patient")


def imports(cohort: Cohort) -> pd.DataFrame | None:
    """What the import took from each patient's files, or None if the source has nothing to say."""
    said = {case_id: case["import"] for case_id, case in cohort.card["cases"].items() if case.get("import")}
    rows = {
        case_id: {
            "warnings": "; ".join(d.get("warnings", [])),
            "structures missing": ", ".join(d.get("missing", [])),
            "taken as": ", ".join(
                f"{to} ← {name}" for to, name in d.get("structures", {}).items() if to != name
            ),
            "ignored": ", ".join(d.get("ignored", [])),
            "prescription from": ", ".join(sorted(set(d.get("prescription_from", {}).values()))),
            "dose mask from": d.get("dose_mask_from", ""),
            "in the dose grid": shares_text(d),
        }
        for case_id, d in said.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("patient") if rows else None


def shares_text(details: dict[str, Any]) -> str:
    """How much of what reaches beyond the dose's own grid is inside it."""
    shares = {"body": details.get("body_inside_dose_grid_pct", 100)} | details.get("covered_pct", {})
    return ", ".join(f"{name} {pct:.1f} %" for name, pct in shares.items() if pct < 100)


def speed(frame: pd.DataFrame) -> pd.DataFrame:
    """Seconds of the straightforward way and of this code, and their ratio with its range."""
    frame = frame.set_index("part")
    times = frame[["against", "plain_s", "ours_s"]].set_axis(
        ["against", "straightforward / s", "here / s"], axis=1
    )
    return join([times, edges(frame[["ratio", "ratio_low", "ratio_high"]], "times as fast")], "part")


def ceilings(frame: pd.DataFrame) -> pd.DataFrame:
    """Counted work, the time it took, and its share of what the machine can do."""
    table = frame.set_index("part")[["gflop", "gbyte", "seconds", "of_peak_flop_pct", "of_peak_byte_pct"]]
    shares = ["of the matrix product's rate / %", "of the copy's rate / %"]
    return table.set_axis(["GFLOP", "GB moved", "seconds", *shares], axis=1)


def notebook_times(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.set_index("notebook")

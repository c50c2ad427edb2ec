"""Tables as data frames of formatted text, indexed by their first column."""

import numpy as np
import pandas as pd

from lib.cases.protocols import PROTOCOLS
from lib.diffusion.samplers import leading_grid
from lib.diffusion.schedule import cosine_alpha_bar, noise_gain
from lib.metrics.dvh import goal_values
from lib.metrics.statistics import holm, interval, paired_difference
from lib.metrics.uncertainty import spread_skill_ratio
from lib.report.sentences import short_span, told_difference
from lib.report.verdicts import WITHOUT_SAMPLING, one_each, over_seeds
from lib.studies.rows import Goal, by_method, grouped, sizes_of


def headed(rows, first):
    """Rows as a data frame indexed by the column `first`, its name in the corner: the header is one line."""
    return pd.DataFrame(rows).set_index(first).rename_axis(index=None, columns=first)


def with_interval(values, digits=2):
    """ "mean [low, high]" over patients; without an interval for fewer than 3."""
    if len(values) < 3:
        return f"{np.mean(values):.{digits}f}"
    low, high = interval(values)
    return f"{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def step_grids(n_steps):
    """Where the reference's grid starts by number of steps, and how a noise error is multiplied there."""
    gain = noise_gain(cosine_alpha_bar())
    rows = [
        {
            "steps asked": n,
            "network calls": len(leading_grid(n)),
            "first t": leading_grid(n)[0],
            "gain at the first t": f"{float(gain[leading_grid(n)[0]]):,.2f}",
        }
        for n in n_steps
    ]
    return headed(rows, "steps asked")


def step_curves(rows, group):
    """MAE in the dose mask / Gy by setting of a group and number of steps, mean over patients with its 95 %
    interval; empty if none was tried."""
    own = [row for row in rows if row["group"] == group]
    if not own:
        return pd.DataFrame()
    cells = grouped([row | {"key": (row["setting"], row["n_steps"])} for row in own], "key")
    frame = pd.Series({key: with_interval(values) for key, values in cells.items()}).unstack(0, sort=False)
    frame = frame.sort_index()[list(dict.fromkeys(row["setting"] for row in own))]
    return frame.fillna("").rename_axis(index=None, columns="steps (MAE / Gy)")


def step_costs(rows):
    """Network calls and seconds per patient beside the error, for curves that differ in a step's cost."""
    cells = grouped([row | {"key": (row["setting"], row["n_steps"])} for row in rows], "key", "seconds")
    nfe = {(row["setting"], row["n_steps"]): row["nfe"] for row in rows}
    errors = grouped([row | {"key": (row["setting"], row["n_steps"])} for row in rows], "key")
    most = {}
    for setting, n in cells:
        most[setting] = max(n, most.get(setting, 0))
    frame = [
        {
            "setting": s,
            "steps": n,
            "network calls": nfe[s, n],
            "s per patient": f"{np.mean(cells[s, n]):.2f}",
            "MAE / Gy": f"{np.mean(errors[s, n]):.2f}",
        }
        for s, n in most.items()
    ]
    return headed(frame, "setting")


def decomposition(rows, regression_rows):
    """Expected squared error of one sample / Gy² as floor and spread, at the fewest and most steps split."""
    frame = []
    for setting in dict.fromkeys(row["setting"] for row in rows):
        for n in sorted({row["n_steps"] for row in rows if row["setting"] == setting}):
            floor, b = (
                np.mean([r[key] for r in rows if (r["setting"], r["n_steps"]) == (setting, n)])
                for key in ("floor_gy2", "b_gy2")
            )
            frame.append(
                {
                    "setting": setting,
                    "steps": n,
                    "floor / Gy²": f"{floor:.1f}",
                    "spread / Gy²": f"{b:.1f}",
                    "sum / Gy²": f"{floor + b:.1f}",
                }
            )
    mse = np.mean([row["rmse_gy"] ** 2 for row in regression_rows])
    return headed(
        [
            *frame,
            {
                "setting": "regression",
                "steps": "",
                "floor / Gy²": "",
                "spread / Gy²": "",
                "sum / Gy²": f"{mse:.1f}",
            },
        ],
        "setting",
    )


def ensemble(rows, regression_rows, rx_gy):
    """Expected errors by ensemble size, the law of averages and spread, a column per source of members."""
    columns = {}
    for source in dict.fromkeys(row["source"] for row in rows):
        own = [row for row in rows if row["source"] == source]
        floor, b = np.mean([r["floor_gy2"] for r in own]), np.mean([r["b_gy2"] for r in own])
        share = np.mean([row["spread_whole_volume_gy"] for row in own]) / rx_gy
        columns[source] = {
            f"MAE of a mean of {n} / Gy": with_interval([r["mae_gy"][n] for r in own]) for n in sizes_of(own)
        } | {
            "MAE of the members' median / Gy": with_interval([r["median_mae_gy"] for r in own]),
            "floor / Gy²": f"{floor:.1f}",
            "b / Gy²": f"{b:.1f}",
            "floor / b (exact posterior: 1)": f"{floor / b:.2f}",
            "RMSE of a mean of infinitely many / regression's RMSE": (
                f"{np.sqrt(floor / np.mean([r['rmse_gy'] ** 2 for r in regression_rows])):.2f}"
            ),
            "spread in the dose mask / Gy": f"{np.mean([r['spread_dose_mask_gy'] for r in own]):.2f}",
            "spread, whole volume / prescription": f"{share:.4f}",
        }
    order = sorted(
        {name for column in columns.values() for name in column if name.startswith("MAE of a mean")},
        key=lambda n: int(n.split()[5]),
    )
    rest = [name for name in next(iter(columns.values())) if name not in order]
    return pd.DataFrame(columns).reindex([*order, *rest]).fillna("").rename_axis(columns="quantity")


def spread_by_structure(rows):
    """Mean spread / Gy in each structure, a column per source of members, over the patients that have it."""
    names = sorted({name for row in rows for name in row["spread_structure_gy"]})
    frame = []
    for name in names:
        own = [
            row | {"spread": row["spread_structure_gy"][name]}
            for row in rows
            if name in row["spread_structure_gy"]
        ]
        frame.append(
            {"spread / Gy in": name}
            | {source: f"{np.mean(v):.2f}" for source, v in grouped(own, "source", "spread").items()}
        )
    return headed(frame, "spread / Gy in")


def calibration(found):
    """Whether the spread tells the error, before and after a factor from validation patients, by source."""
    frame = []
    for source, factor in found["factors"].items():
        before = [r for r in found["rows"] if r["source"] == source]
        after = [r["recalibrated"] for r in before]
        covered = {
            f"{level} % interval holds / %": f"{np.mean([r['coverage_pct'][level] for r in before]):.0f} → "
            f"{np.mean([r['coverage_pct'][level] for r in after]):.0f}"
            for level in before[0]["coverage_pct"]
        }
        frame.append(
            {
                "source": source,
                "members": before[0]["members"],
                "network calls": before[0]["members"] * before[0]["nfe_per_member"],
                "spread / error": f"{spread_skill_ratio([r['spread_skill'] for r in before]):.2f}",
                "factor": f"{factor:.2f}",
                **covered,
                "CRPS / Gy": (
                    f"{np.mean([r['crps_gy'] for r in before]):.2f} → "
                    f"{np.mean([r['crps_gy'] for r in after]):.2f}"
                ),
                "DVH points in the members' range / %": (
                    f"{np.mean([r['dvh_band_pct'] for r in before if r['dvh_band_pct'] is not None]):.0f}"
                ),
            }
        )
    return headed(frame, "source")


def key(rows, margin_gy):
    """The report's first table: one form of each method and variant and the means of seeds and sides, seeds
    averaged, against the baseline; sorted by MAE."""
    chosen = {row["method"] for row in one_each(rows, variants=True)} | {
        row["method"] for row in rows if row["method"].endswith(WITHOUT_SAMPLING)
    }
    scored = [
        row | {"dvh_sum_gy": sum(row["dvh_errors_gy"]), "dvh_points": len(row["dvh_errors_gy"])}
        for row in rows
    ]
    mae, rmse, dose, dvh, points = (
        {name: v for name, (v, _) in over_seeds(scored, value).items() if name in chosen}
        for value in ("mae_gy", "rmse_gy", "dose_score_gy", "dvh_sum_gy", "dvh_points")
    )
    frame = []
    for name in sorted(mae, key=lambda name: np.mean(mae[name])):
        d = paired_difference(mae[name], mae["baseline"])
        frame.append(
            {
                "method": name,
                "MAE / Gy": with_interval(mae[name]),
                "minus baseline / Gy": "" if name == "baseline" else short_span(d),
                "so it is": "" if name == "baseline" else told_difference(d, margin_gy),
                "RMSE / Gy": f"{np.mean(rmse[name]):.2f}",
                "dose score / Gy": f"{np.mean(dose[name]):.2f}",
                "DVH score / Gy": f"{sum(dvh[name]) / sum(points[name]):.2f}",
            }
        )
    return headed(frame, "method")


def comparison(rows):
    """Every method's errors, scores and cost, sorted by MAE in the dose mask."""
    frame = []
    for method, maes in by_method(rows).items():
        own = [row for row in rows if row["method"] == method]
        frame.append(
            {
                "method": method,
                "MAE in the dose mask / Gy": with_interval(maes),
                "RMSE / Gy": with_interval([r["rmse_gy"] for r in own]),
                "bias / Gy": f"{np.mean([r['bias_gy'] for r in own]):+.2f}",
                "MAE, whole volume / Gy": f"{np.mean([r['whole_volume_mae_gy'] for r in own]):.2f}",
                "dose score / Gy": f"{np.mean([r['dose_score_gy'] for r in own]):.2f}",
                "dose score on the network's grid / Gy": (
                    f"{np.mean([r['own_grid_dose_score_gy'] for r in own]):.2f}"
                ),
                "DVH score / Gy": f"{np.mean([e for r in own for e in r['dvh_errors_gy']]):.2f}",
                "goals as planned / %": f"{goals_agree_pct(own):.0f}",
                "s per patient": f"{np.mean([r['seconds'] for r in own]):.2f}",
                "order": np.mean(maes),
            }
        )
    return headed(sorted(frame, key=lambda row: row["order"]), "method").drop(columns="order")


def gamma(rows):
    """Gamma pass rates in %, mean over patients; a sampled method by the mean of its samples."""
    names = {
        "body_3pct_3mm": "body, 3 % / 3 mm",
        "targets_3pct_3mm": "targets, 3 % / 3 mm",
        "body_2pct_2mm": "body, 2 % / 2 mm",
        "targets_2pct_2mm": "targets, 2 % / 2 mm",
    }
    frame = []
    for method in by_method(rows, "case_id"):
        own = [row for row in rows if row["method"] == method]
        shares = {title: [row[key] for row in own if row[key] is not None] for key, title in names.items()}
        frame.append(
            {"gamma pass / %": method, "patients": len(own)}
            | {t: f"{np.mean(v):.1f}" if v else "" for t, v in shares.items()}
        )
    return headed(frame, "gamma pass / %")


def structure_errors(rows):
    """MAE / Gy by structure and method, mean over the patients that have the structure."""
    rows = one_each(rows)
    names = sorted({name for row in rows for name in row["structure_mae_gy"]})
    frame = []
    for name in names:
        maes = by_method(
            [row | {"mae": row["structure_mae_gy"][name]} for row in rows if name in row["structure_mae_gy"]],
            "mae",
        )
        frame.append(
            {"MAE / Gy in": f"{name} (n = {len(next(iter(maes.values())))})"}
            | {m: f"{np.mean(v):.2f}" for m, v in maes.items()}
        )
    return headed(frame, "MAE / Gy in")


def goals_agree_pct(rows):
    """Share of clinical goals on which prediction and plan agree (both met or both missed), in %."""
    goals = [Goal(*goal) for row in rows for goal in row["goals"].values()]
    judged = [
        goal.predicted_met == goal.planned_met
        for goal in goals
        if goal.predicted_met is not None and goal.planned_met is not None
    ]
    return 100 * np.mean(judged) if judged else float("nan")


def goals_predicted(rows):
    """Clinical goals, planned against predicted: how many plans meet each, by method; how far off."""
    rows = one_each(rows)
    frame = []
    for text in rows[0]["goals"]:
        line = {"goal": text}
        for method in dict.fromkeys(row["method"] for row in rows):
            pairs = [Goal(*row["goals"][text]) for row in rows if row["method"] == method]
            pairs = [p for p in pairs if p.planned is not None and p.predicted is not None]
            line["planned"] = f"{sum(p.planned_met for p in pairs)} of {len(pairs)}"
            off = np.mean([abs(p.predicted - p.planned) for p in pairs]) if pairs else None
            line[method] = f"{sum(p.predicted_met for p in pairs)} ({optional(off, '.1f')})" if pairs else ""
        frame.append(line)
    return headed(frame, "goal")


def goals_of(case, doses_gy):
    """Clinical goals of one patient's structures, by title -> dose [D,H,W]: value and whether met."""
    values = {title: goal_values(case, dose_gy) for title, dose_gy in doses_gy.items()}
    units = {goal.text: goal.unit for goal in PROTOCOLS[case.site].goals}
    frame = [
        {"goal": text}
        | {
            title: "" if v[text][0] is None else f"{v[text][0]:.1f} {unit} {'✓' if v[text][1] else '✗'}"
            for title, v in values.items()
        }
        for text, unit in units.items()
        if any(v[text][0] is not None for v in values.values())
    ]
    return headed(frame or [{"goal": "none can be judged"}], "goal")


def indices(rows):
    """Conformity and homogeneity of the primary target, planned and predicted; Dice of isodose volumes."""
    rows = one_each(rows)
    frame = []
    for method in dict.fromkeys(row["method"] for row in rows):
        own = [row for row in rows if row["method"] == method]
        line = {"method": method}
        for key, title in (("conformity", "conformity, 95 % isodose"), ("homogeneity", "homogeneity")):
            pairs = [(r[key]["planned"], r[key]["predicted"]) for r in own if None not in r[key].values()]
            line[f"{title}: planned → predicted"] = (
                "{:.2f} → {:.2f}".format(*np.mean(pairs, axis=0)) if pairs else ""
            )
        for pct in own[0]["isodose_dice"]:
            line[f"Dice of {pct} %"] = (
                f"{np.mean([r['isodose_dice'][pct] for r in own if r['isodose_dice'][pct] is not None]):.2f}"
            )
        frame.append(line)
    return headed(frame, "method")


def costs(rows, samplings, histories):
    """What each method costs: minutes of training, network calls and seconds per patient."""
    frame = []
    for name, history in histories.items():
        sampling = samplings[name]
        own = [row for row in rows if row["method"] == name]
        frame.append(
            {
                "method": name,
                "training / min": f"{history[-1]['seconds'] / 60:.1f}",
                "network calls": sampling["nfe"],
                "sampled": sampling["text"],
                "s per patient": f"{np.mean([r['seconds'] for r in own]):.2f}",
                "MAE / Gy": f"{np.mean([r['mae_gy'] for r in own]):.2f}",
            }
        )
    return headed(frame, "method")


def differences(rows, margin_gy):
    """Each method, seeds averaged, and each variant against the baseline, paired by patient."""
    values = {name: v for name, (v, _) in over_seeds(rows).items()}
    found = {
        method: paired_difference(values[method], values["baseline"])
        for method in values
        if method != "baseline"
    }
    frame = []
    for (method, d), p in zip(found.items(), holm([d.p for d in found.values()])):
        span = f"[{d.low:+.2f}, {d.high:+.2f}]" if d.low is not None else "none with fewer than 3 patients"
        frame.append(
            {
                "method": method,
                "patients": d.n,
                "difference to the baseline / Gy": f"{d.mean:+.2f}",
                "95 % interval / Gy": span,
                "effect size d_z": optional(d.effect, "+.1f"),
                "Wilcoxon p": optional(d.p, ".2g"),
                "p after Holm": optional(p, ".2g"),
                "error is": told_difference(d, margin_gy),
            }
        )
    return headed(frame, "method")


def optional(value, form):
    return "" if value is None else f"{value:{form}}"


def claims(found):
    """The reference's claims beside ours."""
    return headed(found, "claim")[["reference", "ours", "verdict", "why"]]


def structures(rows):
    """Presence, volume and planned mean dose of every structure."""
    names = sorted({name for row in rows for name in row["volume_cc"]})
    frame = []
    for name in names:
        volumes = [row["volume_cc"][name] for row in rows if name in row["volume_cc"]]
        means = [row["mean_gy"][name] for row in rows if name in row["mean_gy"]]
        frame.append(
            {
                "structure": name,
                "patients": len(volumes),
                "volume / cc, median [min, max]": spanned(volumes, 0),
                "planned mean dose / Gy, median [min, max]": spanned(means, 1),
            }
        )
    return headed(frame, "structure")


def spanned(values, digits):
    return f"{np.median(values):.{digits}f} [{min(values):.{digits}f}, {max(values):.{digits}f}]"


def goals_met(rows):
    """How many plans meet each clinical goal; plans without the structure do not count."""
    frame = []
    for text in rows[0]["goals"]:
        judged = [row["goals"][text] for row in rows if row["goals"].get(text) is not None]
        share = f"{100 * np.mean(judged):.0f}" if judged else ""
        frame.append({"goal": text, "plans judged": len(judged), "met": sum(judged), "met / %": share})
    return headed(frame, "goal")


def findings(rows):
    """Every finding of the checks, by case."""
    found = [
        {"case": row["case_id"], "part": row["part"], "finding": text}
        for row in rows
        for text in row["findings"]
    ]
    found = found or [{"case": "all", "part": "", "finding": "nothing looks wrong"}]
    return headed(found, "case")


def imports(cohort):
    """What the import took from each patient's files, or None if the source has nothing to say."""
    told = {
        case_id: summary["import"]
        for case_id, summary in cohort.card["cases"].items()
        if summary.get("import")
    }
    frame = [
        {
            "case": case_id,
            "warnings": "; ".join(d.get("warnings", [])),
            "structures missing": ", ".join(d.get("missing", [])),
            "taken as": ", ".join(
                f"{ours} ← {theirs}" for ours, theirs in d.get("structures", {}).items() if ours != theirs
            ),
            "ignored": ", ".join(d.get("ignored", [])),
            "prescription from": ", ".join(sorted(set(d.get("prescription_from", {}).values()))),
            "dose mask from": d.get("dose_mask_from", ""),
        }
        for case_id, d in told.items()
    ]
    return headed(frame, "case") if frame else None


def speed(rows):
    """Times of the straightforward way and ours, and their ratio with its range."""
    return headed(
        [
            {
                "part": r["part"],
                "against": r["against"],
                "straightforward": duration(r["plain_s"]),
                "here": duration(r["ours_s"]),
                "times as fast (range)": f"{r['ratio']:.1f} ({r['ratio_low']:.1f} to {r['ratio_high']:.1f})",
            }
            for r in rows
        ],
        "part",
    )


def duration(seconds):
    return f"{seconds:.2f} s" if seconds >= 1 else f"{1000 * seconds:.1f} ms"


def ceilings(rows):
    """Counted work, the time it took, and its share of what the machine can do."""
    return headed(
        [
            {
                "part": r["part"],
                "GFLOP": f"{r['gflop']:.0f}",
                "GB moved": f"{r['gbyte']:.2f}",
                "time": duration(r["seconds"]),
                "of the matrix product's rate": (
                    f"{r['of_peak_flop_pct']:.0f} % of {r['peak_gflop_s']:.0f} GFLOP/s"
                ),
                "of the copy's rate": f"{r['of_peak_byte_pct']:.0f} % of {r['peak_gbyte_s']:.0f} GB/s",
            }
            for r in rows
        ],
        "part",
    )


def notebook_times(rows):
    return headed([{"notebook": r["notebook"], "minutes": f"{r['minutes']:.1f}"} for r in rows], "notebook")

"""Tables as data frames of formatted text, indexed by their first column."""
import numpy as np
import pandas as pd

from lib.evaluation.compare import holm, interval, paired_difference, verdict
from lib.models.diffusion import cosine_alpha_bar, leading_grid, noise_gain
from lib.studies import by_method, sizes_of


def headed(rows, first):
    """Rows as a data frame indexed by the column `first`, its name in the corner so that the header is one line."""
    return pd.DataFrame(rows).set_index(first).rename_axis(index=None, columns=first)


def with_interval(values, digits=2):
    """"mean [low, high]" over patients; without an interval for fewer than 3."""
    if len(values) < 3:
        return f"{np.mean(values):.{digits}f}"
    low, high = interval(values)
    return f"{np.mean(values):.{digits}f} [{low:.{digits}f}, {high:.{digits}f}]"


def step_grids(n_steps):
    """Where the reference's grid starts for each number of steps, and how an error of the noise is multiplied there."""
    gain = noise_gain(cosine_alpha_bar())
    rows = [{"steps asked": n, "network calls": len(leading_grid(n)), "first t": leading_grid(n)[0],
             "gain at the first t": f"{float(gain[leading_grid(n)[0]]):,.2f}"} for n in n_steps]
    return headed(rows, "steps asked")


def step_curves(rows):
    """MAE in the dose mask / Gy by setting and number of steps, mean over patients with its 95 % interval."""
    table = {}
    for row in rows:
        table.setdefault((row["setting"], row["n_steps"]), []).append(row["mae_gy"])
    frame = pd.Series({key: with_interval(values) for key, values in table.items()}).unstack(0, sort=False)
    frame = frame[list(dict.fromkeys(row["setting"] for row in rows))]
    return frame.fillna("").rename_axis(index=None, columns="steps (MAE / Gy)")


def ensemble(rows, regression_rows, rx_gy):
    """Expected errors by ensemble size, the law of averages, the spread."""
    sizes = sizes_of(rows)
    mse = [row["rmse_gy"] ** 2 for row in regression_rows]
    lines = {f"MAE of a mean of {n} / Gy": [row["mae_gy"][n] for row in rows] for n in sizes}
    lines |= {"floor / Gy²": [row["floor_gy2"] for row in rows], "b / Gy²": [row["b_gy2"] for row in rows],
              "squared error of the regression / Gy²": mse,
              "spread in the dose mask / Gy": [row["spread_dose_mask_gy"] for row in rows],
              "spread over the whole volume / Gy": [row["spread_whole_volume_gy"] for row in rows]}
    frame = pd.DataFrame({"mean over patients [95 % interval]": {name: with_interval(v) for name, v in lines.items()}})
    share = np.mean([row["spread_whole_volume_gy"] for row in rows]) / rx_gy
    frame.loc["the same as a fraction of the prescription"] = f"{share:.4f}"
    return frame.rename_axis(columns="quantity")


def comparison(rows):
    """Every method's errors, scores and cost, sorted by MAE in the dose mask."""
    frame = []
    for method, maes in by_method(rows).items():
        own = [row for row in rows if row["method"] == method]
        frame.append({"method": method, "MAE in the dose mask / Gy": with_interval(maes),
                      "RMSE / Gy": with_interval([r["rmse_gy"] for r in own]), "bias / Gy": f"{np.mean([r['bias_gy'] for r in own]):+.2f}",
                      "MAE, whole volume / Gy": f"{np.mean([r['whole_volume_mae_gy'] for r in own]):.2f}",
                      "dose score / Gy": f"{np.mean([r['dose_score_gy'] for r in own]):.2f}",
                      "DVH score / Gy": f"{np.mean([e for r in own for e in r['dvh_errors_gy']]):.2f}",
                      "goals as planned / %": f"{goals_agree_pct(own):.0f}", "s per patient": f"{np.mean([r['seconds'] for r in own]):.2f}",
                      "order": np.mean(maes)})
    return headed(sorted(frame, key=lambda row: row["order"]), "method").drop(columns="order")


def gamma(rows):
    """Gamma pass rates in %, mean over patients; a sampled method by the mean of its samples."""
    names = {"body_3pct_3mm": "body, 3 % / 3 mm", "targets_3pct_3mm": "targets, 3 % / 3 mm",
             "body_2pct_2mm": "body, 2 % / 2 mm", "targets_2pct_2mm": "targets, 2 % / 2 mm"}
    frame = []
    for method in by_method(rows, "case_id"):
        own = [row for row in rows if row["method"] == method]
        shares = {title: [row[key] for row in own if row[key] is not None] for key, title in names.items()}
        frame.append({"gamma pass / %": method, "patients": len(own)} | {t: f"{np.mean(v):.1f}" if v else "" for t, v in shares.items()})
    return headed(frame, "gamma pass / %")


def structure_errors(rows):
    """MAE / Gy by structure and method, mean over the patients that have the structure."""
    names = sorted({name for row in rows for name in row["structure_mae_gy"]})
    frame = []
    for name in names:
        maes = by_method([row | {"mae": row["structure_mae_gy"][name]} for row in rows if name in row["structure_mae_gy"]], "mae")
        frame.append({"MAE / Gy in": f"{name} (n = {len(next(iter(maes.values())))})"} | {m: f"{np.mean(v):.2f}" for m, v in maes.items()})
    return headed(frame, "MAE / Gy in")


def goals_agree_pct(rows):
    """Share of clinical goals on which prediction and plan agree (both met or both missed), in %."""
    pairs = [(met, row["planned_goals"][text]) for row in rows for text, met in row["goals"].items()]
    judged = [a == b for a, b in pairs if a is not None and b is not None]
    return 100 * np.mean(judged) if judged else float("nan")


def differences(rows, margin_gy):
    """Each method against the baseline, paired by patient."""
    values = by_method(rows)
    found = {method: paired_difference(values[method], values["baseline"]) for method in values if method != "baseline"}
    frame = []
    for (method, d), p in zip(found.items(), holm([d.p for d in found.values()])):
        span = f"[{d.low:+.2f}, {d.high:+.2f}]" if d.low is not None else "none with fewer than 3 patients"
        frame.append({"method": method, "patients": d.n, "difference to the baseline / Gy": f"{d.mean:+.2f}",
                      "95 % interval / Gy": span, "effect size d_z": optional(d.effect, "+.1f"),
                      "Wilcoxon p": optional(d.p, ".2g"), "p after Holm": optional(p, ".2g"), "error is": verdict(d, margin_gy)})
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
        frame.append({"structure": name, "patients": len(volumes), "volume / cc, median [min, max]": spanned(volumes, 0),
                      "planned mean dose / Gy, median [min, max]": spanned(means, 1)})
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
    found = [{"case": row["case_id"], "part": row["part"], "finding": text} for row in rows for text in row["findings"]]
    found = found or [{"case": "all", "part": "", "finding": "nothing looks wrong"}]
    return headed(found, "case")

"""The reference study's claims (repository wrockey/vmat-diffusion), each beside what is found here.

Its numbers are quoted from its notebook; ours are the statements of `lib.report.statements`.
"""

import pandas as pd

from lib.report import frames
from lib.report.statements import ACCURACY, AVERAGING, CANNOT, DISGUISE, FAILED, SPREAD, STEPS
from lib.studies.results import REFERENCE_GRID, Results, select

REFERENCE = {
    "baseline_mae_gy": 3.73,
    "ddpm_mae_gy": 3.78,
    "gradient_mae_gy": 3.67,
    "mae_50_steps_gy": 3.80,
    "mae_1000_steps_gy": 6.73,
    "single_mae_gy": 3.775,
    "mean_of_10_mae_gy": 3.835,
    "spread_fraction": 0.03,
    "swing_low_gy": 12.0,
    "swing_high_gy": 64.0,
}
SWING = 0.1  # a validation error swings if it rises by more than this share of its lowest
HARDLY = 0.1  # spread over error below which samples hardly vary


def claims(results: Results, told: pd.DataFrame) -> pd.DataFrame:
    """Every claim with the reference's number, the statements that judge it, and whether it holds here."""
    r, starts = REFERENCE, select(results.frames["02_steps"], switch="start")["setting"]
    steps = select(told, question=STEPS if frames.setting(results, "method") == "ddpm" else "", unit="Gy")
    held = steps[steps["first"].isin(starts) & (steps["first"] != REFERENCE_GRID)]
    spread = select(told, question=SPREAD, first="ddpm", quantity="spread")
    small = (spread["difference"] < HARDLY) & ~spread["verdict"].isin([CANNOT, FAILED])
    accuracy = select(told, question=ACCURACY, second="baseline")
    rows = [
        ("DDPM is as accurate as the U-Net", f"{r['ddpm_mae_gy']} against {r['baseline_mae_gy']} Gy"),
        judge_claim(select(accuracy, first="ddpm"), "equal"),
        ("More sampling steps hurt", f"50: {r['mae_50_steps_gy']} Gy, 1000: {r['mae_1000_steps_gy']} Gy"),
        judge_claim(select(steps, first=REFERENCE_GRID), "worse"),
        ("It is the number of steps that does it", "not tested; here the first noise level is held"),
        judge_claim(held, "worse"),
        ("One sample is best", f"{r['single_mae_gy']} Gy, mean of 10 {r['mean_of_10_mae_gy']} Gy"),
        judge_claim(select(told, question=AVERAGING, first="ddpm", unit="Gy"), "equal", "worse"),
        ("Samples hardly vary", f"{r['spread_fraction']} of the prescription, averaged over air too"),
        judge_claim(spread.assign(verdict=spread["verdict"].mask(small, DISGUISE)), DISGUISE),
        ("The gradient loss is best", f"{r['gradient_mae_gy']} against {r['baseline_mae_gy']} Gy"),
        judge_claim(select(accuracy, first="gradient"), "better"),
        ("DDPM's validation error swings", f"{r['swing_low_gy']:g} to {r['swing_high_gy']:g} Gy"),
        judge_swing(results),
    ]
    table = [claim + judged for claim, judged in zip(rows[::2], rows[1::2])]
    return pd.DataFrame(table, columns=["claim", "the reference", "found here", "verdict"])


def judge_claim(told: pd.DataFrame, *holds: str) -> tuple[str, str]:
    """(the statements, whether the claim holds by them: where their verdicts are among `holds`)."""
    kept = {said: said for said in (CANNOT, FAILED)} | dict.fromkeys(holds, "holds")
    little = {said: CANNOT for said in told["verdict"] if said.startswith("a little")}
    said = {(little | kept).get(verdict, "does not hold") for verdict in told["verdict"]}
    if len(said) > 1:
        return " ".join(told["sentence"]), FAILED if FAILED in said else "depends on the setting"
    return " ".join(told["sentence"]) or "not tried here", said.pop() if said else CANNOT


def judge_swing(results: Results) -> tuple[str, str]:
    """Whether the validation error of ddpm rises by more than that of the U-Net twice over; its weights are
    averaged (EMA), which calms it, the study's were not."""
    history = results.frames["04_history"].dropna(subset="validation_mae_gy")
    errors = {name: rows["validation_mae_gy"] for name, rows in history.groupby("training")}
    if not {"ddpm", "baseline"} <= set(errors):
        return "not trained here", CANNOT
    ddpm, baseline = (float((errors[name] - errors[name].cummin()).max()) for name in ("ddpm", "baseline"))
    text = f"It rises later in training by up to {ddpm:.2f} Gy, that of the U-Net by {baseline:.2f} Gy."
    if "ddpm" in frames.failed_trainings(results)["04_comparison"]:
        return text, FAILED
    return text, "holds" if ddpm > max(SWING * errors["ddpm"].min(), 2 * baseline) else "does not hold"

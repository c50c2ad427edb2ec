"""The reference study's claims (repository wrockey/vmat-diffusion), each beside what is found here.

Its numbers are quoted from its notebook; ours are the statements of `lib.report.statements`.
"""

import pandas as pd

from lib.report import frames
from lib.report.statements import ACCURACY, AVERAGING, CANNOT, DISGUISE, FAILED, SPREAD, STEPS
from lib.studies.results import REFERENCE_GRID, Results, select

SWING = 0.1  # a validation error swings if it rises by more than this share of its lowest
HARDLY = 0.1  # spread over error below which samples hardly vary


def claims(results: Results, statements: pd.DataFrame) -> pd.DataFrame:
    """Every claim with the reference's number, the statements that judge it, and whether it holds here."""
    starts = select(results.frames["02_steps"], switch="start")["setting"]
    question = STEPS if frames.setting(results, "method") == "ddpm" else ""
    steps = select(statements, question=question, unit="Gy")
    fixed = steps[steps["first"].isin(starts) & (steps["first"] != REFERENCE_GRID)]
    spread = select(statements, question=SPREAD, first="ddpm", quantity="spread")
    small = (spread["difference"] < HARDLY) & ~spread["verdict"].isin([CANNOT, FAILED])
    spread = spread.assign(verdict=spread["verdict"].mask(small, DISGUISE))
    accuracy = select(statements, question=ACCURACY, second="baseline")
    averaging = select(statements, question=AVERAGING, first="ddpm", unit="Gy")
    more = select(steps, first=REFERENCE_GRID)
    rows = [  # the claim, the reference's words, our statements, the verdicts by which it holds
        ("DDPM is as accurate as the U-Net", "3.78 against 3.73 Gy", select(accuracy, first="ddpm"), "equal"),
        ("More sampling steps hurt", "50: 3.8 Gy, 1000: 6.73 Gy", more, "worse"),
        ("It is the number of steps that does it", "not tested", fixed, "worse"),
        ("One sample is best", "3.775 Gy, mean of 10 3.835 Gy", averaging, "equal", "worse"),
        ("Samples hardly vary", "3 % of the prescription, averaged over air too", spread, DISGUISE),
        ("The gradient loss is best", "3.67 against 3.73 Gy", select(accuracy, first="gradient"), "better"),
    ]
    table = [(claim, said, *judge_claim(ours, *holds)) for claim, said, ours, *holds in rows]
    table.append(("DDPM's validation error swings", "12 to 64 Gy", *judge_swing(results)))
    return pd.DataFrame(table, columns=["claim", "the reference", "found here", "verdict"])


def judge_claim(statements: pd.DataFrame, *holds: str) -> tuple[str, str]:
    """(the statements, whether the claim holds by them: where their verdicts are among `holds`)."""
    rows = statements.itertuples()
    text = "; ".join(f"{row.first}: {row.quantity} {row.difference:+.2f} {row.unit}" for row in rows)
    judgements = {verdict: CANNOT for verdict in statements["verdict"] if verdict.startswith("a little")}
    judgements |= {CANNOT: CANNOT, FAILED: FAILED} | dict.fromkeys(holds, "holds")
    answers = {judgements.get(verdict, "does not hold") for verdict in statements["verdict"]}
    if len(answers) > 1:
        return text, FAILED if FAILED in answers else "depends on the setting"
    return text or "not tried here", answers.pop() if answers else CANNOT


def judge_swing(results: Results) -> tuple[str, str]:
    """Whether the validation error of ddpm rises by more than that of the U-Net twice over; its weights are
    averaged (EMA), which calms it, the study's were not."""
    history = results.frames["04_history"].dropna(subset="validation_mae_gy")
    errors = {name: rows["validation_mae_gy"] for name, rows in history.groupby("training")}
    if not {"ddpm", "baseline"} <= set(errors):
        return "not trained here", CANNOT
    ddpm, baseline = (float((errors[name] - errors[name].cummin()).max()) for name in ("ddpm", "baseline"))
    text = f"It rises later in training by {ddpm:.2f} Gy at most, that of the U-Net by {baseline:.2f} Gy."
    if "ddpm" in frames.failed_trainings(results)["04_comparison"]:
        return text, FAILED
    return text, "holds" if ddpm > max(SWING * errors["ddpm"].min(), 2 * baseline) else "does not hold"

"""Every number of README.md is a published one."""

import re

import pytest

from lib.files import ROOT
from lib.metrics.statistics import paired_difference
from lib.runner import summary
from lib.runner.published import mean_gy
from lib.studies.results import REFERENCE_GRID, read_frame, select

README = (ROOT / "README.md").read_text(encoding="utf-8")
ANSWER = README.partition("So far")[2].partition("![")[0]
REFERENCE = {"3.78", "3.73"}  # the study's own
QUESTIONS = ("openkbp", "04_comparison"), ("openkbp-blocks", "02_steps"), ("openkbp", "03_ensemble")
BEST = "baseline, 2 seeds and both sides"


def table(experiment: str, name: str):
    return read_frame(summary.PUBLISHED / experiment / "results" / f"{name}.csv")


@pytest.fixture(scope="module")
def numbers():
    """What the answer says, as it is to be written."""
    mae = mean_gy(summary.PUBLISHED / "openkbp")
    dvhs = mean_gy(summary.PUBLISHED / "openkbp", "dvh_error_gy", "")
    steps = select(table("openkbp-blocks", "02_steps"), measure="mae_gy", switch="start")
    curves = steps.groupby(["setting", "n_steps"])["value"].mean()
    own, held = curves[REFERENCE_GRID], curves["start held at t = 980"]
    ensemble = table("openkbp", "03_ensemble")
    samples = select(ensemble, source="samples", region="dose mask")
    spread = select(samples, measure="spread_gy").groupby("training")["value"].mean()
    cover = select(samples, measure="coverage_pct", level_pct=95)
    cover = cover[cover["factor"] != 1].groupby("training")["value"].mean()
    crps = select(ensemble, measure="crps_gy")
    crps = crps[crps["factor"] != 1].groupby(["training", "source"])["value"].mean()
    return {
        **{name: f"{mae[name]:.2f} Gy" for name in ("refine", "baseline", "ddpm")},
        "seeds": f"{mae['baseline']:.2f} Gy (trained with another seed: {mae['baseline-seed43']:.2f} Gy)",
        "best": f"{mae[BEST]:.2f} Gy",
        "DVHs": f"{dvhs[BEST]:.2f} Gy in DVH points",
        "own": f"{own[25]:.2f} Gy at 25 steps, {own[250]:.2f} Gy at 250, {own[1000]:.2f} Gy at 1000",
        "held": f"held at t = 980 it is {held[25]:.2f} and {held[250]:.2f} Gy",
        "spread": f"spread by {spread.mean():.1f} Gy",
        "cover": f"{cover.min():.0f} to {cover.max():.0f} %",
        "crps": f"err by {crps['ddpm_dose', 'samples']:.2f} Gy",
        "crps of U-Nets": f"by {crps['baseline', 'seeds']:.2f} Gy.",
    }


def test_the_answer_is_what_the_published_tables_say(numbers):
    for name, text in numbers.items():
        assert text in " ".join(ANSWER.split()), (name, text)
    written = set(re.findall(r"\d+\.\d+", " ".join(numbers.values())))
    assert set(re.findall(r"\d+\.\d+", ANSWER)) <= written


def test_the_published_page_says_what_correcting_the_control_gives():
    rows = table("openkbp-ingredients", "04_comparison")
    rows = select(rows, measure="dvh_error_gy", averaged_over="none")
    points = rows.pivot_table("value", "case_id", "group")  # both seeds averaged
    d = paired_difference(points["baseline"], points["baseline-corrected"])
    head = " ".join((summary.PUBLISHED / "head.md").read_text(encoding="utf-8").split())
    assert f"{d.mean:.2f} Gy nearer to the plan (95 % interval {d.low:.2f} to {d.high:.2f}, {d.n} pat" in head


def test_each_answer_says_how_many_patients_it_rests_on():
    for experiment, name in QUESTIONS:
        n = table(experiment, name)["case_id"].nunique()
        assert f"({n} patients" in " ".join(ANSWER.split()), (name, n)


def test_samples_of_models_that_predict_dose_or_v_err_as_theory_allows():
    """At most the root of 2 times the regression's RMSE, once sampling starts at pure noise."""
    rows = select(table("openkbp", "02_steps"), measure="rmse_gy")
    regression = select(rows, switch="regression")["value"].mean()
    rows = rows[
        rows["training"].isin(["ddpm_dose", "refine"])
        & (rows["n_steps"] >= 5)
        & (rows["switch"] != "sampler")
    ]
    assert rows.groupby(["setting", "n_steps"])["value"].mean().max() < 2**0.5 * regression
    assert set(select(table("openkbp", "04_comparison"), training="refine")["n_steps"]) == {1}


def test_the_best_is_the_best_and_the_best_sampled_is_the_best_sampled():
    mae = mean_gy(summary.PUBLISHED / "openkbp")
    assert mae.idxmin() == BEST
    assert mae[["ddpm", "ddpm_dose", "refine"]].idxmin() == "refine"


def test_the_tables_are_those_that_the_published_files_give():
    assert README == summary.with_results(README)
    page = (summary.PUBLISHED / "README.md").read_text(encoding="utf-8")
    assert page == summary.published_page()


def test_readme_is_short_and_its_links_lead_somewhere():
    words = [word for word in README.split() if not word.startswith(("|", "`"))]
    assert len(words) < 1000
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target

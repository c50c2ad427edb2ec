"""Sentences follow their numbers; the page escapes what it is given."""

import base64
import io
import re
import shlex
from itertools import count

import numpy as np
import pytest
import torch
import yaml
from lib.studies.rows import sizes_of
from PIL import Image
from safetensors.torch import load_file

from lib.errors import UserError
from lib.files import ROOT, read_json, write_json, write_results, write_text
from lib.metrics.statistics import Difference, paired_difference
from lib.report import (
    answers,
    captions,
    claims,
    html,
    pictures,
    sentences,
    steps_figures,
    style,
    tables,
    verdicts,
)
from lib.runner import compare as pair
from lib.runner import published
from lib.runner.params_file import load_params
from lib.runner.plan import plan
from lib.studies.ablation import REFERENCE_GRID
from lib.tensors import save_tensors


def step_rows(errors, setting=REFERENCE_GRID, patients=8, group="start", wobble=0.3):
    """Rows of an ablation in which each number of steps has a mean error."""
    offsets = np.linspace(-wobble, wobble, patients)
    held = (
        {"grid": "held", "start": int(setting.split()[-1])}
        if setting.startswith("start held")
        else {"grid": "leading", "start": 999}
    )
    return [
        {
            "setting": setting,
            "group": group,
            "training": "ddpm",
            "weights": "weights",
            "n_steps": n,
            "nfe": n,
            "case_id": f"p{i}",
            "mae_gy": error + offsets[i],
            "rmse_gy": 1.3 * error,
            "seconds": 0.1 * n,
            "sampling": dict(n_steps=n, **held),
        }
        for n, error in errors.items()
        for i in range(patients)
    ]


def steps_found(*rows, regression=3.0, levels=(), decomposition=()):
    return {
        "rows": [row for part in rows for row in part],
        "regression_rows": step_rows({1: regression}),
        "method": "ddpm",
        "level_rows": list(levels),
        "decomposition": list(decomposition),
    }


def told_of_steps(*rows, **parts):
    return verdicts.steps_verdict(steps_found(*rows, **parts), 0.1)


def method_rows(means, patients=10):
    wobble = np.linspace(-0.3, 0.3, patients)
    goal = [1.0, 2.0, True, False]
    index = {"predicted": 0.9, "planned": 0.8}
    return [
        {
            "method": m,
            "case_id": f"p{i}",
            "mae_gy": mean + wobble[i] * (1 + 0.1 * k),
            "rmse_gy": 2.0,
            "bias_gy": 0.0,
            "whole_volume_mae_gy": 1.0,
            "dose_score_gy": 3.0,
            "own_grid_dose_score_gy": 2.5,
            "dvh_errors_gy": [1.0],
            "seconds": 1.0,
            "structure_mae_gy": {"Rectum": mean} if i else {},
            "goals": {"g": goal},
            "conformity": index,
            "homogeneity": index,
            "isodose_dice": {"95": 0.7},
        }
        for k, (m, mean) in enumerate(means.items())
        for i in range(patients)
    ]


def answered(rows, samplings=None):
    return answers.answer({"rows": rows, "samplings": samplings or {}}, 0.1)


def told_of_methods(rows, failures=None, samplings=None):
    return verdicts.comparison_verdict(
        {"rows": rows, "failures": failures or {}, "samplings": samplings or {}}, 0.1
    )


@pytest.mark.parametrize(
    "errors, told",
    [
        ({10: 3.0, 100: 6.0}, "more steps hurt"),
        ({10: 3.0, 100: 3.01}, "more steps change nothing"),
        ({10: 6.0, 100: 3.0}, "more steps do not hurt"),
    ],
)
def test_the_verdict_on_steps_follows_the_numbers(errors, told):
    assert told in told_of_steps(step_rows(errors))


def test_a_switch_that_cures_is_told_from_one_that_does_not():
    text = told_of_steps(
        step_rows({10: 3.0, 100: 6.0}),
        step_rows({10: 3.0, 100: 3.0}, "start held at t = 900"),
        step_rows({10: 5.0, 100: 9.0}, "no clamp", group="sampler"),
        step_rows({10: 5.0, 100: 4.0}, "flow", group="prediction"),
    )
    assert (
        "flat**: start held at t = 900" in text
        and "still rising**: no clamp" in text
        and "falling**: flow" in text
    )
    assert "there is no rise to be cured" in told_of_steps(
        step_rows({10: 6.0, 100: 3.0}), step_rows({10: 3.0, 100: 3.0}, "no clamp", group="sampler")
    )


@pytest.mark.parametrize(
    "worst, told",
    [
        (4.0, "no more than theory allows**: `ddpm_v` 1.33"),
        (5.0, "more than sampling alone explains**: `ddpm_v` 1.67"),
    ],
)
def test_a_cure_is_held_against_what_theory_allows(worst, told):
    """RMSE 1.3 times the MAE for sampler and regression alike: the ratio of the MAEs against 1.41."""
    assert told in told_of_steps(
        step_rows({1: 3.0, 10: worst}), step_rows({1: 3.0, 10: worst}, "ddpm_v", group="prediction")
    )


def test_a_held_start_is_held_against_the_regression_and_what_it_leaves_out():
    """sqrt(alpha_bar) at t = 900 is cos(pi/2 (0.9 + 0.008) / 1.008) / cos(pi/2 0.008 / 1.008) = 0.155, Nichol
    and Dhariwal's cosine."""
    text = told_of_steps(
        step_rows({1: 3.0, 10: 4.0}), step_rows({1: 3.0, 10: 4.5}, "start held at t = 900"), regression=3.0
    )
    assert "start held at t = 900: 1.50 (10 steps, 15 % of the dose left out)" in text
    assert "held" not in told_of_steps(step_rows({1: 3.0, 10: 4.0}))


@pytest.mark.parametrize(
    "ddpm, told",
    [(5.0, "**Not for accuracy**"), (3.0, "**Yes, for accuracy**"), (4.0, "**Not for accuracy**")],
)
def test_the_answer_follows_the_numbers(ddpm, told):
    rows = method_rows({"control": 8.0, "baseline": 4.0, "ddpm": ddpm})
    assert answered(rows).startswith(told)


def test_a_best_result_picked_among_several_says_so():
    assert "best of" not in answered(method_rows({"control": 8.0, "baseline": 4.0, "ddpm": 5.0}))
    assert "`flow`, the best of 2 on these very patients" in answered(
        method_rows({"control": 8.0, "baseline": 4.0, "ddpm": 5.0, "flow": 4.5})
    )


def test_the_voxels_of_the_patients_are_told():
    rows = [
        {"shape": [48, 64, 64], "spacing_mm": [2.5, 3.9, 3.9]},
        {"shape": [48, 64, 64], "spacing_mm": [3.0, 3.9, 3.9]},
    ]
    assert sentences.grids(rows, 2).startswith(
        "Voxels: 48 x 64 x 64 of 2.5 to 3 x 3.9 x 3.9 mm (z, y, x); the networks see blocks of 2 x 2 x 2"
    )
    assert sentences.size(rows, 2) == "networks at 24 x 32 x 32 voxels"


@pytest.mark.parametrize(
    "changed, params", [({}, "params/openkbp.yaml"), ({"coarsen": 1}, "outputs/openkbp/experiment.yaml")]
)
def test_the_command_to_run_again_names_the_params_that_made_the_report(changed, params, tmp_path):
    folder = tmp_path / "openkbp"
    folder.mkdir()
    made = load_params(ROOT / "params" / "openkbp.yaml") | changed
    (folder / "experiment.yaml").write_text(yaml.safe_dump(made, sort_keys=False))
    assert html.again(folder)[0] == f"python -m lib run {params}"


def test_a_difference_that_is_sure_but_perhaps_small_is_called_a_little():
    rows = method_rows(
        {
            "control": 8.0,
            "baseline": 4.0,
            "baseline, mean of 2 seeds": 3.95,
            "flow": 4.1,
            "flow, mean of 3": 3.91,
        }
    )
    text = answered(rows)
    assert text.startswith("**For accuracy a little better**, but not surely by more than 0.1 Gy")
    assert (
        "one sample of it +0.10 [" in text
        and "the mean of 2 seeds of the U-Net -0.05 [" in text
        and "differs by -0.04 [" in text
    )


def test_the_range_of_the_ratios_is_from_the_least_to_the_most():
    rows = [
        ensemble_row(source, spread_gy, 3.0)
        for source, spread_gy in (("flow", 2.7), ("ddpm", 4.5), ("ddpm_v", 1.5))
    ]
    assert "between 0.50 (`ddpm_v`) and 1.50 (`ddpm`)" in answers.answer_on_spread({"rows": rows})


def test_the_goal_farthest_from_the_plan_is_named():
    rows = method_rows({"control": 8.0, "baseline": 4.0})
    assert answers.answer_on_goals(rows) == (
        "The dose meets or misses a clinical goal as the plan does: `baseline` 0 %; the control without a "
        "network 0 %. Farthest apart on g: 0 of 10 plans meet it, 10 of the predicted doses."
    )


def test_least_doses_and_limits_are_counted_apart():
    met, missed = (True, True), (False, True)
    text = answers.agreement_text({"T D99 % ≥ 66 Gy": [missed] * 3, "O Dmean ≤ 26 Gy": [met] * 3})
    assert text == "50 % (least doses 0 %, limits 100 %)"


def test_a_gain_smaller_than_what_the_seed_or_averaging_changes_is_not_called_one():
    rows = method_rows({"control": 8.0, "baseline": 4.0, "baseline-seed43": 3.6, "flow": 3.6})
    assert answered(rows).startswith(
        "**Not shown for accuracy**"
    ) and "nothing but the seed are 0.40 Gy apart" in answered(rows)
    rows = method_rows({"control": 8.0, "baseline": 4.0, "flow": 3.6, "baseline, mean of 2 seeds": 3.6})
    assert answered(rows).startswith(
        "**Not shown for accuracy**"
    ) and "averaging answers of the U-Net gives as much" in answered(rows)
    rows = method_rows(
        {
            "control": 8.0,
            "baseline": 4.0,
            "baseline-seed43": 3.9,
            "flow": 3.0,
            "baseline, mean of 2 seeds": 3.6,
        }
    )
    assert answered(rows).startswith("**Yes, for accuracy**")


def test_a_residual_is_also_held_against_the_training_it_is_of():
    text = told_of_methods(
        method_rows(
            {"control": 8.0, "baseline": 4.0, "baseline-seed43": 3.0, "refine": 3.8, "refine, mean of 2": 3.6}
        )
    )
    assert (
        "residual it predicts, MAE / Gy:\n  - **lower**: `refine` -0.20 [" in text
        and "`refine, mean of 2` -0.40 [" in text
    )
    assert "`refine` +0.30" in text  # against the mean of both seeds
    assert "residual" not in told_of_methods(method_rows({"control": 8.0, "baseline": 4.0, "flow": 3.0}))


def test_a_failed_training_is_said_where_its_steps_are_judged():
    found = steps_found(step_rows({10: 3.0, 100: 6.0}))
    failed, trained = (
        answers.answer_on_steps(found, 0.1, None, method_rows({"control": 4.0, "baseline": 2.0, "ddpm": mae}))
        for mae in (6.0, 3.0)
    )
    assert "a training that failed" in failed and "failed" not in trained


def test_a_regression_in_disguise_is_told_in_the_answer():
    rows = method_rows({"control": 8.0, "baseline": 4.0, "ddpm_dose": 3.0})
    told = [
        answers.answer(
            {"rows": rows, "samplings": {}}, 0.1, {"rows": [ensemble_row("ddpm_dose", spread_gy, 3.0)]}
        )
        for spread_gy in (1.0, 2.5)
    ]
    assert "in disguise" in told[0] and "in disguise" not in told[1]


def test_a_score_that_is_not_surely_higher_than_the_lowest_is_named():
    rows = [
        ensemble_row(source, 2.0, 3.0, f"p{i}") | {"crps_gy": crps + wobble * (-1) ** i}
        for source, crps, wobble in (("flow", 1.0, 0.0), ("ddpm_v", 1.05, 0.5), ("ddpm", 2.0, 0.1))
        for i in range(4)
    ]
    assert "is that of `flow`, 1.00 Gy, not surely lower than `ddpm_v` 1.05." in answers.answer_on_spread(
        {"rows": rows}
    )


@pytest.mark.parametrize(
    "low, high, if_true, told",
    [
        (0.01, 0.12, ("lower",), "does not hold"),
        (-0.12, 0.05, ("lower",), "cannot be said"),
        (-0.3, -0.2, ("lower",), "holds"),
        (0.05, 0.2, ("higher", "equal"), "holds"),
        (-0.3, -0.2, ("higher", "equal"), "does not hold"),
        (None, None, ("lower",), "cannot be said"),
    ],
)
def test_a_claim_fails_where_the_interval_leaves_no_room_for_it(low, high, if_true, told):
    assert claims.holds(Difference(8, 0.0, low, high, None, None), 0.1, if_true) == told


def test_switches_tried_only_up_to_the_best_number_of_steps_cure_nothing():
    text = told_of_steps(
        step_rows({5: 6.0, 25: 3.0, 500: 6.0}),
        step_rows({5: 5.0, 25: 4.0}, "no clamp", group="sampler"),
        step_rows({5: 6.0, 25: 4.0, 500: 4.0}, "start held at t = 980"),
    )
    assert (
        "**flat**: start held at t = 980" in text
        and "**not tried beyond 25, where the reference's own setting is best**: no clamp" in text
    )


def test_what_was_not_tried_in_more_steps_is_not_said_to_bear_them():
    text = told_of_steps(
        step_rows({10: 3.0, 100: 6.0, 1000: 7.0}), step_rows({10: 4.0, 100: 3.0}, "start held at t = 900")
    )
    assert "start held at t = 900: lowest at 100 steps, more were not tried with it" in text


def test_after_the_factor_each_price_is_paired_with_the_cheapest():
    def of(source, members, crps):
        rows = [ensemble_row(source, 2.0, 3.0, f"p{i}") for i in range(4)]
        return [
            row | {"members": members, "recalibrated": row["recalibrated"] | {"crps_gy": crps + i}}
            for i, row in enumerate(rows)
        ]

    text = verdicts.price_after_factor(of("flow", 8, 1.0) + of("baseline", 2, 1.25))
    assert (
        "less that of `baseline`, the cheapest: `flow` 2.50 (-0.25 [-0.25, -0.25]), `baseline` 2.75." in text
    )


def test_samples_that_hardly_differ_are_marked_where_they_keep_to_theory():
    found = steps_found(
        step_rows({10: 3.0, 100: 6.0}), step_rows({10: 3.0, 100: 4.0}, "ddpm_v", group="prediction")
    )
    told = [
        answers.answer_on_steps(found, 0.1, {"rows": [ensemble_row("ddpm_v", spread_gy, 3.0)]})
        for spread_gy in (1.0, 2.5)
    ]
    assert "`ddpm_v` (whose samples hardly differ)" in told[0] and "hardly differ" not in told[1]


def test_with_two_patients_nothing_is_concluded():
    rows = method_rows({"control": 8.0, "baseline": 4.0, "ddpm": 5.0}, patients=2)
    assert "cannot be said" in answered(rows)
    assert "no interval with 2 patients" in told_of_methods(rows)
    assert "cannot be said" in told_of_steps(step_rows({1: 3.0, 9: 6.0}, patients=2))


def test_a_sampler_worse_than_the_control_is_called_untrained_in_the_answer():
    assert "too short" in answered(method_rows({"control": 8.0, "baseline": 4.0, "ddpm": 9.0}))
    assert "too short" not in answered(method_rows({"control": 8.0, "baseline": 4.0, "ddpm": 5.0}))


def test_one_step_is_called_the_answer_of_a_regression():
    rows = method_rows({"control": 8.0, "baseline": 4.0, "refine": 3.0})
    assert "answer of a regression" in answered(
        rows, {"refine": {"nfe": 1}}
    ) and "answer of a regression" not in answered(rows, {"refine": {"nfe": 2}})


def test_the_answer_on_the_anomaly_follows_the_numbers():
    curves = (
        step_rows({10: 3.0, 100: 6.0}),
        step_rows({10: 3.0, 100: 3.0}, "start held at t = 900"),
        step_rows({10: 3.0, 100: 4.0}, "ddpm_v", group="prediction"),
        step_rows({10: 3.0, 100: 5.0}, "flow", group="prediction"),
    )
    text = answers.answer_on_steps(steps_found(*curves), 0.1)
    assert (
        "is real for `ddpm` on the reference's grid (+3.00 Gy" in text
        and "from 10 to 100 steps it is +3.00 [" in text
        and "(reference's grid), +0.00 [+0.00, +0.00] (start held at t = 900)" in text
    )
    assert (
        "at any number of steps: `ddpm_v`; from the best number of steps to the most their MAE rises by "
        "`ddpm_v` +1.00 ["
    ) in text and "`flow`" not in text
    assert "No other prediction" in answers.answer_on_steps(steps_found(curves[0], curves[3]), 0.1)
    assert "prediction" not in answers.answer_on_steps(steps_found(curves[0]), 0.1)
    few = [step_rows({10: 3.0, 100: 6.0}, patients=2)]
    assert "cannot be said" in answers.answer_on_steps(
        steps_found(*few), 0.1
    ) and "to be cured cannot be said" in told_of_steps(*few)
    assert "does not show here" in answers.answer_on_steps(steps_found(step_rows({10: 6.0, 100: 3.0})), 0.1)


def test_a_method_sampled_in_fewer_steps_is_judged_to_its_last_and_does_not_shorten_the_comparison():
    rows = (
        step_rows({10: 3.0, 100: 3.0, 250: 6.0})
        + step_rows({10: 3.0, 250: 6.0}, "no clamp", group="sampler")
        + step_rows({10: 3.0, 100: 3.0}, "flow", group="prediction")
    )
    assert verdicts.compared_steps(rows) == (10, 250)
    text = verdicts.switches_sentence(rows, 0.1)
    assert "Between" not in text and "still rising**: no clamp" in text and "flat**: flow (to 100)" in text


def test_seeds_of_a_method_count_together_and_their_difference_is_told():
    rows = method_rows(
        {"control": 8.0, "baseline": 4.0, "baseline-seed43": 5.0, "ddpm": 4.6, "ddpm-standardised": 3.0}
    )
    text = told_of_methods(rows)
    assert "`ddpm` +0.10" in text and "(averaged over seeds: `baseline` (2)):" in text
    assert "sampled differently" not in text
    ways = {"baseline": {"text": "one pass"}, "baseline-seed43": {"text": "2 steps"}}
    assert "sampled differently (one pass; 2 steps)" in told_of_methods(rows, samplings=ways)
    assert "Two seeds of `baseline` differ by +1.0" in text


def test_a_method_that_could_not_be_trained_is_listed_with_its_reason():
    text = told_of_methods(
        method_rows({"control": 8.0, "baseline": 4.0}), {"gradient_vgg": "it needs weights"}
    )
    assert "`gradient_vgg` was not trained: it needs weights" in text


def ensemble_row(source, spread_gy, error_gy, case_id="p0"):
    calibrated = {
        "crps_gy": 1.0,
        "coverage_pct": {"50": 40.0, "95": 80.0},
        "spread_skill": {"voxels": [1.0], "spread_gy2": [spread_gy**2], "error_gy2": [error_gy**2]},
    }
    return dict(
        source=source,
        case_id=case_id,
        members=4,
        nfe_per_member=10,
        floor_gy2=4.0,
        b_gy2=2.0,
        mae_gy={"1": 3.0, "4": 2.0},
        spread_dose_mask_gy=spread_gy,
        **calibrated,
        recalibrated=calibrated | {"coverage_pct": {"50": 51.0, "95": 94.0}},
    )


@pytest.mark.parametrize(
    "spread_gy, told",
    [
        (0.5, "a regression in disguise"),
        (2.0, "too sure of itself"),
        (3.0, "about calibrated"),
        (6.0, "more cautious"),
    ],
)
def test_what_is_said_of_a_spread_follows_its_ratio_to_the_error(spread_gy, told):
    rows = [ensemble_row("ddpm_v", spread_gy, 3.0, f"p{i}") for i in range(4)]
    found = {"rows": rows, "regression_rows": step_rows({1: 2.0}), "factors": {"ddpm_v": 1.5}}
    text = verdicts.ensemble_verdict(found, 0.1)
    rival = verdicts.ensemble_verdict(
        found | {"rows": [r | {"source": "baseline"} for r in rows], "factors": {"baseline": 1.5}}, 0.1
    )
    assert ("says little of its doubt" in rival) == (spread_gy == 0.5) and "disguise" not in rival
    assert (
        told in text
        and "**lower**: `ddpm_v` -1.00" in text
        and "`ddpm_v` 2.00" in text
        and "40 calls" in text
    )
    assert (
        "promise within 5 points**: `ddpm_v` (times 1.50: the 50 % interval holds 51 %, the 95 % "
        "interval holds 94 %)"
    ) in text


@pytest.mark.parametrize(
    "regression_gy, told",
    [
        (1.95, "**no more than 1.05**: `ddpm_v`"),
        (1.85, ": **more than 1.05**: `ddpm_v`"),
        (3.0, "**no more than 1.05**: `ddpm_v`"),
    ],
)
def test_the_mean_of_infinitely_many_is_held_against_the_regression(regression_gy, told):
    rows = [ensemble_row("ddpm_v", 2.0, 3.0, f"p{i}") for i in range(4)]
    regression_rows = [{"mae_gy": 1.0, "rmse_gy": regression_gy}] * 4
    assert told in verdicts.ensemble_verdict(
        {"rows": rows, "regression_rows": regression_rows, "factors": {"ddpm_v": 1.5}}, 0.1
    )


def history(*errors):
    return [{"epoch": i, "validation_mae_gy": error} for i, error in enumerate(errors)]


@pytest.mark.parametrize(
    "ddpm, told",
    [
        ((20.0, 31.0, 25.0), "holds"),
        ((20.0, 21.0, 12.0), "does not hold"),
        ((20.0, 15.0, 12.0), "does not hold"),
    ],
)
def test_a_validation_error_swings_only_if_it_rises(ddpm, told):
    assert claims.claim_swing({"ddpm": history(*ddpm), "baseline": history(4.0, 3.0, 2.0)})["verdict"] == told


@pytest.mark.parametrize("held, told", [({1: 9.0, 10: 3.0}, "does not hold"), ({1: 3.0, 10: 9.0}, "holds")])
def test_the_claim_on_the_start_follows_the_held_curves(held, told):
    steps = {"rows": step_rows({1: 5.0, 10: 8.0}) + step_rows(held, "start held at t = 999")}
    assert claims.claim_start(steps, 0.1)["verdict"] == told
    assert claims.claim_steps(steps, 0.1)["verdict"] == "holds"
    mixed = {
        "rows": steps["rows"]
        + step_rows({1: 3.0, 10: 9.0} if told != "holds" else {1: 9.0, 10: 3.0}, "start held at t = 900")
    }
    assert claims.claim_start(mixed, 0.1)["verdict"] == "depends on the start"


def test_ensemble_sizes_are_in_order_of_number_after_json():
    assert sizes_of([{"mae_gy": {"1": 3.0, "10": 2.0, "3": 2.5}}]) == ["1", "3", "10"]


def test_a_network_that_does_not_beat_the_control_is_called_untrained():
    rows = method_rows({"control": 4.0, "baseline": 4.0})
    assert "too short or wrong" in told_of_methods(rows)


def test_tables_sort_methods_by_error():
    rows = method_rows({"control": 8.0, "baseline": 4.0, "ddpm": 5.0})
    assert list(tables.comparison(rows).index) == ["baseline", "ddpm", "control"]


def test_the_first_table_has_one_form_of_each_method_over_its_seeds():
    table = tables.key(
        method_rows(
            {"control": 8.0, "baseline": 4.0, "baseline-seed43": 5.0, "flow": 4.6, "flow, mean of 3": 4.0}
        ),
        0.1,
    )
    assert list(table.index) == ["flow, mean of 3", "baseline", "control"]
    assert (
        table.loc["baseline", "MAE / Gy"].startswith("4.50 [")
        and table.loc["flow, mean of 3", "so it is"] == "lower"
    )
    assert table.loc["flow, mean of 3", "minus baseline / Gy"].startswith("-0.50 [")


def test_the_dvh_score_counts_every_point_once_however_many_a_patient_has():
    rows = method_rows({"control": 8.0, "baseline": 4.0}, patients=2)
    for row, errors in zip(rows, [[1.0], [4.0, 4.0, 4.0]] * 2):
        row["dvh_errors_gy"] = errors
    for table in (tables.key(rows, 0.1), tables.comparison(rows)):
        assert table.loc["baseline", "DVH score / Gy"] == "3.25"


def test_the_lowest_error_is_named_with_its_interval():
    text = answers.best_result({"rows": method_rows({"control": 1.0, "baseline": 4.0, "flow": 3.0})})
    assert text.startswith("`flow`, MAE 3.00 [") and "the plain U-Net 4.00 [" in text
    assert answers.best_result({"rows": method_rows({"baseline": 4.0, "flow": 5.0})}).endswith(
        "in the dose mask."
    )


def test_the_squared_error_is_split_by_setting_and_steps():
    rows = [
        {"setting": "flow", "n_steps": n, "floor_gy2": floor, "b_gy2": 2.0}
        for n in (5, 50)
        for floor in (1.0, n / 5)
    ]
    table = tables.decomposition(rows, [{"rmse_gy": 2.0}])
    assert list(table["sum / Gy²"]) == ["3.0", "7.5", "4.0"] and list(table["floor / Gy²"]) == [
        "1.0",
        "5.5",
        "",
    ]


def test_structures_count_the_patients_that_have_them():
    table = tables.structure_errors(method_rows({"baseline": 4.0, "control": 8.0}))
    assert list(table.index) == ["Rectum (n = 9)"] and list(table.iloc[0]) == ["4.00", "8.00"]


def test_wide_tables_show_one_form_of_each_method():
    rows = method_rows(
        {
            "control": 8.0,
            "baseline": 4.0,
            "baseline-seed43": 4.1,
            "flow": 5.0,
            "flow, mean of 3": 4.5,
            "ddpm-x": 9.0,
            "ddpm-x, mean of 3": 8.0,
        }
    )
    assert list(tables.indices(rows).index) == ["control", "baseline", "flow, mean of 3"]


def test_hostile_names_are_escaped():
    assert "<script>" not in html.table(
        count(1), tables.headed([{"case": "<script>alert(1)</script>", "b": "<b>"}], "case"), "<script>"
    )
    assert "<script>" not in html.bullets("- `<script>` **<b>**") and "<script>" not in html.bullets(
        "- a:\n  - <script>"
    )


def test_a_report_of_nothing_says_what_is_missing(tmp_path):
    (tmp_path / "results").mkdir()
    html.build_report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "has not been run" in page


def test_the_commands_to_run_it_again_pass_the_runners_checks(monkeypatch):
    monkeypatch.chdir(ROOT)
    for line in html.again(ROOT / "outputs" / "published" / "phantom-quick") + html.again(
        ROOT / "outputs" / "published" / "openkbp-small"
    ):
        words = shlex.split(line)
        given = [words[i + 1] for i, word in enumerate(words) if word == "-p"]
        stages = plan(load_params(words[3], given), words[3])
        assert any(s.parameters.get("n_steps") == [5, 25, 100] for s in stages) == bool(given)


def finished(folder, mae_gy):
    """An experiment's folder with a comparison in which the baseline has the given error."""
    compared = {"made": {"device": "one CPU"}, "rows": method_rows({"baseline": mae_gy, "control": 8.0})}
    write_json(folder / "results" / "04_comparison.json", compared)
    (folder / "checkpoints" / "baseline").mkdir(parents=True, exist_ok=True)
    save_tensors(folder / "checkpoints" / "baseline" / "weights.safetensors", {"w": torch.full((3,), 1.2345)})
    write_json(folder / "checkpoints" / "baseline" / "config.json", {"method": "baseline"})


def test_a_list_within_a_list_stays_one_on_the_page():
    text = sentences.bullets(["first", sentences.nested("second", ["a", "**b**"]), "third"])
    assert html.bullets(text) == (
        "<ul><li>first</li><li>second:<ul><li>a</li><li><strong>b</strong></li></ul></li><li>third</li></ul>"
    )


def test_a_method_is_explained_where_the_answer_first_names_it():
    told = html.with_titles({"Accuracy": "`flow, mean of 3` beats `flow`", "Lowest error": "`flow`, `<b>`"})
    assert told == {
        "Accuracy": "`flow, mean of 3` (flow matching) beats `flow`",
        "Lowest error": "`flow`, `<b>`",
    }


def test_fresh_numbers_are_compared_with_the_published_ones(tmp_path):
    folder = tmp_path / "quick"
    finished(folder, 4.0)
    assert published.compare_with_published(folder) == ([], [])
    published.publish(folder)
    stored = read_json(tmp_path / "published" / "quick" / "results" / "published.json")
    assert stored["mae_gy"]["baseline"] == 4.0 and stored["device"]
    lines, differing = published.compare_with_published(folder)
    assert any("baseline" in line and line.endswith("4.00  4.00  equal") for line in lines) and not differing
    finished(folder, 4.5)
    lines, differing = published.compare_with_published(folder)
    assert any("baseline" in line and "+0.50, more than it may" in line for line in lines)
    assert differing == ["baseline"]


def test_another_processor_may_change_a_number_a_little_and_the_same_may_not():
    assert published.allowed_gy("baseline", True) < 0.01 > published.allowed_gy("ddpm, mean of 3", True)
    assert published.allowed_gy("ddpm_dose, mean of 3", False) == published.OTHER_PROCESSOR_GY
    assert published.allowed_gy("ddpm, mean of 3", False) == published.OTHER_PROCESSOR_DDPM_GY
    assert published.allowed_gy("ddpm-seed43", False) == published.OTHER_PROCESSOR_DDPM_GY


def test_what_is_published_takes_the_place_of_what_was(tmp_path):
    folder, target = tmp_path / "quick", tmp_path / "published" / "quick"
    finished(folder, 4.0)
    for name in ("figures/fig1.png", "figures/fig1.pdf", "04_comparison.ipynb", "checkpoints/x/config.json"):
        write_text(folder / name, "new")
    write_text(target / "figures" / "old.png", "old")
    published.publish(folder)
    names = {path.relative_to(target).as_posix() for path in target.rglob("*") if path.is_file()}
    assert {"figures/fig1.png", "04_comparison.ipynb", "results/published.json"} <= names
    assert not [name for name in names if "old" in name or "checkpoints" in name or name.endswith("pdf")]


def test_methods_of_two_experiments_are_paired_by_patient_whatever_the_order_of_their_rows(tmp_path):
    a, b = (
        method_rows({"baseline": 4.0, "baseline-seed43": 5.0, "control": 8.0}),
        method_rows({"flow": 3.5, "control": 8.0}),
    )
    for name, rows in (("a", a), ("b", b[::-1])):
        write_json(tmp_path / name / "results" / "04_comparison.json", {"rows": rows, "margin_gy": 0.1})
    lines = pair.pair_lines((tmp_path / "a", "baseline"), (tmp_path / "b", "flow"))
    assert "2 seeds" in lines[0] and "1 seed)" in lines[0]
    assert (
        "4.50 - 3.50: +1.00 Gy (95 % interval +0.99 to +1.01, 10 patients), higher" in lines[1]
    )  # unpaired it would reach from 0.8 to 1.2
    assert "2.00 - 2.00: +0.00 Gy" in lines[2]
    assert "+0.00" in pair.pair_lines((tmp_path / "b", "flow"), (tmp_path / "b", "flow"))[1]
    with pytest.raises(UserError, match="judged no 'flaw'; did you mean flow"):
        pair.pair_lines((tmp_path / "a", "baseline"), (tmp_path / "b", "flaw"))
    write_json(
        tmp_path / "b" / "results" / "04_comparison.json",
        {"rows": [row for row in b if row["case_id"] != "p9"], "margin_gy": 0.1},
    )
    with pytest.raises(UserError, match="a paired difference needs"):
        pair.pair_lines((tmp_path / "a", "baseline"), (tmp_path / "b", "flow"))


def test_an_experiment_that_compares_nothing_is_published_all_the_same(tmp_path):
    published.publish(tmp_path / "speed")
    assert read_json(tmp_path / "published" / "speed" / "results" / "published.json")["mae_gy"] == {}
    assert published.compare_with_published(tmp_path / "speed") == ([], [])


def test_weights_to_publish_are_bf16_with_their_configuration(tmp_path):
    finished(tmp_path, 4.0)
    published.write_weights(tmp_path)
    stored = load_file(tmp_path / "weights" / "baseline" / "weights.safetensors")["w"]
    assert stored.dtype == torch.bfloat16 and torch.allclose(stored.float(), torch.tensor(1.2345), atol=0.005)
    assert (tmp_path / "weights" / "baseline" / "config.json").exists()


def test_results_are_written_a_line_a_row_and_come_back_to_six_digits(tmp_path):
    results = {
        "margin_gy": 0.1,
        "rows": [{"case_id": "a", "mae_gy": 1.23456789, "deep": {"b": [0.333333333]}}, {"case_id": "<b>"}],
        "none": [],
        "n": 3,
    }
    write_results(tmp_path / "r.json", results)
    assert len((tmp_path / "r.json").read_text().splitlines()) == 9
    back = read_json(tmp_path / "r.json")
    assert (
        back["rows"][0] == {"case_id": "a", "mae_gy": 1.23457, "deep": {"b": [0.333333]}}
        and back["n"] == 3
        and back["none"] == []
    )
    with pytest.raises(ValueError):
        write_results(tmp_path / "r.json", {"x": float("nan")})
    assert read_json(tmp_path / "r.json") == back


def test_a_figure_of_lines_is_written_with_few_colours_and_one_of_pictures_with_all(tmp_path):
    for name, picture in (("lines", False), ("picture", True)):
        figure, (ax,) = style.panels(1)
        ax.plot([0, 1], [0, 1])
        if picture:
            ax.imshow(np.random.default_rng(0).random((300, 300, 3)))
        style.save_figure(figure, tmp_path, name)
        drawn = Image.open(tmp_path / "figures" / f"{name}.png")
        assert (drawn.mode == "P") == (not picture) and (
            tmp_path / "figures" / f"{name}.pdf"
        ).stat().st_size > 1000


def test_variants_of_a_method_are_told_apart_by_their_markers():
    rows = step_rows({1: 3.0, 5: 2.0})
    for name in ("ddpm_v", "ddpm_v-a", "ddpm_v-b", "flow"):
        rows += step_rows({1: 3.0, 5: 2.0}, name, group="prediction")
    lines = {
        line.get_label(): line
        for line in steps_figures.sampling_steps(rows, step_rows({1: 2.0}), "ddpm", "baseline")
        .axes[1]
        .get_lines()
    }
    assert [lines[name].get_marker() for name in ("ddpm_v", "ddpm_v-a", "ddpm_v-b", "flow")] == [
        "o",
        "s",
        "^",
        "o",
    ]
    assert [lines[name].get_linestyle() for name in ("ddpm_v", "ddpm_v-a")] == ["-", "--"]


@pytest.mark.parametrize("many", [False, True])
def test_a_notebooks_figure_becomes_smaller_and_looks_the_same(many):
    figure, (ax,) = style.panels(1)
    ax.plot([0, 1, 2], [0, 1, 0.5])
    if many:
        rows, columns = np.mgrid[:256, :256]
        ax.imshow(
            np.stack([rows, columns, 255 - rows], axis=-1)
            + np.random.default_rng(0).integers(0, 9, (256, 256, 1))
            - 4
            & 255
        )
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    before = base64.b64encode(buffer.getvalue()).decode()
    output = pictures.smaller_output({"image/png": before, "text/plain": "<Figure>"})
    after = output["image/jpeg" if many else "image/png"]
    assert sorted(output) == ["image/jpeg" if many else "image/png", "text/plain"] and len(after) < 0.6 * len(
        before
    )
    seen, drawn = (
        np.asarray(Image.open(io.BytesIO(base64.b64decode(text))).convert("RGB"), float)
        for text in (after, before)
    )
    assert np.abs(seen - drawn).mean() < (2 if many else 0.5) and (many or np.abs(seen - drawn).max() < 40)


@pytest.mark.parametrize("many", [False, True])
def test_a_pages_picture_is_exact_if_of_few_colours_and_looks_the_same_if_of_many(many):
    rows, columns = np.mgrid[:360, :480] // 2
    drawn = np.stack([rows, columns, rows * columns // 240], axis=-1)
    buffer = io.BytesIO()
    Image.fromarray((drawn if many else drawn // 16 * 16).astype(np.uint8)).save(buffer, "PNG")
    page = f'<img alt="x" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'
    shown = pictures.pictures_to_webp(page)
    found = re.fullmatch(r'<img alt="x" src="data:image/webp;base64,([^"]+)">', shown)
    before, after = (
        np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), float)
        for data in (buffer.getvalue(), base64.b64decode(found[1]))
    )
    assert np.abs(after - before).max() == 0 if not many else np.abs(after - before).mean() < 2


def test_what_is_looked_at_closely_is_the_best_of_the_sampled_or_the_best_of_all():
    rows = method_rows({"baseline": 1.0, "gradient": 0.9, "ddpm": 5.0, "flow": 4.0})
    assert verdicts.best_sampled(rows, ["baseline", "ddpm", "flow"]) == "flow"
    assert verdicts.best_sampled(rows, ["baseline", "gradient"]) == "gradient"


def test_captions_count_the_patients_and_alternative_texts_tell_the_numbers():
    comparison = {
        "rows": method_rows({"control": 8.0, "baseline": 4.0, "flow": 5.25}),
        "samplings": {},
        "margin_gy": 0.1,
    }
    n = len({row["case_id"] for row in comparison["rows"]})
    assert captions.counts(None, None, comparison)["fig5_key_finding"] == f"n = {n} test patients."
    told = captions.findings(None, None, comparison)
    assert told["fig4_model_comparison"] == "Mean MAE in Gy: baseline: 4.00; flow: 5.25; control: 8.00."
    assert "+1.25 Gy" in told["fig5_key_finding"]


def test_another_methods_steps_and_samples_say_nothing_of_the_references_claims():
    ensemble = {
        "rows": [
            {
                "source": "refine",
                "spread_dose_mask_gy": 1.0,
                "spread_whole_volume_gy": 0.1,
                "mae_gy": {"1": 4.0, "2": 3.0},
            }
        ],
        "rx_gy": 70.0,
    }
    rows = method_rows({"control": 8.0, "baseline": 4.0, "refine": 3.0})
    found = claims.claims(
        rows, steps_found(step_rows({10: 3.0, 100: 6.0})) | {"method": "refine"}, ensemble, {}, 0.1
    )
    assert {row["verdict"] for row in found} == {"cannot be said"}
    assert {row["verdict"] for row in claims.claims(rows, None, None, {}, 0.1)} == {
        "cannot be said"
    }  # nothing was sampled


def test_a_group_of_settings_that_was_not_tried_has_an_empty_table():
    assert (
        tables.step_curves(step_rows({10: 3.0}), "prediction").empty
        and not tables.step_curves(step_rows({10: 3.0}), "start").empty
    )


@pytest.mark.parametrize(
    "shift, told",
    [
        (0.5, "worse"),
        (0.12, "a little worse"),
        (0.0, "cannot be said"),
        (-0.12, "a little better"),
        (-0.5, "better"),
    ],
)
def test_a_difference_says_which_way_it_leans(shift, told):
    wobble = np.linspace(-0.1, 0.1, 12) if shift else np.linspace(-1, 1, 12)
    d = paired_difference(4 + shift + wobble, np.full(12, 4.0))
    assert sentences.told_difference(d, 0.1, {"higher": "worse", "lower": "better"}) == told


def test_a_figure_that_rests_on_no_patient_has_no_count():
    steps = {"rows": step_rows({10: 3.0}), "level_rows": [], "decomposition": []}
    assert set(captions.counts(steps, None, None)) == {"fig2_sampling_steps_ablation", "fig8_switches"}

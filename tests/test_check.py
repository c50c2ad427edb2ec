"""What plans of such anatomies reach, how unlike an anatomy is, and the check of a plan with its page."""

import shutil
from dataclasses import asdict, replace

import numpy as np
import pandas as pd
import pytest
import torch
from dicom_toys import write_patient
from toys import LUNG, toy_case, toy_cohort

from lib.cases.cohort import open_cohort
from lib.cases.protocol import protocol_of
from lib.errors import UserError
from lib.features.channels import signed_distance_mm
from lib.features.samples import make_sample
from lib.files import ROOT, read_json, write_json
from lib.models.methods import find_method
from lib.prediction.predict import predict
from lib.report import interval_figures
from lib.report.style import plt
from lib.runner import check as command
from lib.runner import published
from lib.runner.params_file import load_params
from lib.runner.plan import plan
from lib.runner.settings import experiment_of, training_parameters
from lib.runner.stamps import key_of
from lib.runner.train import trainings
from lib.studies import intervals, plan_check
from lib.studies.anatomy import VOLUME, describe, likeness, same_patient
from lib.studies.experiment import cached_case, find_experiment
from lib.studies.intervals import BY_SPREAD, CONSTANT, LEAST, RAISED_GY
from lib.studies.results import FRAMES, make_frame, make_rows
from lib.tensors import save_tensors
from lib.training.setup import make_config

CASE = toy_case()
ANSWER = {"training": "flow", "method": "flow", "group": "flow", "seed": 42, "n_steps": 4, "nfe": 20}
ANSWER |= {"source": "samples", "members": 5, "variant": ""}
RANDOM = np.random.default_rng(11)


def made_values(part, n, scores, spread=1.0, quantity="Dmean", structure="Rectum", start=0):
    """Rows of 07_values whose plan lies `scores` spreads above a prediction of 30 Gy."""
    of = {"part": part, "structure": structure, "quantity": quantity, "unit": "Gy", "value": 30.0}
    spreads = np.broadcast_to(spread, n)
    return [
        ANSWER | of | {"case_id": f"{part}{start + i}", "planned": 30 + score * s, "spread": s - LEAST}
        for i, score, s in zip(range(n), scores, spreads)
    ]


# --- quantities ---


def test_each_quantity_is_there_once_and_the_goal_that_limits_it_comes_first():
    for site in ("prostate", "head-and-neck", LUNG):
        protocol = protocol_of(site)
        goals = intervals.quantities(protocol)
        named = [intervals.key_of(goal) for goal in goals]
        assert len(set(named)) == len(named)
        assert set(protocol.goals) <= set(goals)
        assert {(organ, "Dmean", "Gy") for organ in protocol.organs} <= set(named)


def test_an_organ_inside_the_targets_is_not_to_be_spared():
    organs = intervals.organs_at_risk(CASE)
    assert "Prostate" not in organs and {"Rectum", "Bladder", "Femur_L"} <= set(organs)
    named = {(goal.structure, goal.quantity) for goal in intervals.values_of(CASE, [CASE.dose_gy])}
    assert ("Rectum", "Dmean") in named and ("Prostate", "Dmean") not in named


def test_values_are_those_of_the_doses():
    shifts = np.array([-1.0, 2.0, 5.0])
    rows = pd.DataFrame(intervals.value_rows(CASE, CASE.dose_gy + shifts[:, None, None, None]))
    in_gy = rows[rows["unit"] == "Gy"]
    assert len(in_gy) > 8 and np.allclose(in_gy["value"] - in_gy["planned"], 2.0, atol=1e-3)
    assert np.allclose(in_gy["spread"], 3.0, atol=1e-3)
    mean = rows.query("structure == 'Rectum' and quantity == 'Dmean'").iloc[0]
    assert mean["planned"] == pytest.approx(CASE.dose_gy[CASE.masks["Rectum"]].mean(), abs=1e-4)
    one = pd.DataFrame(intervals.value_rows(CASE, CASE.dose_gy[None]))
    assert "spread" not in one and np.allclose(one["planned"], one["value"])


def test_a_patients_score_over_voxels_is_the_error_that_95_pct_of_them_stay_below():
    inside = np.flatnonzero(CASE.dose_mask)
    dose_gy = CASE.dose_gy.copy()
    dose_gy.flat[inside] += np.where(np.arange(len(inside)) < 0.94 * len(inside), 2.0, 50.0)
    constant, by_spread = intervals.voxel_rows(CASE, dose_gy + np.array([-3.0, 3.0])[:, None, None, None])
    assert constant["rule"] == CONSTANT and constant["planned"] == pytest.approx(50.0, abs=1e-3)
    assert by_spread["rule"] == BY_SPREAD and by_spread["spread"] == pytest.approx(np.sqrt(18), abs=1e-3)
    assert by_spread["planned"] == pytest.approx(50.0, abs=1e-3)  # the scale is one for all voxels
    dose_gy.flat[inside] = CASE.dose_gy.flat[inside] + 2.0
    assert intervals.voxel_rows(CASE, dose_gy[None])[0]["planned"] == pytest.approx(2.0, abs=1e-3)


# --- intervals ---


def test_exchangeable_patients_are_inside_as_promised_and_widths_follow_their_rule():
    rows = []
    for number in range(60):  # as many structures, each with patients of its own
        spreads = RANDOM.uniform(0.6, 3, 29)
        rows += made_values("validation", 9, RANDOM.standard_t(3, 9), spreads[:9], structure=f"s{number}")
        rows += made_values("test", 20, RANDOM.standard_t(3, 20), spreads[9:], structure=f"s{number}")
    values = make_frame("07_values", rows)
    each = intervals.interval_rows(values, (80,))
    assert len(each) == 2 * 60 * 20
    for rule, of_rule in each.groupby("rule"):
        inside = of_rule["planned"].between(of_rule["low"], of_rule["high"])
        by_structure = inside.groupby(of_rule["structure"]).mean()
        error = 3 * by_structure.std() / np.sqrt(60)
        assert by_structure.mean() == pytest.approx(0.8, abs=error)  # 8 of 10, of 9 patients
        widths = (of_rule["high"] - of_rule["low"]) / (of_rule["spread"] + LEAST if rule == BY_SPREAD else 1)
        free = of_rule["low"] > 0
        assert np.allclose(widths[free].groupby(of_rule["structure"]).std(), 0, atol=1e-9)
    judged = intervals.judge(values[values["structure"].isin([f"s{number}" for number in range(12)])])
    overall = judged[(judged["case_id"] != "") & (judged["level_pct"] == 80)]
    scores = overall.groupby("rule")["interval_score"].mean()
    assert scores[BY_SPREAD] < scores[CONSTANT]  # here the spread tells the error
    one = judged[(judged["structure"] == "s3") & (judged["level_pct"] == 80)].iloc[0]
    assert (
        one["inside_low_pct"] < one["inside_pct"] <= one["inside_high_pct"]
        and one["calibration_patients"] == 9
    )


def test_what_no_calibration_patient_has_gets_no_interval():
    known = made_values("validation", 9, RANDOM.normal(size=9)) + made_values("test", 4, np.zeros(4))
    values = make_frame("07_values", known + made_values("test", 4, np.zeros(4), structure="Bowel"))
    assert set(intervals.interval_rows(values)["structure"]) == {"Rectum"}
    assert set(intervals.interval_rows(values)["level_pct"]) == {50, 80, 90}  # 95 % takes 19
    assert intervals.judge(make_frame("07_values", made_values("validation", 3, [0, 1, 2]))).empty


def test_no_interval_goes_below_nothing_or_beyond_a_volume():
    rows = pd.DataFrame(
        {"structure": ["A", "A", ""], "unit": ["Gy", "%", "Gy"], "value": [1.0, 99, 0], "scale": 1.0}
    )
    ends = intervals.with_ends(rows, -5.0, 5.0)
    assert ends["low"].tolist() == [0, 94, -5] and ends["high"].tolist() == [6, 100, 5]


# --- alarms ---


def test_a_raised_plan_has_5_gy_more_in_the_organ_and_the_targets_as_they_were():
    targets = np.any([CASE.masks[name] for name in CASE.prescription_gy], axis=0)
    for organ in intervals.organs_at_risk(CASE):
        more_gy = intervals.raise_dose(CASE, organ) - CASE.dose_gy
        inside, free = CASE.masks[organ], ~targets & CASE.dose_mask
        assert np.allclose(more_gy[inside & free], RAISED_GY, atol=1e-3) and np.allclose(more_gy[~free], 0)
        far = signed_distance_mm(inside, CASE.spacing_mm) > 15
        assert np.allclose(more_gy[far], 0) and (more_gy >= 0).all()


def test_an_organ_beyond_the_known_dose_is_raised_where_the_dose_is_known():
    """Its planned mean is that of the part inside; so must be the raised one."""
    known = CASE.dose_mask & (np.arange(CASE.shape[0])[:, None, None] >= CASE.shape[0] // 3)
    case = replace(CASE, dose_mask=known, dose_gy=np.where(known, CASE.dose_gy, 0).astype(np.float32))
    values = intervals.values_of(case, [case.dose_gy])
    planned = {goal.structure: of[0] for goal, of in values.items() if goal.quantity == "Dmean"}
    beyond = [name for name in intervals.organs_at_risk(case) if case.inside_pct.get(name, 100) < 95]
    more_gy = {organ: raised - planned[organ] for organ, raised in intervals.raised_means(case).items()}
    assert beyond and all(0 < gy < RAISED_GY + 1e-3 for gy in more_gy.values())


def test_alarms_are_counted_as_defined():
    scores = np.arange(20.0)
    rows = made_values("validation", 20, scores) + made_values("test", 20, scores)
    values = make_frame("07_values", rows)
    raised = pd.DataFrame(
        [{"case_id": f"test{i}", "structure": "Rectum", "raised": 30.0 + i + 5} for i in range(20)]
    )
    detection = intervals.detect(values, raised)
    assert tuple(detection) == FRAMES["07_detection"]
    row = intervals.alarms(values, detection).query("rule == @CONSTANT").iloc[0]
    assert row["false_pct"] == 5 and row["detected_pct"] == 30  # the edge is the 19th of 20: 18 Gy above
    assert row["detected_at_10_pct"] == 35  # the edge is 17: 2 of 20 plans are above, 7 of 20 raised ones
    assert row["auc"] == pytest.approx(
        np.mean([[(a + 5 > b) + (a + 5 == b) / 2 for a in scores] for b in scores])
    )
    false, found = interval_figures.roc_curve(detection[detection["rule"] == CONSTANT])
    assert np.trapezoid(found, false) / 1e4 == pytest.approx(row["auc"])
    assert intervals.roc_area(scores, scores) == 0.5 and intervals.roc_area(scores, scores + 99) == 1


# --- anatomy ---


def anatomy_of(parts):
    """07_anatomy of part -> cases."""
    rows = [
        row
        for part, cases in parts.items()
        for case in cases
        for (structure, measure), value in describe(case).items()
        for row in make_rows(
            {"part": part, "case_id": case.case_id, "structure": structure}, {measure: value}
        )
    ]
    return make_frame("07_anatomy", rows)


@pytest.fixture(scope="module")
def anatomy():
    parts = {"train": range(2, 16), "validation": range(20, 29)}
    return anatomy_of({part: [toy_case(f"toy_{i}") for i in numbers] for part, numbers in parts.items()})


def changed(case, **masks):
    return replace(case, masks=case.masks | masks)


def test_swapped_sides_and_a_swollen_organ_stick_out_and_others_do_not(anatomy):
    alike = [likeness(toy_case(f"toy_{i}"), anatomy) for i in range(40, 60)]
    assert sum(one.is_unlike for one in alike) <= 6  # 1 of 10 is expected
    masks = CASE.masks
    swapped = likeness(changed(CASE, Femur_L=masks["Femur_R"], Femur_R=masks["Femur_L"]), anatomy)
    assert swapped.is_unlike and swapped.structure.startswith("Femur") and "left" in swapped.measure
    assert swapped.distance > 2 * max(one.distance for one in alike)
    swollen = signed_distance_mm(masks["Bladder"], CASE.spacing_mm) < 25
    large = likeness(changed(CASE, Bladder=swollen), anatomy)
    assert large.is_unlike and (large.structure, large.measure) == ("Bladder", VOLUME)
    assert large.value == pytest.approx(swollen.sum() * CASE.voxel_cc) and large.usual < large.value
    assert any("unlike" in note for note in plan_check.likeness_notes(large))


def test_what_training_patients_lack_or_all_have_is_said(anatomy):
    without = anatomy[anatomy["structure"] != "Bowel"]
    notes = "; ".join(plan_check.likeness_notes(likeness(CASE, without)))
    assert "No training patient has Bowel" in notes
    fewer = replace(CASE, masks={name: mask for name, mask in CASE.masks.items() if name != "Bowel"})
    notes = "; ".join(plan_check.likeness_notes(likeness(fewer, anatomy)))
    assert "Every training patient has Bowel, and this one has not" in notes


def test_a_training_patient_is_known_again_under_another_name(anatomy):
    assert same_patient(replace(toy_case("toy_3"), case_id="P007"), anatomy) == "toy_3"
    assert same_patient(CASE, anatomy) == "" and same_patient(toy_case("toy_21"), anatomy) == ""


@pytest.mark.parametrize("name", ["PTV70", "Rectum"])
def test_a_training_patient_is_known_again_with_one_structure_drawn_anew(name, anatomy):
    twin = toy_case("toy_3")
    mask = twin.masks[name].copy()
    mask[np.flatnonzero(mask.any(axis=(1, 2)))[0]] = False
    assert same_patient(changed(twin, **{name: mask}), anatomy) == "toy_3"
    assert not any(same_patient(toy_case(f"toy_{n}"), anatomy) for n in range(20, 60))


def test_no_phantom_is_taken_for_another():
    cohort = open_cohort(ROOT / "outputs/cohorts/phantom")
    cases = [cohort.load(case_id) for case_id in cohort.case_ids[:8]]
    anatomy = anatomy_of({"train": cases})
    for case in cases:
        assert same_patient(case, anatomy) == case.case_id
        assert same_patient(case, anatomy[anatomy["case_id"] != case.case_id]) == ""


# --- one plan ---


def known_values(case, n, offset_gy=0.0):
    """Values of n validation patients whose plans lie `offset_gy` and -1, ..., 1 Gy above predictions."""
    plan, of = intervals.value_rows(case, case.dose_gy[None]), ANSWER | {"part": "validation"}
    return make_frame(
        "07_values",
        [
            row | of | {"case_id": f"v{i}", "planned": row["planned"] + score + offset_gy}
            for i, score in enumerate(np.linspace(-1, 1, n))
            for row in plan
        ],
    )


def checked(case, values, dose_gy, level_pct=80):
    return plan_check.check_plan(case, dose_gy[None], values, ANSWER | {"rule": CONSTANT}, level_pct)


def row_of(check, structure, quantity="Dmean"):
    return check.table.query("structure == @structure and quantity == @quantity").iloc[0]


def test_a_plan_as_predicted_lies_in_the_middle_and_a_raised_organ_is_told():
    values = known_values(CASE, 9)
    usual = checked(CASE, values, CASE.dose_gy)
    assert (usual.table["sentence"] == "").all() and plan_check.sentences(usual) == []
    rectum = row_of(usual, "Rectum")
    assert (
        rectum["percentile"] == 50
        and rectum["n"] == 9
        and rectum["middle"] == pytest.approx(rectum["planned"])
    )
    assert rectum["bound"] == pytest.approx(rectum["planned"] + 1) and rectum["side"] == "at most"
    raised = replace(CASE, dose_gy=intervals.raise_dose(CASE, "Bladder").astype(np.float32))
    check = checked(raised, values, CASE.dose_gy)
    bladder = row_of(check, "Bladder")
    assert bladder["percentile"] == 95 and check.above == check.n == 9
    [sentence] = [s for s in plan_check.sentences(check) if "Bladder" in s and "Dmean" in s]
    assert sentence.startswith(
        f"Bladder could be spared: planned Dmean {bladder['planned']:.1f} Gy, such anatomies"
    )
    less = replace(CASE, dose_gy=(CASE.dose_gy * 0.8))
    words = " ".join(plan_check.sentences(checked(less, values, CASE.dose_gy)))
    assert words.index("PTV70 could be covered better") < words.index("Rectum is spared more than usual")


def test_a_known_place_has_its_known_percentile_and_a_networks_bias_is_corrected():
    values = known_values(CASE, 9, offset_gy=7.0)
    moved = replace(CASE, dose_gy=(CASE.dose_gy + np.float32(7.6)))
    rectum = row_of(checked(moved, values, CASE.dose_gy), "Rectum")
    assert rectum["percentile"] == pytest.approx(75)  # 0.6 lies between the 7th and the 8th of 9
    assert rectum["low"] < rectum["planned"] < rectum["high"]
    assert rectum["high"] - rectum["low"] < 2.5 and rectum["sentence"] == ""


def test_the_share_of_such_plans_that_meet_a_goal_follows_from_its_place():
    row = row_of(checked(CASE, known_values(CASE, 9), CASE.dose_gy), "Rectum", "V50 Gy")
    assert row["goal"] == "Rectum V50 Gy ≤ 50 %" and row["met"] and row["met_pct"] == 95
    row = row_of(checked(CASE, known_values(CASE, 9), CASE.dose_gy), "PTV70", "D2 %")
    assert row["limit"] == "≤ 74.9 Gy" and row["met_pct"] == 95


def test_a_validation_patients_plan_is_left_out_of_its_calibration():
    check = checked(replace(CASE, case_id="v4"), known_values(CASE, 9), CASE.dose_gy)
    assert row_of(check, "Rectum")["n"] == 8 and check.n == 8


def test_three_calibration_patients_promise_nothing_and_few_are_told():
    with pytest.raises(UserError, match="no interval of 80 % can be promised from 3 calibration patients"):
        checked(CASE, known_values(CASE, 3), CASE.dose_gy)
    values = known_values(CASE, 9)
    less = values[~((values["structure"] == "Bowel") & (values["case_id"] > "v2"))]
    check = checked(CASE, less, CASE.dose_gy)
    assert "Bowel" not in set(check.table["structure"])
    assert any("Bowel Dmean" in note and "from 3 calibration patients" in note for note in check.notes)


def two_answers():
    """Intervals of samples, and of a regression that misses nine times as far."""
    rows = made_values("validation", 9, RANDOM.normal(size=9)) + made_values("test", 9, RANDOM.normal(size=9))
    other = {
        "training": "baseline",
        "method": "baseline",
        "source": "none",
        "members": 1,
        "n_steps": None,
        "nfe": 1,
    }
    rows += [row | other | {"planned": 30 + 9 * (row["planned"] - 30), "spread": None} for row in rows]
    return intervals.judge(make_frame("07_values", rows))


def test_the_best_answer_is_chosen_or_the_one_that_is_named():
    judged = two_answers()
    assert plan_check.choose_answer(judged, 80)["training"] == "flow"
    assert plan_check.choose_answer(judged, 80, "baseline")["training"] == "baseline"
    named = plan_check.choose_answer(judged, 80, "flow, 5 samples of 4 steps, width by spread")
    assert named["rule"] == BY_SPREAD
    with pytest.raises(UserError, match="there is no answer 'basline'; did you mean baseline?"):
        plan_check.choose_answer(judged, 80, "basline")
    with pytest.raises(UserError, match="too few validation patients"):
        plan_check.choose_answer(judged.head(0), 80)


def test_what_samples_are_worth_follows_from_the_scores():
    judged, name = two_answers(), "flow, 5 samples of 4 steps"
    table = interval_figures.answers_table(judged)
    assert table.index[-1] == "baseline" and table.loc[name, "verdict"] == "better"
    difference = table.loc[name, "interval score / Gy"] - table.loc["baseline", "interval score / Gy"]
    assert table.loc[name, "less that of baseline / Gy"].middle == pytest.approx(difference)
    assert table["width / Gy"].min() > 0 and table.loc[name, "network calls"] == 20
    said = interval_figures.sampling_verdict(judged)
    assert "1 network calls" not in said and "are better than those of baseline" in said
    assert (
        interval_figures.sampling_verdict(judged[judged["source"] == "none"])
        == "This experiment has no samples."
    )
    covered = interval_figures.coverage_table(judged, name).loc["Rectum Dmean / Gy"]
    assert covered["inside / %"].low < covered["inside / %"].middle <= covered["inside / %"].high
    assert (covered["patients"], covered["calibrated on"]) == (9, 9)


def test_whether_anything_is_narrower_than_residuals_alone_is_said_by_numbers():
    judged = two_answers()
    table, name = interval_figures.answers_table(judged), "flow, 5 samples of 4 steps"
    widths = table["width / Gy"]
    assert widths[name] < 0.9 * widths["baseline"]
    said = interval_figures.width_verdict(judged)
    less = 100 * (1 - widths[name] / widths["baseline"])
    assert said.startswith("Intervals are at least 10 % narrower than by the residuals of baseline alone")
    assert f"{name}, {less:.0f} % narrower ({widths[name]:.2f} Gy, " in said
    nothing = interval_figures.width_verdict(judged, least_pct=99)
    assert (
        nothing.startswith("Nothing makes intervals at least 99 % narrower") and "narrowest are of" in nothing
    )
    alone = interval_figures.width_verdict(judged[judged["source"] == "none"])
    assert alone.startswith("Nothing makes intervals") and alone.endswith("inside).")
    assert interval_figures.width_verdict(judged[judged["source"] != "none"]) == ""


def test_where_intervals_hold_fewer_than_chance_explains_is_named():
    judged = two_answers()
    usual = interval_figures.coverage_verdict(judged)
    assert "% (promised 80 %)" in usual and "holds fewer than chance explains; the lowest is" in usual
    rectum = (judged["case_id"] == "") & (judged["structure"] == "Rectum") & (judged["level_pct"] == 80)
    values = {
        "inside_pct": 30.0,
        "patients": 30,
        "calibration_patients": 25,
    }
    few = judged.assign(**{name: judged[name].mask(rectum, value) for name, value in values.items()})
    n = len(interval_figures.coverage_table(judged).filter(like=" / ", axis=0))
    said = interval_figures.coverage_verdict(few)
    assert f"1 of {n} quantities hold fewer than chance explains: Rectum Dmean (30 %)." in said
    row = interval_figures.coverage_table(few).loc["Rectum Dmean / Gy"]
    assert row["p of so few"] < 1e-3 and row["patients"] == 30


def test_a_plan_that_the_networks_cannot_answer_is_refused(tmp_path):
    cohort = toy_cohort(tmp_path, n=3, split={"train": ["toy_1"], "validation": ["toy_2"], "test": ["toy_3"]})
    plan_check.refuse_plan(replace(CASE, case_id="toy_3"), cohort, "try")
    with pytest.raises(
        UserError, match="the networks were trained on toy_1 and know its plan; check one of toy_3"
    ):
        plan_check.refuse_plan(replace(CASE, case_id="toy_1"), cohort, "try")
    new = replace(CASE, case_id="new")
    with pytest.raises(UserError, match="the plan is of lung"):
        plan_check.refuse_plan(toy_case("new", site=LUNG), cohort, "try")
    with pytest.raises(UserError, match="PTV70 is prescribed 60 Gy, the training patients have 70 Gy"):
        plan_check.refuse_plan(replace(new, prescription_gy={"PTV70": 60.0, "PTV56": 56.0}), cohort, "try")


# --- the command ---


def make_network(values):
    """A training as 01_train leaves it, with the weights that it starts from."""
    run = experiment_of(values)
    parameters = training_parameters(values) | {"start_from": ""}
    config = make_config(run, run.load_samples("train"), **parameters)
    torch.manual_seed(7)
    weights = find_method(config.method).make_network(config).state_dict()
    save_tensors(run.checkpoint(config.method) / "weights.safetensors", weights)
    write_json(run.checkpoint(config.method) / "config.json", asdict(config))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A regression and a flow, untrained, calibrated on five toy patients."""
    folder = tmp_path_factory.mktemp("checked")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        ids = [f"toy_{i}" for i in range(1, 13)]
        toy_cohort(folder / "toys", n=12, split={"train": ids[:5], "validation": ids[5:10], "test": ids[10:]})
        (folder / "outputs/try").mkdir(parents=True)
        (folder / "outputs/try/experiment.yaml").write_text(
            "{experiment: try, cohort: toys, coarsen: 1, precision: '32', methods: [baseline, flow], "
            "train: {base_channels: 8}, "
            "ensemble: {sampled: [flow], members: 3, sizes: [1, 3], n_steps: 2, deep: []}}"
        )
        for values in trainings(load_params("outputs/try/experiment.yaml"), "", []).values():
            make_network(values)
        command.main(["outputs/try"])
        plt.close("all")
    return folder


@pytest.fixture
def folder(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return trained


def test_an_experiment_is_calibrated_by_one_command(folder):
    results = command.load_calibration(command.open_check("try")[0])
    values = results.frames["07_values"]
    assert set(values["part"]) == {"validation", "test"} and values["case_id"].nunique() == 7
    assert set(values["source"]) == {"none", "control", "samples", "sides"}
    assert set(results.frames["07_intervals"]["level_pct"]) == {50, 80}
    lines = "\n".join(command.describe(results))
    assert "flow, 3 samples of 2 steps, width by spread" in lines and "flow, 2 samples of 1 step" in lines
    assert {path.name for path in (folder / "outputs/try/figures").glob("*.png")} == {
        "fig20_intervals.png", "fig21_alarms.png"
    }  # fmt: skip


def test_it_is_calibrated_with_fewer_members_than_the_ensembles_are_averaged_over(folder):
    _, how, _ = command.open_check("try", {"members": 2})
    assert how["members"] == 2 and how["deep"] == []


def test_a_plans_page_stands_alone_and_says_what_it_is_not(folder, capsys):
    path = command.check("outputs/try", "toy_11", "flow, 3 samples of 2 steps")
    page = path.read_text()
    assert path == folder / "outputs/try/checks/toy_11.html" or path.name == "toy_11.html"
    assert "Research software" in page and "no medical device" in page and page.count("data:image/webp") == 3
    assert "5 calibration patients promise that at least 80 %" in page and "(5 of 6, 83 %)" in page
    assert "http" not in page and ">nan" not in page.lower()
    shown = capsys.readouterr().out
    assert (
        "quantities lie outside their intervals; by chance alone" in shown and "3 predictions spread" in shown
    )


@pytest.mark.parametrize(
    "arguments, sentence",
    [
        (["toy_1"], "the networks were trained on toy_1"),
        (["nobody"], "nobody is neither a patient of toys nor a folder of DICOM files"),
        (["toy_11", "--by", "basline"], "did you mean baseline?"),
        (["toy_11", "--level-pct", "95"], "no interval of 95 % can be promised from 5 calibration patients"),
        (["toy_11", "--level-pct", "100"], "a level lies between 0 and 100 %"),
    ],
)
def test_a_mistake_ends_in_one_sentence(folder, capsys, arguments, sentence):
    with pytest.raises(SystemExit) as stopped:
        command.main(["outputs/try", "--plan", *arguments])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and sentence in error and "Traceback" not in error


def test_a_dicom_plan_is_checked_by_a_name_that_tells_nothing_and_its_warnings_are_told(
    folder, tmp_path, capsys
):
    def point(kind, number, ds):
        for reference in ds.get("DoseReferenceSequence", []):
            reference.DoseReferenceStructureType = "POINT"

    case = toy_case("Doe_John")
    write_patient(case, tmp_path / "Doe_John", edit=point)
    path = command.check("outputs/try", str(tmp_path / "Doe_John"), "baseline", to=tmp_path / "page.html")
    page = path.read_text()
    assert "Doe_John" not in page and "Plan of plan_" in page
    for text in (page, capsys.readouterr().out):
        assert "Look at the data: the plan" in text and "70 Gy is the dose of a reference point" in text
    twin = toy_case("toy_2")
    write_patient(twin, tmp_path / "other_name")
    with pytest.raises(UserError, match="has the anatomy of toy_2, on whom the networks were trained"):
        command.check("outputs/try", str(tmp_path / "other_name"), "baseline")
    write_patient(toy_case("chest", site=LUNG), tmp_path / "chest")
    with pytest.raises(UserError):
        command.check("outputs/try", str(tmp_path / "chest"), "baseline")


def test_other_networks_or_patients_than_the_calibrated_ones_are_refused(folder):
    run, how, _ = command.open_check("try")
    weights = run.checkpoint("flow") / "weights.safetensors"
    whole = weights.read_bytes()
    try:
        weights.write_bytes((run.checkpoint("baseline") / "weights.safetensors").read_bytes())
        with pytest.raises(
            UserError, match="not those it was calibrated with; python -m lib check outputs/try"
        ):
            command.load_calibration(run)
        weights.unlink()
        with pytest.raises(UserError, match="flow holds no weights; train flow first"):
            command.load_calibration(run)
    finally:
        weights.write_bytes(whole)
    assert command.load_calibration(run).settings["answers"] == how
    with pytest.raises(UserError, match="is not calibrated; first python -m lib check outputs/other"):
        command.load_calibration(replace(run, experiment="other"))


def test_the_report_is_made_anew_where_the_experiment_was_calibrated_since(folder):
    path = folder / "outputs/try/experiment.yaml"
    stages = plan(load_params(path), path)
    report = next(stage for stage in stages if stage.name == "05_report")
    with_check = key_of(report, folder / "outputs/try")
    assert with_check != key_of(report, folder / "outputs/nothing")
    assert with_check == key_of(report, folder / "outputs/try")


# --- by what is published ---


PUBLISHED = "outputs/published/try"


def files_below(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def clone(trained, tmp_path_factory):
    """What a checkout holds of the experiment: neither its patients nor its trainings."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(trained, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        published.publish(folder / "outputs/try")
    (folder / "toys").rename(folder / "toys_away")
    shutil.rmtree(folder / "outputs/try")
    return folder


@pytest.fixture
def in_clone(clone, monkeypatch):
    monkeypatch.chdir(clone)
    cached_case.cache_clear()  # of the same names, when the patients were there
    return clone


def test_what_is_published_holds_no_patient_and_nothing_that_runs(in_clone, trained):
    files = files_below(in_clone / PUBLISHED)
    assert {name.rpartition(".")[2] for name in files} == {"safetensors", "json", "csv", "yaml"}
    whole = (trained / "outputs/try/checkpoints/baseline/weights.safetensors").stat().st_size
    assert len(files["checkpoints/baseline/weights.safetensors"]) < 0.55 * whole
    assert sum("checkpoints" in name for name in files) == 2
    card = read_json(in_clone / PUBLISHED / "cohort.json")
    assert set(card) == {"version", "name", "site", "cases", "split", "card_sha256"}
    assert {name for case in card["cases"].values() for name in case} == {"prescription_gy", "spacing_mm"}
    frames = command.load_calibration(command.open_check(PUBLISHED)[0]).frames
    assert set(frames) == {"07_values", "07_anatomy", "07_intervals"}
    assert set(frames["07_values"]["part"]) == {"validation"}
    assert set(frames["07_values"]["source"]) == set(frames["07_intervals"]["source"]) == {"none", "sides"}


def test_a_dicom_plan_is_checked_where_neither_patients_nor_trainings_are(in_clone, trained, tmp_path):
    before, plan_folder = files_below(in_clone / PUBLISHED), tmp_path / "Doe_Jane"
    write_patient(toy_case("Doe_Jane"), plan_folder)
    path = command.check(PUBLISHED, str(plan_folder), "baseline, both sides")
    assert path.resolve().parent == (in_clone / "outputs/try/checks").resolve()
    assert "experiment published/try" in path.read_text() and "Doe_Jane" not in path.read_text()
    assert (
        files_below(in_clone / PUBLISHED) == before
    )  # nothing is kept there, no dose of the patient's either
    assert [path.name for path in (in_clone / "outputs/try").iterdir()] == ["checks"]


def test_in_bfloat16_the_weights_give_nearly_the_same_dose(in_clone, trained, monkeypatch):
    run, *_ = command.open_check(PUBLISHED)
    sample = make_sample(CASE, run.grid, run.beams_deg)
    [here] = predict(run.load_predictor("baseline"), [sample], label="")
    monkeypatch.chdir(trained)
    [whole] = predict(find_experiment("try", "cpu", "32").load_predictor("baseline"), [sample], label="")
    off_gy = (here - whole).abs() * sample.rx_gy
    assert 0 < off_gy.mean() < 0.05 and off_gy.max() < 0.5


@pytest.mark.parametrize(
    "plan_name, by, sentence",
    [
        ("toy_11", "", "toys is not a cohort: it has no card.json; make one with python -m lib import"),
        ("nobody", "", "nobody is neither a patient of toys nor a folder of DICOM files"),
        ("dicom", "flow, 3 samples of 2 steps", "samples of 2 steps takes networks that are not published"),
        ("dicom", "control", "control takes networks that are not published"),
        ("dicom", "both", "there is no answer 'both'; there are baseline, baseline, both sides"),
        ("chest", "", "holds no target; of BODY, BrachialPlex_L"),
        ("known", "", "has the anatomy of toy_2, on whom the networks were trained"),
    ],
)
def test_what_the_published_network_cannot_answer_is_one_sentence(
    in_clone, tmp_path, capsys, plan_name, by, sentence
):
    case = {"chest": toy_case("new", site=LUNG), "known": toy_case("toy_2"), "dicom": toy_case("new")}
    if plan_name in case:
        write_patient(case[plan_name], tmp_path / plan_name)
        plan_name = str(tmp_path / plan_name)
    with pytest.raises(SystemExit) as stopped:
        command.main([PUBLISHED, "--plan", plan_name, *(["--by", by] if by else [])])
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and sentence in error and error.count("\n") <= 2


def test_where_the_cohort_is_imported_a_patient_is_checked_by_the_id(in_clone, tmp_path):
    (in_clone / "toys_away").rename(in_clone / "toys")
    try:
        assert command.check(PUBLISHED, "toy_11", to=tmp_path / "page.html").exists()
        with pytest.raises(UserError, match="the networks were trained on toy_1 and know its plan"):
            command.check(PUBLISHED, "toy_1")
    finally:
        (in_clone / "toys").rename(in_clone / "toys_away")


def test_what_is_published_is_not_calibrated_and_not_taken_for_another(in_clone):
    run, how, _ = command.open_check(PUBLISHED)
    with pytest.raises(UserError, match="try is as it was published; --plan checks a plan by it"):
        command.calibrate(run, how)
    own = replace(run, experiment="try")
    with pytest.raises(UserError, match="check outputs/try, or check by outputs/published/try"):
        command.load_calibration(own)
    weights = run.checkpoint("baseline") / "weights.safetensors"
    whole = weights.read_bytes()
    try:
        save_tensors(weights, {"out.bias": torch.zeros(1)})
        with pytest.raises(UserError, match="networks or patients of published/try are not those"):
            command.load_calibration(run)
    finally:
        weights.write_bytes(whole)


def test_an_outdated_calibration_is_not_published_and_removes_nothing(trained, tmp_path, monkeypatch):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    kept = tmp_path / PUBLISHED / "report.html"
    kept.parent.mkdir(parents=True)
    kept.write_text("as it was")
    save_tensors(tmp_path / "outputs/try/checkpoints/baseline/weights.safetensors", {"w": torch.zeros(1)})
    with pytest.raises(UserError, match="not those it was calibrated with"):
        published.publish(tmp_path / "outputs/try")
    assert kept.read_text() == "as it was"


CHECKED = sorted((ROOT / "outputs" / "published").glob("*/results/07_check.json"))
CHECKED = [path.parent.parent for path in CHECKED if (path.parent.parent / "cohort.json").exists()]


@pytest.mark.parametrize("of", CHECKED, ids=lambda path: path.name)
def test_the_repositorys_networks_are_of_this_version_and_small(of, monkeypatch):
    monkeypatch.chdir(ROOT)
    run, *_ = command.open_check(of)
    results = command.load_calibration(run)
    for name in results.settings["weights"].keys() - {"cohort"}:
        run.load_predictor(name)
    plan_check.choose_answer(results.frames["07_intervals"], 80)
    sizes = [path.stat().st_size for path in of.rglob("*") if path.is_file()]
    assert max(sizes) < 6_000_000 and sum(sizes) < 10_000_000

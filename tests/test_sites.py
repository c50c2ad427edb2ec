"""Sites beyond the two of old, from DICOM to a prediction sent back; a look before an import; what the dose's
own grid does not hold.
"""

import dataclasses
import re

import numpy as np
import pandas as pd
import pydicom
import pytest
import yaml
from dicom_toys import item, write_patient
from toys import BREAST, LUNG, toy_case

from lib.cases.case import load_case, save_case
from lib.cases.cohort import open_cohort
from lib.cases.protocol import PROTOCOLS, read_protocol
from lib.errors import UserError
from lib.explorer.dvhs import goal_table
from lib.features.grid import Grid
from lib.features.samples import load_sample
from lib.files import find_path, write_text
from lib.importers.cohort import Source, make_cohort
from lib.importers.dicom_rt import read_patient
from lib.importers.options import Options
from lib.metrics.dose import region_errors
from lib.metrics.dvh import goal_values, openkbp_dvh_points_gy
from lib.prediction.predict import usual_sampler
from lib.report import tables
from lib.report.views import close_view, load_dose, render_panels
from lib.runner import export, import_patients
from lib.studies.checks import check_cohort, describe_case, find_oddities
from lib.studies.comparison import answers_of, compare, keep_predictions, predict_all
from lib.studies.experiment import Experiment
from lib.studies.results import Results
from lib.training.loop import fit
from lib.training.setup import make_config

SMALL = (12, 16, 16)
TRAIN = {
    "base_channels": 8,
    "epochs": 1,
    "batch_size": 2,
    "accumulate": 1,
    "patches_per_case": 1,
    "patch_voxels": [0, 0, 0],
    "learning_rate": 1e-3,
    "ema_decay": 0.9,
    "region": "dose mask",
    "standardise": "auto",
    "terminal_snr": "auto",
    "weighting": "none",
    "dose_error": "squared",
    "dvh_weight": 1.0,
    "gradient_weight": 1.0,
    "gradient_units": "per mm",
    "vgg_weight": 0.0,
    "vgg_file": "",
    "augment": "whole voxels",
    "validate_every": 1,
    "validation_steps": 2,
    "patience": 0,
    "keep": "last",
    "snapshots_pct": [],
}
PROSTATE_WORDS = ("prostate", "rectum", "bladder", "ptv70", "femur")


@pytest.mark.parametrize("site", [LUNG, BREAST])
def test_a_site_goes_from_dicom_to_a_prediction_sent_back(site, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for k in range(6):
        write_patient(toy_case(f"p_{k}", SMALL, site), tmp_path / "clinic" / f"p_{k}", names={})
    import_patients.main(["dicom", "clinic", "--name", site, "--site", site])
    cohort = open_cohort(f"outputs/cohorts/{site}")
    patients, findings = check_cohort(cohort)
    assert cohort.protocol is PROTOCOLS[site] and findings == []

    run = Experiment(site, f"outputs/cohorts/{site}", 0, 1, (), 1, "cpu", "32")
    for method in ("baseline", "flow"):
        training, validation = run.load_samples("train"), run.load_samples("validation")
        config = make_config(run, training, method=method, **TRAIN)
        assert config.n_constraints == 8
        fit(config, training, validation, run.checkpoint(method), run.device)
    testing = run.load_samples("test")
    samplers = {name: usual_sampler(run.config(name), 2) for name in ("baseline", "flow")}
    predictions = predict_all(run, samplers, testing, 2)
    frame = compare(run, [one for of in predictions for one in answers_of(of)], testing)
    assert {name for name in frame["structure"] if name} == set(PROTOCOLS[site].structures)
    named = patients[patients["measure"] != "overlap_cc"]["structure"]
    assert set(PROTOCOLS[site].structures) == set(named) - {""}

    case = cohort.load(testing[0].case_id)
    keep_predictions(run, predictions, testing, [case.case_id])
    write_text(run.folder / "experiment.yaml", f"cohort: {run.cohort}\n")
    sent = [f"outputs/{site}", "flow", case.case_id, "--dicom", f"clinic/{case.case_id}", "--to", "sent.dcm"]
    export.main(sent)
    dose, ds = load_dose(run.folder, "flow", case), pydicom.dcmread("sent.dcm")
    assert abs(ds.pixel_array * float(ds.DoseGridScaling) - dose.dose_gy).max() < 0.01

    view = close_view(case, [dose])
    words = [*frame["measure"], *patients["measure"], *goal_table(view).index, *render_panels(view)]
    words += [str(cohort.card), tables.structures(patients).to_string(), capsys.readouterr().out]
    words += [ds.SeriesDescription, str(tables.imports(cohort).to_dict())]
    assert not [word for word in PROSTATE_WORDS for text in words if word in text.lower()]


# --- which site ---


def test_two_organs_of_the_neck_do_not_make_a_lung_a_neck(tmp_path):
    case = toy_case(shape=SMALL, site="head-and-neck")
    few = {name: case.masks[name] for name in ("PTV70", "SpinalCord", "Esophagus")}
    case = dataclasses.replace(case, masks=few, prescription_gy={"PTV70": 70.0})
    write_patient(case, tmp_path)
    words = "do not tell the site .*2 of 7 organs of head-and-neck.*give --site, or --protocol"
    with pytest.raises(UserError, match=words):
        read_patient(tmp_path)
    assert read_patient(tmp_path, Options(site="head-and-neck"))[0].site == "head-and-neck"


def test_two_protocols_that_fit_alike_are_not_chosen_between(tmp_path):
    write_patient(toy_case(shape=SMALL, site=LUNG), tmp_path)
    with pytest.raises(UserError, match=r"6 of 6 organs of lung-60-in-30, 6 of 8 organs of lung-sbrt"):
        read_patient(tmp_path)


def test_a_name_with_the_dose_tells_the_protocol_of_it(tmp_path):
    """Organs of a prostate: PTV_6000 is the target of 60 Gy in 20 fractions alone."""
    case = toy_case(shape=SMALL)
    masks = {name: mask for name, mask in case.masks.items() if name != "PTV56"}
    dose_gy = case.dose_gy * np.float32(60 / 70)
    case = dataclasses.replace(case, masks=masks, dose_gy=dose_gy, prescription_gy={"PTV70": 60.0})
    write_patient(case, tmp_path, names={"PTV70": "PTV_6000"})
    got, _ = read_patient(tmp_path)
    assert got.site == "prostate-60-in-20" and got.prescription_gy == {"PTV60": 60.0}


def read_toy(site):
    return toy_case("mixed", SMALL, site)


def test_a_cohort_of_several_sites_is_refused_with_the_site_of_each(tmp_path):
    sites = {"p_1": "prostate", "n_1": "head-and-neck", "p_2": "prostate", "n_2": "head-and-neck"}
    source = Source("mixed", sites, read_toy)
    words = "prostate: p_1, p_2; head-and-neck: n_1, n_2; import the patients of each alone"
    with pytest.raises(UserError, match=words):
        make_cohort(tmp_path / "mixed", source, workers=1)
    assert not (tmp_path / "mixed" / "card.json").exists()


def test_other_fractions_than_the_protocols_are_told(tmp_path):
    def edit(kind, number, ds):
        if kind == "RTPLAN":
            ds.FractionGroupSequence = [item(FractionGroupNumber=1, NumberOfFractionsPlanned=20)]

    _, report = read_patient(write_patient(toy_case(shape=SMALL), tmp_path, edit=edit))
    assert report["warnings"] == ["the plan has 20 fractions, the protocol has 28"]


# --- what the dose grid does not hold ---


@pytest.fixture(scope="module")
def cut(tmp_path_factory):
    """(the case as made, as read, its report): the dose is on slices 4 to 9 of 12 alone."""
    case, z = toy_case(shape=SMALL), np.arange(12)[:, None, None]
    masks = case.masks | {name: case.masks[name] & (z > 3) & (z < 10) for name in case.prescription_gy}
    masks["Bowel"] = masks["Bowel"] & (z > 9)
    case = dataclasses.replace(case, masks=masks)
    origin_mm = (case.origin_mm[0] + 4 * case.spacing_mm[0], *case.origin_mm[1:])
    folder = tmp_path_factory.mktemp("cut")
    write_patient(case, folder, dose=(case.dose_gy[4:10], origin_mm, case.spacing_mm))
    return case, *read_patient(folder)


def test_body_and_organs_outside_the_dose_grid_are_not_0_gy(cut):
    made, case, report = cut
    covered = np.zeros(made.shape, bool)
    covered[4:10] = True
    assert np.array_equal(case.dose_mask, made.dose_mask & covered)
    shares = {name: 100 * (mask & covered).sum() / mask.sum() for name, mask in case.masks.items()}
    beyond = {name: share for name, share in shares.items() if share < 100}
    assert beyond["Bowel"] == 0 and "Rectum" in beyond and not {"PTV70", "PTV56"} & set(beyond)
    assert report["covered_pct"] == case.covered_pct == pytest.approx(beyond, abs=0.1)
    assert set(case.judged_masks) == set(case.masks) - set(beyond)


def test_what_is_not_covered_has_no_goal_no_dose_point_and_no_error(cut):
    _, case, _ = cut
    values = goal_values(case, case.dose_gy)
    assert {values[text] for text in values if text.startswith(("Rectum", "Bowel"))} == {(None, None)}
    assert values["PTV70 V70 Gy ≥ 95 %"][0] is not None
    judged = set(case.judged_masks)
    assert {name for name, _ in openkbp_dvh_points_gy(case, case.dose_gy)} <= judged
    assert set(region_errors(case, case.dose_gy)) == judged | {"dose mask", "whole volume"}
    rows = pd.DataFrame(describe_case(case))
    assert set(rows[rows["measure"] == "mean_gy"]["structure"]) == judged
    assert set(rows[rows["measure"] == "covered_pct"]["structure"]) == set(case.covered_pct)


def test_card_checks_and_a_kept_case_say_how_much_is_covered(cut, tmp_path):
    _, case, report = cut
    path = tmp_path / "a.npz"
    save_case(case, path)
    cohort = make_cohort(tmp_path / "c", Source("cut", {"a": path}, load_case), workers=1)
    assert cohort.load("a").covered_pct == case.covered_pct
    assert "Bowel: the dose grid holds 0.0 % of it, so its dose is not judged" in find_oddities(case)
    cohort.card["cases"]["a"]["import"] = report
    said = tables.imports(cohort)["in the dose grid"].iloc[0]
    assert said.startswith(f"body {report['body_inside_dose_grid_pct']:.1f} %") and "Bowel 0.0 %" in said
    frame, findings = check_cohort(cohort)
    results = Results({"00_cohort": {"findings": findings}}, {"00_cohort": frame})
    told = tables.cohort(results).loc["Bowel beyond the dose"].iloc[0]
    assert told == "1 patient, 0 % of it inside; not judged: 1"


# --- a look before an import ---


def test_a_look_lists_what_is_there_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    case = toy_case(shape=SMALL)
    write_patient(case, tmp_path / "clinic" / "p_1", names={"Rectum": "Enddarm"})
    write_patient(toy_case(shape=SMALL, site=LUNG), tmp_path / "clinic" / "p_2")
    (tmp_path / "clinic" / "p_3").mkdir()
    before = sorted(tmp_path.rglob("*"))
    import_patients.main(["dicom", "clinic", "--look"])
    text = capsys.readouterr().out
    assert sorted(tmp_path.rglob("*")) == before
    assert (
        "p_1: CT 12 x 16 x 16 voxels of 16 x 15 x 20 mm" in text and "taken for prostate: prostate," in text
    )
    lines = {line.split()[0]: line.split() for line in text.split("p_2:")[0].splitlines() if line}
    assert lines["PTV70"][1:4] == ["PTV", "PTV70", "70.0"] and lines["Enddarm"][1] == "ORGAN"
    volume_cc = case.masks["Rectum"].sum() * case.voxel_cc
    assert float(lines["Enddarm"][2]) == pytest.approx(volume_cc, abs=0.01)
    assert "p_2:" in text and "not to be imported yet" in text and "p_3: " in text and "0 files" in text


def test_a_first_protocol_is_one_that_imports(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for k in range(3):
        names = {"PTV": "PTV boost 40Gy", "Lung_L": "Left Lung", "Lung_R": "Right Lung"}
        write_patient(toy_case(f"p_{k}", SMALL, BREAST), tmp_path / "clinic" / f"p_{k}", names=names)
    import_patients.main(["dicom", "clinic", "--look", "--write-protocol", "ours.yaml"])
    ours = read_protocol("ours.yaml")
    assert ours.targets == {"PTV_boost_40Gy": 40.0} and ours.goals == ()
    assert set(ours.organs) == {"Left_Lung", "Right_Lung", "Breast_L", "Breast_R", "Heart", "CTV"}
    assert set(ours.mirrored) == {("Left_Lung", "Right_Lung"), ("Breast_L", "Breast_R")}
    write_text("clinic.yaml", yaml.safe_dump({"import": {"protocol": "ours.yaml"}}))
    import_patients.main(["dicom", "clinic", "--name", "ours", "--params", "clinic.yaml"])
    (tmp_path / "ours.yaml").unlink()
    cohort = open_cohort("outputs/cohorts/ours")
    assert cohort.protocol == ours and set(cohort.load("p_0").masks) == set(ours.structures)
    assert load_sample(cohort, "p_0", Grid(1)).channels.protocol == ours
    with pytest.raises(SystemExit):
        import_patients.main(["dicom", "clinic", "--write-protocol", "ours.yaml"])
    assert "go with: python -m lib import dicom FOLDER --look" in capsys.readouterr().err


# --- bad input ---


@pytest.mark.parametrize(
    "section, words",
    [
        ({"aliases": {"Bladder": None}}, "import.aliases.Bladder must be structure names .*not None"),
        ({"site": ["prostate"]}, r"import.site must be one name, not \['prostate'\]"),
        ({"site": "knee"}, "there is no site 'knee'; there are breast-40-in-15, head-and-neck"),
        ({"protocol": "none.yaml"}, "none.yaml does not exist"),
        ({"protocol": "none.yaml", "site": "prostate"}, "not both"),
    ],
)
def test_a_wrong_site_or_alias_is_refused_in_a_sentence(section, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_text("clinic.yaml", yaml.safe_dump({"import": section}))
    with pytest.raises(SystemExit) as end:
        import_patients.main(["dicom", "clinic", "--params", "clinic.yaml"])
    assert end.value.code == 2 and re.search(words, capsys.readouterr().err)


def test_from_any_folder_a_cohort_comes_into_the_project_and_is_found_there(tmp_path, monkeypatch, capsys):
    for k in range(3):
        write_patient(toy_case(f"p_{k}", SMALL, BREAST), tmp_path / "clinic" / f"p_{k}", names={})
    monkeypatch.setenv("DOSE_FOLDER", str(tmp_path))
    (tmp_path / "notebooks" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "notebooks")
    import_patients.main(["dicom", "../clinic", "--name", "ours", "--site", BREAST])
    assert [path.name for path in tmp_path.glob("outputs/cohorts/*")] == ["ours"]
    assert [path.name for path in (tmp_path / "notebooks").iterdir()] == ["mine"]
    assert find_path("outputs/cohorts/ours") == tmp_path / "outputs" / "cohorts" / "ours"
    assert str(find_path("mine")) == "mine"  # what is here goes before

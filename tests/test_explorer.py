"""The explorer without a browser: what a view shows, what is under the pointer, how controls change it."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from test_slices import SHAPE, SPACING_MM, make_case
from toys import toy_cohort

from lib.cases.case import save_case
from lib.cases.cohort import VERSION
from lib.errors import UserError
from lib.explorer import explorer
from lib.explorer.anew import Stop, sample_anew, sampler_of, samplers_of
from lib.explorer.controls import find_choices
from lib.features.grid import Grid
from lib.features.samples import load_samples
from lib.files import ROOT, write_json
from lib.importers.cohort import summarise
from lib.prediction.predict import on_case_grid, predict, usual_sampler, usual_temperature
from lib.prediction.store import prediction_path, save_prediction
from lib.report import patient_figures, slices, views
from lib.report.style import plt
from lib.runner import train as command
from lib.studies.experiment import Experiment, find_experiment

CT_HU = np.random.default_rng(3).integers(-50, 50, SHAPE).astype(np.int16)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """An experiment on four made-up patients; baseline has predicted pt_1, ddpm with spread pt_1 and pt_2."""
    monkeypatch.chdir(tmp_path)
    ids, folder = ["pt_1", "pt_2", "pt_3", "pt_4"], tmp_path / "cohort"
    for case_id in ids:
        save_case(make_case(case_id, CT_HU), folder / f"{case_id}.npz")
    cases = {i: summarise(make_case(i, CT_HU), folder / f"{i}.npz") for i in ids}
    split = {"train": ["pt_4"], "validation": [], "test": ids[:3]}
    write_json(
        folder / "card.json",
        {
            "version": VERSION,
            "name": "cohort",
            "source": "made up",
            "site": "head-and-neck",
            "cases": cases,
            "split": split,
            "left_out": {},
        },
    )
    run = Experiment("try", str(folder), 0, 2, [], 42, "cpu", "32")
    dose_gy = np.full([n // 2 for n in SHAPE], 3.0)
    save_prediction(prediction_path(run.folder, "baseline", "pt_1"), dose_gy, Grid(2))
    for case_id in ids[:2]:
        save_prediction(
            prediction_path(run.folder, "ddpm", case_id), dose_gy, Grid(2), spread_gy=0.1 * dose_gy
        )
    return run


def view_of(run, *methods, plane="axial"):
    case = run.open_cohort().load("pt_1")
    return views.open_view(case, [views.load_dose(run.folder, method, case) for method in methods], plane)


def test_every_layer_and_its_error_is_shown(run):
    view = view_of(run, "ddpm")
    assert list(views.render_view(view)) == [
        "planned dose",
        "ddpm: predicted dose",
        "ddpm: predicted - planned",
        "ddpm: spread of samples",
    ]
    inside = view.case.masks["PTV70"].mean()
    error_gy = (
        inside * 67 + (1 - inside) * 2
    )  # 3 Gy predicted everywhere, 70 in the target and 1 beyond planned
    assert view.doses[0].mae_gy == pytest.approx(error_gy, abs=1e-3)
    assert f"{error_gy:.2f} Gy in the patient" in views.read_out(view)
    assert view.case.masks["PTV70"][view.index].any()


def test_two_methods_stand_side_by_side(run):
    view = view_of(run, "baseline", "ddpm")
    assert list(views.render_view(view._replace(layers=("difference",)))) == [
        "planned dose",
        "baseline: predicted dose",
        "baseline: predicted - planned",
        "ddpm: predicted dose",
        "ddpm: predicted - planned",
    ]
    said = views.read_out(view)
    assert "baseline: MAE" in said and "ddpm: MAE" in said


def test_what_is_missing_is_named_and_the_plan_is_shown(run):
    assert len(views.render_view(view_of(run, "baseline"))) == 3  # one dose has no spread
    shown = explorer.Explorer(run, case_id="pt_2", method="baseline")
    assert shown.panels.frame["titles"] == ["planned dose"]
    assert "pt_2 has no prediction by baseline" in shown.panels.note
    prediction_path(run.folder, "baseline", "pt_1").write_bytes(b"damaged")
    shown.controls.case_id.value = "pt_1"
    assert "damaged" in shown.panels.note and len(shown.panels.pictures) == 1


def test_choices_are_the_predicted_patients_or_else_the_test_patients(run):
    assert find_choices(run, "", "") == (["pt_1", "pt_2"], ["baseline", "ddpm"], "")
    shown = explorer.Explorer(run, "pt_3", "flow")
    assert (shown.controls.case_id.value, shown.controls.method.value) == ("pt_1", "baseline")
    assert "nothing to show of pt_3" in shown.panels.note and "of flow" in shown.panels.note
    shown = explorer.Explorer(replace(run, experiment="other"), "pt_2", "ddpm")
    assert shown.controls.case_id.options == ("pt_1", "pt_2", "pt_3") and len(shown.panels.pictures) == 1
    assert shown.controls.case_id.value == "pt_2" and "04_comparison" in shown.panels.note


def test_without_patients_a_sentence_names_the_command_that_brings_them(run):
    widget = explorer.explore(replace(run, cohort="outputs/cohorts/openkbp-nowhere"))
    assert "python -m lib import openkbp" in widget.value


@pytest.mark.parametrize("name, coarsen, beams", [("phantom-quick", 2, 0), ("openkbp-small", 4, 9)])
def test_an_experiment_is_known_by_its_name(name, coarsen, beams):
    run = find_experiment(name)
    assert (run.experiment, run.coarsen, len(run.beams_deg)) == (name, coarsen, beams)
    with pytest.raises(UserError, match="there is no experiment"):
        find_experiment("no such")


def test_opening_does_without_what_takes_long_to_import():
    code = "import sys, lib.explorer.explorer; sys.exit(bool({'seaborn', 'scipy.stats'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0


@pytest.mark.parametrize("plane", slices.PLANES)
def test_the_voxel_under_the_pointer_is_the_one_that_is_drawn_there(run, plane):
    view = view_of(run, "ddpm", plane=plane)._replace(box=(slice(1, 11), slice(2, 15), slice(3, 19)), index=5)
    shape = slices.take_slice(view.case.ct_hu, plane, 5, view.box).shape
    height, width = slices.slice_size_px(shape, SPACING_MM, plane, view.size_px)
    drawn = slices.take_slice(view.case.ct_hu, plane, 5, view.box)
    for row in range(shape[0]):
        for column in range(shape[1]):
            voxel = views.voxel_at(view, (column + 0.5) * width / shape[1], (row + 0.5) * height / shape[0])
            assert view.case.ct_hu[voxel] == drawn[row, column] and voxel[slices.PLANES[plane]] == 5
    assert (
        views.voxel_at(view, width + 1, 1) is None
        and views.voxel_at(view, 1, height + 20) is None
        and views.voxel_at(view, -1, 1) is None
    )


def test_the_read_out_gives_the_arrays_values(run):
    view = view_of(run, "baseline", "ddpm")
    voxel = tuple(np.argwhere(view.case.masks["PTV70"])[0])
    text = views.point_text(view, voxel)
    for part in (
        f"CT {view.case.ct_hu[voxel]} HU",
        "planned 70.00 Gy",
        "baseline 3.00 Gy (-67.00)",
        "ddpm 3.00 Gy (-67.00)",
        "spread 0.30 Gy",
        "PTV70",
    ):
        assert part in text


def test_gamma_is_one_more_layer(run):
    shown = explorer.Explorer(run, method="ddpm")
    shown.controls.layers[2].value = True
    assert shown.panels.frame["titles"][-1] == "ddpm: gamma, 3 % 3 mm"
    [gamma] = [dose.gamma for dose in shown.doses.values()]
    assert (
        gamma[0, 0, 0] == 0 and gamma[shown.opened.case.masks["PTV70"]].max() == 2.0
    )  # below 10 % not judged; 67 Gy off: the largest


def test_the_pictures_follow_the_controls(run):
    shown = explorer.Explorer(run, method="ddpm")
    controls, panels = shown.controls, shown.panels
    assert len(panels.pictures) == 4 and controls.index.max == SHAPE[0] - 1
    controls.plane.value = "sagittal"
    assert controls.index.max == SHAPE[2] - 1
    for control, value in (
        (controls.isodoses, True),
        (controls.opacity, 0.1),
        (controls.top_gy, 20.0),
        (controls.ct_hu, (0, 20)),
        (controls.contours, False),
        (controls.colours, False),
    ):
        before = panels.pictures[0]
        control.value = value
        assert panels.pictures[0] != before, control
    controls.index.value, controls.method.value = 7, "baseline"
    assert controls.index.value == 7 and len(panels.pictures) == 3
    controls.beside.value = "ddpm"
    assert len(panels.pictures) == 6
    controls.case_id.value, controls.beside.value = "pt_2", "nothing"
    assert len(panels.pictures) == 1 and "no prediction" in shown.panels.note
    run.open_cohort().path("pt_1").write_bytes(b"damaged")
    controls.case_id.value = "pt_1"
    assert "damaged" in shown.panels.note and not panels.pictures
    shown.follow("turn", {"by": 1})  # does nothing, breaks nothing


def test_wheel_keys_and_pointer_do_what_they_say(run):
    shown = explorer.Explorer(run, method="ddpm")
    index = shown.controls.index
    index.value = 3
    for by, expected in ((2, 5), (-1, 4), (10**6, SHAPE[0] - 1), (5, SHAPE[0] - 1), (-(10**6), 0)):
        later = shown.follow("turn", {"by": by})
        assert shown.panels.frame["index"] == expected  # the pictures first, then the slider
        later()
        assert index.value == expected
    shown.follow("point", {"x": 1.0, "y": 1.0})
    assert "planned 1.00 Gy" in shown.panels.readout and "voxel z 0" in shown.panels.readout
    shown.follow("point", {})
    assert shown.panels.readout == ""
    shown.follow("plane", {"plane": "coronal"})
    assert shown.controls.plane.value == "coronal"


def test_dvhs_and_goals_follow_the_structures_and_methods(run):
    shown = explorer.Explorer(run, method="ddpm")
    assert "PTV70" in shown.goals.value and "✗" in shown.goals.value and "✓" in shown.goals.value
    before = shown.dvhs.value
    shown.structures.children[0].value = False
    assert shown.dvhs.value != before


def test_the_picture_is_saved_and_the_rtdose_asks_for_its_folder(run):
    shown = explorer.Explorer(run, method="ddpm")
    shown.save(shown.save_picture)
    path, dvhs = sorted((run.folder / "pictures").glob("*.png"), key=lambda path: len(path.name))
    assert dvhs.read_bytes() == shown.dvhs.value
    assert str(path) in shown.message.value and path.read_bytes().startswith(b"\x89PNG")
    shown.save(shown.save_rtdose)
    assert "DICOM folder" in shown.message.value
    shown.dicom.value, shown.target.value = str(run.folder), "pred.dcm"
    shown.save(shown.save_rtdose)
    assert "written" not in shown.message.value and not list(run.folder.parent.rglob("*.dcm"))


def test_the_next_slice_is_sent_ahead_and_is_the_one_that_would_be_drawn(run):
    shown, sent = explorer.Explorer(run, method="ddpm"), []
    shown.panels.send_ahead = lambda *given: sent.append(given)
    shown.controls.index.value = 3
    for by in (2, -1):
        shown.follow("turn", {"by": by})()
        look, index, pictures = sent[-1]
        assert (look, index) == (shown.look, shown.index + np.sign(by))
        shown.follow("turn", {"by": int(np.sign(by))})
        assert list(pictures.values()) == shown.panels.pictures and shown.panels.frame["look"] == look
    shown.controls.opacity.value = 0.1
    assert shown.panels.frame["look"] != look and list(shown.jpegs) == [shown.index]
    for _ in range(20):
        shown.follow("turn", {"by": -1})()
    assert {index for _, index, _ in sent} <= set(range(SHAPE[0])) and len(shown.jpegs) <= explorer.KEPT


def test_the_figures_of_doses_are_drawn(run):
    save_prediction(
        prediction_path(run.folder, "control", "pt_1"), np.full([n // 2 for n in SHAPE], 3.0), Grid(2)
    )
    figure = patient_figures.dose_panels(run, "pt_1", ["baseline"])
    assert [len(ax.images) for ax in figure.axes] == [1, 1, 1, 0, 1, 1]
    assert [ax.get_title("left") for ax in figure.axes[:3]] == ["planned", "control", "baseline"]
    figure = patient_figures.gallery(run.open_cohort(), ["pt_3"], 2)
    assert [ax.get_title("left") for ax in figure.axes] == ["pt_3 (finding)", "pt_4", "", ""]
    assert len(patient_figures.planned_dvhs(run.open_cohort()).axes) == 10
    plt.close("all")


def test_three_planes_show_every_layer_that_there_is(run):
    figure = patient_figures.three_planes(run, "pt_1", "ddpm")
    assert [ax.get_title("left").split("\n")[-1] for ax in figure.axes[:5]] == [
        "planned dose",
        "predicted dose",
        "predicted - planned",
        "spread of samples",
        "gamma, 3 % 3 mm",
    ]
    assert len(figure.axes) == 15 and all(ax.images for ax in figure.axes)
    assert len(patient_figures.three_planes(run, "pt_1", "baseline").axes) == 12
    plt.close("all")


def test_profiles_run_through_the_target_with_a_band_where_there_are_samples(run):
    figure = patient_figures.profiles(run, "pt_1", ["baseline", "ddpm"])
    case = make_case(ct_hu=CT_HU)
    z, y, x = (slices.central_index(case.masks["PTV70"], plane) for plane in slices.PLANES)
    across, along, up = figure.axes
    for ax, planned_gy, step_mm in (
        (across, case.dose_gy[z, y], 2),
        (along, case.dose_gy[z, :, x], 2),
        (up, case.dose_gy[:, y, x], 5),
    ):
        planned, baseline, _ddpm = ax.lines
        assert np.array_equal(planned.get_ydata(), planned_gy) and np.allclose(
            np.diff(planned.get_xdata()), step_mm
        )
        assert np.allclose(baseline.get_ydata(), 3) and planned.get_ydata()[planned.get_xdata() == 0] == 70
        _, band = ax.collections  # the target's extent, then the samples' of ddpm alone
        assert band.get_datalim(ax.transData).intervaly == pytest.approx([3 - 0.6, 3 + 0.6])
    plt.close(figure)


def test_the_band_of_dvhs_reaches_from_the_lowest_to_the_highest_member(run):
    sample = load_samples(run.open_cohort(), ["pt_1"], Grid(2))[0]
    members = torch.stack([torch.full_like(sample.dose, share) for share in (10 / 70, 20 / 70)])
    figure = patient_figures.dvh_bands(run, sample, {"ddpm": members, "flow": members})
    for ax in figure.axes:
        for name, band in zip(make_case(ct_hu=CT_HU).masks, ax.collections):
            path = band.get_paths()[0].vertices
            for dose_gy, low, high in (
                (5, 100, 100),
                (15, 0, 100),
                (25, 0, 0),
            ):  # all, some, none of the members reach it
                held = path[path[:, 0] == dose_gy, 1]
                assert (held.min(), held.max()) == (low, high), name
    assert "2 members" in figure.axes[0].get_title("left")
    plt.close(figure)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with tiny networks of four kinds, trained for an epoch."""
    folder = tmp_path_factory.mktemp("anew")
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        toy_cohort(folder / "toys", n=6, shape=(16, 16, 16))
        (folder / "p.yaml").write_text(
            "{experiment: try, cohort: toys, coarsen: 1, precision: '32', methods: [baseline, gaussian, "
            "flow, refine], train: {epochs: 1, base_channels: 8, validate_every: 9}}"
        )
        command.main(["p.yaml"])
    return folder


@pytest.fixture
def trained_run(trained, monkeypatch):
    monkeypatch.chdir(trained)
    return Experiment("try", "toys", 0, 1, [], 42, "cpu", "32")


@pytest.mark.parametrize("method, calls", [("baseline", 0), ("gaussian", 0), ("flow", 3), ("refine", 3)])
def test_sampling_anew_is_what_the_studies_do(trained_run, method, calls):
    run, predictor = trained_run, trained_run.load_predictor(method)
    cohort, heard = run.open_cohort(), []
    case = cohort.load(cohort.split["test"][0])
    how = sampler_of(predictor, next(iter(samplers_of(predictor.method))), 3)
    members_gy, estimates = sample_anew(run, predictor, case, how, 42, 2, lambda *call: heard.append(call))
    members = (0, 1) if predictor.method.sampled else (0,)
    temperature = usual_temperature(predictor.config) if predictor.method.sampled else 1.0
    [doses] = predict(
        predictor,
        load_samples(cohort, [case.case_id], Grid(1)),
        usual_sampler(predictor.config, 3),
        members=members,
        temperature=temperature,
        batch_size=1,
    )
    assert np.allclose(members_gy, on_case_grid(doses, case, Grid(1)), atol=1e-4)
    assert len(estimates) == calls and [call for call, _ in heard] == list(range(1, 2 * calls + 1))


def test_a_sampling_that_is_stopped_gives_nothing(trained_run):
    case_id = trained_run.open_cohort().split["test"][0]
    save_prediction(prediction_path(trained_run.folder, "flow", case_id), np.full((16, 16, 16), 3.0), Grid(1))
    shown = explorer.Explorer(trained_run, method="flow")
    shown.anew_box.stop.set()
    with pytest.raises(Stop):
        shown.anew_box.hear(1, 50)
    shown.anew_box.work(shown.opened.case, "title", "flow", "midpoint", 50, 1, 1)
    assert shown.anew_box.message.value == "stopped" and len(shown.doses) == 1


def test_a_dose_sampled_anew_stands_beside_the_kept_one_with_its_steps(trained_run):
    case_id = trained_run.open_cohort().split["test"][0]
    save_prediction(prediction_path(trained_run.folder, "flow", case_id), np.full((16, 16, 16), 3.0), Grid(1))
    shown = explorer.Explorer(trained_run, method="flow")
    box = shown.anew_box
    box.n_steps.value, box.members.value = 4, 2
    box.start.click()
    box.thread.join(60)
    title = "flow anew, Euler, steps 4, seed 42, samples 2"
    assert (
        "sampled by flow" in box.message.value
        and box.bar.value == box.bar.max == 8
        and not box.start.disabled
    )
    assert (
        shown.controls.beside.value == title and f"{title}: spread of samples" in shown.panels.frame["titles"]
    )
    assert shown.controls.step.max == 4 and shown.controls.step.layout.display == ""
    final = shown.panels.pictures
    shown.controls.step.value = 0
    assert shown.panels.pictures != final and "call 1 of 4" in shown.panels.note
    assert not any("spread" in t and "call 1" in t for t in shown.panels.frame["titles"])  # one sample's
    shown.controls.case_id.value = shown.controls.case_id.options[-1]
    shown.anew_box.set_training("ddpm")
    assert box.start.disabled and "no checkpoint" in box.message.value

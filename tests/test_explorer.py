"""The explorer without a browser: what a view shows, what is under the pointer, how controls change it."""

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from matplotlib.axes import Axes
from matplotlib.text import Text
from test_slices import SHAPE, SPACING_MM, make_case
from toys import toy_cohort

from lib.cases.case import save_case
from lib.cases.cohort import VERSION
from lib.errors import UserError
from lib.explorer import dvhs, explorer, scene, sight
from lib.explorer.anew import Stop, sample_anew, sampler_of, samplers_of
from lib.explorer.controls import find_choices
from lib.features.grid import Grid
from lib.features.samples import load_samples
from lib.files import ROOT, write_json
from lib.importers.cohort import Source, make_cohort, summarise
from lib.prediction.predict import on_case_grid, predict, usual_sampler, usual_temperature
from lib.prediction.store import prediction_path, save_prediction
from lib.report import patient_figures, slices, views
from lib.report.style import plt
from lib.runner import train as command
from lib.studies.experiment import Experiment, find_experiment

CT_HU = np.random.default_rng(3).integers(-50, 50, SHAPE).astype(np.int16)


def give(case):
    """For make_cohort, whose processes need a function of a module."""
    return case


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


def names(shown):
    """The panels' names, row by row."""
    return [[panel["name"] for panel in row["panels"]] for row in shown.panels.frame["rows"]]


def test_every_layer_and_its_error_is_shown(run):
    view = view_of(run, "ddpm")
    assert [[panel.name for panel in row] for row in scene.render(view)] == [
        ["planned dose"],
        ["ddpm: predicted dose", "ddpm: predicted - planned", "ddpm: spread of samples"],
    ]
    inside = view.case.masks["PTV70"].mean()
    error_gy = (
        inside * 67 + (1 - inside) * 2
    )  # 3 Gy predicted everywhere, 70 in the target and 1 beyond planned
    assert view.doses[0].mae_gy == pytest.approx(error_gy, abs=1e-3)
    assert f"{error_gy:.2f} Gy in the patient" in scene.headings(view)[1]
    assert view.case.masks["PTV70"][view.index].any()


def test_two_methods_are_two_rows_below_the_plan_in_three_planes(run):
    shown = explorer.Explorer(run, method="baseline")
    shown.controls.beside.value = "ddpm"
    shown.controls.layers[1].value = False
    plan, baseline, ddpm = names(shown)
    assert plan == ["planned dose"] * 3
    assert baseline == ["baseline: predicted dose", "baseline: predicted - planned"]
    assert ddpm == ["ddpm: predicted dose", "ddpm: predicted - planned"]
    planes = [panel["title"].split(",")[0] for panel in shown.panels.frame["rows"][0]["panels"]]
    assert planes == ["axial", "coronal", "sagittal"] and len(shown.panels.pictures) == 7
    said = [row["heading"].split(":")[0] for row in shown.panels.frame["rows"]]
    assert said == ["pt_1", "baseline", "ddpm"]
    shown.controls.plane.value = "sagittal"
    assert shown.panels.frame["rows"][0]["panels"][0]["title"].startswith("sagittal")


def test_what_is_missing_is_named_and_the_plan_is_shown(run):
    assert len(scene.render(view_of(run, "baseline"))[1]) == 2  # one dose has no spread
    shown = explorer.Explorer(run, case_id="pt_2", method="baseline")
    assert names(shown) == [["planned dose"] * 3]
    assert "pt_2 has no prediction by baseline" in shown.panels.note
    prediction_path(run.folder, "baseline", "pt_1").write_bytes(b"damaged")
    shown.controls.case_id.value = "pt_1"
    assert "damaged" in shown.panels.note and len(shown.panels.pictures) == 3


def test_choices_are_the_predicted_patients_or_else_the_test_patients(run):
    assert find_choices(run, "", "") == (["pt_1", "pt_2"], ["baseline", "ddpm"], "")
    shown = explorer.Explorer(run, "pt_3", "flow")
    assert (shown.controls.case_id.value, shown.controls.method.value) == ("pt_1", "baseline")
    assert "nothing to show of pt_3" in shown.panels.note and "of flow" in shown.panels.note
    shown = explorer.Explorer(replace(run, experiment="other"), "pt_2", "ddpm")
    assert shown.controls.case_id.options == ("pt_1", "pt_2", "pt_3") and len(shown.panels.pictures) == 3
    assert shown.controls.case_id.value == "pt_2" and "04_comparison" in shown.panels.note


@pytest.mark.parametrize(
    "cohort, command",
    [
        ("openkbp-2", "openkbp &lt;open-kbp&gt;/provided-data"),
        ("phantom", "phantom"),
        ("ward", "dicom &lt;folder"),
    ],
)
def test_without_patients_a_sentence_names_the_command_that_brings_them(run, cohort, command):
    said = explorer.explore(replace(run, cohort=f"nowhere/{cohort}")).value
    assert f"python -m lib import {command}" in said and f"--name {cohort}." in said


def test_one_patient_of_one_slice_without_a_prediction_is_shown(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = make_case("pt_1", CT_HU)
    cut = {"ct_hu": CT_HU[:1], "dose_gy": whole.dose_gy[:1], "dose_mask": whole.dose_mask[:1]}
    case = replace(whole, **cut, masks={name: mask[:1] for name, mask in whole.masks.items()})
    split = {"train": ["pt_1"], "validation": [], "test": []}
    make_cohort("cohort", Source("made up", {"pt_1": case}, give, split), workers=1)
    shown = explorer.Explorer(Experiment("try", "cohort", 0, 2, [], 42, "cpu", "32"))
    assert shown.controls.index.max == 0 and "has no prediction" in shown.panels.note
    for plane in slices.PLANES:
        shown.controls.plane.value = plane
        shown.follow("turn", {"by": 3})()
        shown.follow("zoom", {"by": 3})
        assert len(shown.panels.pictures) == 3
    assert "PTV70" in shown.statistics.value and "The plan has no network" in shown.anew_box.message.value
    assert shown.anew_box.start.disabled
    shown.save(shown.save_dose)
    assert "no predicted dose" in shown.message.value


@pytest.mark.parametrize("name, coarsen, beams", [("phantom-quick", 4, 0), ("openkbp", 4, 9)])
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
    drawn = slices.take_slice(view.case.ct_hu, plane, 5, view.box)
    height, width = slices.slice_size_px(drawn.shape, SPACING_MM, plane, view.size_px)
    for row in range(drawn.shape[0]):
        for column in range(drawn.shape[1]):
            x, y = (column + 0.5) * width / drawn.shape[1], (row + 0.5) * height / drawn.shape[0]
            voxel = sight.voxel_at(view, x, y)
            assert view.case.ct_hu[voxel] == drawn[row, column] and voxel[slices.PLANES[plane]] == 5
            assert sight.pixel_of(view, voxel) == pytest.approx((x, y))
    for beyond in ((width + 1, 1), (1, height + 20), (-1, 1)):
        assert sight.voxel_at(view, *beyond) is None
    assert sight.voxels_along(view, 0, height)[0] == (0 if plane == "axial" else -drawn.shape[0])


def test_the_read_out_gives_the_arrays_values_and_the_place_in_mm(run):
    view = view_of(run, "baseline", "ddpm")
    voxel = tuple(np.argwhere(view.case.masks["PTV70"])[0])
    text = scene.point_text(view._replace(case=replace(view.case, origin_mm=(-30.0, 0.0, 7.0))), voxel)
    for part in (
        "x 17.0 mm, y 8.0 mm, z -30.0 mm",  # voxel 0, 4, 5 of 5, 2, 2 mm
        f"CT {view.case.ct_hu[voxel]} HU",
        "planned 70.00 Gy",
        "baseline 3.00 Gy (-67.00)",
        "ddpm 3.00 Gy (-67.00)",
        "spread 0.30 Gy",
        "PTV70",
    ):
        assert part in text


WHOLE = (slice(0, 40), slice(10, 50), slice(0, 60))


def test_what_is_zoomed_keeps_its_place_and_stays_inside():
    start = sight.Sight(WHOLE, (20, 30, 30), (20.0, 30.0, 30.0))
    near = start.enlarge(2, (10, 20, 15))
    assert near.box == (slice(5, 25), slice(15, 35), slice(8, 38))  # a quarter of the way before as after
    for far in (near.enlarge(0.5, (0, 0, 0)), near.enlarge(0, (39, 49, 59)), start.shift((9, -9, 9))):
        assert far.box == WHOLE
    assert near.shift((100, -100, 3)).box == (slice(20, 40), slice(10, 30), slice(11, 41))
    there = near.shift((0.4, 0, 0)).shift((0.4, 0, 0)).shift((0.4, 0, 0))
    assert there.box[0] == slice(6, 26)  # parts of voxels add up
    assert (
        near.go((39, 20, 15)).box == (slice(20, 40), *near.box[1:]) and near.go((24, 20, 15)).box == near.box
    )
    assert start.enlarge(1e9, (0, 0, 0)).zoom == sight.MOST_ZOOM
    assert (
        sight.Sight((slice(0, 1),) * 3, (0, 0, 0), (0.5,) * 3).enlarge(8, (0, 0, 0)).box == (slice(0, 1),) * 3
    )


def test_a_click_leads_the_three_planes_through_its_voxel(run):
    shown = explorer.Explorer(run, method="ddpm")
    coronal = shown.panels.frame["rows"][0]["panels"][1]
    shown.follow("pick", {"panel": 1, "x": 1.0, "y": 1.0})()
    z, _, x = shown.sight.point
    assert (z, x) == (SHAPE[0] - 1, 0) and shown.controls.index.value == z  # the head and the right side
    assert (
        shown.panels.frame["index"] == z
        and "z 55.0 mm" in shown.panels.frame["rows"][0]["panels"][0]["title"]
    )
    assert shown.panels.frame["rows"][0]["panels"][1]["title"] == coronal["title"]
    for panel, view in zip((p for r in shown.panels.frame["rows"] for p in r["panels"]), shown.seen):
        assert sight.voxel_at(view, *panel["cross"][:2]) == shown.sight.point
    shown.controls.crosshair.value = False
    assert shown.panels.frame["rows"][0]["panels"][0]["cross"] is None
    before = shown.sight
    assert shown.follow("pick", {"panel": 0, "x": -5.0, "y": 1.0}) is None and shown.sight == before


def test_zoom_and_pan_show_a_part_in_every_panel(run):
    shown = explorer.Explorer(run, method="ddpm")
    whole, before = shown.view().box, shown.panels.pictures
    shown.follow("zoom", {"panel": 0, "x": 30.0, "y": 30.0, "by": 4})
    near = shown.view().box
    assert all(b.stop - b.start < w.stop - w.start for b, w in zip(near, whole))
    assert not set(before) & set(shown.panels.pictures)
    shown.follow("pan", {"panel": 0, "dx": -100.0, "dy": 0.0})
    assert shown.view().box[2].start > near[2].start and shown.view().box[:2] == near[:2]
    for what in ("pan", "pick", "point"):  # of a panel that is gone
        shown.follow(what, {"panel": 9, "x": 1.0, "y": 1.0, "dx": 1.0, "dy": 1.0})
    shown.follow("zoom", {"by": 0})
    assert shown.view().box == whole and shown.panels.pictures == before


def test_pictures_are_as_large_as_there_is_room(run):
    shown = explorer.Explorer(run, method="ddpm")
    for px, expected in ((211.7, 211), (212.0, 211), (3000, 420), (5, 140)):
        shown.follow("size", {"px": px})
        width, height = shown.panels.frame["rows"][1]["panels"][0]["cross"][2:]
        assert max(width, height) == expected


def test_gamma_is_one_more_layer(run):
    shown = explorer.Explorer(run, method="ddpm")
    shown.controls.layers[2].value = True
    assert names(shown)[-1][-1] == "ddpm: gamma, 3 % 3 mm"
    [gamma] = [dose.gamma for dose in shown.doses.values()]
    assert (
        gamma[0, 0, 0] == 0 and gamma[shown.opened.case.masks["PTV70"]].max() == 2.0
    )  # below 10 % not judged; 67 Gy off: the largest


def test_the_pictures_follow_the_controls(run):
    shown = explorer.Explorer(run, method="ddpm")
    controls, panels = shown.controls, shown.panels
    assert len(panels.pictures) == 6 and controls.index.max == SHAPE[0] - 1
    controls.plane.value = "sagittal"
    assert controls.index.max == SHAPE[2] - 1
    for control, value in (
        (controls.isodoses, False),
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
    assert controls.index.value == 7 and len(panels.pictures) == 5
    controls.beside.value = "ddpm"
    assert len(panels.pictures) == 8
    controls.case_id.value, controls.beside.value = "pt_2", "nothing"
    assert len(panels.pictures) == 3 and "no prediction" in shown.panels.note
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
    shown.follow("point", {"panel": 3, "x": 1.0, "y": 1.0})
    assert "planned 1.00 Gy" in shown.panels.readout and "z 0.0 mm" in shown.panels.readout
    shown.follow("point", {})
    assert shown.panels.readout == ""
    shown.follow("plane", {"plane": "coronal"})
    assert shown.controls.plane.value == "coronal"


def test_dvhs_and_tables_follow_the_structures_and_methods(run):
    shown = explorer.Explorer(run, method="ddpm")
    assert "PTV70" in shown.goals.value and "✗" in shown.goals.value and "✓" in shown.goals.value
    assert "PTV70" in shown.statistics.value
    before = shown.plot.picture
    shown.structures.children[0].value = False
    assert shown.plot.picture != before and "PTV70" not in shown.statistics.value


def test_the_dvh_says_what_lies_under_the_pointer(run):
    """70 Gy in the target and 3 Gy predicted, so at 35 Gy 100 % against none."""
    shown = explorer.Explorer(run, method="ddpm")
    histograms = shown.dvhs
    width, height = histograms.figure.get_size_inches() * histograms.figure.dpi
    x, y = histograms.ax.transData.transform((35.0, 90.0)) / (width, height)
    shown.plot.action("point", {"x": x, "y": 1 - y})
    assert "PTV70 · 35.0 Gy or more: planned 100.0 %, ddpm 0.0 % (-100.0)" in shown.plot.readout
    assert "hottest 90 %: at least planned 70.0 Gy" in shown.plot.readout
    for event in ({"x": 0.01, "y": 0.5}, {}):
        shown.plot.action("point", event)
        assert shown.plot.readout == ""


def test_statistics_are_those_of_a_ramp_in_gy_and_in_percent_of_the_prescription(run):
    """Doses 0.1, 0.2, ... in the target's voxels, and a prediction that is 2 Gy more."""
    case = run.open_cohort().load("pt_1")
    mask, ramp_gy = case.masks["PTV70"], np.zeros(SHAPE, np.float32)
    n = int(mask.sum())
    ramp_gy[mask] = np.arange(1, n + 1) / 10
    case = replace(case, dose_gy=ramp_gy)
    hotter = views.dose_of(case, "ddpm", ramp_gy + 2)
    table = dvhs.statistic_table(views.open_view(case, [hotter])).loc[f"PTV70, {n * 0.02:.1f} cc"]
    mean_gy, d95_gy, d2_gy = (n + 1) / 20, (1 + 0.05 * (n - 1)) / 10, (1 + 0.98 * (n - 1)) / 10
    for column, gy in (("mean", mean_gy), ("D95 %", d95_gy), ("D2 %", d2_gy)):
        assert table.loc["planned", column] == f"{gy:.1f} Gy, {100 * gy / 70:.0f} %"
        assert table.loc["ddpm", column] == f"{gy + 2:.1f} Gy (+2.0), {100 * (gy + 2) / 70:.0f} %"


def test_where_no_dose_is_known_counts_neither_in_curves_nor_in_statistics(run):
    """A third of the target has no dose, the rest 70 Gy."""
    case, known = run.open_cohort().load("pt_1"), np.arange(SHAPE[0])[:, None, None] < 8
    case = replace(case, dose_mask=case.dose_mask & known, dose_gy=np.where(known, case.dose_gy, 0))
    view = views.open_view(case, [])
    table = dvhs.statistic_table(view)
    assert (
        table.loc[f"PTV70, {case.masks['PTV70'].sum() * 0.02:.1f} cc"].loc["planned", "mean"]
        == "70.0 Gy, 100 %"
    )
    curve = dvhs.DVHs(view).ax.lines[0]
    assert curve.get_label() == "PTV70" and np.interp(69.0, *curve.get_data()) == 100


def test_goals_say_what_the_prediction_has_more(run):
    goals = dvhs.goal_table(view_of(run, "ddpm"))
    assert goals.loc["PTV70 D99 % ≥ 66.5 Gy"].to_dict() == {
        "planned": "✓ 70.0 Gy",
        "ddpm": "✗ 3.0 Gy (-67.0)",
    }


def test_isodoses_are_labelled_and_low_doses_pale(run):
    view = view_of(run)._replace(structures=(), isodoses_gy=(35.0,))
    [[panel]] = scene.render(view)
    [[plain]] = scene.render(view._replace(isodoses_gy=()))
    white, before = ((one.rgb.min(axis=2) > 200).sum() for one in (panel, plain))
    assert white > before + 10  # lines are coloured, values white
    case = replace(
        view.case,
        ct_hu=np.full(SHAPE, 0, np.int16),
        dose_gy=np.linspace(0, 78, np.prod(SHAPE)).astype(np.float32).reshape(SHAPE),
    )
    [[panel]] = scene.render(view._replace(case=case, isodoses_gy=(), top_gy=78.0, index=0))
    tint = np.ptp(panel.rgb[: panel.rgb.shape[0] - 40].astype(int), axis=2)
    assert (
        case.dose_gy[0].max() < 8 and tint[:20].max() <= 2 and tint.max() < 70
    )  # at most 3 / 5 of the colour


def test_what_lies_beyond_the_scale_is_said(run):
    view = view_of(run, "ddpm")
    assert scene.beyond_text(view) == "Cyan lies below the scale. "
    assert scene.beyond_text(view._replace(end_gy=70.0)) == ""
    assert scene.beyond_text(view._replace(end_gy=70.0, top_gy=69.0)) == "Magenta lies above the scale. "


def test_the_picture_is_saved_and_the_dose_asks_for_its_file(run):
    shown = explorer.Explorer(run, method="ddpm")
    shown.save(shown.save_picture)
    [path] = (run.folder / "pictures").glob("*.png")
    assert str(path) in shown.message.value and path.read_bytes().startswith(b"\x89PNG")
    shown.save(shown.save_dose)
    assert "name the file" in shown.message.value
    shown.target.value = "pred.png"
    shown.save(shown.save_dose)
    assert "must end in .nii.gz" in shown.message.value
    shown.dicom.value, shown.target.value = str(run.folder), "pred.dcm"
    shown.save(shown.save_dose)
    assert "written:" not in shown.message.value and not list(run.folder.parent.rglob("*.dcm"))
    shown.dicom.value, shown.target.value = "", str(run.open_cohort().folder / "pred.nrrd")
    shown.save(shown.save_dose)
    assert "written:" in shown.message.value and "PTV70.nrrd" in shown.message.value


def test_nothing_is_printed_over_in_the_saved_picture(run):
    """Texts and axes of the figure keep apart, also with a long name and all layers."""
    shown = explorer.Explorer(run, method="ddpm")
    long = views.load_dose(run.folder, "ddpm", shown.opened.case)._replace(
        method="flow anew, Euler, steps 1000, seed 42, samples 20"
    )
    shown.add_anew(shown.opened.case, long)
    shown.controls.layers[2].value = True
    figure = shown.draw_picture()
    figure.draw_without_rendering()
    framed = [ax for ax in figure.findobj(Axes) if ax.images]
    ticks = {label for ax in figure.findobj(Axes) for label in (*ax.get_xticklabels(), *ax.get_yticklabels())}
    parts = [part for part in figure.findobj(Text) if part.get_text() and part not in ticks]
    boxes, pictures = ([one.get_window_extent() for one in of] for of in (parts, framed))
    assert len(parts) > 12 and len(pictures) >= 11
    for n, box in enumerate(boxes):
        covered = [other for other in [*boxes[:n], *pictures] if overlap_px(other, box) > 1]
        inside = box.x0 >= -1 and box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1
        assert inside and not covered, parts[n].get_text()


def overlap_px(one, other):
    """The smaller side of what two boxes share."""
    sides = [min(one.x1, other.x1) - max(one.x0, other.x0), min(one.y1, other.y1) - max(one.y0, other.y0)]
    return min(sides)


def test_the_next_slice_is_sent_ahead_and_is_the_one_that_would_be_drawn(run):
    shown, sent = explorer.Explorer(run, method="ddpm"), []
    shown.panels.send_ahead = lambda *given: sent.append(given)
    shown.controls.index.value = 3
    for by in (2, -1):
        shown.follow("turn", {"by": by})()
        frame, pictures = sent[-1]
        assert (frame["look"], frame["index"]) == (shown.look, shown.index + np.sign(by))
        shown.follow("turn", {"by": int(np.sign(by))})
        assert (frame, pictures) == (shown.panels.frame, shown.panels.pictures)
    shown.controls.opacity.value = 0.1
    assert shown.panels.frame["look"] != frame["look"] and len(shown.kept) == 3
    for _ in range(20):
        shown.follow("turn", {"by": -1})()
    assert {frame["index"] for frame, _ in sent} <= set(range(SHAPE[0])) and len(shown.kept) <= explorer.KEPT


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
    assert shown.controls.beside.value == title and f"{title}: spread of samples" in names(shown)[-1]
    assert shown.controls.step.max == 4 and shown.controls.step.layout.display == ""
    final = shown.panels.pictures
    shown.controls.step.value = 0
    assert shown.panels.pictures != final and "call 1 of 4" in shown.panels.frame["rows"][-1]["heading"]
    assert not any("spread" in name for name in names(shown)[-1])  # one sample's
    shown.controls.case_id.value = shown.controls.case_id.options[-1]
    shown.anew_box.set_training("ddpm")
    assert box.start.disabled and "no checkpoint" in box.message.value

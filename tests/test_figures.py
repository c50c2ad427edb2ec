"""Figures show the numbers of the tables that they are drawn from, of any number of patients."""

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from toys import toy_case

from lib.features.grid import Grid
from lib.features.samples import make_sample
from lib.metrics.statistics import paired_difference
from lib.metrics.uncertainty import EnsembleLaw
from lib.prediction.store import Steps
from lib.report import ensemble_figures, figures, speed_figures, steps_figures, style, teaching
from lib.studies.ablation import REFERENCE_GRID
from lib.studies.results import Results, make_frame

METHODS = {"baseline": 4.0, "ddpm": 9.0, "flow": 4.2, "control": 8.0}
SPREAD = {"voxels": 1000, "spread_gy2": 900, "error_gy2": 1000}


@pytest.fixture(autouse=True)
def close_figures():
    yield
    plt.close("all")


def of(name, patient=0, variant="", **columns):
    training = f"{name}-{variant}" if variant else name
    named = {"training": training, "method": name, "variant": variant, "group": training}
    return named | {"case_id": f"p{patient}", "measure": "mae_gy"} | columns


def results(patients, variants=("",)):
    """Made-up results of every study; patient p has p / 10 Gy more."""
    many, steps, rows = range(patients), [], []
    curves = [("ddpm", "start", name, "") for name in (REFERENCE_GRID, "start held at t = 900")]
    curves += [("flow", "prediction", f"flow{variant}", variant) for variant in variants]
    for p in many:
        for name, switch, setting, variant in curves:
            row = of(name, p, variant, switch=switch, setting=setting)
            steps += [row | {"n_steps": n, "value": METHODS[name] + p / 10 + abs(5 - n)} for n in (1, 5, 10)]
        for measure, value in (("mae_gy", 4), ("rmse_gy", 5)):
            steps.append(of("baseline", p, switch="regression", value=value, measure=measure))
            row = {"source": "none", "members": 1, "region": "dose mask", "measure": measure}
            rows.append(of("baseline", p, **row | {"value": value}))
        row = {"source": "samples", "members": 4, "region": "dose mask", "nfe": 40}
        law = {"floor_gy2": 12 + p, "b_gy2": 6}
        rows += [of("flow", p, **row | {"measure": name, "value": value}) for name, value in law.items()]
        rows += [of("flow", p, **row | {"members": n, "value": 5 - n / 4}) for n in (1, 2, 4)]
        row["measure"] = "coverage_pct"
        rows += [of("flow", p, **row, value=c - f, level_pct=c, factor=f) for c in (50, 95) for f in (1, 2)]
    split = [row | {"measure": m, "value": 5, "members": 3} for row in steps[:3] for m in law]
    skill = {"source": "samples", "members": 4, "factor": 1}
    skill = [of("flow", p, **skill, bin_gy=0, measure=m, value=v) for p in many for m, v in SPREAD.items()]
    compared = [
        of(name, p, region=region, value=value + p % 3 / 10, members=n, averaged_over=over, nfe=n)
        for name, value in METHODS.items()
        for p in many
        for region in ("dose mask", "whole volume")
        for over, n in ((("none", 1), ("samples", 3)) if name in ("ddpm", "flow") else (("none", 1),))
    ]
    levels = [of("ddpm", p, t=t, value=2 + t / 100) for p in many for t in (0, 900, 999)]
    tables = {"02_steps": steps, "02_levels": levels, "02_decomposition": split, "03_ensemble": rows}
    tables |= {"03_spread_skill": skill, "04_comparison": compared}
    frames = {file: make_frame(file, found) for file, found in tables.items()}
    return Results({"04_comparison": {"margin_gy": 0.1}}, frames)


@pytest.mark.parametrize("patients", [1, 4])
def test_every_figure_is_drawn_of_few_patients(patients, tmp_path):
    found = results(patients)
    drawn = [figures.model_comparison(found.frames["04_comparison"]), figures.key_finding(found)]
    drawn.append(figures.accuracy_and_cost(found.frames["04_comparison"]))
    drawn += [steps_figures.sampling_steps(found.frames["02_steps"]), steps_figures.switches(found)]
    drawn += [steps_figures.noise_levels(found), steps_figures.bias_and_spread(found)]
    drawn += [ensemble_figures.ensemble(found), ensemble_figures.calibration(found)]
    for number, figure in enumerate(drawn):
        style.save_figure(figure, tmp_path, f"fig{number}")


def test_a_dot_lies_where_it_lay_when_the_figure_is_drawn_again():
    frame = results(8).frames["04_comparison"]
    dots = [[c.get_offsets() for c in figures.model_comparison(frame).axes[0].collections] for _ in range(2)]
    assert len(dots[0]) > 1 and all(np.array_equal(a, b) for a, b in zip(*dots))


def test_of_the_u_net_alone_the_control_is_drawn():
    found = results(8)
    frame = found.frames["04_comparison"]
    found.frames["04_comparison"] = frame[frame["method"].isin(["baseline", "control"])]
    (ax,) = figures.key_finding(found).axes
    assert [label.get_text() for label in ax.get_yticklabels()] == ["control"]


@pytest.mark.parametrize("ends", [(7.2, 10.9), (2.0, 9.0), (0.4, 120.0)])
def test_a_logarithmic_axis_has_a_few_plain_numbers(ends):
    _, (ax,) = style.panels(1)
    ax.set(xscale="log", xlim=ends)
    style.plain_ticks(ax.xaxis)
    ticks = [tick for tick in ax.get_xticks() if ends[0] <= tick <= ends[1]]
    assert 3 <= len(ticks) <= 9 and ax.xaxis.get_major_formatter()(ticks[0]) == f"{ticks[0]:g}"


def test_a_difference_is_drawn_as_its_paired_interval():
    found = results(8)
    (ax,) = figures.key_finding(found).axes
    rows = found.frames["04_comparison"].query("region == 'dose mask' and members == 1")
    values = {name: own["value"].to_numpy() for name, own in rows.groupby("method")}
    d = paired_difference(values["flow"], values["baseline"])
    ends = [sorted(line.get_xdata()) for line in ax.lines if len(line.get_xdata()) == 2]
    assert any(np.allclose(pair, [d.low, d.high], atol=1e-9) for pair in ends)
    assert [label.get_text() for label in ax.get_yticklabels()][-1].startswith("ddpm")  # the worst


def test_of_fewer_than_four_patients_there_is_no_interval():
    assert np.isnan(figures.interval([1, 2, 3])).all() and np.isfinite(figures.interval([1, 2, 3, 5])).all()


def test_the_law_of_averages_leads_from_floor_to_floor_and_spread():
    right = ensemble_figures.ensemble(results(4)).axes[1]
    line = next(line for line in right.lines if len(line.get_xdata()) == 9)
    assert np.allclose(line.get_ydata()[[0, -1]], [13.5, 19.5])


def test_a_change_is_judged_from_the_best_steps_of_the_reference_to_the_most():
    (ax,) = steps_figures.switches(results(4)).axes
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == [f"{REFERENCE_GRID} (5 to 10)", "start held at t = 900 (5 to 10)", "flow (5 to 10)"]


def test_steps_of_one_method_alone_are_drawn_in_one_panel():
    steps = results(4).frames["02_steps"]
    assert len(steps_figures.sampling_steps(steps).axes) == 2
    assert len(steps_figures.sampling_steps(steps[steps["switch"] != "prediction"]).axes) == 1


def test_variants_of_a_method_differ_in_shade_dash_and_mark():
    rows = make_frame("02_levels", [of("flow", variant=v) for v in ("", "a", "b")] + [of("ddpm")])
    look = style.look(rows, "training")
    assert look["dashes"]["flow"] == look["dashes"]["ddpm"] == "" != look["dashes"]["flow-a"]
    assert len({*look["markers"].values()}) == 3 and len({*map(tuple, look["palette"].values())}) == 4
    assert steps_figures.sampling_steps(results(4, ("", "-a")).frames["02_steps"])


@pytest.mark.parametrize("lowest", [-0.1, 0.01])
def test_a_course_of_training_is_drawn_with_losses_below_zero_and_without_validation(lowest):
    epochs = [
        of("gaussian", epoch=e, loss=lowest * e, validation_mae_gy=9 if e == 2 else None) for e in (1, 2)
    ]
    rows = [{k: v for k, v in row.items() if k not in ("case_id", "measure")} for row in epochs]
    left, right = figures.training_curves(make_frame("04_history", rows)).axes
    assert left.get_yscale() == ("symlog" if lowest < 0 else "log") and len(right.lines[0].get_xdata()) == 1


def test_the_figures_of_the_speed_study_are_drawn():
    ratio = {"part": "a step", "ratio": 2, "ratio_low": 1, "ratio_high": 4}
    speed_figures.ratios(make_frame("06_speed", [ratio, ratio | {"part": "a call"}]))
    work = {"gflop": 1, "gbyte": 1, "seconds": 1, "of_peak_flop_pct": 50}
    work |= {"peak_gflop_s": 2, "peak_gbyte_s": 3, "part": "a step, 32"}
    speed_figures.ceilings(make_frame("06_ceilings", [work]))
    sizes = [{"axis": axis, "size": n, "seconds": n} for axis in ("voxels", "patients") for n in (1, 8)]
    speed_figures.costs(make_frame("06_scaling", sizes), {"voxels": 1.0, "patients": 1.0})


def test_the_teaching_pictures_are_of_the_slice_of_most_dose():
    sample = make_sample(toy_case(), Grid(2))
    index = teaching.slice_of_most_dose(sample)
    assert len(teaching.input_channels(sample).axes) == len(sample.channels.names)
    planned, _, difference = teaching.prediction(sample, 0 * sample.dose).axes[:3]
    assert np.allclose(planned.images[0].get_array(), sample.dose[0, index] * sample.rx_gy)
    assert np.allclose(difference.images[0].get_array(), -sample.dose[0, index] * sample.rx_gy)
    teaching.noised_doses(sample, {"t = 0": sample.dose, "t = 9": sample.dose})
    teaching.gain_curve(torch.arange(1.0, 11.0), {1: 0, 5: 4})
    curves = {"coarse": torch.arange(3.0), "fine": torch.arange(3.0) / 2}
    coarse, fine = teaching.level_curves(curves).axes[0].lines
    assert (coarse.get_linestyle(), fine.get_linestyle()) == ("-", "--")
    teaching.averages([1, 2], {"drawn": [3.0, 2.0]}, {"drawn": EnsembleLaw(1.0, 2.0)})
    planned, labels = sample.dose[0, index].numpy(), ["call 1, t = 999", "call 2, t = 0.5"]
    steps = Steps("pt_1", planned, {"one": np.stack([planned, planned])}, {"one": labels})
    axes = steps_figures.trajectories(steps).axes  # two calls, planned, the colours
    assert len(axes) == 4 and axes[0].get_title("left") == "call 1\nt = 999"


def test_the_curve_of_the_spread_goes_from_bin_to_bin_also_where_the_first_patient_lacks_one():
    values = {"voxels": 10.0, "spread_gy2": 40.0, "error_gy2": 90.0}
    places = [("p1", 1.0), ("p1", 2.0), ("p2", 0.0), ("p2", 1.0)]
    rows = [
        {"label": "flow", "case_id": case_id, "bin_gy": bin_gy, "measure": measure, "value": value}
        for case_id, bin_gy in places
        for measure, value in values.items()
    ]
    binned = ensemble_figures.bins(pd.DataFrame(rows))
    assert binned["bin_gy"].tolist() == [0.0, 1.0, 2.0]
    assert binned["spread_gy"].tolist() == [2.0] * 3 and binned["error_gy"].tolist() == [3.0] * 3


def luminance(rgb):
    """WCAG 2.2's relative luminance of colours [...,3] from 0 to 1."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    return linear @ [0.2126, 0.7152, 0.0722]


def turn_dark(rgb):
    """invert(0.9) hue-rotate(180deg) of report.css, by the matrices of W3C's Filter Effects."""
    grey = np.array([0.213, 0.715, 0.072])
    turned = np.array([[0.787, -0.715, -0.072], [-0.213, 0.285, -0.072], [-0.213, -0.715, 0.928]])
    matrix = grey - turned  # the angle's cosine is -1, its sine 0
    return np.clip((0.1 * rgb + 0.9 * (1 - rgb)) @ matrix.T, 0, 1)


def test_every_method_can_be_seen_on_paper_and_on_a_dark_page():
    colours = np.array([to_rgb(code) for code in style.COLOURS.values()])
    for turn in (np.asarray, turn_dark):
        page, lines = luminance(turn(np.ones(3))), luminance(turn(colours))
        brighter, darker = np.maximum(page, lines), np.minimum(page, lines)
        contrast = dict(zip(style.COLOURS, (brighter + 0.05) / (darker + 0.05)))
        assert min(contrast.values()) >= 3, contrast  # what WCAG 2.2 asks of graphics (1.4.11)

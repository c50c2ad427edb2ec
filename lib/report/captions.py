"""What stands below each figure, and what is read to those who do not see it."""

from lib.report.answers import answer, answer_on_spread, answer_on_steps
from lib.studies.rows import by_method

CAPTIONS = {
    "fig1_ddpm_training_curves": (
        "A, training loss of each method's own kind. B, error on validation patients during training, "
        "averaged weights. A likelihood may rise while the error falls: it is weighted by the deviation that "
        "the network predicts."
    ),
    "fig2_sampling_steps_ablation": (
        "Error against the number of sampling steps, the start noise the same everywhere. A, by where "
        "sampling starts, of the method whose sampling is varied. B, by what the network predicts. Bands are "
        "95 % intervals over patients; dashed, the regression."
    ),
    "fig3_ensemble_averaging": (
        "A, error of a mean of n members; ticks at n = 1 are single members. B, squared error against 1 / n: "
        "the intercept is the floor that no averaging removes. Dashed, the regression on the same patients."
    ),
    "fig4_model_comparison": (
        "Error of every method on the test patients, a dot per patient, the mean with its 95 % interval. A, "
        "in the dose mask. B, over the whole volume, air included."
    ),
    "fig5_key_finding": (
        "Paired difference of every method to the baseline with its 95 % interval. A difference counts where "
        "its interval lies wholly outside the grey band, the margin."
    ),
    "fig6_dose_panels": (
        "Planned and predicted doses of one test patient through the middle of the target, with the 95 % and "
        "50 % isodoses, and below the difference predicted - planned where it exceeds 1 Gy. Of a sampled "
        "method the mean of its samples."
    ),
    "fig7_dvhs": "Dose-volume histograms of the same patient: planned as lines, predicted dashed.",
    "fig8_switches": (
        "One switch at a time from the reference's setting: by how much more sampling steps change the "
        "error, with 95 % intervals over patients. Right of the grey band, more steps hurt; inside it, they "
        "change nothing."
    ),
    "fig9_noise_levels": (
        "Each network is shown the planned dose with noise of level t and asked once: error of the dose it "
        "then sees. Dashed, the regression, which sees no dose; its error is on the cohort's own grid, those "
        "of the networks are on the training grid."
    ),
    "fig10_bias_and_spread": (
        "Expected squared error of one sample, split into what no averaging removes and the samples' "
        "variance."
    ),
    "fig11_trajectories": (
        "The dose estimate after so many network calls, one slice of one validation patient, from one start "
        "noise; at the right as planned."
    ),
    "fig12_calibration": (
        "A, error against spread, voxels of all test patients in bins of their spread; on the line the "
        "spread tells the error. B, share of voxels whose planned dose lies in the central interval: as "
        "sampled (filled), and with one factor chosen on validation patients (open)."
    ),
    "fig13_accuracy_and_cost": (
        "Error against network calls per patient, seeds averaged; a line leads from one answer to the mean "
        "of several (diamond). The one call of a prior is not counted."
    ),
    "fig17_three_planes": (
        "The same patient by the sampled method of the lowest error, three planes through the middle of the "
        "target: planned and predicted dose, difference, spread of the samples, gamma index (3 %, 3 mm)."
    ),
    "fig18_profiles": (
        "Doses of the same patient along lines through the middle of the target (grey), planned black. "
        "Bands, where samples are averaged: two spreads each way, as sampled."
    ),
    "fig19_dvh_bands": (
        "Dose-volume histograms of one test patient: planned as lines, the range of the members as bands."
    ),
    "fig0_planned_dvhs": "Planned dose-volume histograms of the cohort by structure.",
    "fig0_patients": (
        "Patients of the cohort, those with findings first: planned dose on CT, axial and coronal."
    ),
}
SPEED_CAPTIONS = {
    "fig14_speed": (
        "How many times as fast each part is as the straightforward way, median and range of pairs taken in "
        "turn."
    ),
    "fig15_limits": (
        "Achieved rate of arithmetic against counted operations a byte, below what the same device reaches "
        "in a large matrix product and a large copy; with the share of the product's rate."
    ),
    "fig16_costs": "Time against size, and the power of the size with which it grows.",
}
VALIDATION = ("fig2_sampling_steps_ablation", "fig8_switches", "fig9_noise_levels", "fig10_bias_and_spread")
ENSEMBLE = ("fig3_ensemble_averaging", "fig12_calibration")
TEST = ("fig4_model_comparison", "fig5_key_finding", "fig13_accuracy_and_cost")


def counts(steps, ensemble, comparison):
    """figure -> on how many patients it rests."""
    rows_of = {"fig9_noise_levels": "level_rows", "fig10_bias_and_spread": "decomposition"}
    rested = {name: patients(steps[rows_of.get(name, "rows")]) for name in VALIDATION} if steps else {}
    told = {name: f"n = {n} validation patients." for name, n in rested.items() if n}
    for names, found in ((ENSEMBLE, ensemble), (TEST, comparison)):
        told |= {name: f"n = {patients(found['rows'])} test patients." for name in names if found}
    return told


def patients(rows):
    return len({row["case_id"] for row in rows})


def findings(steps, ensemble, comparison):
    """figure -> what it shows, from its numbers, for its alternative text."""
    told = {}
    if comparison:
        mean_gy = {name: sum(values) / len(values) for name, values in by_method(comparison["rows"]).items()}
        told["fig4_model_comparison"] = (
            "Mean MAE in Gy: "
            + "; ".join(f"{name}: {mean_gy[name]:.2f}" for name in sorted(mean_gy, key=mean_gy.get))
            + "."
        )
        told["fig5_key_finding"] = answer(comparison, comparison["margin_gy"], ensemble)
        told |= dict.fromkeys(
            ("fig2_sampling_steps_ablation", "fig8_switches"),
            answer_on_steps(steps, comparison["margin_gy"], ensemble, comparison["rows"]),
        )
    return told | dict.fromkeys(ENSEMBLE, answer_on_spread(ensemble))

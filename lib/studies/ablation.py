"""The ablation of sampling: from the reference's setting one switch at a time, noise paired by patient.

Errors are in Gy on the case's own grid, inside the dose mask. The settings of a curve share a name.
"""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pandas as pd
import torch

from lib.cases.case import Case
from lib.diffusion.samplers import REFERENCE, DPMSolver, Sampler, as_dict
from lib.diffusion.schedule import T, add_noise, at_level
from lib.features.batches import make_batch
from lib.features.samples import Sample
from lib.metrics.dose import errors_gy
from lib.metrics.uncertainty import ensemble_law
from lib.models.methods import find_method
from lib.prediction.predict import (
    CLAMP,
    Predictor,
    denoiser,
    predict,
    start_noise,
    usual_sampler,
    with_priors,
)
from lib.prediction.store import Steps
from lib.progress import progress
from lib.studies.experiment import Experiment
from lib.studies.predictions import Prediction, Row, in_dose_mask, judged_rows, predict_members, predict_naive
from lib.studies.results import REFERENCE_GRID, make_frame, make_rows


@dataclass(frozen=True)
class Setting:
    """A curve of the ablation.

    name     of the setting, the same for every number of steps
    switch   "start", "sampler", "windows", "training", "prediction" or "regression"
    weights  which of the training's weights: "weights", "weights-<p>pct" or "weights-last"
    sampler  None for a regression
    """

    name: str
    switch: str
    training: str
    sampler: Sampler | None = REFERENCE
    weights: str = "weights"
    window: int = 0
    window_noise: str = "shared"

    def predict(self, run: Experiment, samples: list[Sample], members: int = 1) -> Prediction:
        """`predict_members` of this setting, with the columns that say which setting a row is of."""
        named = {"weights": self.weights, "switch": self.switch, "setting": self.name}
        windows = {"window": self.window, "window_noise": self.window_noise} if self.window else {}
        sampler = as_dict(self.sampler) | {"window": 0} | windows if self.sampler else {}
        steps = f", {self.sampler.n_steps} steps" if self.sampler else ""
        options = {"weights": self.weights, "label": self.name + steps} | windows
        prediction = predict_members(run, self.training, samples, self.sampler, members, **options)
        return prediction.named(**named, **sampler, nfe=prediction.nfe)


def at_steps(settings: Iterable[Setting], n_steps: Sequence[int]) -> list[Setting]:
    """The settings at every number of steps; from a start held at t there are t + 1 levels, so that the curve
    ends where more steps are asked."""
    pairs = [(setting, as_dict(setting.sampler), n) for setting in settings for n in n_steps]
    return [
        replace(setting, sampler=replace(setting.sampler, n_steps=n))
        for setting, values, n in pairs
        if values.get("grid") != "held" or n <= values["start"] + 1
    ]


def start_settings(method: str, held_at: Iterable[int]) -> list[Setting]:
    """The reference's grid, and the start held."""
    samplers = {REFERENCE_GRID: REFERENCE}
    samplers |= {f"start held at t = {t}": replace(REFERENCE, grid="held", start=t) for t in held_at}
    return [Setting(name, "start", method, sampler) for name, sampler in samplers.items()]


def sampler_settings(method: str, window: int, n_steps: Iterable[int]) -> list[Setting]:
    """Other samplers from the reference's start: clamp, noise, order, windows, and the number of steps where
    the reference's grid does not take as many as asked."""
    asked = {"as many steps as asked": replace(REFERENCE, grid="corrected")}
    samplers = (asked if any(T % n for n in n_steps) else {}) | {
        "no clamp": replace(REFERENCE, clamp="none"),
        "noise re-derived after the clamp": replace(REFERENCE, clamp="rederive noise"),
        "ancestral, eta 1": replace(REFERENCE, eta=1.0),
        "second order (DPM-Solver++)": DPMSolver(50, grid="leading", clamp="keep noise"),
    }
    settings = [Setting(name, "sampler", method, sampler) for name, sampler in samplers.items()]
    for text, noise in {"each its own noise": "own", "one noise field": "shared"}.items() if window else ():
        name = f"windows of {window}, {text}"
        settings.append(Setting(name, "windows", method, window=window, window_noise=noise))
    return settings


def training_settings(run: Experiment, method: str, names: Iterable[str]) -> list[Setting]:
    """Other weights at the reference's grid: less training, no average, and the variants `names`."""
    stems = sorted(path.stem for path in run.checkpoint(method).glob("weights-*.safetensors"))
    titles = {stem: f"after {stem[8:-3]} % of the training" for stem in stems}
    titles |= {"weights-last": "weights not averaged"} if "weights-last" in stems else {}
    settings = [Setting(titles[stem], "training", method, weights=stem) for stem in stems]
    variants = [name for name in names if run.config(name).method == run.config(method).method]
    return settings + [Setting(name, "training", name) for name in variants if name != method]


def prediction_settings(run: Experiment, names: Iterable[str]) -> list[Setting]:
    """Other methods, each as it is usually sampled."""
    return [Setting(name, "prediction", name, usual_sampler(run.config(name), 50)) for name in names]


def ablate(run: Experiment, samples: list[Sample], regression: str, settings: list[Setting]) -> pd.DataFrame:
    """Errors of the regression, of the control without a network, by which a training that failed is known,
    and of every setting: 02_steps."""
    regressed = Setting(regression, "regression", regression, None)
    rows = judged_rows(run, error_rows, [regressed.predict(run, samples)], samples)
    control = predict_naive(run, samples).named(switch="control", setting="control", nfe=0)
    rows += judged_rows(run, error_rows, [control], samples)
    for setting in settings:
        rows += judged_rows(run, error_rows, [setting.predict(run, samples)], samples)
    return make_frame("02_steps", rows)


def error_rows(one: Prediction, case: Case, members_gy: np.ndarray) -> list[Row]:
    """Errors of a patient's first dose, and the seconds that it took."""
    errors = errors_gy(members_gy[0], case.dose_gy, case.dose_mask)
    return make_rows({}, {**errors, "seconds": one.seconds})


def decompose(run: Experiment, samples: list[Sample], settings: list[Setting], members: int) -> pd.DataFrame:
    """Squared error as floor + b by number of steps: is it bias, or spread? The frame 02_decomposition."""
    rows = []
    for setting in settings:
        rows += judged_rows(run, law_rows, [setting.predict(run, samples, members)], samples)
    return make_frame("02_decomposition", rows)


def law_rows(_: Prediction, case: Case, members_gy: np.ndarray) -> list[Row]:
    law = ensemble_law(*in_dose_mask(case, members_gy))
    return make_rows({"members": len(members_gy)}, law._asdict())


@torch.no_grad()
def level_errors(
    run: Experiment, samples: list[Sample], names: Iterable[str], levels: Iterable[int]
) -> pd.DataFrame:
    """Error of the dose the network sees in a truly noised x_t, level by level: one call each, no sampling.

    The frame 02_levels, of the diffusions without a prior among the trainings `names`: on the training grid
    inside the dose mask, the estimate clamped as the reference clamps it.
    """
    rows, methods = [], {name: find_method(run.config(name).method) for name in names}
    plain = [n for n, m in methods.items() if m.denoises and not m.prior]
    for name in plain:
        predictor, columns = run.load_predictor(name), run.columns(name)
        for sample in progress(samples, f"noise levels, {name}"):
            for t in levels:
                dose_hat = denoise_from(predictor, sample, t, run.seed).clamp(*CLAMP)
                mask = sample.mask.float()  # a half's sum ends at 65,504
                error = ((dose_hat - sample.dose).abs() * mask).sum() / mask.sum()
                columns_of = columns | {"t": t, "case_id": sample.case_id}
                rows += make_rows(columns_of, {"mae_gy": float(error) * sample.rx_gy})
    return make_frame("02_levels", rows)


def denoise_from(predictor: Predictor, sample: Sample, t: int, seed: int) -> torch.Tensor:
    """The dose estimate [1,d,h,w] (fraction of the prescription) from the sample's dose noised to level t."""
    [sample] = with_priors(predictor, [sample], label="")
    batch, alpha_bar = make_batch([sample.to(predictor.device)]), predictor.config.alpha_bar
    units = predictor.config.units
    level = torch.full((1,), t, device=predictor.device)
    noise = start_noise(sample, 0, seed)[None].to(predictor.device)
    x_t = add_noise(units.to_network(batch.dose, batch.prior), noise, at_level(alpha_bar, level, noise))
    return units.to_dose(denoiser(predictor, batch)(x_t, level)[0], batch.prior)[0].cpu()


def calls_to_show(n_steps: int, count: int) -> list[int]:
    """At most `count` network calls of `n_steps`, from 1: the first ones, then ever fewer, and the last."""
    return sorted({int(call) for call in np.geomspace(1, n_steps, count).round()})


def slice_of_most_dose(sample: Sample) -> int:
    """The axial slice whose dose sums highest."""
    return int(sample.dose[0].float().sum(dim=(1, 2)).argmax())


def trajectories(run: Experiment, settings: list[Setting], sample: Sample, shown: Iterable[int]) -> Steps:
    """Dose estimates by setting after the network calls `shown`, in the slice of most dose."""
    index, estimates, labels = slice_of_most_dose(sample), defaultdict(list), defaultdict(list)
    inside = (sample.mask[0, index] > 0).numpy()

    def watch(name, case_id, member, step, t, dose_hat):
        if step + 1 in shown:
            estimates[name].append(dose_hat[0, index].cpu().numpy() * inside)
            labels[name].append(f"call {step + 1}, t = {t:.4g}")

    for setting in settings:
        predictor, of_setting = run.load_predictor(setting.training), partial(watch, setting.name)
        predict(predictor, [sample], setting.sampler, seed=run.seed, watch=of_setting)
    planned, stacks = sample.dose[0, index].numpy() * inside, {n: np.stack(e) for n, e in estimates.items()}
    return Steps(sample.case_id, planned, stacks, dict(labels))

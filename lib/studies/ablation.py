"""The ablation of sampling: from the reference's setting one switch at a time, noise paired by patient.

A row is one patient at one setting and number of steps; the settings of a curve share a name.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import torch

from lib.diffusion.samplers import REFERENCE, DPMSolver, Sampler, as_dict
from lib.diffusion.schedule import add_noise, at_level, schedule
from lib.features.samples import make_batch
from lib.metrics.dose import errors_gy
from lib.metrics.uncertainty import ensemble_law
from lib.models.methods import kind
from lib.prediction.predict import (
    CLAMP,
    denoiser,
    on_case_grid,
    predict,
    start_noise,
    usual_sampler,
    usual_temperature,
)
from lib.prediction.store import Steps
from lib.progress import progress
from lib.studies.sampled import sampled_doses

REFERENCE_GRID = "reference's grid"


class Setting(NamedTuple):
    """A curve of the ablation.

    group   "start", "sampler", "windows", "training" or "prediction": what the switch is about
    weights  which of the training's weights: "weights", "weights-<p>pct" or "weights-last"
    """

    name: str
    group: str
    training: str
    weights: str
    sampler: Sampler | None
    options: dict | None = None  # window, window_noise and temperature of `predict`

    def with_steps(self, n_steps):
        return self._replace(sampler=replace(self.sampler, n_steps=n_steps))

    def allows(self, n_steps):
        """From a start at t there are t + 1 levels, so that a held curve ends where more steps are asked."""
        return getattr(self.sampler, "grid", "") != "held" or n_steps <= self.sampler.start + 1


def start_settings(method, held_at):
    """The reference's grid, and the start held."""
    named = {REFERENCE_GRID: REFERENCE} | {
        f"start held at t = {t}": replace(REFERENCE, grid="held", start=t) for t in held_at
    }
    return [Setting(name, "start", method, "weights", sampler) for name, sampler in named.items()]


def sampler_settings(method, window):
    """Other samplers from the reference's start: number of steps, clamp, noise, order, windows."""
    named = {
        "as many steps as asked": replace(REFERENCE, grid="corrected"),
        "no clamp": replace(REFERENCE, clamp="none"),
        "noise re-derived after the clamp": replace(REFERENCE, clamp="rederive noise"),
        "ancestral, eta 1": replace(REFERENCE, eta=1.0),
        "second order (DPM-Solver++)": DPMSolver(REFERENCE.n_steps, REFERENCE.grid),
    }
    settings = [Setting(name, "sampler", method, "weights", sampler) for name, sampler in named.items()]
    windows = (
        {f"windows of {window}, each its own noise": "own", f"windows of {window}, one noise field": "shared"}
        if window
        else {}
    )
    return settings + [
        Setting(name, "windows", method, "weights", REFERENCE, {"window": window, "window_noise": noise})
        for name, noise in windows.items()
    ]


def training_settings(run, method, names):
    """Other weights at the reference's grid: less training, no average, and its variants among `names`."""
    weights = {path.stem: path.stem for path in sorted(run.checkpoint(method).glob("weights-*.safetensors"))}
    titles = {
        stem: "weights not averaged" if stem == "weights-last" else f"after {stem[8:-3]} % of the training"
        for stem in weights
    }
    settings = [Setting(titles[stem], "training", method, stem, REFERENCE) for stem in weights]
    variants = [name for name in names if kind(name) == method and name != method]
    return settings + [Setting(name, "training", name, "weights", REFERENCE) for name in variants]


def prediction_settings(run, names):
    """Other methods, each as it is usually sampled."""
    configs = {name: run.load_predictor(name).config for name in names}
    return [
        Setting(
            name,
            "prediction",
            name,
            "weights",
            usual_sampler(config, 50),
            {"temperature": usual_temperature(config)},
        )
        for name, config in configs.items()
    ]


def ablate(run, samples, settings, steps_of):
    """Rows of every setting at its numbers of steps, `steps_of`: group -> list."""
    rows = []
    for setting in settings:
        for n_steps in filter(setting.allows, steps_of[setting.group]):
            rows += step_rows(run, samples, setting.with_steps(n_steps), n_steps)
    return rows


def step_rows(run, samples, setting, n_steps=1):
    """One row per patient of one setting and number of steps."""
    doses, seconds = sampled_doses(
        run,
        setting.training,
        samples,
        setting.sampler,
        weights=setting.weights,
        label=f"{setting.name}, {n_steps} steps",
        **(setting.options or {}),
    )
    rows = []
    for sample, dose in zip(samples, doses):
        case = run.load_case(sample.case_id)
        errors = errors_gy(on_case_grid(dose, case, run.coarsen)[0], case.dose_gy, case.dose_mask)
        rows.append(
            dict(
                setting=setting.name,
                group=setting.group,
                training=setting.training,
                weights=setting.weights,
                sampling=(as_dict(setting.sampler) if setting.sampler else {}) | (setting.options or {}),
                n_steps=n_steps,
                nfe=setting.sampler.nfe if setting.sampler else 1,
                case_id=sample.case_id,
                seconds=seconds / len(samples),
                **errors,
            )
        )
    return rows


def regress(run, name, samples):
    """Errors of a regression on the same patients: one row per patient."""
    return step_rows(run, samples, Setting(name, "regression", name, "weights", None))


def decompose(run, samples, settings, n_steps, members):
    """Squared error as floor + b (lib.metrics.uncertainty) by number of steps: is it bias, or spread?"""
    rows = []
    for setting in settings:
        for n in filter(setting.allows, n_steps):
            doses, _ = sampled_doses(
                run,
                setting.training,
                samples,
                setting.with_steps(n).sampler,
                tuple(range(members)),
                setting.weights,
                f"{setting.name}, {n} steps, {members} samples",
                **(setting.options or {}),
            )
            rows += [
                {"setting": setting.name, "n_steps": n, "case_id": sample.case_id} | law_of(run, sample, dose)
                for sample, dose in zip(samples, doses)
            ]
    return rows


def law_of(run, sample, dose):
    case = run.load_case(sample.case_id)
    members_gy = on_case_grid(dose, case, run.coarsen)[:, case.dose_mask].astype(np.float64)
    law = ensemble_law(members_gy, case.dose_gy[case.dose_mask].astype(np.float64))
    return {"floor_gy2": law.floor_gy2, "b_gy2": law.b_gy2}


@torch.no_grad()
def level_errors(run, samples, names, levels):
    """Error of the dose the network sees in a truly noised x_t, level by level: one call each, no sampling.

    For diffusions without a prior; on the training grid inside the dose mask, the estimate clamped as the
    reference clamps it.
    """
    rows = []
    for name in names:
        predictor = run.load_predictor(name)
        for sample in progress(samples, f"noise levels, {name}"):
            for t in levels:
                error = (
                    denoised(predictor, sample, t, run.seed).clamp(*CLAMP) - sample.dose
                ).abs() * sample.mask
                rows.append(
                    {
                        "training": name,
                        "t": t,
                        "case_id": sample.case_id,
                        "mae_gy": float(error.sum() / sample.mask.sum()) * sample.rx_gy,
                    }
                )
    return rows


def denoised(predictor, sample, t, seed):
    """The dose estimate [1,d,h,w] (fraction of the prescription) from the sample's dose noised to level t."""
    batch, units = make_batch([sample.to(predictor.device)]), predictor.config.units
    alpha_bar = schedule(predictor.config.zero_snr)
    t = torch.full((1,), t, device=predictor.device)
    noise = start_noise(sample, 0, seed)[None].to(predictor.device)
    x_t = add_noise(units.to_network(batch.dose, batch.prior), noise, at_level(alpha_bar, t, noise))
    return units.to_dose(denoiser(predictor, batch)(x_t, t)[0], batch.prior)[0].cpu()


def calls_to_show(n_steps, count):
    """At most `count` network calls of `n_steps`, from 1: the first ones, then ever fewer, and the last."""
    return sorted({int(call) for call in np.geomspace(1, n_steps, count).round()})


def steps_of(sample, paths):
    """Trajectories (setting -> call -> (t, dose)) through the middle of the sample's dose, to be kept and
    scrubbed."""
    index = int(sample.dose[0].sum(dim=(1, 2)).argmax())
    inside = (sample.mask[0, index] > 0).numpy()
    estimates = {
        name: np.stack([dose[0, index].numpy() * inside for _, dose in path.values()])
        for name, path in paths.items()
    }
    labels = {
        name: [f"call {call}, t = {t:.4g}" for call, (t, _) in path.items()] for name, path in paths.items()
    }
    return Steps(sample.case_id, sample.dose[0, index].numpy() * inside, estimates, labels)


def trajectory(run, setting, sample, shown):
    """Dose estimates [1,d,h,w] of a sample after the network calls `shown` (from 1): call -> (t, dose)."""
    found = {}

    def watch(case_id, member, step, t, dose_hat):
        if step + 1 in shown:
            found[step + 1] = (t, dose_hat.cpu())

    predictor = run.load_predictor(setting.training)
    predict(predictor, [sample], setting.sampler, seed=run.seed, watch=watch, **(setting.options or {}))
    return found

"""Ensembles: what averaging samples does, how wide they spread, whether the spread is calibrated, and its
cheap rivals.

A source of members is a sampled method, several trainings of a regression (a deep ensemble), or one
regression on the patient and his mirror image. Each gives members [N,1,d,h,w] per patient, and all are judged
alike.
"""

import time

import numpy as np
import torch

from lib.features.samples import mirrored
from lib.metrics.dvh import dvh_curve
from lib.metrics.uncertainty import (
    coverage_pct,
    crps_gy,
    ensemble_law,
    mean_of_subsets,
    spread_gy,
    spread_skill,
    spread_skill_ratio,
)
from lib.models.methods import kind
from lib.prediction.predict import on_case_grid, predict, usual_sampler
from lib.progress import progress
from lib.seeds import generator_for
from lib.studies.sampled import refuse_seen, sampled_doses

LEVELS_PCT = (50, 80, 95)
BIN_EDGES_GY = (
    0.0,
    0.25,
    0.5,
    1.0,
    1.5,
    2.0,
    3.0,
    4.0,
    6.0,
    8.0,
    12.0,
    20.0,
)  # of the spread, for the spread-skill curve
DVH_EDGES_GY = np.arange(0.0, 80.0, 1.0)


def sampled_members(run, name, samples, sampler, members):
    """(members per patient, seconds per member and patient, network calls per member) of a sampled method."""
    doses, seconds = sampled_doses(run, name, samples, sampler, tuple(range(members)))
    return doses, seconds / len(samples) / members, sampler.nfe if sampler else 1


def deep_ensemble(run, names, samples):
    """The same of trainings that differ in their seed: one member each."""
    started = time.monotonic()
    predictors = [run.load_predictor(name) for name in names]
    for predictor in predictors:
        refuse_seen(predictor, samples)
    each = [predict(predictor, samples) for predictor in predictors]
    return (
        [torch.cat(doses) for doses in zip(*each)],
        (time.monotonic() - started) / len(samples) / len(names),
        1,
    )


def flipped_pair(run, name, samples):
    """The same of one regression on each patient and on his mirror image, turned back: two members."""
    predictor = run.load_predictor(name)
    refuse_seen(predictor, samples)
    started = time.monotonic()
    straight = predict(predictor, samples)
    turned = predict(predictor, [mirrored(sample) for sample in samples])
    doses = [torch.cat([a, b.flip(-1)]) for a, b in zip(straight, turned)]
    return doses, (time.monotonic() - started) / len(samples) / 2, 1


def collect(run, samples, methods, regression, deep, members, n_steps):
    """source -> its members (per patient, seconds, calls)."""
    return dict(sources(run, samples, methods, regression, deep, members, n_steps))


def judge(run, samples, collected, sizes, factors=None):
    """One row per source and patient; with `factors` (source -> number) also with the spread times it."""
    rows = []
    for source, (doses, seconds, nfe) in collected.items():
        factor = (factors or {}).get(source)
        rows += [
            ensemble_row(run, sample, dose, sizes, factor)
            | {"source": source, "seconds_per_member": seconds, "nfe_per_member": nfe}
            for sample, dose in zip(samples, progress(doses, f"judging {source}"))
        ]
    return rows


def sources(run, samples, methods, regression, deep, members, n_steps):
    """Pairs of a source's name and its members."""
    for name in methods:
        sampler = usual_sampler(run.load_predictor(name).config, n_steps)
        yield name, sampled_members(run, name, samples, sampler, members)
    if len(deep) > 1:
        yield f"{kind(deep[0])}, several seeds", deep_ensemble(run, deep, samples)
    yield f"{regression} and its mirror image", flipped_pair(run, regression, samples)


def ensemble_row(run, sample, dose, sizes, factor):
    case = run.load_case(sample.case_id)
    all_gy = on_case_grid(dose, case, run.coarsen)
    members_gy, dose_gy = (
        all_gy[:, case.dose_mask].astype(np.float64),
        case.dose_gy[case.dose_mask].astype(np.float64),
    )
    law = ensemble_law(members_gy, dose_gy)
    generator = np.random.default_rng(generator_for(run.seed, "subsets", sample.case_id).initial_seed())
    mean_gy = members_gy.mean(axis=0)
    return dict(
        case_id=sample.case_id,
        members=len(members_gy),
        floor_gy2=law.floor_gy2,
        b_gy2=law.b_gy2,
        single_mae_gy=[float(np.abs(m - dose_gy).mean()) for m in members_gy],
        mae_gy={
            str(n): mean_of_subsets(members_gy, dose_gy, n, 20, generator)
            for n in sizes
            if n <= len(members_gy)
        },
        mean_rmse_gy=float(np.sqrt(((mean_gy - dose_gy) ** 2).mean())),
        median_mae_gy=float(np.abs(np.median(members_gy, axis=0) - dose_gy).mean()),
        spread_dose_mask_gy=float(spread_gy(members_gy).mean()),
        spread_whole_volume_gy=float(spread_gy(all_gy).mean(dtype=np.float64)),
        spread_structure_gy={
            n: float(spread_gy(all_gy[:, m]).mean()) for n, m in sorted(case.masks.items()) if m.any()
        },
        **calibration(members_gy, dose_gy),
        dvh_band_pct=dvh_band_pct(case, all_gy),
        recalibrated=calibration(members_gy, dose_gy, factor) if factor else None,
    )


def calibration(members_gy, dose_gy, factor=1.0):
    """What the members [N,V], spread about their mean by `factor`, say of the planned dose [V]."""
    mean_gy = members_gy.mean(axis=0)
    scaled_gy = mean_gy + factor * (members_gy - mean_gy)
    return {
        "crps_gy": crps_gy(scaled_gy, dose_gy),
        "spread_skill": spread_skill(scaled_gy, dose_gy, BIN_EDGES_GY),
        "coverage_pct": {str(level): coverage_pct(scaled_gy, dose_gy, level) for level in LEVELS_PCT},
    }


def dvh_band_pct(case, members_gy):
    """Share in % of DVH points (volumes at whole Gy, where the planned is neither 0 nor 100 %) inside the
    members' range."""
    held = []
    for mask in (m for m in case.masks.values() if m.any()):
        curves = np.stack([dvh_curve(member, mask, DVH_EDGES_GY) for member in members_gy])
        planned = dvh_curve(case.dose_gy, mask, DVH_EDGES_GY)
        judged = (planned > 0) & (planned < 100)
        held += list((planned >= curves.min(axis=0))[judged] & (planned <= curves.max(axis=0))[judged])
    return float(100 * np.mean(held)) if held else None


def recalibrations(rows):
    """source -> the one factor on its spread that makes mean squared spread and error agree over the rows
    (validation patients)."""
    return {
        source: 1 / spread_skill_ratio([row["spread_skill"] for row in rows if row["source"] == source])
        for source in dict.fromkeys(row["source"] for row in rows)
    }

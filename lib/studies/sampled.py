"""Doses of one training at one setting, on disk as soon as made: a killed study goes on from there."""

import time

import torch

from lib.cache import FEATURES_VERSION, PREDICTION_VERSION, digest
from lib.device import choose_device, choose_precision
from lib.errors import UserError
from lib.files import sha256
from lib.models.methods import find_method
from lib.prediction.predict import predict_doses
from lib.tensors import load_tensors, save_tensors


def sampled_doses(run, name, samples, sampling, members=(0,), weights="weights", label=None):
    """`predict_doses` of a training of `run` (an Experiment) and the seconds it took, from disk where they
    were made before.

    What is kept is named by what decides it: weights, sampling, patients, members, precision and versions.
    """
    path = (
        run.folder
        / "checkpoints"
        / "doses"
        / f"{key_of(run, name, samples, sampling, members, weights)}.safetensors"
    )
    kept = read_kept(path, samples)
    if kept:
        return kept
    predictor, started = run.load_predictor(name, weights), time.monotonic()
    refuse_seen(predictor, samples)
    doses = predict_doses(predictor, samples, sampling, members, label=label)
    seconds = time.monotonic() - started
    save_tensors(path, {sample.case_id: dose for sample, dose in zip(samples, doses)}, seconds=repr(seconds))
    return doses, seconds


def refuse_seen(predictor, samples):
    """A network is not judged on patients that it was trained on."""
    seen = [sample.case_id for sample in samples if sample.case_id in predictor.config.case_ids]
    if seen:
        raise UserError(
            f"{predictor.config.method} was trained on {seen[0]}, so it cannot be judged on him; "
            "train it again or make the cohort's split again"
        )


def key_of(run, name, samples, sampling, members, weights):
    folder, device = run.checkpoint(name), choose_device(run.device)
    files = [
        folder / f"{weights}.safetensors",
        folder / "config.json",
        folder / "prior" / "weights.safetensors",
    ]
    return digest(
        [
            [sha256(path) if path.exists() else None for path in files],
            sha256(run.open_cohort().folder / "card.json"),
            [sample.case_id for sample in samples],
            decides(find_method(name), sampling),
            list(members),
            run.coarsen,
            run.beams_deg,
            device.type,
            choose_precision(run.precision, device),
            [FEATURES_VERSION, PREDICTION_VERSION],
        ]
    )[:32]


def decides(method, sampling):
    """What of a sampling decides the doses: of a diffusion the times, so that what two names of a grid have
    in common is sampled once."""
    given = sampling._asdict()
    if not method.timed or method.predicts == "velocity":
        return given
    return {
        "times": sampling.times(),
        **{key: value for key, value in given.items() if key not in ("n_steps", "grid", "start")},
    }


def read_kept(path, samples):
    """(doses, seconds), or None if they are not there or damaged."""
    if not path.exists():
        return None
    try:
        tensors, about = load_tensors(path)
        doses, seconds = [tensors[sample.case_id] for sample in samples], float(about["seconds"])
    except (UserError, KeyError, ValueError):
        return None
    return (doses, seconds) if all(torch.isfinite(dose).all() for dose in doses) else None

"""Doses of one training at one setting, on disk as soon as made: a killed study goes on from there."""

import time

import torch

from lib.cache import digest, modules_digest
from lib.device import choose_device, choose_precision
from lib.diffusion.samplers import as_dict
from lib.errors import UserError
from lib.files import sha256
from lib.prediction.predict import predict
from lib.tensors import load_tensors, save_tensors


def sampled_doses(run, name, samples, sampler=None, members=(0,), weights="weights", label=None, **options):
    """`predict` of a training of `run` (an Experiment) and the seconds it took, from disk where they were
    made before; `options` are predict's window, window_noise and temperature.

    What is kept is named by all that decides it: weights, sampler, patients, members, precision and code.
    """
    decided = decides(sampler, members, run.seed, **options)
    path = (
        run.folder / "checkpoints" / "doses" / f"{key_of(run, name, samples, decided, weights)}.safetensors"
    )
    kept = read_kept(path, samples)
    if kept:
        return kept
    predictor, started = run.load_predictor(name, weights), time.monotonic()
    refuse_seen(predictor, samples)
    doses = predict(predictor, samples, sampler, members=members, seed=run.seed, label=label, **options)
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


def key_of(run, name, samples, decided, weights):
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
            decided,
            run.coarsen,
            run.beams_deg,
            device.type,
            choose_precision(run.precision, device),
            modules_digest("import lib.prediction.predict"),
        ]
    )[:32]


def decides(sampler, members, seed, window=0, window_noise="shared", temperature=1.0):
    """What of a sampling decides the doses: of a sampler its times, so that what two names of a grid have in
    common is sampled once."""
    given = {"members": list(members), "seed": seed, "temperature": temperature}
    given |= {"window": window, "window_noise": window_noise} if window else {}
    if sampler:
        given |= {k: v for k, v in as_dict(sampler).items() if k not in ("n_steps", "grid", "start")}
        given["times"] = sampler.times()
    return given


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

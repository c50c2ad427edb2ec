"""The course of a training: one row per epoch, its validation, and whether to stop."""

import copy
from pathlib import Path

import pandas as pd

from lib.features.samples import Sample
from lib.metrics.dose import grid_dose_score_gy
from lib.prediction.predict import predict, ready, usual_sampler, usual_temperature
from lib.training.processes import rank, say, sum_over_all, world
from lib.training.state import TrainingState, learning_rate


def close_epoch(state: TrainingState, validation: list[Sample]) -> None:
    """Write the epoch's row of the history; each `validate_every` epochs and last with validation error."""
    state.check_finite()
    config, epoch, mae_gy = state.config, state.step // state.config.steps_per_epoch, None
    loss = float(state.loss_sum) / config.steps_per_epoch
    state.loss_sum.zero_()
    if validation and (epoch % config.validate_every == 0 or epoch == config.epochs):
        mae_gy = validate(state, validation)
        if config.keep == "best" and mae_gy < state.best_mae_gy:
            state.best_mae_gy = mae_gy
            state.best_weights = {name: w.clone() for name, w in state.averaged.state_dict().items()}
        say(f"epoch {epoch}/{config.epochs}: loss {loss:.4g}, validation MAE {mae_gy:.2f} Gy")
    row = {"epoch": epoch, "step": state.step, "loss": loss}
    row |= {"learning_rate": learning_rate(config, state.step), "validation_mae_gy": mae_gy}
    state.history.append(row | {"seconds": round(state.seconds, 1)})


def validate(state: TrainingState, samples: list[Sample]) -> float:
    """Mean absolute error in Gy inside the dose masks, on the training grid, by the averaged weights."""
    config, share = state.config, samples[rank() :: world()]
    predictor = ready(copy.deepcopy(state.averaged), config, state.device, config.precision)
    sampler, temperature = usual_sampler(config, config.validation_steps), usual_temperature(config)
    label = f"validating {config.method}"
    doses = predict(predictor, share, sampler, seed=config.seed, temperature=temperature, label=label)
    errors_gy = [grid_dose_score_gy(sample.to("cpu"), dose) for sample, dose in zip(share, doses)]
    return sum_over_all(sum(errors_gy), state.device) / len(samples)


def out_of_patience(history: list[dict], patience: int) -> bool:
    """Whether the best validation error is `patience` or more epochs old; never for patience 0."""
    validated = [row for row in history if row["validation_mae_gy"] is not None]
    if not patience or not validated:
        return False
    best = min(validated, key=lambda row: row["validation_mae_gy"])
    return history[-1]["epoch"] - best["epoch"] >= patience


def read_history(path: Path) -> list[dict]:
    """The rows of a history.csv as `fit` returns them."""
    table = pd.read_csv(path)
    return table.astype(object).where(table.notna(), None).to_dict("records")

"""The course of a training: one row per epoch, its validation, and whether to stop."""

import copy
from collections.abc import Callable
from pathlib import Path

import pandas as pd

from lib.features.samples import Sample
from lib.models.config import TrainConfig
from lib.prediction.predict import own_grid_score_gy, predict_doses, ready, usual_sampling
from lib.training.processes import process_share, sum_over_all
from lib.training.state import TrainingState, learning_rate


def close_epoch(
    state: TrainingState, config: TrainConfig, validation: list[Sample], report: Callable[[str], None]
) -> None:
    """Write the epoch's row of the history; each `validate_every` epochs and last with validation error."""
    state.check_finite()
    epoch, loss = state.step // config.steps_per_epoch, float(state.loss_sum) / config.steps_per_epoch
    mae_gy = None
    state.loss_sum.zero_()
    if validation and (epoch % config.validate_every == 0 or epoch == config.epochs):
        mae_gy = validate(state, config, validation)
        if config.keep == "best" and mae_gy < state.best_mae_gy:
            state.best_mae_gy = mae_gy
            state.best_weights = {name: w.clone() for name, w in state.averaged.state_dict().items()}
        report(f"epoch {epoch}/{config.epochs}: loss {loss:.4g}, validation MAE {mae_gy:.2f} Gy")
    rate, seconds = learning_rate(config, state.step), round(state.seconds, 1)
    row = {"epoch": epoch, "step": state.step, "loss": loss, "learning_rate": rate}
    state.history.append(row | {"validation_mae_gy": mae_gy, "seconds": seconds})


def validate(state: TrainingState, config: TrainConfig, samples: list[Sample]) -> float:
    """Mean absolute error in Gy inside the dose masks, on the training grid, by the averaged weights."""
    predictor = ready(copy.deepcopy(state.averaged), config, state.device, config.precision)
    sampling, share = usual_sampling(config, config.validation_steps), process_share(samples)
    doses = predict_doses(predictor, share, sampling, label=f"validating {config.method}")
    errors_gy = [own_grid_score_gy(sample.to("cpu"), dose) for sample, dose in zip(share, doses)]
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

"""The figures of the report: each is drawn from results, and says n and units where they are read."""
import numpy as np

from lib.report.style import colour, panels


def training_curves(histories):
    """Figure 1. A the loss, B the error on validation patients; `histories` is method -> rows of `train`."""
    figure, (left, right) = panels(2)
    for method, rows in histories.items():
        epochs = [row["epoch"] for row in rows]
        left.plot(epochs, [row["loss"] for row in rows], color=colour(method), label=method)
        validated = [row for row in rows if row["validation_mae_gy"] is not None]
        right.plot([row["epoch"] for row in validated], [row["validation_mae_gy"] for row in validated], "o-",
                   color=colour(method), label=method)
    left.set(xlabel="epoch", ylabel="training loss", yscale="log")
    right.set(xlabel="epoch", ylabel="validation MAE in the dose mask / Gy", ylim=(0, None))
    if len(histories) > 1:
        right.legend()
    return figure

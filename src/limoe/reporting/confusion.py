"""Confusion matrix as a figure, and a table with one row per class."""

import csv
from pathlib import Path

import matplotlib
import numpy as np
from jaxtyping import Float64, Int64
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter
from torchmetrics.functional.classification import multiclass_confusion_matrix

from limoe.evaluation.metrics import Predictions

MAX_CLASSES = 250  # with more of them the figure shows ...
_MOST_MISTAKEN = 100  # ... the classes with the most errors
_NUMBERED = 20  # largest number of classes with a number in every cell
_CELL = 0.13  # side of a cell of a large figure, inches
_DPI = 100


def confusion_matrix(predictions: Predictions) -> Int64[np.ndarray, "classes classes"]:
    """Number of images by true class (row) and predicted class (column)."""
    return multiclass_confusion_matrix(predictions.predicted, predictions.labels, len(predictions.class_names)).numpy()


def save_classes(predictions: Predictions, path: Path) -> None:
    """Write a CSV file with one row per class: images, correct ones, and the most frequent wrong prediction."""
    matrix = confusion_matrix(predictions)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["class", "name", "images", "right", "accuracy", "most_taken_for", "times"])
        for number, name in enumerate(predictions.class_names):
            images, right = int(matrix[number].sum()), int(matrix[number, number])
            wrong = matrix[number].copy()
            wrong[number] = 0
            worst = int(wrong.argmax())
            taken_for = [predictions.class_names[worst], int(wrong[worst])] if wrong[worst] else ["", 0]
            rows.writerow([number, name, images, right, f"{right / images:.4f}" if images else "", *taken_for])


def save_confusion(predictions: Predictions, path: Path, *, title: str) -> None:
    """Save the figure: rows are classes, columns predictions, colours shares of a row; absent classes are left out."""
    matrix = confusion_matrix(predictions)
    shown = shown_classes(matrix)
    names = [f"{predictions.class_names[number]} ({matrix[number].sum()})" for number in shown]
    shares = matrix[shown] / np.maximum(matrix[shown].sum(1, keepdims=True), 1)
    if len(shown) < len(matrix):
        title += f" ({len(shown)} of {len(matrix)} classes)"
    with matplotlib.rc_context({"text.parse_math": False}):
        _draw(shares[:, shown], names, title=title).savefig(path, dpi=_DPI, bbox_inches="tight")


def shown_classes(matrix: Int64[np.ndarray, "classes classes"]) -> Int64[np.ndarray, "shown"]:
    """Classes with images or predictions, in the order of the task; of too many those with the most errors."""
    occurring = np.flatnonzero(matrix.sum(0) + matrix.sum(1))
    if len(occurring) <= MAX_CLASSES:
        return occurring
    mistakes = matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal()
    return np.sort(np.argsort(-mistakes, kind="stable")[:_MOST_MISTAKEN])


def _draw(shares: Float64[np.ndarray, "shown shown"], names: list[str], *, title: str) -> Figure:
    """Draw the matrix. The size of a cell is fixed: names are outside of the axes, and saving enlarges the figure."""
    size = len(names)
    is_small = size <= _NUMBERED
    cell, font = (0.45, 9.0) if is_small else (_CELL, 6.5)
    side = cell * size
    figure = Figure(figsize=(side, side))
    axes = figure.add_axes((0, 0, 1, 1))
    image = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    axes.set_title(title, loc="left", fontweight="bold")
    axes.set_xlabel("taken for")
    axes.set_ylabel("class (images)")
    axes.set_xticks(range(size), [name.rpartition(" (")[0] for name in names], rotation=90, fontsize=font)
    axes.set_yticks(range(size), names, fontsize=font)
    axes.tick_params(length=0)
    for edge in np.arange(-0.5, size, 1 if is_small else 10):
        axes.axhline(edge, color="#d0d7de", linewidth=0.5)
        axes.axvline(edge, color="#d0d7de", linewidth=0.5)
    if is_small:
        _write_numbers(axes, shares)
    bar = axes.inset_axes((1 + 0.2 / side, 0.25, 0.15 / side, 0.5))
    figure.colorbar(image, cax=bar, format=PercentFormatter(1.0), label="share of the class")
    return figure


def _write_numbers(axes: Axes, shares: Float64[np.ndarray, "shown shown"]) -> None:
    for (row, column), share in np.ndenumerate(shares):
        if share > 0:
            color = "white" if share > 0.5 else "#24292f"
            axes.text(column, row, f"{100 * share:.0f}", ha="center", va="center", fontsize=8, color=color)

"""Figures of curves and shares, odd ones too."""

import pytest

from limoe.reporting.plots import MAX_POINTS, Line, lines_plot, share_plot, thinned


def test_long_curves_become_means_of_neighbours():
    curve = {step: float(step) for step in range(2 * MAX_POINTS)}
    steps, values = thinned(curve)
    assert len(steps) == MAX_POINTS
    assert (steps[0], values[0], values[-1]) == (0.5, 0.5, 2 * MAX_POINTS - 1.5)  # means of pairs


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), 1.0], [0.0] * 3])
def test_curves_of_odd_values_and_titles_that_look_like_formulas(values):
    curve = dict(enumerate(values))
    plot = lines_plot([Line("x", curve, "#000000")], title="$\\frac$", y_label="y", percent=True)
    assert plot.startswith("data:image/svg+xml;base64,")


@pytest.mark.parametrize(("image", "text"), [([], []), ([0.0, 1.0], [0.0, 1.0]), ([1.0], [])])
def test_shares_with_idle_experts_or_one_modality(image, text):
    assert share_plot(image=image, text=text, title="t").startswith("data:image/svg+xml;base64,")

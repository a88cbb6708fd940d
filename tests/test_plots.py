"""Figures of curves and shares, odd ones too."""

import pytest
from matplotlib.figure import Figure

from limoe.reporting.plots import MAX_POINTS, Line, _mix, lines_plot, share_plot, thinned


def test_long_curves_become_means_of_neighbours():
    curve = {step: float(step) for step in range(2 * MAX_POINTS)}
    steps, values = thinned(curve)
    assert len(steps) == MAX_POINTS
    assert (steps[0], values[0], values[-1]) == (0.5, 0.5, 2 * MAX_POINTS - 1.5)  # means of pairs
    assert thinned({0: 1.0, 1: 2.0, 2: 6.0}, limit=2) == ([0.5, 2.0], [1.5, 6.0])


@pytest.mark.parametrize("values", [[], [float("nan")], [float("inf"), 1.0], [0.0] * 3])
def test_curves_of_odd_values_and_titles_that_look_like_formulas(values):
    curve = dict(enumerate(values))
    plot = lines_plot([Line("x", curve, "#000000")], title="$\\frac$", y_label="y", percent=True)
    assert plot.startswith("data:image/svg+xml,%3Csvg")


def test_whom_an_expert_serves_counts_tokens():
    """Equal shares of 300 image and 100 text assignments: three quarters of every bar are images."""
    axes = Figure().subplots()
    _mix(axes, [share * 300 for share in (0.5, 0.5, 0.0)], [share * 100 for share in (0.5, 0.5, 0.0)])
    assert [bar.get_height() for bar in axes.patches] == [0.75, 0.75, 0.25, 0.25]  # nobody chose the third expert
    equal, counted = (
        share_plot(image=[0.5, 0.5], text=[0.5, 0.5], title="t", assignments=numbers)
        for numbers in ((1, 1), (300, 100))
    )
    assert equal != counted


@pytest.mark.parametrize(("image", "text"), [([], []), ([0.0, 1.0], [0.0, 1.0]), ([1.0], [])])
def test_shares_with_idle_experts_or_one_modality(image, text):
    assert share_plot(image=image, text=text, title="t").startswith("data:image/svg+xml,%3Csvg")

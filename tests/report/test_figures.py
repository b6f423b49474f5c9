import numpy as np
import pytest
import torch

from diffguard.errors import UserError
from diffguard.report.figures import (
    roc_curves,
    score_histogram,
    stop_depth_histogram,
)
from diffguard.report.metrics import roc_curve

RNG = np.random.default_rng(0)
ID = RNG.normal(0, 1, 200)
OOD = {"digits_6_9": RNG.normal(2, 1, 300), "letters": np.r_[RNG.normal(3, 1, 99), 1000.0]}


def draw(figure):
    """Render as TensorBoard does, and return the pixels."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())


def test_histogram_has_a_density_per_set_and_is_not_squeezed_by_an_outlier():
    figure = score_histogram(ID, OOD, "diffguard")
    (axes,) = figure.axes
    assert axes.get_xlim()[1] < 20
    assert axes.get_xlabel() == "diffguard (higher = more OOD)"
    texts = [text.get_text() for text in axes.get_legend().get_texts()]
    assert texts == ["ID (200)", "digits_6_9 (300)", "letters (100)"]
    for patch in axes.patches:
        values, edges, _ = patch.get_data()
        assert (values * np.diff(edges)).sum() == pytest.approx(1.0)
    assert len({patch.get_edgecolor() for patch in axes.patches}) == 3
    assert draw(figure).std() > 0


def test_histogram_of_a_constant_score_is_drawn():
    assert draw(score_histogram(np.ones(5), {"x": np.ones(3)}, "msp")).std() > 0


def test_roc_curves_show_the_curve_and_its_auroc():
    figure = roc_curves({name: (ID, scores) for name, scores in OOD.items()}, "diffguard")
    (axes,) = figure.axes
    flagged, detected = roc_curve(torch.tensor(ID), torch.tensor(OOD["letters"]))
    line = axes.get_lines()[1]
    np.testing.assert_array_equal(line.get_xdata(), flagged.numpy())
    np.testing.assert_array_equal(line.get_ydata(), detected.numpy())
    area = 100 * float(torch.trapezoid(detected, flagged))
    assert axes.get_legend().get_texts()[1].get_text() == f"letters: AUROC {area:.2f} %"
    assert draw(figure).std() > 0


def test_a_long_roc_curve_is_thinned_and_keeps_its_ends():
    figure = roc_curves({"x": (RNG.normal(0, 1, 9000), RNG.normal(1, 1, 9000))}, "msp")
    x, y = figure.axes[0].get_lines()[0].get_data()
    assert len(x) == 2000
    assert (x[0], y[0], x[-1], y[-1]) == (0, 0, 1, 1)


def test_roc_of_a_nan_is_refused():
    with pytest.raises(UserError, match="1 of 3 scores are NaN"):
        roc_curves({"x": ([0.0, np.nan], [1.0])}, "msp")


def test_stop_depths_are_shares_of_the_images_that_have_one():
    figure = stop_depth_histogram({"ID": [3, 3, 5, -1], "letters": [0, 9]}, last_step=9)
    shares = [patch.get_data()[0] for patch in figure.axes[0].patches]
    np.testing.assert_allclose(shares[0], np.eye(10)[3] * 2 / 3 + np.eye(10)[5] / 3)
    np.testing.assert_allclose(shares[1], (np.eye(10)[0] + np.eye(10)[9]) / 2)
    assert draw(figure).std() > 0


def test_figures_are_not_kept_by_pyplot():
    from matplotlib import pyplot

    before = pyplot.get_fignums()
    score_histogram(ID, OOD, "msp")
    assert pyplot.get_fignums() == before


@pytest.mark.parametrize("name", ["$\\frac{", "caf\udce9", "a\x1bb", "$x^2$"])
def test_names_from_files_are_drawn_as_they_are(name):
    figures = [
        score_histogram(ID, {name: ID + 1}, name),
        roc_curves({name: (ID, ID + 1)}, name),
        stop_depth_histogram({name: [1, 2]}, 3),
    ]
    for figure in figures:
        draw(figure)

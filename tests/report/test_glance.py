import pytest

from diffguard.report.glance import at_a_glance
from diffguard.report.overview import headline, short_rows
from diffguard.report.summary import summarize
from tests.helpers.small_table import make_run


def test_the_figure_shows_values_and_intervals_of_the_main_scores():
    results = summarize(make_run(), draws=100)
    figure = at_a_glance(results)
    assert figure._suptitle.get_text() == headline(results)
    rows = short_rows(results)
    names = [label.get_text() for label in figure.axes[0].get_yticklabels()]
    assert names == [row.title for row in rows]
    for axes, metric in zip(figure.axes, ("auroc", "fpr95_id_positive"), strict=True):
        near, far = axes.containers
        for container, group in ((near, "near"), (far, "far")):
            points, _, (bars,) = container
            values = [100 * row.groups[group][metric] for row in rows]
            assert points.get_xdata().tolist() == pytest.approx(values)
            ends = [segment[:, 0].tolist() for segment in bars.get_segments()]
            for (low, high), row, value in zip(ends, rows, values, strict=True):
                interval = [100 * end for end in row.groups[group][f"{metric}_ci95"]]
                assert low == pytest.approx(min(interval[0], value))
                assert high == pytest.approx(max(interval[1], value))

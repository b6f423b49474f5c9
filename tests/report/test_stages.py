from dataclasses import replace

import numpy as np
import pytest

from diffguard.report.glance import stage_shares
from diffguard.report.notes import make_notes
from diffguard.report.summary import summarize
from tests.helpers.small_table import make_run


def cascade_run():
    """The ID images with an index divisible by 5 and all near images are in doubt."""
    run = make_run(settings={"config": {"detector": {"fusion": {"budget": 12.0}}}})
    table = run.table
    doubtful = (table.index % 5 == 0) | (table.dataset == table.dataset_names.index("near_a"))
    stage = np.where(table.valid, np.where(doubtful, 2, 1), -1)
    passes = np.where(stage == 1, 0, table.network_passes)
    return replace(run, table=replace(table, stage=stage, network_passes=passes))


def test_results_show_what_each_stage_decides_and_costs():
    run = cascade_run()
    results = summarize(run, draws=10)
    rows = {(row["dataset"], row["stage"]): row for row in results["stages"]}
    table, limit = run.table, run.threshold_of("fusion")
    assert len(rows) == 2 * len(run.groups)
    for (name, stage), row in rows.items():
        images = table.rows(name)
        mask = table.stage[images] == stage
        flags = table.scores["fusion"][images] > limit
        assert (row["group"], row["n"]) == (run.groups[name], mask.sum())
        assert row["share"] == mask.mean()
        assert row["accepted"] + row["flagged"] == pytest.approx(row["share"])
        assert row["flagged"] == (mask & flags).sum() / len(images)
    assert (rows["digits", 1]["network_passes"], rows["digits", 2]["network_passes"]) == (0, 60)
    assert rows["near_a", 1]["network_passes"] is None
    cost = results["cost"]
    assert cost["network_passes_per_id_image"] == pytest.approx(60 * 10 / 49)
    assert cost["network_passes_budget"] == 12
    notes = [text for label, text in make_notes(results) if label == "Cascade"]
    assert notes[0] == (
        "far_b, by fusion: stage 1 decides 78.9% (26.3% accepted, 52.6% flagged), 0 passes; "
        "stage 2 decides 21.1% (5.3% accepted, 15.8% flagged), 40 passes"
    )
    near = next(note for note in notes if note.startswith("near_a"))
    assert " stage 1 decides 0.0% (0.0% accepted, 0.0% flagged); stage 2 decides 100.0% (" in near
    assert notes[-1] == "12.24 network passes per ID image, budget 12 (met on ID validation images)"


def test_without_a_cascade_there_are_no_stages():
    results = summarize(make_run(), draws=10)
    assert results["stages"] == []
    assert "network_passes_per_id_image" not in results["cost"]


def test_the_figure_of_the_stages_adds_up_to_each_set():
    results = summarize(cascade_run(), draws=10)
    (axes,) = stage_shares(results).axes
    rows = {(row["dataset"], row["stage"]): row for row in results["stages"]}
    sets = [label.get_text() for label in axes.get_yticklabels()]
    widths = np.array([bar.get_width() for bar in axes.patches]).reshape(4, len(sets))
    np.testing.assert_allclose(widths.sum(0), 100)
    for name, column in zip(sets, widths.T, strict=True):
        expected = [rows[name, s][v] for s in (1, 2) for v in ("accepted", "flagged")]
        np.testing.assert_allclose(column, 100 * np.array(expected))

"""Rows of a score table, some with names that need escapes, and lines of the timing file."""

from __future__ import annotations

import json
import random

from diffguard.score_table.rows import ScoreRow
from diffguard.score_table.writer import ScoreWriter

NAMES = ("msp", "diffguard/logits_l1")


def make_row(dataset, index, path=None):
    rng = random.Random(f"{dataset}/{index}")
    return ScoreRow(
        dataset=dataset,
        index=index,
        path=path or f"{dataset}/{index}.png",
        label=index % 3 if dataset == "digits" else -1,
        prediction=index % 3,
        probability=rng.random(),
        scores={name: rng.gauss(0, 30) for name in NAMES},
        stop_step=index,
        network_passes=2 * index,
    )


ROWS = [make_row("digits", i) for i in range(7)] + [make_row("letters", i) for i in range(4)]
ROWS[3] = make_row("digits", 3, path='a, "quoted"\r\npath with ütf-8 and \udcff.png')
ROWS[5] = ScoreRow("digits", 5, "broken.png", 2, error="truncated,\nimage")

SETS = {"letters": {"n": 4}, "digits": {"n": 7}}


def write(folder, rank, rows, chunk=3):
    with ScoreWriter(folder, rank, NAMES) as writer:
        for start in range(0, len(rows), chunk):
            writer.write(rows[start : start + chunk])


def timing_line(session, rank=0, images=10, seconds=2.0, fill=1.0):
    """A line of `timing.jsonl`."""
    values = {"session": session, "rank": rank, "images": images, "seconds": seconds, "fill": fill}
    return json.dumps(values)

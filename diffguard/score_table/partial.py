"""Images that lack some scores, such as those that skipped the diffusion model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffguard.score_table.encoding import (
    SCORES,
    Place,
    RecordReader,
    complete_records,
    decode_row,
    locate_rows,
    rank_tables,
)
from diffguard.score_table.manifest import run_key


def read_partial(folder: Path) -> tuple[list[tuple[str, int]], dict[str, NDArray[np.float64]]]:
    """Read the scores of images without a row that has all of them.

    Args:
        folder: The evaluation folder.

    Returns:
        (dataset, index) of N images, and score -> `(N,)`, NaN where it is missing.

    Raises:
        UserError: If a row belongs to another run, or is damaged in a way that a crash does not
            explain.
    """
    run, tables = run_key(folder), rank_tables(folder)
    partial: dict[tuple[str, int], tuple[int, Place]] = {}
    complete: set[tuple[str, int]] = set()
    for number, path in enumerate(tables):
        for place in locate_rows(path, run):
            if place.partial:
                partial[place.image] = number, place
            elif not place.failed:
                complete.add(place.image)
    images = [image for image in partial if image not in complete]
    if not images:
        return [], {}
    # All tables of a run have the same columns.
    _, header = next(complete_records(tables[0]))
    names, values = decode_row(header, tables[0])[SCORES], []
    with RecordReader(tables) as reader:
        for number, place in map(partial.__getitem__, images):
            record = reader.read(number, place.offset, place.size)
            cells = decode_row(record, tables[number])[SCORES]
            values.append([float(cell) if cell else math.nan for cell in cells])
    return images, dict(zip(names, np.array(values).T, strict=True))

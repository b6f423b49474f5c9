"""Merges the tables of all processes into one sorted table."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from diffguard.errors import UserError
from diffguard.score_table.encoding import (
    RecordReader,
    check_header,
    complete_records,
    decode_row,
    encode_rows,
    locate_rows,
    rank_tables,
    unsealed,
)
from diffguard.score_table.manifest import read_manifest, run_key
from diffguard.storage.files import replace_file

# Rank of a row with an error, after those with some scores (1) and with all scores (0).
_FAILED = 2


def merge(folder: Path, order: Sequence[str] | None = None) -> Path:
    """Merge the tables of all processes into `scores.csv`, sorted by set and index.

    Rows are copied as bytes, so the result does not depend on the number of processes. If an image
    has rows with scores, its rows with an error are dropped. If it has a row with all
    scores, those that lack some are dropped. The file appears in one step, and the merge needs
    about 100 bytes of memory per image.

    Args:
        folder: The evaluation folder.
        order: Order of the sets; defaults to the order of `"sets"` in the manifest.

    Returns:
        The path of `scores.csv`.

    Raises:
        UserError: If there is no table, tables differ in their columns, a row was changed, an image
            has two different rows, or a set is missing in the order or has another number of images
            than in the manifest.
    """
    folder = Path(folder)
    sets, run = (read_manifest(folder) or {}).get("sets", {}), run_key(folder)
    codes = {name: code for code, name in enumerate(sets if order is None else order)}
    tables = [path for path in rank_tables(folder) if any(complete_records(path))]
    if not tables:
        raise UserError(f"no score tables in {folder / 'scores'}: run the evaluation first")
    columns = [decode_row(next(complete_records(path))[1], path) for path in tables]
    places = array("q")
    for number, path in enumerate(tables):
        check_header(path, columns[number], columns[0])
        for place in locate_rows(path, run):
            name, index = place.image
            if name not in codes:
                raise UserError(
                    f"{path} has rows of {name!r}, expected one of {', '.join(codes) or 'no set'}: "
                    "name it in the order of the sets"
                )
            rank = _FAILED if place.failed else place.partial
            places.extend((codes[name], index, rank, number, place.offset, place.size))
    rows = np.frombuffer(places, dtype=np.int64).reshape(-1, 6)
    # Among the rows of an image, those with all scores come first.
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    first = np.ones(len(rows), dtype=bool)
    first[1:] = (rows[1:, :2] != rows[:-1, :2]).any(axis=1)
    for name, code in codes.items():
        count, expected = int(first[rows[:, 0] == code].sum()), sets.get(name, {}).get("n")
        if expected is not None and count != expected:
            raise UserError(
                f"{folder} has rows for {count} of the {expected} images of {name}: start the same "
                "command again to score the rest"
            )
    target = folder / "scores.csv"
    with (
        replace_file(target) as temporary,
        temporary.open("wb") as output,
        RecordReader(tables) as reader,
    ):
        output.write(encode_rows([columns[0][:-1]]))
        last = b""
        for row, is_first in zip(rows, first, strict=True):
            code, index, rank, number, offset, size = row.tolist()
            record = unsealed(reader.read(number, offset, size))
            if is_first:
                output.write(record)
                last = record
            elif record != last and not rank:
                raise UserError(
                    f"image {index} of {list(codes)[code]} has two different rows, one of them in "
                    f"{tables[number]}: they come from two runs that differ; delete "
                    f"{folder / 'scores'} and start again"
                )
    return target

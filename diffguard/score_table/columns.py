"""The columns of a score table while its rows are read."""

from __future__ import annotations

import math
import re
from array import array
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffguard.score_table.cells import from_cell
from diffguard.score_table.rows import (
    BASELINES_STAGE,
    DIFFUSION_STAGE,
    HEAD_COLUMNS,
    TAIL_COLUMNS,
)

_CHUNK = 10_000  # rows that are read before they move to their columns
_WHOLE = re.compile(r"-?[0-9]{1,9}")


class Columns:
    """The columns of a table, each in one block of memory that fills as rows are read.

    Args:
        names: The scores.
        most: Largest possible number of rows.
        has_stage: Whether a row names its stage, in front of the tail.
        partial: Whether a row of any stage may lack scores.
    """

    def __init__(
        self, names: Sequence[str], most: int, *, has_stage: bool, partial: bool = False
    ) -> None:
        self._names, self._has_stage, self._partial = names, has_stage, partial
        self._width = len(HEAD_COLUMNS) + len(names) + has_stage + len(TAIL_COLUMNS)
        self._floats = np.empty((1 + len(names), most))
        self._integers = np.empty((7, most), dtype=np.int32)
        self._errors = np.full(most, "", dtype=object)
        self._sets: dict[str, int] = {}
        self._paths = _Texts()
        self._missing = [math.nan] * len(self._floats)
        # Values of rows that are not in their columns yet.
        self._new_floats, self._new_integers = array("d"), array("i")

    def append(self, row: list[str]) -> None:
        """Add a row; raises `ValueError` if it is not a row of the table."""
        if len(row) != self._width:
            raise ValueError(f"a row has {len(row)} fields, expected {self._width}")
        name, index, image, label, prediction, *values, stop_step, passes, error = row
        code = self._sets.setdefault(from_cell(name), len(self._sets))
        stage = -1 if error else DIFFUSION_STAGE
        if self._has_stage:
            *values, text = values
            stage = _whole(text, 1) if text else -1
        self._new_integers.extend((code, _whole(index, 0), _whole(label, -1), stage))
        self._new_integers.extend(
            _whole(n, 0) if n else -1 for n in (prediction, stop_step, passes)
        )
        if stage == BASELINES_STAGE or self._partial:
            values = [text or "nan" for text in values]
        self._new_floats.extend(self._missing if error else map(float, values))
        if error:
            self._errors[len(self._paths)] = from_cell(error)
        self._paths.append(from_cell(image))
        if not len(self._paths) % _CHUNK:
            self._settle()

    def _settle(self) -> None:
        """Move the rows that were read to their columns."""
        for new, columns in (
            (self._new_floats, self._floats),
            (self._new_integers, self._integers),
        ):
            rows = np.asarray(new).reshape(-1, len(columns))
            columns[:, len(self._paths) - len(rows) : len(self._paths)] = rows.T
        self._new_floats, self._new_integers = array("d"), array("i")

    def arrays(self) -> dict[str, Any]:
        """The columns, named like the attributes of `ScoreTable`."""
        self._settle()
        end = len(self._paths)
        codes, indices, labels, stages, predictions, stops, passes = self._integers[:, :end]
        probability, *scores = self._floats[:, :end]
        return {
            "dataset_names": tuple(self._sets),
            "dataset": codes,
            "index": indices,
            "path": self._paths,
            "label": labels,
            "prediction": predictions,
            "probability": probability,
            "scores": dict(zip(self._names, scores, strict=True)),
            "stage": stages,
            "stop_step": stops,
            "network_passes": passes,
            "error": self._errors[:end],
        }


class _Texts(Sequence[str]):
    """Texts in one block of memory; as `str`, a million paths would take another 80 MB."""

    def __init__(self) -> None:
        self._content, self._ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        self._content += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._content))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[number] for number in range(len(self))[place]]
        place = range(len(self))[place]
        begin, end = self._ends[place], self._ends[place + 1]
        return self._content[begin:end].decode("utf-8", "surrogateescape")


def _whole(text: str, least: int) -> int:
    """Parse a whole number of a table; raises `ValueError` for anything else."""
    if not _WHOLE.fullmatch(text) or int(text) < least:
        raise ValueError(f"{text[:20]!r} is not a whole number from {least} to 999999999")
    return int(text)

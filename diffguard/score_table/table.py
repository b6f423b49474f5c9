"""The merged score table in memory: one numpy array per column."""

from __future__ import annotations

import csv
import io
import math
import re
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from diffguard.errors import UserError
from diffguard.score_table.cells import from_cell
from diffguard.score_table.rows import HEAD_COLUMNS, TAIL_COLUMNS
from diffguard.storage.reading import open_regular

_CHUNK = 10_000  # rows that are held as they were read
_LONGEST = 1 << 17  # characters of a line; far above any path or error text
_WIDEST = 1_000  # columns
_WHOLE = re.compile(r"-?[0-9]{1,9}")


class _Texts(Sequence[str]):
    """Texts in one piece of memory: a million paths as `str` would take 80 MB beside their own."""

    def __init__(self) -> None:
        self._content, self._ends = bytearray(), array("q", [0])

    def append(self, text: str) -> None:
        self._content += text.encode("utf-8", "surrogateescape")
        self._ends.append(len(self._content))

    def __len__(self) -> int:
        return len(self._ends) - 1

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[one] for one in range(len(self))[place]]
        place = range(len(self))[place]
        begin, end = self._ends[place], self._ends[place + 1]
        return self._content[begin:end].decode("utf-8", "surrogateescape")


@dataclass(frozen=True)
class ScoreTable:
    """All rows of a `scores.csv`, in its order.

    Attributes:
        dataset_names: Names of the sets in order of appearance.
        dataset: `(N,)` int32, position in `dataset_names`.
        index: `(N,)` int32, place of the image in its set.
        path: N texts.
        label: `(N,)` int32, −1 for OOD.
        prediction: `(N,)` int32; −1 where the row has an error.
        probability: `(N,)` float64 in [0, 1]; NaN where the row has an error.
        scores: Score name -> `(N,)` float64, higher = more OOD; NaN where the row has an error.
        stop_step: `(N,)` int32; −1 where there is none.
        network_passes: `(N,)` int32; −1 where there is none.
        error: `(N,)` objects, str; empty where the image was scored.
    """

    dataset_names: tuple[str, ...]
    dataset: NDArray[np.int32]
    index: NDArray[np.int32]
    path: Sequence[str]
    label: NDArray[np.int32]
    prediction: NDArray[np.int32]
    probability: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]
    stop_step: NDArray[np.int32]
    network_passes: NDArray[np.int32]
    error: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """`(N,)` bool, False where the image could not be scored."""
        return self.error == ""

    def rows(self, name: str) -> NDArray[np.intp]:
        """Positions of the scored images of the set `name`; none if the set is not there."""
        if name not in self.dataset_names:
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero((self.dataset == self.dataset_names.index(name)) & self.valid)

    @classmethod
    def read(cls, path: Path) -> ScoreTable:
        """Read a score table that `merge` wrote.

        Args:
            path: `scores.csv`.

        Returns:
            The table; a million rows of 20 scores take about ten seconds.

        Raises:
            UserError: If the file is missing or is no score table, naming the row.
        """
        path = Path(path)
        try:
            binary = open_regular(path)
        except FileNotFoundError as error:
            raise UserError(
                f"cannot read the score table {path} (No such file or directory): expected the "
                "scores.csv of an evaluation folder"
            ) from error
        with (
            binary,
            io.TextIOWrapper(
                binary, encoding="utf-8", errors="surrogateescape", newline=""
            ) as file,
        ):
            most, size = _count_lines(binary)
            reader = csv.reader(_lines(file))
            try:
                names = [from_cell(name) for name in next(reader, [])]
                # A row takes a byte per column at least, and the last one may lack its line break.
                most = min(most, size // max(len(names), 1)) + 1
                columns = _Columns(_score_names(names, path), most)
                for row in reader:
                    columns.append(row)
            except (ValueError, csv.Error) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(
                    f"{path} is damaged before line {reader.line_num + 1} ({error}): delete it, "
                    "and start the same command again to make it anew"
                ) from error
        table = columns.table()
        table._check_values(path)
        return table

    def _check_values(self, path: Path) -> None:
        for name, values in {"probability": self.probability, **self.scores}.items():
            sound = np.isfinite(values)
            if name == "probability":
                # Softmax in float32 may round to a little more than 1.
                sound &= (values >= 0) & (values <= 1 + 1e-5)
            broken = np.flatnonzero(self.valid & ~sound)
            if len(broken):
                row = broken[0]
                raise UserError(
                    f"{path}: {name} of {self.dataset_names[self.dataset[row]]} image "
                    f"{self.index[row]} ({self.path[row]}) is {values[row]}, expected a finite "
                    f"number{' in [0, 1]' * (name == 'probability')}: score this image again"
                )


class _Columns:
    """The columns of a table as they fill, each in one piece of memory.

    Args:
        names: The scores.
        most: No table has more rows.
    """

    def __init__(self, names: Sequence[str], most: int) -> None:
        self._names = names
        self._width = len(HEAD_COLUMNS) + len(names) + len(TAIL_COLUMNS)
        self._floats = np.empty((1 + len(names), most))
        self._integers = np.empty((6, most), dtype=np.int32)
        self._errors = np.full(most, "", dtype=object)
        self._sets: dict[str, int] = {}
        self._paths = _Texts()
        self._missing = [math.nan] * len(self._floats)
        # Rows that are read and not in their columns yet.
        self._new_floats, self._new_integers = array("d"), array("i")

    def append(self, row: list[str]) -> None:
        """Add a row; raises `ValueError` if it is none."""
        if len(row) != self._width:
            raise ValueError(f"a row has {len(row)} fields, expected {self._width}")
        name, index, image, label, prediction, *values, stop_step, passes, error = row
        code = self._sets.setdefault(from_cell(name), len(self._sets))
        self._new_integers.extend((code, _whole(index, 0), _whole(label, -1)))
        self._new_integers.extend(
            _whole(n, 0) if n else -1 for n in (prediction, stop_step, passes)
        )
        self._new_floats.extend(self._missing if error else map(float, values))
        if error:
            self._errors[len(self._paths)] = from_cell(error)
        self._paths.append(from_cell(image))
        if not len(self._paths) % _CHUNK:
            self._settle()

    def _settle(self) -> None:
        """Bring the rows that were read to their columns."""
        for new, columns in (
            (self._new_floats, self._floats),
            (self._new_integers, self._integers),
        ):
            rows = np.asarray(new).reshape(-1, len(columns))
            columns[:, len(self._paths) - len(rows) : len(self._paths)] = rows.T
        self._new_floats, self._new_integers = array("d"), array("i")

    def table(self) -> ScoreTable:
        """All rows."""
        self._settle()
        end = len(self._paths)
        codes, indices, labels, predictions, stops, passes = self._integers[:, :end]
        probability, *scores = self._floats[:, :end]
        return ScoreTable(
            dataset_names=tuple(self._sets),
            dataset=codes,
            index=indices,
            path=self._paths,
            label=labels,
            prediction=predictions,
            probability=probability,
            scores=dict(zip(self._names, scores, strict=True)),
            stop_step=stops,
            network_passes=passes,
            error=self._errors[:end],
        )


def _score_names(names: Sequence[str], path: Path) -> Sequence[str]:
    """The score columns of a header."""
    head, tail = len(HEAD_COLUMNS), len(names) - len(TAIL_COLUMNS)
    if (*names[:head], *names[max(head, tail) :]) != HEAD_COLUMNS + TAIL_COLUMNS:
        raise UserError(
            f"{path} is no score table: expected the columns {', '.join(HEAD_COLUMNS)}, scores, "
            f"{', '.join(TAIL_COLUMNS)}"
        )
    if len(set(names)) < len(names) or len(names) > _WIDEST:
        raise UserError(f"{path} is damaged: expected at most {_WIDEST} columns of different names")
    return names[head:tail]


def _whole(text: str, least: int) -> int:
    """A number that a table holds; raises `ValueError` for anything else."""
    if not _WHOLE.fullmatch(text) or int(text) < least:
        raise ValueError(f"{text[:20]!r} is not a whole number from {least} to 999999999")
    return int(text)


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_LONGEST + 1):
        if len(line) > _LONGEST:
            raise ValueError("a line never ends")
        yield line


def _count_lines(file: BinaryIO) -> tuple[int, int]:
    """Lines and bytes of a file, which is then at its beginning again."""
    lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    size = file.tell()
    file.seek(0)
    return lines, size

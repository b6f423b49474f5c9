"""The merged score table in memory: one numpy array per column."""

from __future__ import annotations

import csv
import math
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffguard.errors import UserError
from diffguard.scores import HEAD_COLUMNS, TAIL_COLUMNS


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
            file = path.open(encoding="utf-8", errors="surrogateescape", newline="")
        except OSError as error:
            raise UserError(
                f"cannot read the score table {path} ({error.strerror}): expected the scores.csv "
                "of an evaluation folder"
            ) from error
        with file:
            reader = csv.reader(file)
            columns = next(reader, [])
            head, tail = len(HEAD_COLUMNS), len(columns) - len(TAIL_COLUMNS)
            if (*columns[:head], *columns[max(head, tail) :]) != HEAD_COLUMNS + TAIL_COLUMNS:
                raise UserError(
                    f"{path} is no score table: expected the columns {', '.join(HEAD_COLUMNS)}, "
                    f"scores, {', '.join(TAIL_COLUMNS)}"
                )
            names: dict[str, int] = {}
            integers, floats = array("i"), array("d")
            paths = _Texts()
            errors: list[str] = []
            missing = [math.nan] * (tail - head + 1)
            try:
                for row in reader:
                    name, index, image, label, prediction = row[: head - 1]
                    stop_step, passes, failure = row[tail:]
                    integers.extend((names.setdefault(name, len(names)), int(index), int(label)))
                    integers.extend(int(n) if n else -1 for n in (prediction, stop_step, passes))
                    floats.extend(missing if failure else map(float, row[head - 1 : tail]))
                    paths.append(image)
                    errors.append(failure)
            except ValueError as error:
                raise UserError(
                    f"{path} is damaged before line {reader.line_num + 1} ({error}): merge the "
                    "tables of its processes again"
                ) from error
        codes, indices, labels, predictions, stops, counts = np.asarray(integers).reshape(-1, 6).T
        probability, *scores = np.asarray(floats).reshape(-1, len(missing)).T
        table = cls(
            dataset_names=tuple(names),
            dataset=codes,
            index=indices,
            path=paths,
            label=labels,
            prediction=predictions,
            probability=probability,
            scores=dict(zip(columns[head:tail], scores, strict=True)),
            stop_step=stops,
            network_passes=counts,
            error=_objects(errors),
        )
        table._check_finite(path)
        return table

    def _check_finite(self, path: Path) -> None:
        for name, values in {"probability": self.probability, **self.scores}.items():
            broken = np.flatnonzero(self.valid & ~np.isfinite(values))
            if len(broken):
                row = broken[0]
                raise UserError(
                    f"{path}: {name} of {self.dataset_names[self.dataset[row]]} image "
                    f"{self.index[row]} ({self.path[row]}) is {values[row]}, expected a finite "
                    "number: score this image again"
                )


def _objects(texts: list[str]) -> NDArray[np.object_]:
    values = np.empty(len(texts), dtype=object)
    values[:] = texts
    return values

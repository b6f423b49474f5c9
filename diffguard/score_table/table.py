"""The merged score table in memory: one numpy array per column."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, TextIO

import numpy as np
from numpy.typing import NDArray

from diffguard.errors import UserError
from diffguard.score_table.cells import from_cell
from diffguard.score_table.columns import Columns
from diffguard.score_table.rows import (
    BASELINES_STAGE,
    HEAD_COLUMNS,
    STAGE_COLUMN,
    TAIL_COLUMNS,
)
from diffguard.storage.reading import open_regular

_LONGEST = 1 << 17  # characters of a line; far above any path or error text
_WIDEST = 1_000  # columns


@dataclass(frozen=True)
class ScoreTable:
    """All rows of a `scores.csv`, in its order.

    Attributes:
        dataset_names: Names of the sets in order of appearance.
        dataset: `(N,)` int32, position in `dataset_names`.
        index: `(N,)` int32, place of the image in its set.
        path: N texts.
        label: `(N,)` int32, −1 for OOD.
        prediction: `(N,)` int32; −1 if the row has an error.
        probability: `(N,)` float64 in [0, 1]; NaN if the row has an error.
        scores: Score name -> `(N,)` float64, higher = more OOD; NaN if the row has an error, or if
            it has stage 1 and the score needs the diffusion model.
        stage: `(N,)` int32, 1 if the baselines decided alone, 2 if the diffusion model took part;
            −1 if the row has an error.
        stop_step: `(N,)` int32; −1 if there is none.
        network_passes: `(N,)` int32; −1 if there is none.
        error: `(N,)` objects, str; empty if the image was scored.
    """

    dataset_names: tuple[str, ...]
    dataset: NDArray[np.int32]
    index: NDArray[np.int32]
    path: Sequence[str]
    label: NDArray[np.int32]
    prediction: NDArray[np.int32]
    probability: NDArray[np.float64]
    scores: dict[str, NDArray[np.float64]]
    stage: NDArray[np.int32]
    stop_step: NDArray[np.int32]
    network_passes: NDArray[np.int32]
    error: NDArray[np.object_]

    def __len__(self) -> int:
        return len(self.dataset)

    @property
    def valid(self) -> NDArray[np.bool_]:
        """`(N,)` bool, False if the image could not be scored."""
        return self.error == ""

    @property
    def complete_scores(self) -> list[str]:
        """The scores that no scored image lacks, so that images can be compared by them."""
        return [name for name, v in self.scores.items() if not np.isnan(v[self.valid]).any()]

    def rows(self, name: str) -> NDArray[np.intp]:
        """Positions of the scored images of the set `name`; none if the table lacks the set."""
        if name not in self.dataset_names:
            return np.empty(0, dtype=np.intp)
        return np.flatnonzero((self.dataset == self.dataset_names.index(name)) & self.valid)

    @classmethod
    def read(cls, path: Path, *, partial: bool = False) -> ScoreTable:
        """Read a score table that `merge` wrote.

        Args:
            path: `scores.csv`.
            partial: Accept rows of any stage that lack scores.

        Returns:
            The table; a million rows of 20 scores take about ten seconds.

        Raises:
            UserError: If the file is missing, damaged or not a score table; names the row.
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
                # A row has at least one byte per column, and the last may lack its line break.
                most = min(most, size // max(len(names), 1)) + 1
                scores, has_stage = _score_names(names, path)
                columns = Columns(scores, most, has_stage=has_stage, partial=partial)
                for row in reader:
                    columns.append(row)
            except (ValueError, csv.Error) as error:
                if isinstance(error, UserError):
                    raise
                raise UserError(
                    f"{path} is damaged before line {reader.line_num + 1} ({error}): delete it and "
                    "start the same command again, which writes it from the tables in scores"
                ) from error
        table = cls(**columns.arrays())
        table._check_values(path, partial=partial)
        return table

    def _check_values(self, path: Path, *, partial: bool) -> None:
        for name, values in {"probability": self.probability, **self.scores}.items():
            sound = np.isfinite(values)
            if name == "probability":
                # Softmax in float32 may round to a little more than 1.
                sound &= (values >= 0) & (values <= 1 + 1e-5)
            else:
                sound |= np.isnan(values) & (partial | (self.stage == BASELINES_STAGE))
            broken = np.flatnonzero(self.valid & ~sound)
            if len(broken):
                row = broken[0]
                raise UserError(
                    f"{path}: {name} of {self.dataset_names[self.dataset[row]]} image "
                    f"{self.index[row]} ({self.path[row]}) is {values[row]}, expected a finite "
                    f"number{' in [0, 1]' * (name == 'probability')}: score this image again"
                )


def _score_names(names: Sequence[str], path: Path) -> tuple[Sequence[str], bool]:
    """The score columns of a header, and whether a stage follows them."""
    head, tail = len(HEAD_COLUMNS), len(names) - len(TAIL_COLUMNS)
    if (*names[:head], *names[max(head, tail) :]) != HEAD_COLUMNS + TAIL_COLUMNS:
        raise UserError(
            f"{path} is not a score table: expected the columns {', '.join(HEAD_COLUMNS)}, scores, "
            f"{', '.join(TAIL_COLUMNS)}"
        )
    if len(set(names)) < len(names) or len(names) > _WIDEST:
        raise UserError(f"{path} is damaged: expected at most {_WIDEST} columns of different names")
    scores = names[head:tail]
    has_stage = scores[-1:] == [STAGE_COLUMN]
    return (scores[:-1] if has_stage else scores), has_stage


def _lines(file: TextIO) -> Iterator[str]:
    while line := file.readline(_LONGEST + 1):
        if len(line) > _LONGEST:
            raise ValueError("a line never ends")
        yield line


def _count_lines(file: BinaryIO) -> tuple[int, int]:
    """Count the lines and bytes of a file, and return to its beginning."""
    lines = sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 20), b""))
    size = file.tell()
    file.seek(0)
    return lines, size

"""`calibration.csv`: the scores of the ID validation images."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from diffguard.errors import UserError, reason_of
from diffguard.score_table.cells import from_cell
from diffguard.score_table.encoding import encode_rows
from diffguard.storage.files import replace_file
from diffguard.storage.reading import read_text

NAME = "calibration.csv"


def write_calibration(folder: Path, calibration: Mapping[str, Tensor]) -> None:
    """Write score -> `(n,)` as a column per score.

    Raises:
        UserError: If the file cannot be written.
    """
    rows = zip(*(values.tolist() for values in calibration.values()), strict=True)
    with replace_file(folder / NAME) as path:
        path.write_bytes(encode_rows([list(calibration), *rows]))


def read_calibration(folder: Path) -> dict[str, Tensor]:
    """Read score -> `(n,)` float64; empty without the file.

    Raises:
        UserError: If the file is damaged.
    """
    path = folder / NAME
    try:
        text = read_text(path)
    except FileNotFoundError:
        return {}
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
        names = [from_cell(name) for name in header]
        values = torch.tensor([[float(cell) for cell in row] for row in rows], dtype=torch.float64)
        columns = dict(zip(names, values.reshape(len(rows), len(names)).T, strict=True))
        if not rows or len(columns) < len(names) or not values.isfinite().all():
            raise ValueError("a score is missing, repeated or not finite")  # noqa: TRY301
    except (ValueError, RuntimeError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged ({reason_of(error)}): expected a number per score and ID "
            "validation image; evaluate again with the checkpoint, which writes the file without "
            "scoring again"
        ) from error
    return columns

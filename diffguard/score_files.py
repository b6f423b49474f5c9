"""The bytes of a score table: which rows are complete, where they lie, how they are quoted.

A process may die at any byte. A row is complete when its line has ended outside quotes; whatever
follows the last complete row of a file is a torn row and is never read.
"""

from __future__ import annotations

import csv
import io
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from diffguard.errors import UserError

_LONGEST = 1 << 20  # bytes of a row; far above any path or error text


def rank_tables(folder: Path) -> list[Path]:
    """The tables of all processes that ever wrote into an evaluation folder."""
    return sorted((Path(folder) / "scores").glob("rank-*.csv"))


def complete_records(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of each complete row, the header first; a torn last row is left out.

    Args:
        path: The table.
        start: Where to begin, the end of a complete row.
    """
    offset, size, quoted = start, 0, False
    parts: list[bytes] = []
    with path.open("rb") as file:
        file.seek(start)
        for line in file:
            parts.append(line)
            size += len(line)
            # Quotes inside quoted text are doubled, so an even number means outside quotes.
            quoted ^= line.count(b'"') % 2 == 1
            if line.endswith(b"\n") and not quoted:
                yield offset, b"".join(parts)
                offset, size = offset + size, 0
                parts.clear()
            elif size > _LONGEST:
                raise UserError(
                    f"{path} is damaged at byte {offset}: a quoted text never ends; delete the "
                    "file to score its images again"
                )


@dataclass(frozen=True, slots=True)
class Place:
    """Where a row lies.

    Attributes:
        image: (dataset, index).
        failed: Whether the row has an error in the place of scores.
        offset: First byte in its file.
        size: Bytes.
    """

    image: tuple[str, int]
    failed: bool
    offset: int
    size: int


def locate_rows(path: Path) -> Iterator[Place]:
    """Yield the place of each complete row after the header; its last field is the error."""
    width = 0
    for offset, record in complete_records(path):
        fields = decode_row(record)
        if not width:
            width = len(fields)
        elif len(fields) != width or not fields[1].isdecimal():
            raise UserError(
                f"{path} is damaged at byte {offset}: a row must have {width} fields with an image "
                "number in the second; delete the file to score its images again"
            )
        else:
            image = (sys.intern(fields[0]), int(fields[1]))
            yield Place(image, bool(fields[-1]), offset, len(record))


def encode_rows(rows: Iterable[Iterable[object]]) -> bytes:
    """Write rows as CSV: all text quoted, floats by `repr`, None as an empty field."""
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC).writerows(rows)
    return text.getvalue().encode("utf-8", "surrogateescape")


def decode_row(record: bytes) -> list[str]:
    """The fields of one complete row."""
    return next(csv.reader([record.decode("utf-8", "surrogateescape")]))


def check_header(path: Path, found: Sequence[str], columns: Sequence[str]) -> None:
    """Raise `UserError` unless the columns found in `path` are the expected ones."""
    if list(found) != list(columns):
        odd = sorted(set(found) ^ set(columns)) or ["their order"]
        raise UserError(
            f"{path} has other columns than this run ({', '.join(odd)}): choose another output "
            "folder, or the scores of the run that wrote it"
        )

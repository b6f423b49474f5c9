"""The bytes of a score table: complete rows, quoting and seals.

A process may die at any byte. A row is complete if its line ends outside quotes; bytes after the
last complete row are a torn row, which is never read.

The last field of a row of `rank-<r>.csv` is its seal: a hash of the row, the table's header and the
manifest. If a row was edited or written by another run, its seal does not match.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import sys
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from diffguard.errors import UserError
from diffguard.score_table.cells import from_cell, to_cell
from diffguard.score_table.rows import HEAD_COLUMNS, STAGE_COLUMN, TAIL_COLUMNS
from diffguard.storage.reading import open_regular

SEAL = "seal"
# In a sealed row with a stage, the place of the stage, which follows the scores.
_STAGE = -len(TAIL_COLUMNS) - 2
SCORES = slice(len(HEAD_COLUMNS), _STAGE)
_LONGEST = 1 << 17  # bytes of a row; far above any path or error text
_IMAGE = re.compile(r"[0-9]{1,9}")
# `,"0123456789abcdef"` and the line break.
_SEAL_BYTES = 20
_OPEN_FILES = 128


def rank_tables(folder: Path) -> list[Path]:
    """The tables of all processes, of all sessions, in an evaluation folder."""
    return sorted((Path(folder) / "scores").glob("rank-*.csv"))


def complete_records(path: Path, start: int = 0) -> Iterator[tuple[int, bytes]]:
    """Yield (offset, bytes) of each complete row, the header first; a torn last row is left out.

    Args:
        path: The table.
        start: Offset of the first byte to read, the end of a complete row.

    Raises:
        UserError: If the table is not a file or a row is too long.
    """
    offset, size, quoted = start, 0, False
    parts: list[bytes] = []
    with open_regular(path) as file:
        file.seek(start)
        while line := file.readline(_LONGEST + 1):
            parts.append(line)
            size += len(line)
            # Quotes inside quoted text are doubled, so an even number means outside quotes.
            quoted ^= line.count(b'"') % 2 == 1
            if size > _LONGEST:
                raise UserError(
                    f"{path} is damaged at byte {offset}: a row never ends; delete the file to "
                    "score its images again"
                )
            if line.endswith(b"\n") and not quoted:
                yield offset, b"".join(parts)
                offset, size = offset + size, 0
                parts.clear()


@dataclass(frozen=True, slots=True)
class Place:
    """The place of a row in its file.

    Attributes:
        image: (dataset, index).
        failed: Whether the row has an error instead of scores.
        partial: Whether it lacks some scores, as in stage 1 of a cascade.
        offset: Its first byte.
        size: Its number of bytes.
    """

    image: tuple[str, int]
    failed: bool
    partial: bool
    offset: int
    size: int


def locate_rows(path: Path, run: bytes) -> Iterator[Place]:
    """Yield the place of each complete row after the header.

    Args:
        path: The table of a process.
        run: The key of the run, `manifest.run_key`.

    Raises:
        UserError: If a row belongs to another run, or is damaged in a way that a crash does not
            explain.
    """
    width, key, has_stage = 0, b"", False
    for offset, record in complete_records(path):
        fields = decode_row(record, path)
        if not width:
            width, key = len(fields), table_key(record, run)
            has_stage = STAGE_COLUMN in fields[_STAGE : _STAGE + 1]
            if fields[-1] != SEAL:
                raise UserError(
                    f"{path} is not a table of this version: its last column must be {SEAL!r}; "
                    "choose another output folder"
                )
        elif len(fields) != width or not _IMAGE.fullmatch(fields[1]):
            raise UserError(
                f"{path} is damaged at byte {offset}: a row must have {width} fields with an image "
                "number in the second; delete the file to score its images again"
            )
        elif seal(unsealed(record), key) != record:
            raise UserError(
                f"{path} is damaged at byte {offset}: the row of {fields[0]} image {fields[1]} was "
                "changed after it was written, or another run wrote it; delete the file to score "
                "its images again"
            )
        else:
            image = (sys.intern(fields[0]), int(fields[1]))
            failed = bool(fields[-2])
            partial = has_stage and not failed and "" in fields[SCORES]
            yield Place(image, failed, partial, offset, len(record))


def table_key(header: bytes, run: bytes) -> bytes:
    """The key that seals the rows of a table with this header."""
    return hashlib.blake2b(header, digest_size=32, key=run).digest()


def seal(row: bytes, key: bytes) -> bytes:
    """Append the seal to a row as its last field; the row ends in a line break."""
    digest = hashlib.blake2b(row, digest_size=8, key=key).hexdigest()
    return b'%s,"%s"\n' % (row[:-1], digest.encode())


def unsealed(record: bytes) -> bytes:
    """The row without its seal."""
    return record[:-_SEAL_BYTES] + b"\n"


def encode_rows(rows: Iterable[Iterable[object]]) -> bytes:
    """Write rows as CSV: text quoted (see `cells`), floats by `repr`, None as an empty field."""
    text = io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([to_cell(x) if isinstance(x, str) else x for x in row] for row in rows)
    return text.getvalue().encode("utf-8")


def decode_row(record: bytes, path: Path) -> list[str]:
    """The fields of one complete row of the table `path`."""
    try:
        return [from_cell(field) for field in next(csv.reader([record.decode("utf-8")]))]
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path} is damaged: {error}; delete the file to score its images again"
        ) from error


def check_header(path: Path, header: Sequence[str], columns: Sequence[str]) -> None:
    """Raise `UserError` unless the header of `path` has the expected columns."""
    if list(header) != list(columns):
        odd = sorted(set(header) ^ set(columns)) or ["their order"]
        raise UserError(
            f"{path} has other columns than this run ({', '.join(odd)}): choose another output "
            "folder, or the scores of the run that wrote it"
        )


class RecordReader:
    """Reads rows of many tables at known places, with a limited number of files open at a time.

    Args:
        tables: The tables.
    """

    def __init__(self, tables: Sequence[Path]) -> None:
        self._tables = tables
        self._files: OrderedDict[int, BinaryIO] = OrderedDict()

    def read(self, number: int, offset: int, size: int) -> bytes:
        """The bytes of a row of table `number`."""
        file = self._files.pop(number, None) or open_regular(self._tables[number])
        self._files[number] = file
        if len(self._files) > _OPEN_FILES:
            self._files.popitem(last=False)[1].close()
        file.seek(offset)
        return file.read(size)

    def __enter__(self) -> RecordReader:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for file in self._files.values():
            file.close()

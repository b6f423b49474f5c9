"""Output folders that were edited, truncated or mixed up are refused in one line."""

import csv
import json
import os
import resource

import numpy as np
import pytest
import torch

from diffguard.errors import UserError
from diffguard.report.run_files import read_run, write_run
from diffguard.score_table.contents import write_contents, read_contents
from diffguard.score_table.manifest import FORMAT, open_manifest
from diffguard.score_table.merge import merge
from diffguard.score_table.writer import read_done
from tests.helpers.table_rows import NAMES, ROWS, make_row, timing_line, write

SETS = {"digits": {"n": 7}, "letters": {"n": 4}}
MANIFEST = {"format": FORMAT, "groups": {"digits": "id", "letters": "far"}, "sets": SETS, "seed": 5}
RANK = "scores/rank-0.csv"


@pytest.fixture
def folder(tmp_path):
    """A complete evaluation folder."""
    out = tmp_path / "out"
    open_manifest(out, MANIFEST)
    write_contents(out, np.arange(11))
    write(out, 0, ROWS)
    merge(out)
    scores = {name: torch.arange(9).double() / 3 for name in NAMES}
    write_run(out, scores, {"device": "cpu"}, {})
    (out / "timing.jsonl").write_text(timing_line("a") + "\n")
    return out


def refused(read, folder, message=""):
    with pytest.raises(UserError) as caught:
        read(folder)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert message in str(caught.value)


def edit(path, change, *, sealed=True):
    """Change the rows of a table; remove the digests unless `sealed`."""
    header, *rows = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([header, *change(rows)]))
    if not sealed:
        record = json.loads((path.parent / "run.json").read_text())
        (path.parent / "run.json").write_text(json.dumps({**record, "digests": {}}))


def test_an_intact_folder_is_read(folder):
    assert len(read_run(folder).table) == 11
    assert read_done(folder) == {(r.dataset, r.index) for r in ROWS if not r.error}


MOVED = {
    "cut": lambda rows: rows[:-1],
    "cut in a row": lambda rows: [*rows[:-1], rows[-1][:20]],
    "line break missing": lambda rows: [*rows[:-1], rows[-1][:-1], b"\n\n"],
    "doubled": lambda rows: [*rows, *rows],
    "one twice": lambda rows: [*rows[:5], rows[4], *rows[6:]],
    "exchanged": lambda rows: [rows[1], rows[0], *rows[2:]],
    "moved to another set": lambda rows: [*rows[:-1], rows[-1].replace(b"letters", b"digits")],
    "of an unknown set": lambda rows: [*rows[:-1], rows[-1].replace(b"letters", b"others")],
    "empty": lambda rows: [],
}


@pytest.mark.parametrize("change", MOVED.values(), ids=MOVED)
@pytest.mark.parametrize("contents", [True, False])
def test_truncated_repeated_or_moved_rows_are_detected(folder, change, contents):
    if not contents:
        (folder / "contents.npy").unlink()
    edit(folder / "scores.csv", change, sealed=False)
    refused(read_run, folder, "scores.csv is damaged")
    (folder / "scores.csv").unlink()
    refused(read_run, folder, "has no scores.csv: start the same evaluation again")
    merge(folder)
    assert len(read_run(folder).table) == 11


@pytest.mark.parametrize("name", ["scores.csv", "calibration.csv", "contents.npy"])
def test_a_changed_digit_is_detected(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[-30] ^= 1
    (folder / name).write_bytes(content)
    refused(read_run, folder, name)


FIELDS = {
    "label": (3, b"x"),
    "a label too large": (3, b"2147483648"),
    "a label below -1": (3, b"-2"),
    "an index with a sign": (1, b"+1"),
    "an index too large": (1, b"99999999999999999999"),
    "prediction": (4, b"1.5"),
    "probability": (5, b"1.5"),
    "score": (6, b"nan"),
    "no score": (6, b""),
    "step": (8, b"-7"),
    "passes": (9, b"1e3"),
    "a long field": (2, b'"' + b"x" * 300_000 + b'"'),
    "NUL": (2, b"\0"),
}


@pytest.mark.parametrize(("place", "value"), FIELDS.values(), ids=FIELDS)
def test_fields_out_of_range_are_refused(folder, place, value):
    def change(rows):
        fields = rows[0].rstrip(b"\n").split(b",")
        fields[place] = value
        return [b",".join(fields) + b"\n", *rows[1:]]

    edit(folder / "scores.csv", change, sealed=False)
    if value != b"\0":
        refused(read_run, folder, "scores.csv")
    edit(folder / RANK, change)
    refused(read_done, folder, RANK)
    refused(merge, folder, RANK)


def test_rows_of_another_run_are_detected(folder, tmp_path):
    other = tmp_path / "other"
    open_manifest(other, {**MANIFEST, "seed": 6})
    write(other, 0, [make_row("digits", 1), make_row("digits", 6)])
    (folder / "scores" / "rank-1.csv").write_bytes((other / RANK).read_bytes())
    for read in (read_done, merge):
        refused(read, folder, "another run wrote it")
    (folder / "scores" / "rank-1.csv").unlink()
    # Two scores with swapped names.
    text = (folder / RANK).read_text().replace(NAMES[0], "x", 1).replace(NAMES[1], NAMES[0], 1)
    (folder / RANK).write_text(text.replace('"x"', f'"{NAMES[1]}"', 1))
    refused(read_done, folder, "was changed after it was written")


DAMAGED = {
    "manifest.json": [
        "[]", "{", "null", '{"groups": 1}', '{"sets": [1]}', '{"seed": "x"}', '{"seed": -1}',
        '{"batch_size": "8"}', '{"batch_size": 1e9}', '{"machine": 3}',
        '{"machine": {"threads": 100000}}', '{"sets": {"a": {"n": -1}}}', '{"seed": Infinity}',
        "[" * 50_000, '{"groups": {"a": "somewhere"}}', "\x00",
    ],
    "run.json": [
        "[]", "{", '{"settings": 1, "absent": {}}', '{"settings": {}, "absent": {"a": 1}}',
        '{"settings": {}, "absent": {}, "digests": []}', '{"settings": {"a": NaN}, "absent": {}}',
        '{"a":' * 5000,
    ],
    "timing.jsonl": [
        "}", "[1]}", '{"session": "a"}', "{" * 50_000 + "}",
        timing_line("a", images=-1), timing_line("a", images="3"),
        timing_line("a", fill=float("nan")), timing_line("a", seconds=float("inf")),
        timing_line("a")[:-1] + ', "work": [["msp", ["msp"], 1, -0.5, 0, 0, 0]]}',
    ],
    "calibration.csv": [
        "", '"a"\n', '"a"\nx\n', '"a"\nnan\n', '"a","b"\n1\n', '"a","a"\n1,2\n', '"a"\n\n1\n',
        '"' + "x" * 200_000 + '"\n1\n', '"a"\n"1" "\n',
    ],
    "scores.csv": ["", "\n", "a,b\n", "\x00", '"' * 100_001, "x" * 300_000],
}  # fmt: skip


@pytest.mark.parametrize(("name", "text"), [(n, t) for n, texts in DAMAGED.items() for t in texts])
def test_error_of_a_malformed_file_names_it(folder, name, text):
    (folder / "run.json").unlink()
    (folder / name).write_text(text)
    refused(read_run, folder, name)
    (folder / name).write_bytes(b"\xff\xfe\x00")
    if name != "timing.jsonl":
        refused(read_run, folder, name)


@pytest.mark.parametrize("kind", ["folder", "pipe", "loop", "device"])
@pytest.mark.parametrize("name", ["manifest.json", "run.json", "timing.jsonl", "contents.npy",
                                  "calibration.csv", "scores.csv", RANK])  # fmt: skip
def test_special_files_are_refused_without_reading(folder, name, kind):
    path = folder / name
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.symlink_to(path if kind == "loop" else "/dev/zero")
    if name == RANK:
        refused(read_done, folder, name)
        refused(merge, folder, name)
    else:
        refused(read_run, folder, name)


@pytest.mark.parametrize(
    "array",
    [np.zeros((2, 2), np.int64), np.zeros(11), np.zeros(11, object), np.int64(3), np.arange(10)],
    ids=str,
)
def test_error_of_malformed_contents_names_the_file(folder, array):
    (folder / "run.json").unlink()
    np.save(folder / "contents.npy", array, allow_pickle=True)
    refused(read_run, folder, "contents.npy")


def test_a_small_file_cannot_claim_much_memory(folder):
    (folder / "run.json").unlink()
    header = b"{'descr': '<i8', 'fortran_order': False, 'shape': (9999999999999,), }\n"
    magic = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little")
    (folder / "contents.npy").write_bytes(magic + header)
    refused(read_contents, folder, "contents.npy")
    (folder / "contents.npy").unlink()
    columns = ",".join(f'"s{n}"' for n in range(100_000))
    head, tail = '"dataset","index","path","label","prediction","probability"', '"error"'
    text = f'{head},{columns},"stop_step","network_passes",{tail}\n' + "\n" * 1_000_000
    (folder / "scores.csv").write_text(text)
    refused(read_run, folder, "scores.csv")


def test_more_tables_than_the_limit_of_open_files_are_merged(tmp_path):
    count = 300
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    rows = [make_row("digits", index) for index in range(count)]
    open_manifest(tmp_path, {"sets": {"digits": {"n": count}}})
    for rank, row in enumerate(rows):
        write(tmp_path, rank, [row])
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        merged = merge(tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    with merged.open(newline="") as file:
        assert [row["index"] for row in csv.DictReader(file)] == list(map(str, range(count)))

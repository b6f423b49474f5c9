from dataclasses import replace

import numpy as np
import pytest

from diffguard.errors import UserError
from diffguard.score_table.merge import merge
from diffguard.score_table.rewrite import write_table
from diffguard.score_table.table import ScoreTable
from diffguard.score_table.writer import ScoreWriter
from tests.helpers.table_rows import NAMES, ROWS, write


@pytest.fixture
def path(tmp_path):
    write(tmp_path, 0, ROWS)
    return merge(tmp_path, order=["digits", "letters"])


def test_every_column_comes_back_bitwise(path):
    table = ScoreTable.read(path)
    assert len(table) == len(ROWS)
    assert table.dataset_names == ("digits", "letters")
    assert [table.dataset_names[code] for code in table.dataset] == [row.dataset for row in ROWS]
    assert list(table.path) == [row.path for row in ROWS]
    assert table.path[-1] == table.path[len(ROWS) - 1] == ROWS[-1].path
    for column in ("index", "label", "error"):
        assert getattr(table, column).tolist() == [getattr(row, column) for row in ROWS]
    good = [row for row in ROWS if not row.error]
    assert table.valid.tolist() == [not row.error for row in ROWS]
    for column in ("prediction", "probability", "stop_step", "network_passes"):
        values = getattr(table, column)[table.valid].tolist()
        assert values == [getattr(row, column) for row in good]
    assert list(table.scores) == list(NAMES)
    for name in NAMES:
        assert table.scores[name].dtype == np.float64
        assert table.scores[name][table.valid].tolist() == [row.scores[name] for row in good]
        assert np.isnan(table.scores[name][5])
    assert (table.prediction[5], table.stop_step[5], table.network_passes[5]) == (-1, -1, -1)


def test_a_table_is_written_as_it_was_read(path):
    whole = path.read_bytes()
    write_table(ScoreTable.read(path), path)
    assert path.read_bytes() == whole


def test_rows_of_a_set_leave_out_unreadable_images(path):
    table = ScoreTable.read(path)
    assert table.rows("digits").tolist() == [0, 1, 2, 3, 4, 6]
    assert table.rows("letters").tolist() == [7, 8, 9, 10]
    assert table.rows("absent").tolist() == []


def test_a_table_without_rows_is_read(path):
    path.write_text(path.read_text(errors="replace").splitlines()[0] + "\n")
    table = ScoreTable.read(path)
    assert len(table) == 0
    assert table.scores["msp"].dtype == np.float64


def edit(path, old, new):
    text = path.read_text(encoding="utf-8", errors="surrogateescape")
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8", errors="surrogateescape")


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (
            '"probability"',
            '"confidence"',
            "not a score table: expected the columns dataset",
        ),
        (',"letters/1.png",', ",", "is damaged before line"),
        (repr(ROWS[1].scores["msp"]), "much", "is damaged before line 4 .*much"),
        (repr(ROWS[1].scores["msp"]), "nan", r"msp of digits image 1 \(digits/1.png\) is nan"),
    ],
)
def test_a_foreign_or_damaged_file_is_refused(path, old, new, message):
    edit(path, old, new)
    with pytest.raises(UserError, match=message):
        ScoreTable.read(path)


def test_a_missing_or_empty_file_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"cannot read .*scores.csv \(No such file"):
        ScoreTable.read(tmp_path / "scores.csv")
    (tmp_path / "scores.csv").write_text("")
    with pytest.raises(UserError, match="is not a score table"):
        ScoreTable.read(tmp_path / "scores.csv")


def test_the_stages_of_a_cascade_come_back_with_missing_scores(tmp_path):
    skipped = replace(ROWS[0], scores={"msp": 1.5}, stage=1, stop_step=None, network_passes=0)
    rows = [skipped, replace(ROWS[1], stage=2), ROWS[5]]
    with ScoreWriter(tmp_path, 0, NAMES, has_stages=True) as writer:
        writer.write(rows)
        with pytest.raises(UserError, match=r"logits_l1 of digits image 2 .* is None"):
            writer.write([replace(ROWS[2], scores={"msp": 1.5}, stage=2)])
    table = ScoreTable.read(merge(tmp_path, order=["digits"]))
    assert table.stage.tolist() == [1, 2, -1]
    assert table.scores["msp"][:2].tolist() == [1.5, ROWS[1].scores["msp"]]
    assert np.isnan(table.scores["diffguard/logits_l1"]).tolist() == [True, False, True]
    assert table.network_passes.tolist() == [0, ROWS[1].network_passes, -1]
    assert table.complete_scores == ["msp"]
    whole = (tmp_path / "scores.csv").read_bytes()
    write_table(table, tmp_path / "scores.csv", has_stages=True)
    assert (tmp_path / "scores.csv").read_bytes() == whole


def test_without_a_cascade_the_diffusion_model_took_part_for_all(path):
    table = ScoreTable.read(path)
    assert table.stage.tolist() == [-1 if row.error else 2 for row in ROWS]
    assert table.complete_scores == list(NAMES)

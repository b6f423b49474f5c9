import json

import pytest
import torch

from diffguard.errors import UserError
from diffguard.report import publish
from diffguard.report.run_files import read_run, write_run
from diffguard.report.scored_run import Thresholds
from diffguard.score_table.merge import merge
from tests.helpers.table_rows import NAMES, ROWS, write

MANIFEST = {
    "groups": {"digits": "id", "letters": "far"},
    "sets": {"digits": {"n": 7}, "letters": {"n": 4}},
    "seed": 5,
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "manifest.json").write_text(json.dumps(MANIFEST))
    write(tmp_path, 0, ROWS)
    return tmp_path


def test_a_saved_run_is_read_back_bitwise(folder):
    scores = {name: torch.randn(9).double() for name in NAMES}
    settings = {"device": "cpu", "config": {"a": [1, 2]}}
    thresholds = Thresholds(0.95, {"msp": -0.1234567890123})
    write_run(folder, scores, settings, {"gone": "no folder"}, thresholds)
    line = {"session": "x", "rank": 0, "images": 11, "seconds": 2.0, "fill": 0.5}
    (folder / "timing.jsonl").write_text(json.dumps(line) + "\n")
    run = read_run(folder)
    assert (folder / "scores.csv").is_file()  # whole tables are merged
    assert len(run.table) == len(ROWS)
    assert list(run.calibration) == list(NAMES)
    assert all(torch.equal(run.calibration[name], scores[name]) for name in NAMES)
    assert run.settings == {"device": "cpu", "config": {"a": [1, 2]}}
    assert run.absent == {"gone": "no folder"}
    assert run.cost == {"images_per_second": 5.5, "batch_fill": 0.5}
    assert run.thresholds == thresholds
    assert (run.groups, run.seed) == (MANIFEST["groups"], 5)


def test_a_report_of_tables_keeps_the_report_beside_them(folder, monkeypatch):
    merge(folder)
    monkeypatch.setattr(publish, "report", lambda *_, page, **__: page)
    assert publish.report_again([folder], {}, folder) == "report_of_scores.html"
    assert publish.report_again([folder], {}, folder / "again") == "report.html"


def test_a_folder_with_no_more_than_tables_will_do(folder):
    merge(folder)
    run = read_run(folder)
    assert (run.calibration, run.cost, run.comparisons) == ({}, {}, [])
    assert run.settings == MANIFEST


def test_a_folder_without_an_evaluation_is_refused(tmp_path):
    with pytest.raises(UserError, match="is not an evaluation of ID and OOD sets"):
        read_run(tmp_path / "nowhere")
    (tmp_path / "manifest.json").write_text(json.dumps({"seed": 3, "sets": {}, "images": "x"}))
    with pytest.raises(UserError, match="is not an evaluation of ID and OOD sets"):
        read_run(tmp_path)


def test_incomplete_table_is_not_reported(tmp_path):
    manifest = {**MANIFEST, "sets": {"digits": {"n": 8}, "letters": {"n": 4}}}
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    write(tmp_path, 0, ROWS)
    with pytest.raises(UserError, match="rows for 7 of the 8 images of digits"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("calibration.csv", '"msp","knn"\n1.0,much\n', "calibration.csv is damaged .*much"),
        ("calibration.csv", '"msp","knn"\n1.0,2.0\n1.0\n', "calibration.csv is damaged"),
        ("calibration.csv", '"msp","knn"\n1.0,nan\n', "calibration.csv is damaged"),
        ("run.json", "{", "run.json is damaged: it is not JSON"),
        ("run.json", "[]", "run.json is damaged: its content"),
        ("run.json", '{"settings": {}}', "run.json is damaged: absent"),
        (
            "run.json",
            '{"settings": {}, "absent": {}, "thresholds": {"accept": 2, "scores": {}}}',
            "run.json is damaged: thresholds.accept",
        ),
    ],
)
def test_damaged_files_are_named(folder, name, text, message):
    (folder / name).write_text(text)
    with pytest.raises(UserError, match=message):
        read_run(folder)

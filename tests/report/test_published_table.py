"""A score table that was published alone."""

import json
import shutil

import pytest
import torch

import evaluate
from diffguard.errors import UserError
from diffguard.report.run_files import read_run, write_run
from diffguard.report.summary import summarize
from diffguard.score_table.merge import merge
from tests.helpers.table_rows import NAMES, ROWS, write

GROUPS = {"digits": "id", "letters": "far"}
WORDS = ["--groups.digits", "id", "--groups.letters", "far"]


@pytest.fixture
def published(tmp_path):
    """An evaluation folder, and a folder with its table and calibration alone."""
    manifest = {"groups": GROUPS, "sets": {"digits": {"n": 7}, "letters": {"n": 4}}, "seed": 0}
    source, folder = tmp_path / "source", tmp_path / "elsewhere"
    source.mkdir()
    (source / "manifest.json").write_text(json.dumps(manifest))
    write(source, 0, ROWS)
    merge(source)
    write_run(source, {name: torch.arange(9.0).double() for name in NAMES}, {}, {})
    folder.mkdir()
    for name in ("scores.csv", "calibration.csv"):
        shutil.copy(source / name, folder)
    return source, folder


def test_a_table_alone_gives_the_results_of_its_evaluation_and_is_fused(published):
    source, folder = published
    first, second = NAMES[:2]
    words = ["--scores", str(folder), *WORDS, "--fuse.mine", f"[{first}, {second}]"]
    assert evaluate.main(words) == 0
    results = json.loads((folder / "results.json").read_text())
    rows = [row for row in results["rows"] if row["score"] != "fusion/mine"]
    for row, expected in zip(rows, summarize(read_run(source))["rows"], strict=True):
        assert {**row, "ood_flagged": None} == {**expected, "ood_flagged": None}
    assert {row["against"] for row in results["comparisons"]} == {first, second}


def test_a_table_may_have_another_name_and_needs_calibration_only_to_be_fused(published, tmp_path):
    table = shutil.copy(published[1] / "scores.csv", tmp_path / "theirs.csv")
    words = ["--scores", str(table), *WORDS, "--output", str(tmp_path / "out")]
    assert evaluate.main(words) == 0
    with pytest.raises(UserError, match=r"put calibration\.csv beside scores\.csv"):
        evaluate.main([*words, "--fuse.mine", f"[{', '.join(NAMES[:2])}]"])


def test_missing_and_unneeded_groups_are_refused(published):
    source, folder = published
    for words in ([], ["--groups.other", "id"]):
        with pytest.raises(UserError, match="give the groups of its sets digits, letters"):
            evaluate.main(["--scores", str(folder), *words])
    with pytest.raises(UserError, match="the manifest of each folder names the groups"):
        evaluate.main(["--scores", str(source), *WORDS])

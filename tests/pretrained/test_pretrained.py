"""The demo detector ships with the package and gives a verdict at once."""

import csv
from pathlib import Path

import pytest

import diffguard
from diffguard import DEMO_IMAGES, Detector, UserError
from diffguard_cli.evaluation import main


@pytest.fixture(scope="module")
def verdicts():
    return Detector.load("demo").predict(list(DEMO_IMAGES))


def test_the_digit_is_id_and_the_letter_is_ood(verdicts):
    digit, letter = verdicts
    assert (digit.class_name, digit.is_ood, letter.is_ood) == ("3", False, True)
    assert letter.p_value < 0.01 < 0.3 < digit.p_value


def test_the_command_line_gives_the_same_scores(verdicts, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["--trainer.progress", "false", "--trainer.threads", "1", "--data.batch_size", "8"]
    assert main(["--ckpt", "demo", "--images", "demo", "--drift", *options]) == 0
    assert "2 images against 400 ID validation images" in capsys.readouterr().out
    table = Path("runs/demo_detector/images/images/images.csv")
    with table.open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == ["digit.png", "letter.png"]
    assert [row["verdict"] for row in rows] == ["id", "ood"]
    assert [float(row["score"]) for row in rows] == verdicts.score.tolist()


def test_an_existing_path_wins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("demo").mkdir()
    with pytest.raises(UserError, match="demo is a folder: expected a file"):
        Detector.load("demo")
    with pytest.raises(UserError, match="nothing does not exist"):
        Detector.load("nothing")


def test_the_demo_detector_takes_less_than_4_mb():
    folder = Path(diffguard.__file__).parent / "pretrained"
    assert sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) < 4_000_000

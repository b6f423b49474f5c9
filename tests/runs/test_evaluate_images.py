"""`evaluate.main` on folders of images and on unreadable images."""

import csv
import io
import json
import os
import re
import shutil
import struct
import zlib

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import false_discovery_control

from diffguard import Detector
from diffguard.errors import UserError
from diffguard.score_table.cells import from_cell
from diffguard.score_table.table import ScoreTable
from tests.helpers.commands import start
from tests.helpers.html_page import read_page, select
from tests.helpers.tiny_project import write_images


def read_rows(folder):
    text = (folder / "images.csv").read_text(encoding="utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_folder_of_images_gets_verdicts(ckpt, tmp_path, capsys):
    write_images(tmp_path / "mine" / "deep", 5, "noise", 4)
    write_images(tmp_path / "mine" / "left", 4, "left", 5)
    mine = ["--images", tmp_path / "mine", "--output", tmp_path / "out"]
    assert start(ckpt, *mine, "--drift") == 0
    rows = read_rows(tmp_path / "out")
    columns = ["path", "prediction", "probability", "score", "percentile", "p_value", "verdict"]
    columns.append("stage")
    assert list(rows[0]) == columns
    assert [row["path"] for row in rows][:2] == ["deep/000.png", "deep/001.png"]
    calibration = Detector.load(ckpt).calibration
    threshold = calibration.threshold("fusion", 0.95)
    for row in rows:
        assert row["verdict"] == ("ood" if float(row["score"]) > threshold else "id")
        assert row["prediction"] in ("dots", "left", "right")
    out = capsys.readouterr().out
    assert "9 images" in out
    low, high = calibration.accept_interval(0.95)
    assert "Approximate guarantee, because fusion is fitted to the validation images: if" in out
    assert "new ID images follow the distribution of the 24 ID validation images, about 95%" in out
    assert f"of them are accepted on average, and {low:.1%} to {high:.1%} with a" in out
    drift = re.search(r"^drift found: p = .*; 9 images against 24 ID validation", out, re.MULTILINE)
    assert drift, out
    # The same scores are judged together.
    start(ckpt, *mine, "--fdr", 0.5)
    again = read_rows(tmp_path / "out")
    p_values = [float(row["p_value"]) for row in rows]
    assert [float(row["p_value"]) for row in again] == p_values
    flags = ["ood" if flag else "id" for flag in false_discovery_control(p_values) <= 0.5]
    assert [row["verdict"] for row in again] == flags
    assert "at most about 50% of the flagged images are ID on average" in capsys.readouterr().out
    few = ["--images", tmp_path / "mine", "--output", tmp_path / "few", "--accept", 0.99]
    with pytest.raises(UserError, match="takes at least 99 ID validation images"):
        start(ckpt, *few)
    assert not (tmp_path / "few").exists()


def test_verdicts_are_explained_by_a_report_and_panels(ckpt, tmp_path):
    hostile = "<img src=x onerror=alert(1)>.png"
    write_images(tmp_path / "mine", 3, "noise", 4)
    (tmp_path / "mine" / "000.png").rename(tmp_path / "mine" / hostile)
    (tmp_path / "mine" / "002.png").rename(tmp_path / "mine" / "=2.png")
    (tmp_path / "mine" / "notes.txt").write_text("no image")
    out = tmp_path / "out"
    words = ["--images", *sorted((tmp_path / "mine").iterdir()), "--output", out]
    assert start(ckpt, *words, "--panels", 1) == 3
    elements = read_page((out / "report.html").read_text(encoding="utf-8"))
    cards = {card.attributes["data-name"]: card for card in select(elements, "article")}
    rows = {from_cell(row["path"]): row for row in read_rows(out)}
    names = [str(tmp_path / "mine" / name) for name in (hostile, "001.png", "=2.png")]
    assert set(rows) == set(cards) == set(names)
    for name, row in rows.items():
        assert cards[name].attributes["data-verdict"] == row["verdict"]
        assert float(cards[name].attributes["data-score"]) == float(row["score"])
    captions = [e.text for e in select(elements, "figcaption")]
    # One image is reconstructed again; the others keep the pictures of their scoring.
    assert (captions.count("guided"), captions.count("unguided")) == (3, 1)
    assert len(select(elements, "img", src="x")) == 0
    assert "notes.txt cannot be read: it is not a BMP" in select(elements, "section")[-2].text
    assert not (out / "explanations").exists()
    assert start(ckpt, *words, "--explain") == 3
    detector = Detector.load(ckpt)
    for row in read_rows(out):
        explanation = detector.explain(from_cell(row["path"]))
        assert from_cell(row["explanation"]) == explanation.text
        with Image.open(out / row["panel"]) as panel:
            assert panel.width > 300


def test_files_that_are_not_images_are_skipped_and_listed(ckpt, tmp_path, capsys):
    write_images(tmp_path / "mine", 3, "noise", 4)
    (tmp_path / "mine" / "notes.txt").write_text("no image")
    (tmp_path / "mine" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    os.mkfifo(tmp_path / "mine" / "pipe.png")
    Image.new("1", (12000, 12000)).save(tmp_path / "mine" / "large.png")
    (tmp_path / "mine" / "002.png").rename(tmp_path / "mine" / "caf\udce9.png")
    assert start(ckpt, "--images", tmp_path / "mine", "--accept", 0.5) == 3
    skipped = [line for line in capsys.readouterr().out.splitlines() if "skipped: " in line]
    place = f"skipped: image {tmp_path / 'mine'}/"
    reasons = [line.removeprefix(place) for line in skipped]
    assert reasons[0].startswith("large.png is refused: it has 12000 x 12000 pixels")
    assert reasons[1].startswith("notes.txt cannot be read: it is not a BMP, GIF, ")
    assert reasons[2] == "pipe.png cannot be read: it is a named pipe, expected a file"
    assert reasons[3].startswith("torn.png cannot be read: ")
    table = ckpt.parent / "images" / "mine" / "images.csv"
    with table.open(encoding="utf-8", newline="") as file:
        paths = [from_cell(row["path"]) for row in csv.DictReader(file)]
    assert paths == ["000.png", "001.png", "caf\udce9.png"]


def test_results_inside_the_folder_of_images_are_not_scored(ckpt, tmp_path, monkeypatch, capsys):
    home, mine = tmp_path / "home", tmp_path / "home" / "a@b:c"
    write_images(mine, 3, "noise", 4)
    monkeypatch.setenv("HOME", str(home))
    for output in ("~/a@b:c/out", "~/a@b:c/out", "~/a@b:c/next"):
        assert start(ckpt, "--images", "~/a@b:c", "--output", output) == 0
        assert "3 images" in capsys.readouterr().out
    monkeypatch.chdir(mine)
    assert start(ckpt, "--images", ".", "--output", "out") == 0  # the same folder by another name
    captured = capsys.readouterr()
    assert "3 images" in captured.out
    assert "left out below .: next (results of this program), out (results" in captured.err
    with pytest.raises(UserError, match="is the folder of --images: name another"):
        start(ckpt, "--images", mine, "--output", "../a@b:c")
    shutil.copy(ckpt, mine / "detector.ckpt")
    for _ in range(2):
        assert start("detector.ckpt", "--images", ".") == 3  # detector.ckpt is not an image
        assert "3 images" in capsys.readouterr().out
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _uid: {}[0])
    for option in ("--images", "--output", "--data.root"):
        with pytest.raises(UserError, match=f"{option} '~/x': the home folder is unknown"):
            start(ckpt, option, "~/x")


def test_changed_images_are_scored_into_a_new_folder(ckpt, tmp_path):
    for folder, count in (("mine", 3), ("other", 2)):
        write_images(tmp_path / folder, count, "noise", 4)
        assert start(ckpt, "--images", tmp_path / folder) == 0
    again = ["--accept", 0.5, "--data.batch_size", "auto"]
    assert start(ckpt, "--images", tmp_path / "mine", *again) == 0
    write_images(tmp_path / "mine" / "more", 1, "left", 5)
    assert start(ckpt, "--images", tmp_path / "mine") == 0
    counts = {
        path.parent.name: len(path.read_text().splitlines()) - 1
        for path in (ckpt.parent / "images").glob("*/images.csv")
    }
    assert counts == {"mine": 3, "other": 2, "mine-2": 4}


def png_that_claims(side):
    """A PNG of a few bytes whose header claims a huge size."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def test_unreadable_images_are_rows_with_an_error_outside_all_metrics(
    ckpt, tmp_path, data_root, capsys
):
    root = shutil.copytree(data_root, tmp_path / "data")
    truncated = root / "near" / "001.png"
    truncated.write_bytes(truncated.read_bytes()[:60])
    (root / "near" / "002.png").write_text("no image")
    (root / "far" / "004.png").write_bytes(png_that_claims(20_000))
    arguments = ["--data.root", root, "--panels", 0]
    with pytest.raises(UserError, match=rf"image {re.escape(str(truncated))} cannot be read"):
        start(ckpt, *arguments)
    output = ckpt.parent / "evaluation"
    before = sum(len(p.read_text().splitlines()) for p in (output / "scores").iterdir())
    assert before >= 1 + 16  # the images before it
    assert start(ckpt, *arguments, "--data.on_error", "skip") == 0
    table = ScoreTable.read(output / "scores.csv")
    assert len(table) == 34
    errors = {table.path[row]: table.error[row] for row in np.flatnonzero(~table.valid)}
    assert sorted(errors) == ["001.png", "002.png", "004.png"]
    assert "400000000 pixels" in errors["004.png"]
    results = json.loads((output / "results.json").read_text())
    assert results["errors"] == {"shapes": 0, "blank": 2, "noise": 1}
    assert [row["path"] for row in results["left_out"]] == ["001.png", "002.png", "004.png"]
    counts = {row["dataset"]: row["n_ood"] for row in results["rows"]}
    assert (counts["blank"], counts["noise"]) == (5, 8)
    assert "3 unreadable images (blank 2, noise 1)" in capsys.readouterr().out


def test_error_of_a_nan_score_names_the_image(ckpt, tmp_path):
    content = torch.load(ckpt, weights_only=True)
    for value in content["diffusion"]["state"].values():
        value.fill_(1e30)  # overflows in the first layer
    torch.save(content, tmp_path / "broken.ckpt")
    with pytest.raises(UserError, match=r"score .* of image .*\.png is nan"):
        start(tmp_path / "broken.ckpt")


def test_an_absent_set_is_an_error_or_is_listed_with_the_results(tmp_path, ckpt, capsys):
    write_images(tmp_path / "mine", 5, "noise", 9)
    names = (f"{path.name} -1\n" for path in (tmp_path / "mine").iterdir())
    (tmp_path / "mine.txt").write_text("".join(names))
    mine = f"imglist:{tmp_path}/mine.txt@{tmp_path}/mine"
    sets = ["--data.ood.near.gone", "folder:gone", "--data.ood.far.mine", mine]
    with pytest.raises(UserError, match=r"'gone'.*--data\.missing skip"):
        start(ckpt, *sets, "--output", tmp_path / "out")
    assert start(ckpt, *sets, "--output", tmp_path / "out", "--data.missing", "skip") == 0
    output = " ".join(capsys.readouterr().out.split())
    assert "Left out set 'gone' (folder:gone): folder" in output
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["absent"]) == ["gone"]
    lists = {"mine": {"list": "unverified", "n": 5, "scored": 5}}
    assert results["settings"]["image_lists"] == lists
    assert "Image lists unverified: mine (5 images)" in output
    assert {r["dataset"] for r in results["rows"]} == {"blank", "noise", "mine", "near", "far"}
    assert "- Left out: set 'gone'" in (tmp_path / "out" / "results.md").read_text()

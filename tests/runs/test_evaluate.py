"""evaluate.py through `main`, in process: results, resuming, folders of images, mistakes."""

import csv
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
from tests.helpers.commands import command
from tests.helpers.tiny_project import write_images

import evaluate
from diffguard import Detector
from diffguard.scores.calibration import Calibration
from diffguard.score_table.cells import from_cell
from diffguard.errors import UserError
from diffguard.report.metrics import auroc
from diffguard.score_table.table import ScoreTable
from diffguard.score_table.writer import ScoreWriter
from diffguard.settings.detector import DetectorSettings


@pytest.fixture
def ckpt(tmp_path, run_folder):
    """The tiny detector in a folder of its own."""
    return shutil.copy(run_folder / "detector.ckpt", tmp_path / "detector.ckpt")


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory, run_folder):
    """An evaluation of the tiny run; not to be changed."""
    folder = tmp_path_factory.mktemp("evaluated")
    ckpt = shutil.copy(run_folder / "detector.ckpt", folder / "detector.ckpt")
    assert evaluate.main(["--ckpt", str(ckpt)]) == 0
    return folder


def start(ckpt, *arguments):
    return evaluate.main(["--ckpt", str(ckpt), *map(str, arguments)])


def test_every_image_has_one_row_and_the_results_follow_from_the_table(evaluated):
    table = ScoreTable.read(evaluated / "evaluation" / "scores.csv")
    assert table.dataset_names == ("shapes", "blank", "noise")
    assert [len(table.rows(name)) for name in table.dataset_names] == [18, 7, 9]
    results = json.loads((evaluated / "evaluation" / "results.json").read_text())
    assert results["id"]["n"] == 18
    for row in results["rows"]:
        if row["dataset"] in ("near", "far"):
            continue
        ident, ood = table.rows("shapes"), table.rows(row["dataset"])
        score = table.scores[row["score"]]
        value = auroc(torch.from_numpy(score[ident]), torch.from_numpy(score[ood]))
        assert row["auroc"] == pytest.approx(float(value))
    names = {row["score"] for row in results["rows"]}
    assert {"diffguard", "diffguard/l2", "msp", "fusion", "fusion/knn", "fusion_baselines"} <= names
    assert results["cost"]["network_passes_per_image"] == pytest.approx(3 + 2 * 3)
    assert {c["score"] for c in results["comparisons"]} == {"fusion"}
    for name in ("results.csv", "results.md", "manifest.json", "timing.jsonl"):
        assert (evaluated / "evaluation" / name).is_file()


def test_the_evaluation_is_in_tensorboard(evaluated):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    log = EventAccumulator(str(evaluated / "tensorboard" / "evaluation")).Reload()
    tags = log.Tags()
    assert {"panels/shapes", "panels/blank", "scores/fusion", "roc/diffguard"} <= set(
        tags["images"]
    )
    assert "auroc/fusion/near" in tags["scalars"]


def test_results_come_again_from_the_tables_alone(evaluated, tmp_path):
    code = (
        "import sys, evaluate; evaluate.main(sys.argv[1:]);"
        "print({'lightning', 'torchvision', 'diffusers', 'pytorch_ood'} & set(sys.modules))"
    )
    words = ["--scores", evaluated / "evaluation", "--output", tmp_path / "again"]
    again = command("-c", code, *words)
    assert again.returncode == 0, again.stderr
    assert again.stdout.splitlines()[-1] == "set()"
    for name in ("results.json", "results.csv", "results.md"):
        assert (tmp_path / "again" / name).read_bytes() == (
            evaluated / "evaluation" / name
        ).read_bytes()
    drawn = {path.name for path in (tmp_path / "again" / "figures").iterdir()}
    assert drawn == {
        f"{kind}_{n}.png" for kind in ("roc", "scores") for n in ("diffguard", "fusion")
    }
    assert any((tmp_path / "again" / "tensorboard" / "evaluation").iterdir())


def test_runs_of_the_same_data_are_joined_and_their_scores_fused(evaluated, tmp_path, capsys):
    other = tmp_path / "other"
    shutil.copytree(evaluated / "evaluation", other)
    (other / "run.json").unlink()  # it has the digests of the files that are edited
    text = (other / "scores.csv").read_text()
    (other / "scores.csv").write_text(text.replace('"knn"', '"ours"', 1))
    held = (other / "calibration.csv").read_text()
    (other / "calibration.csv").write_text(held.replace('"knn"', '"ours"', 1))
    words = ["--scores", evaluated / "evaluation", other, "--fuse.both", "[diffguard, ours]"]
    assert evaluate.main([*map(str, words), "--output", str(tmp_path / "joined")]) == 0
    results = json.loads((tmp_path / "joined" / "results.json").read_text())
    rows = {(row["score"], row["dataset"]): row for row in results["rows"]}
    assert rows["ours", "blank"] == {**rows["knn", "blank"], "score": "ours"}
    own = {key: row["auroc"] for key, row in rows.items() if key[0] == "fusion/knn"}
    assert {("fusion/both", s): v for (_, s), v in own.items()} == {
        key: row["auroc"] for key, row in rows.items() if key[0] == "fusion/both"
    }
    assert [run["name"] for run in results["settings"]["runs"]] == ["evaluation", "other"]
    assert "fusion/both − ours" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scores", "nowhere"], "nowhere is no evaluation"),
        (["--scores", "a", "b"], "--output is missing"),
        (["--scores", "a", "--ckpt", "b"], "leave --ckpt away"),
        (["--scores", "a", "--panels", "3"], "--panels"),
        (["--scores", "a", "--fuse.x", "msp"], "--fuse"),
    ],
)
def test_mistakes_with_tables_are_told_in_one_line(tmp_path, monkeypatch, words, said):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        evaluate.main(words)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_the_same_command_again_scores_nothing_and_a_cut_table_is_completed(
    evaluated, ckpt, capsys
):
    copy = ckpt.parent / "evaluation"
    shutil.copytree(evaluated / "evaluation", copy)
    whole = (copy / "scores.csv").read_bytes()
    table = copy / "scores" / "rank-0.csv"
    table.write_bytes(table.read_bytes()[: table.stat().st_size // 2])
    assert start(ckpt) == 0
    assert (copy / "scores.csv").read_bytes() == whole
    capsys.readouterr()
    assert start(ckpt) == 0
    assert (copy / "scores.csv").read_bytes() == whole
    assert "fusion" in capsys.readouterr().out


def test_a_table_of_something_else_is_not_mixed_in(evaluated, ckpt):
    shutil.copytree(evaluated / "evaluation", ckpt.parent / "evaluation")
    with pytest.raises(UserError, match=r"batch_size was 8, is 16"):
        start(ckpt, "--data.batch_size", "16")


def test_a_further_ood_set_from_the_command_line(ckpt, tmp_path):
    write_images(tmp_path / "mine", 5, "noise", 3)
    assert start(ckpt, "--data.ood.far.mine", tmp_path / "mine", "--panels", 0) == 0
    table = ScoreTable.read(tmp_path / "evaluation" / "scores.csv")
    assert table.dataset_names == ("shapes", "blank", "noise", "mine")


def test_other_detector_settings_are_calibrated_again(ckpt, capsys):
    # The features of the training images are in the checkpoint.
    changes = ["--detector.guidance.scale", 0, "--data.id.train", "null"]
    assert start(ckpt, *changes, "--panels", 0) == 0
    assert "calibrating again" in capsys.readouterr().err
    table = ScoreTable.read(ckpt.parent / "evaluation" / "scores.csv")
    assert set(table.network_passes.tolist()) == {6}


def test_settings_that_only_combine_scores_need_no_calibration_images(ckpt, capsys):
    changes = {
        "data.id.train": "null",
        "data.id.validation": "null",
        "detector.distance": "[logits_l1, l2]",
        "detector.combine": "tandem",
        "detector.baselines": "[msp]",
        "detector.fused": "[msp]",
    }
    words = [word for key, value in changes.items() for word in (f"--{key}", value)]
    assert start(ckpt, *words, "--panels", 0) == 0
    assert "calibrating" not in capsys.readouterr().err
    folder = ckpt.parent / "evaluation"
    assert not (folder / "calibration").exists()
    scores = ScoreTable.read(folder / "scores.csv").scores
    assert "knn" not in scores
    stored = Detector.load(ckpt).calibration.scores
    settings = DetectorSettings(
        distances=["logits_l1", "l2"],
        distance=["logits_l1", "l2"],
        combine="tandem",
        baselines=["msp"],
        fused=["msp"],
    )
    plain = {name: stored[name] for name in ("diffguard/logits_l1", "diffguard/l2", "msp")}
    derived = Calibration.fit(plain, settings.fusion_rule()).derive(scores)
    for name in ("diffguard", "fusion", "fusion/msp"):
        np.testing.assert_allclose(scores[name], derived[name], rtol=1e-12)


def test_an_interrupted_calibration_goes_on_and_refusal_comes_before_it(
    ckpt, tmp_path, monkeypatch, capsys
):
    plain, writes = ScoreWriter.write, []

    def dying(writer, rows):
        writes.append(writer)
        if len(writes) == 2:
            raise UserError("interrupted")
        plain(writer, rows)

    monkeypatch.setattr(ScoreWriter, "write", dying)
    given = ["--detector.guidance.scale", 0, "--panels", 0]
    with pytest.raises(UserError, match="interrupted"):
        start(ckpt, *given)
    calibration = ckpt.parent / "evaluation" / "calibration"
    assert not (calibration.parent / "manifest.json").exists()
    assert start(ckpt, *given) == 0
    tables = sorted((calibration / "scores").iterdir())
    assert [table.name for table in tables] == ["rank-0.2.csv", "rank-0.csv"]
    assert sum(len(table.read_text().splitlines()) - 1 for table in tables) == 24
    # Other settings are refused before anything is calibrated, and nothing is removed.
    before = {path: path.read_bytes() for path in calibration.rglob("*") if path.is_file()}
    capsys.readouterr()
    with pytest.raises(UserError, match=r"settings\.guidance\.scale was 0\.0, is 2\.0"):
        start(ckpt, "--detector.guidance.scale", 2)
    assert "calibrating" not in capsys.readouterr().err
    assert {p: p.read_bytes() for p in calibration.rglob("*") if p.is_file()} == before
    assert not calibration.with_name("calibration-2").exists()


def test_what_only_decides_may_change_and_tensorboard_follows_the_output(ckpt, tmp_path):
    given = ["--output", tmp_path / "out", "--panels", 0]
    assert start(ckpt, *given) == 0
    table = (tmp_path / "out" / "scores.csv").read_bytes()
    decides = ["--detector.accept", 0.9, "--detector.decision", "msp"]
    assert start(ckpt, *given, *decides) == 0
    assert (tmp_path / "out" / "scores.csv").read_bytes() == table
    assert list((tmp_path / "out" / "tensorboard" / "evaluation").glob("events*"))
    assert not (tmp_path / "tensorboard").exists()


def test_a_folder_of_images_gets_verdicts(ckpt, tmp_path, capsys):
    write_images(tmp_path / "mine" / "deep", 5, "noise", 4)
    write_images(tmp_path / "mine" / "left", 4, "left", 5)
    assert start(ckpt, "--images", tmp_path / "mine", "--output", tmp_path / "out") == 0
    rows = list(csv.DictReader((tmp_path / "out" / "images.csv").open()))
    assert list(rows[0]) == ["path", "prediction", "probability", "score", "percentile", "verdict"]
    assert [row["path"] for row in rows][:2] == ["deep/000.png", "deep/001.png"]
    detector = Detector.load(ckpt)
    threshold = detector.calibration.threshold("fusion", 0.95)
    for row in rows:
        assert row["verdict"] == ("ood" if float(row["score"]) > threshold else "id")
        assert row["prediction"] in ("dots", "left", "right")
    assert "9 images" in capsys.readouterr().out


def test_files_that_are_no_images_are_skipped_and_named(ckpt, tmp_path, capsys):
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
    assert reasons[1].startswith("notes.txt cannot be read: it is none of BMP, GIF, ")
    assert reasons[2] == "pipe.png cannot be read: it is a named pipe, expected a file"
    assert reasons[3].startswith("torn.png cannot be read: ")
    table = ckpt.parent / "images" / "mine" / "images.csv"
    with table.open(encoding="utf-8", newline="") as file:
        paths = [from_cell(row["path"]) for row in csv.DictReader(file)]
    assert paths == ["000.png", "001.png", "caf\udce9.png"]


def test_results_inside_the_folder_of_images_are_no_images(ckpt, tmp_path, monkeypatch, capsys):
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
        assert start("detector.ckpt", "--images", ".") == 3  # detector.ckpt is no image
        assert "3 images" in capsys.readouterr().out
    monkeypatch.delenv("HOME")
    monkeypatch.setattr("pwd.getpwuid", lambda _uid: {}[0])
    for option in ("--images", "--output", "--data.root"):
        with pytest.raises(UserError, match=f"{option} '~/x': the home folder is unknown"):
            start(ckpt, option, "~/x")


def test_images_that_have_changed_are_judged_beside_the_earlier_ones(ckpt, tmp_path):
    for folder, count in (("mine", 3), ("other", 2)):
        write_images(tmp_path / folder, count, "noise", 4)
        assert start(ckpt, "--images", tmp_path / folder) == 0
    again = ["--accept", 0.5, "--data.batch_size", "auto"]
    assert start(ckpt, "--images", tmp_path / "mine", *again) == 0
    write_images(tmp_path / "mine" / "more", 1, "left", 5)
    assert start(ckpt, "--images", tmp_path / "mine") == 0
    found = {
        path.parent.name: len(path.read_text().splitlines()) - 1
        for path in (ckpt.parent / "images").glob("*/images.csv")
    }
    assert found == {"mine": 3, "other": 2, "mine-2": 4}


def png_that_claims(side):
    """A PNG of a few bytes whose header names a huge size."""

    def chunk(kind, content):
        check = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0)
    pixels = zlib.compress(bytes(100))
    return b"".join(
        [b"\x89PNG\r\n\x1a\n", chunk(b"IHDR", header), chunk(b"IDAT", pixels), chunk(b"IEND", b"")]
    )


def test_broken_images_are_rows_with_their_error_and_are_left_out(
    ckpt, tmp_path, data_root, capsys
):
    root = shutil.copytree(data_root, tmp_path / "data")
    truncated = root / "near" / "001.png"
    truncated.write_bytes(truncated.read_bytes()[:60])
    (root / "near" / "002.png").write_text("no image")
    (root / "far" / "004.png").write_bytes(png_that_claims(20_000))
    given = ["--data.root", root, "--panels", 0]
    with pytest.raises(UserError, match=rf"image {re.escape(str(truncated))} cannot be read"):
        start(ckpt, *given)
    output = ckpt.parent / "evaluation"
    before = sum(len(p.read_text().splitlines()) for p in (output / "scores").iterdir())
    assert before >= 1 + 16  # what was read before it
    assert start(ckpt, *given, "--data.on_error", "skip") == 0
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


def test_a_nan_in_a_score_names_the_image(ckpt, tmp_path):
    content = torch.load(ckpt, weights_only=True)
    for value in content["diffusion"]["state"].values():
        value.fill_(1e30)  # overflows in the first layer
    torch.save(content, tmp_path / "broken.ckpt")
    with pytest.raises(UserError, match=r"score .* of image .*\.png is nan"):
        start(tmp_path / "broken.ckpt")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "does not exist"),
        ("folder", "is a folder"),
        ("text", "cannot be read|was refused"),
        ("truncated", "cannot be read|was refused"),
        ("foreign", "no detector checkpoint"),
        ("version", "format version 99"),
        ("damaged", "is damaged"),
        ("malicious", "was refused"),
        ("class", "--trusted os.path.Evil"),
    ],
)
def test_bad_checkpoints_are_refused_in_one_line(kind, said, ckpt, tmp_path):
    bad = tmp_path / "bad.ckpt"
    content = torch.load(ckpt, weights_only=True)
    if kind == "folder":
        bad.mkdir()
    elif kind == "text":
        bad.write_text("hello")
    elif kind == "truncated":
        bad.write_bytes(ckpt.read_bytes()[:5000])
    elif kind == "foreign":
        torch.save({"state_dict": {"w": torch.zeros(2)}}, bad)
    elif kind == "version":
        torch.save(content | {"version": 99}, bad)
    elif kind == "damaged":
        torch.save({k: v for k, v in content.items() if k != "calibration"}, bad)
    elif kind == "malicious":
        torch.save(content | {"extra": Malicious(tmp_path / "ran")}, bad)
    elif kind == "class":
        content["classifier"]["spec"]["arch"] = "os.path.Evil"
        torch.save(content, bad)
    with pytest.raises(UserError, match=said) as caught:
        start(bad)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--images", "nowhere"], "nowhere"),
        (["--images", "."], "holds no"),
        (["--images", ""], "--images is empty"),
        (["--accept", "2"], "--accept must lie between 0 and 1"),
        (["--data.batch_size", "-1"], "data.batch_size must be at least 1"),
        (["--data.root", "nowhere"], "nowhere"),
        (["--detector.decision", "nope"], "no score 'nope'"),
        (["--detector.distance", "[nope]"], "unknown distance 'nope': choose from l1"),
        (
            ["--detector.early_stop.thresholds", "{psnr:20}"],
            "'{name: value}', with a space",
        ),
        (["--detector.guidance.label", "oracle", "--images", "."], "oracle, a mode for studies"),
        (["--nonsense", "1"], "--nonsense"),
        (["--fuse.x", "[msp, knn]"], "--fuse goes with --scores"),
        (["--trainer.devices", "[x"], "trainer: `devices`"),
    ],
)
def test_mistakes_are_told_in_one_line(ckpt, tmp_path, monkeypatch, arguments, said):
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(UserError) as caught:
        start(ckpt, *arguments)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_absent_set_is_an_error_or_is_named_with_the_table(tmp_path, ckpt, capsys):
    write_images(tmp_path / "mine", 5, "noise", 9)
    sets = ["--data.ood.near.gone", "folder:gone", "--data.ood.far.mine", tmp_path / "mine"]
    with pytest.raises(UserError, match=r"'gone'.*--data\.missing skip"):
        start(ckpt, *sets, "--output", tmp_path / "out")
    assert start(ckpt, *sets, "--output", tmp_path / "out", "--data.missing", "skip") == 0
    said = " ".join(capsys.readouterr().out.split())
    assert "Left out set 'gone' (folder:gone): folder" in said
    results = json.loads((tmp_path / "out" / "results.json").read_text())
    assert list(results["absent"]) == ["gone"]
    assert {r["dataset"] for r in results["rows"]} == {"blank", "noise", "mine", "near", "far"}
    assert "- Left out: set 'gone'" in (tmp_path / "out" / "results.md").read_text()


def test_without_ood_sets_nothing_is_scored_and_what_to_do_is_told(ckpt):
    with pytest.raises(UserError, match=r"no OOD set .* --data\.ood\.far\.NAME .* --images"):
        start(ckpt, "--data.ood.near", "{}", "--data.ood.far", "{}")
    assert not (ckpt.parent / "evaluation").exists()

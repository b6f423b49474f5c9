"""Folders of images and OpenOOD's image lists."""

import os

import pytest
import torch
from PIL import Image

from datamodules import hashing
from datamodules.file_set import folder_set, list_set
from datamodules.folders import list_files
from datamodules.image_set import MissingDataError
from diffguard.errors import UserError


def _draw(folder, *names, size=4):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (size, size), 51).save(path)


def _list(folder, text, name="list.txt"):
    (folder / name).write_text(text, encoding="utf-8")
    return folder / name


def test_images_below_a_folder_are_ordered_by_path(tmp_path):
    _draw(tmp_path, "b.png", "a/2.JPG", "a/10 x.jpeg", ".hidden/x.png", "._b.png")
    (tmp_path / "notes.txt").touch()
    os.mkfifo(tmp_path / "pipe")
    images = folder_set("mine", tmp_path)
    assert images.remarks == [
        f"set 'mine': left out below {tmp_path}: notes.txt (not an image), pipe (a named pipe)"
    ]
    paths = [images.describe(i)["path"] for i in range(len(images))]
    assert paths == ["a/10 x.jpeg", "a/2.JPG", "b.png"]
    item = images[2]
    assert item.pop("image").mean().item() == pytest.approx(0.2)
    assert item == {"label": -1, "dataset": "mine", "index": 2, "path": "b.png"}
    assert images.class_names is None


def test_every_file_can_count_as_an_image(tmp_path):
    _draw(tmp_path, "b.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".DS_Store").touch()
    images = folder_set("images", tmp_path, any_file=True)
    assert [images.path(i) for i in range(len(images))] == ["b.png", "notes.txt"]


def test_a_linked_folder_is_read_once(tmp_path):
    data, far = tmp_path / "data", tmp_path / "far"
    _draw(data, "real/1.png")
    _draw(far, "2.png", "deep/3.png")
    for link, target in {
        "a": data / "real", "b": far, "c": far, "real/up": data, "real/root": "/",
        "z": far / "deep", "itself": data / "itself",
    }.items():  # fmt: skip
        (data / link).symlink_to(target)
    (far / "back").symlink_to(data / "real")
    images = folder_set("mine", data)
    paths = [images.path(i) for i in range(len(images))]
    # The real place precedes all links; the first link precedes the others.
    assert paths == ["b/2.png", "b/deep/3.png", "real/1.png"]
    assert list_files(data).left_out == {
        "a": "the same folder as real",
        "b/back": "the same folder as real",
        "c": "the same folder as b",
        "real/root": "a link to an enclosing folder",
        "real/up": "a link to an enclosing folder",
        "z": "the same folder as b/deep",
    }


@pytest.mark.parametrize("any_file", [False, True])
def test_results_of_the_program_are_left_out(tmp_path, any_file):
    _draw(tmp_path, "1.png", "out/figures/roc.png", "joined/figures/roc.png", "next/x.png")
    for name in ("out/manifest.json", "out/contents.npy", "joined/results.json"):
        (tmp_path / name).touch()
    (tmp_path / "joined" / "results.csv").touch()
    images = folder_set("mine", tmp_path, any_file=any_file, without=[tmp_path / "next"])
    assert [images.path(i) for i in range(len(images))] == ["1.png"]
    assert "joined (results of this program), next (results" in images.remarks[0]


def test_the_images_of_a_folder_are_its_readable_files(tmp_path):
    _draw(tmp_path, "a.jfif", "b.jpe", "c.JFIF", "e.pnm", "f.apng")
    Image.new("RGB", (5, 5)).save(tmp_path / "no suffix", format="PNG")
    Image.new("RGB", (5, 5)).save(tmp_path / "odd.img", format="JPEG")
    (tmp_path / "P1 text").write_text("P1 is not an image")
    (tmp_path / "script.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    every = folder_set("mine", tmp_path, any_file=True)
    images = folder_set("mine", tmp_path)

    def can_be_read(index):
        try:
            return bool(every.image(index).numel())
        except UserError:
            return False

    readable = [every.path(i) for i in range(len(every)) if can_be_read(i)]
    assert readable == [images.path(i) for i in range(len(images))]
    assert len(readable) == 7


def test_error_of_an_unreadable_folder_names_it(tmp_path, monkeypatch):
    _draw(tmp_path, "a/1.png", "b.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="a cannot be read: Permission denied"):
        folder_set("mine", tmp_path)


def test_absent_and_empty_folders_are_refused(tmp_path):
    with pytest.raises(MissingDataError, match="nowhere does not exist"):
        folder_set("mine", tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MissingDataError, match="has no images"):
        folder_set("mine", tmp_path)


def test_sub_folders_are_classes(tmp_path):
    _draw(tmp_path, "dog/1.png", "cat/1.png", "cat/deep/2.png")
    images = folder_set("mine", tmp_path, labeled=True)
    assert images.class_names == ("cat", "dog")
    assert images.labels.tolist() == [0, 0, 1]
    images = folder_set("mine", tmp_path, labeled=True, class_names=["dog", "cat", "cow"])
    assert images.labels.tolist() == [1, 1, 0]
    with pytest.raises(UserError, match=r"cat/1\.png does not lie in a class folder.*dog"):
        folder_set("mine", tmp_path, labeled=True, class_names=["dog"])


@pytest.mark.parametrize("content", [None, "._1.png", "notes.txt"])
def test_a_class_folder_without_images_is_refused(tmp_path, content):
    _draw(tmp_path, "dog/1.png", "cat/1.png")
    (tmp_path / "__MACOSX").mkdir()
    if content:
        (tmp_path / "__MACOSX" / content).write_text("x")
    with pytest.raises(UserError, match=r"class folder .*__MACOSX has no images: remove it"):
        folder_set("mine", tmp_path, labeled=True)
    names = ["dog", "cat", "cow"]
    images = folder_set("mine", tmp_path, labeled=True, class_names=names)
    assert images.class_names == tuple(names)


def test_an_image_beside_the_class_folders_is_refused(tmp_path):
    _draw(tmp_path, "dog/1.png", "cat.png")
    with pytest.raises(UserError, match=r"cat\.png does not lie in a class folder"):
        folder_set("mine", tmp_path, labeled=True)


def test_paths_of_a_list_may_contain_spaces_and_keys_are_indices(tmp_path):
    _draw(tmp_path, "images/a b.png", "images/c.png")
    lines = _list(tmp_path, "\ufeffimages/a b.png 3\r\n\nimages/c.png\t0\n")
    images = list_set("mine", lines, tmp_path, labeled=True)
    assert images.labels.tolist() == [3, 0]
    item = images[1]
    assert item.pop("image").shape == (1, 4, 4)
    assert item == {"label": 0, "dataset": "mine", "index": 1, "path": "images/c.png"}
    assert images.key(1) == "1"
    assert list_set("mine", lines, tmp_path, labeled=False).labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png 1\na.png\n", "line 2: expected `relative/path label`, got 'a.png'"),
        ("a.png one\n", "line 1: expected"),
        ("a.png -1\n", "line 1: an ID image needs a label of at least 0, got -1"),
        ("\r\na.png 1\rb.png 1_0\n", "line 3: expected `relative/path label`"),
        ("a\0.png 1\n", r"line 1: expected .*'a\\x00.png 1'"),
        ("a.png -2\n", "line 1: expected a label from 0 to 99999, or -1"),
        ("a.png 100000\n", "line 1: expected a label from 0"),
        ("a.png 2147483648\n", "line 1: expected a label from 0"),
        ("a.png 99999999999999999999999\n", "line 1: expected a label from 0 .* got 9999"),
        ("a.png 1\na.png 2\n", "line 2: 'a.png' has the label 1 in another line"),
    ],
)
def test_malformed_lines_are_named(tmp_path, text, message):
    _draw(tmp_path, "a.png")
    with pytest.raises(UserError, match=message):
        list_set("mine", _list(tmp_path, text), tmp_path, labeled=True)


def test_a_list_that_is_not_a_text_file_is_refused(tmp_path):
    _draw(tmp_path, "a.png")
    (tmp_path / "wide.txt").write_text("a.png 1\n", encoding="utf-16")
    with pytest.raises(UserError, match=r"wide\.txt is UTF-16 text: save it as UTF-8"):
        list_set("mine", tmp_path / "wide.txt", tmp_path, labeled=True)
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(UserError, match=r"pipe\.txt cannot be read: it is a named pipe"):
        list_set("mine", tmp_path / "pipe.txt", tmp_path, labeled=True)


def test_images_of_a_list_have_their_line_and_repetitions_are_remarked(tmp_path):
    _draw(tmp_path, "a.png")
    (tmp_path / "caf\udce9.png").write_bytes((tmp_path / "a.png").read_bytes())
    lines = tmp_path / "list.txt"
    lines.write_bytes(b"a.png 0\n\n  \ncaf\xe9.png 1\na.png 0\n")
    images = list_set("mine", lines, tmp_path, labeled=True)
    assert [images.origin(i) for i in range(3)] == [f"{lines}, line {n}" for n in (1, 4, 5)]
    assert images.remarks == [f"set 'mine': {lines} repeats 1 images"]
    assert torch.equal(images.image(0), images.image(1))


def test_absent_lists_and_images_are_missing_data(tmp_path):
    with pytest.raises(MissingDataError, match=r"image list .*list\.txt does not exist"):
        list_set("mine", tmp_path / "list.txt", tmp_path, labeled=False)
    with pytest.raises(MissingDataError, match=r"a\.png of .*list\.txt does not exist"):
        list_set("mine", _list(tmp_path, "a.png -1\n"), tmp_path, labeled=False)
    with pytest.raises(MissingDataError, match="is empty"):
        list_set("mine", _list(tmp_path, "\n"), tmp_path, labeled=False)


def test_a_file_of_any_size_is_hashed_in_part(tmp_path, monkeypatch):
    monkeypatch.setattr(hashing, "_MOST_PARTS", 2)
    _draw(tmp_path, "a.png")
    with (tmp_path / "huge.png").open("wb") as file:
        file.truncate(2**40)
    images = folder_set("mine", tmp_path, any_file=True)
    assert images.content(0) != images.content(1) >= 0


def test_fingerprint_depends_on_paths_and_contents_depend_on_bytes(tmp_path):
    _draw(tmp_path, "a.png", "b.png")
    before = folder_set("mine", tmp_path)
    fingerprint, contents = before.fingerprint(), before.contents()
    assert fingerprint == folder_set("mine", tmp_path).fingerprint()
    assert contents[0] == contents[1] >= 0  # the same pixels
    lines = _list(tmp_path, "a.png -1\nb.png -1\n")
    assert list_set("mine", lines, tmp_path, labeled=False).fingerprint() != fingerprint
    # Another image of the same size with the same times, as `cp -p` may leave it.
    path = tmp_path / "a.png"
    content, times = bytearray(path.read_bytes()), path.stat()
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert (before.contents() == contents).tolist() == [False, True]
    (tmp_path / "a.png").unlink()
    assert before.contents()[0] == -1
    assert before.fingerprint() == fingerprint
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert folder_set("mine", tmp_path).fingerprint() != fingerprint

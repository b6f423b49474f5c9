"""Folders of images and OpenOOD's image lists."""

import os

import pytest
from PIL import Image

from datamodules.file_set import folder_set, list_set
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


def test_folder_lists_images_below_in_order(tmp_path):
    _draw(tmp_path, "b.png", "a/2.JPG", "a/10 x.jpeg", ".hidden/x.png", "._b.png")
    (tmp_path / "notes.txt").touch()
    images = folder_set("mine", tmp_path)
    paths = [images.describe(i)["path"] for i in range(len(images))]
    assert paths == ["a/10 x.jpeg", "a/2.JPG", "b.png"]
    item = images[2]
    assert item.pop("image").mean().item() == pytest.approx(0.2)
    assert item == {"label": -1, "dataset": "mine", "index": 2, "path": "b.png"}
    assert images.class_names is None


def test_folder_of_any_file(tmp_path):
    _draw(tmp_path, "b.png")
    (tmp_path / "notes.txt").touch()
    (tmp_path / ".DS_Store").touch()
    images = folder_set("images", tmp_path, any_file=True)
    assert [images.path(i) for i in range(len(images))] == ["b.png", "notes.txt"]


def test_folder_follows_links_but_not_in_circles(tmp_path):
    _draw(tmp_path / "data", "a/1.png")
    _draw(tmp_path / "far", "2.png")
    (tmp_path / "data" / "b").symlink_to(tmp_path / "far")
    (tmp_path / "data" / "a" / "up").symlink_to(tmp_path / "data")
    images = folder_set("mine", tmp_path / "data")
    assert [images.path(i) for i in range(len(images))] == ["a/1.png", "b/2.png"]


def test_folder_that_may_not_be_read_is_named(tmp_path, monkeypatch):
    _draw(tmp_path, "a/1.png", "b.png")
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("a"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match="a cannot be read: Permission denied"):
        folder_set("mine", tmp_path)


def test_absent_and_empty_folders(tmp_path):
    with pytest.raises(MissingDataError, match="nowhere does not exist"):
        folder_set("mine", tmp_path / "nowhere")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(MissingDataError, match="holds no images"):
        folder_set("mine", tmp_path)


def test_subfolders_are_classes(tmp_path):
    _draw(tmp_path, "dog/1.png", "cat/1.png", "cat/deep/2.png")
    (tmp_path / "bird").mkdir()
    images = folder_set("mine", tmp_path, labelled=True)
    assert images.class_names == ("bird", "cat", "dog")
    assert images.labels.tolist() == [1, 1, 2]
    images = folder_set("mine", tmp_path, labelled=True, class_names=["dog", "cat", "cow"])
    assert images.labels.tolist() == [1, 1, 0]
    with pytest.raises(UserError, match=r"cat/1\.png lies in no known class folder.*dog"):
        folder_set("mine", tmp_path, labelled=True, class_names=["dog"])


def test_an_image_beside_the_class_folders_is_refused(tmp_path):
    _draw(tmp_path, "dog/1.png", "cat.png")
    with pytest.raises(UserError, match=r"cat\.png lies in no known class folder"):
        folder_set("mine", tmp_path, labelled=True)


def test_list_paths_may_hold_spaces_and_keys_are_indices(tmp_path):
    _draw(tmp_path, "images/a b.png", "images/c.png")
    lines = _list(tmp_path, "\ufeffimages/a b.png 3\r\n\nimages/c.png\t0\n")
    images = list_set("mine", lines, tmp_path, labelled=True)
    assert images.labels.tolist() == [3, 0]
    item = images[1]
    assert item.pop("image").shape == (1, 4, 4)
    assert item == {"label": 0, "dataset": "mine", "index": 1, "path": "images/c.png"}
    assert images.key(1) == "1"
    assert list_set("mine", lines, tmp_path, labelled=False).labels.tolist() == [-1, -1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.png 1\na.png\n", "line 2: expected `relative/path label`, got 'a.png'"),
        ("a.png one\n", "line 1: expected"),
        ("a.png -1\n", "line 1: an ID image needs a class ≥ 0"),
    ],
)
def test_broken_lines_are_named(tmp_path, text, message):
    _draw(tmp_path, "a.png")
    with pytest.raises(UserError, match=message):
        list_set("mine", _list(tmp_path, text), tmp_path, labelled=True)


def test_absent_lists_and_images_are_missing_data(tmp_path):
    with pytest.raises(MissingDataError, match=r"image list .*list\.txt does not exist"):
        list_set("mine", tmp_path / "list.txt", tmp_path, labelled=False)
    with pytest.raises(MissingDataError, match=r"a\.png of .*list\.txt does not exist"):
        list_set("mine", _list(tmp_path, "a.png -1\n"), tmp_path, labelled=False)
    with pytest.raises(MissingDataError, match="names no image"):
        list_set("mine", _list(tmp_path, "\n"), tmp_path, labelled=False)


def test_fingerprint_tells_paths_and_contents_tell_sizes(tmp_path):
    _draw(tmp_path, "a.png", "b.png")
    before = folder_set("mine", tmp_path)
    fingerprint, contents = before.fingerprint(), before.contents()
    assert fingerprint == folder_set("mine", tmp_path).fingerprint()
    assert contents.tolist() == [(tmp_path / n).stat().st_size for n in ("a.png", "b.png")]
    lines = _list(tmp_path, "a.png -1\nb.png -1\n")
    assert list_set("mine", lines, tmp_path, labelled=False).fingerprint() != fingerprint
    _draw(tmp_path, "a.png", size=64)
    assert (before.contents() == contents).tolist() == [False, True]
    (tmp_path / "a.png").unlink()
    assert before.contents()[0] == -1
    assert before.fingerprint() == fingerprint
    (tmp_path / "b.png").rename(tmp_path / "c.png")
    assert folder_set("mine", tmp_path).fingerprint() != fingerprint

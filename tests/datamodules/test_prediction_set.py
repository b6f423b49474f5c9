"""The images of `--images`."""

import pytest

from datamodules.prediction_set import prediction_set
from diffguard.errors import UserError
from tests.helpers.tiny_project import write_images


@pytest.fixture
def photos(tmp_path):
    write_images(tmp_path / "photos" / "sky", 2, "noise", 0)
    write_images(tmp_path / "photos" / "sea", 2, "noise", 1)
    (tmp_path / "photos" / "sky" / "notes.txt").write_text("not an image")
    return tmp_path / "photos"


def paths_of(*paths, **options):
    images = prediction_set(paths, **options)
    assert images.name == "images"
    return [images.path(index) for index in range(len(images))]


def test_a_folder_gives_every_file_below_it_by_its_relative_path(photos):
    sky = ["sky/000.png", "sky/001.png", "sky/notes.txt"]
    assert paths_of(photos) == ["sea/000.png", "sea/001.png", *sky]
    assert paths_of(photos, without=[photos / "sea"]) == sky


def test_files_folders_and_patterns_give_each_file_once(photos):
    first, sea = str(photos / "sky" / "000.png"), str(photos / "sea")
    pattern = str(photos / "**" / "00*.png")
    expected = [first, f"{sea}/000.png", f"{sea}/001.png", str(photos / "sky" / "001.png")]
    assert paths_of(first, sea, pattern, first) == expected
    assert paths_of(first) == [first]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(photos):
    odd = photos / "sky" / "[a]*.png"
    (photos / "sky" / "000.png").rename(odd)
    assert paths_of(odd) == [str(odd)]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("nowhere", "does not exist: name image files or folders"),
        ("*.jpg", "matches no file: check the pattern"),
        ("empty", "has no images: name a folder with image files"),
    ],
)
def test_a_path_without_files_is_refused(photos, name, message):
    (photos / "empty").mkdir()
    with pytest.raises(UserError, match=message):
        prediction_set([photos / "sky", photos / name])

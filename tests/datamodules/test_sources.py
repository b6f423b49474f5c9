"""Opening data sets by source, and the errors for wrong sources."""

import pytest
import torch
from PIL import Image

from datamodules.image_set import MissingDataError
from datamodules.sources import is_folder, open_set, same_source
from diffguard.errors import UserError


@pytest.fixture
def root(tmp_path):
    """Two class folders of images in OpenOOD's layout, with a list."""
    for label, name in enumerate(("cat", "dog")):
        folder = tmp_path / "images" / name
        folder.mkdir(parents=True)
        Image.new("RGB", (5, 5), (51 * label, 0, 0)).save(folder / "1.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "test.txt").write_text("cat/1.png 0\ndog/1.png 1\n")
    (tmp_path / "plain.txt").write_text("images/cat/1.png 0\nimages/dog/1.png 1\n")
    return tmp_path


@pytest.mark.parametrize(
    ("source", "count"),
    [
        ("digits:6-9", 2000),
        ("digits:0-5/test", 600),
        ("letters:test", 600),
        ("letters:validation", 400),
        ("patches:test", 600),
        ("blends:validation", 400),
        ("turned:validation", 267),
    ],
)
def test_embedded_sets_are_opened_by_name(source, count):
    images = open_set("mine", source, root=None, labeled=False)
    assert len(images) == count
    assert (images.labels == -1).all()
    item = images[count - 1]
    assert item["image"].shape == (1, 28, 28)
    assert item["image"].dtype == torch.float32
    assert 0.0 <= item["image"].min() < item["image"].max() <= 1.0
    assert (item["dataset"], item["index"], item["path"]) == ("mine", count - 1, "")


def test_digits_have_labels_and_names():
    images = open_set("id", "digits:0-5/validation", root=None, labeled=True)
    assert images.class_names == ("0", "1", "2", "3", "4", "5")
    assert images.labels.unique().tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    "source", ["imglist:lists/test.txt@images", "folder:images", "imglist:plain.txt"]
)
def test_files_are_found_below_the_root(root, source):
    images = open_set("mine", source, root=root, labeled=True)
    assert images.labels.tolist() == [0, 1]
    assert images[1]["image"][0].mean().item() == pytest.approx(0.2)
    keys = [images.key(i) for i in range(2)]
    assert keys == (["0", "1"] if "imglist" in source else ["cat/1.png", "dog/1.png"])


def test_images_of_a_list_are_relative_to_the_root_and_other_paths_to_here(root, monkeypatch):
    monkeypatch.chdir(root / "images")
    images = open_set("mine", "dog", root="elsewhere", labeled=False)
    assert [images.path(i) for i in range(len(images))] == ["1.png"]
    images = open_set("mine", "../plain.txt", root=root, labeled=False)
    assert [images.path(i) for i in range(len(images))] == ["images/cat/1.png", "images/dog/1.png"]
    odd = root / "a@b:c"
    (root / "images").rename(odd)
    assert len(open_set("mine", str(odd), root=None, labeled=False)) == 2
    (odd / "list.txt").write_text("a@b:c/dog/1.png -1\n")
    assert len(open_set("mine", str(odd / "list.txt"), root=root, labeled=False)) == 1


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digits:0-5/all", "expected digits:FIRST-LAST"),
        ("digits:5-0", "expected digits:FIRST-LAST"),
        ("letters:train", "expected letters:test or letters:validation"),
        ("patches:", "expected patches:test"),
        ("openood:cifar/test", "BENCHMARK one of mnist, cifar10, cifar100, imagenet200, imagenet"),
        ("openood:cifar10/near/svhn", "one of train, .*near/tin.* after openood:cifar10/"),
        ("hub:mnist", "'hub:mnist' of set 'mine' is neither .* one of digits:…, letters:…"),
    ],
)
def test_error_of_a_wrong_source_names_the_alternatives(source, message):
    with pytest.raises(UserError, match=message) as caught:
        open_set("mine", source, root=None, labeled=False)
    assert "'mine'" in str(caught.value)
    assert not isinstance(caught.value, MissingDataError)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (
            "imglist:lists/none.txt@images",
            r"none.txt does not exist \(images in .*images\): put the data.*data.root",
        ),
        ("imglist:lists/test.txt@nowhere", "nowhere/cat/1.png of .* does not exist: put the data"),
        ("folder:none", "folder .*none does not exist: put the data there.*data.root"),
        ("some/where", "'some/where' of set 'mine' is neither a folder"),
        ("torchvision:CIFAR10/test", "found no CIFAR10 in .*--data.download true"),
        (
            "openood:imagenet/near/ninco",
            "imagenet/test_ninco.txt does not exist.*images_largescale",
        ),
    ],
)
def test_error_of_absent_data_gives_advice(root, source, message):
    with pytest.raises(MissingDataError, match=message) as caught:
        open_set("mine", source, root=root, labeled=False)
    assert "'mine'" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_labels_must_fit_the_class_names(root):
    with pytest.raises(UserError, match="label 1, but there are only 1 classes: cat"):
        open_set("id", "imglist:plain.txt", root=root, labeled=True, class_names=["cat"])
    images = open_set("id", "imglist:plain.txt", root=root, labeled=True, class_names=["a", "b"])
    assert images.class_names == ("a", "b")
    assert open_set("ood", "imglist:plain.txt", root=root, labeled=False).class_names is None


@pytest.mark.parametrize("source", ["letters:test", "patches:test", "blends:validation"])
def test_sets_without_labels_are_not_id_sets(source):
    with pytest.raises(UserError, match=r"expected an ID set, and .* have no labels"):
        open_set("id", source, root=None, labeled=True)


def test_two_spellings_of_a_source_are_the_same_source(root, monkeypatch):
    monkeypatch.chdir(root)
    assert same_source("letters:test", "letters:test", None)
    assert not same_source("letters:test", "letters:validation", None)
    assert same_source("folder:images/", "./images", root)
    assert same_source("imglist:plain.txt", "imglist:lists/../plain.txt@", root)
    assert not same_source("imglist:plain.txt", "imglist:lists/test.txt@images", root)
    lists = "imglist:benchmark_imglist/cifar10"
    assert same_source("openood:cifar10/train", f"{lists}/train_cifar10.txt@images_classic", root)
    assert not same_source("openood:cifar10/near/tin", "openood:cifar10/validation/tin", root)
    assert same_source("openood:nothing", "openood:nothing", root)


@pytest.mark.parametrize(
    ("source", "list_file", "folder"),
    [
        ("cifar10/validation", "cifar10/val_cifar10.txt", "images_classic"),
        ("cifar10/near/tin", "cifar10/test_tin.txt", "images_classic"),
        (
            "imagenet200/validation/openimage_o",
            "imagenet200/val_openimage_o.txt",
            "images_largescale",
        ),
        ("imagenet/far/textures", "imagenet/test_textures.txt", "images_classic"),
    ],
)
def test_an_openood_source_is_found_in_openoods_layout(tmp_path, source, list_file, folder):
    path = tmp_path / "benchmark_imglist" / list_file
    path.parent.mkdir(parents=True)
    path.write_text("a/b.png 3\n")
    (tmp_path / folder / "a").mkdir(parents=True)
    Image.new("RGB", (5, 5), (51, 0, 0)).save(tmp_path / folder / "a" / "b.png")
    images = open_set("mine", f"openood:{source}", root=tmp_path, labeled=True)
    assert images.labels.tolist() == [3]
    assert images[0]["image"][0].mean().item() == pytest.approx(0.2)


def test_folder_sources_are_recognized(root):
    assert is_folder("folder:anything")
    assert is_folder(str(root))
    assert not is_folder("digits:0-5")
    assert not is_folder(str(root / "plain.txt"))

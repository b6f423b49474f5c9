"""Data sets of the Hugging Face hub, from a local copy of their files."""

import io

import datasets
import pytest
from PIL import Image

from datamodules.image_set import MissingDataError
from datamodules.sources import open_set
from diffguard.errors import UserError


def encoded(gray, format="PNG"):
    file = io.BytesIO()
    Image.new("L", (4, 3), gray).save(file, format=format)
    return {"bytes": file.getvalue(), "path": None}


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def root(tmp_path):
    """The data set `owner/shapes` with three images, in the folder of its name."""
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "label": datasets.ClassLabel(names=["dot", "line"]),
            "coarse": datasets.ClassLabel(names=["all"]),
        }
    )
    columns = {"image": [encoded(0), encoded(51), encoded(255, "JPEG")], "label": [1, 0, 1]}
    rows = datasets.Dataset.from_dict({**columns, "coarse": [0, 0, 0]}, features=features)
    folder = tmp_path / "owner" / "shapes"
    folder.mkdir(parents=True)
    rows.to_parquet(folder / "test-00000-of-00001.parquet")
    return tmp_path


def test_a_split_is_read_by_name(root):
    images = open_set("mine", "hf:owner/shapes/test", root=root, labeled=True)
    assert (images.labels.tolist(), images.class_names) == ([1, 0, 1], ("dot", "line"))
    assert images[1]["image"].shape == (1, 3, 4)
    assert [images[i]["image"].mean().item() for i in range(3)] == pytest.approx([0, 0.2, 1])
    assert len(set(images.contents().tolist())) == 3
    section = open_set("ood", "hf:owner/shapes/test[1:]", root=root, labeled=False)
    assert (section.labels.tolist(), section[0]["index"]) == ([-1, -1], 1)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:owner/shapes", "expected hf:OWNER/NAME/SPLIT or hf:OWNER/NAME/CONFIG/SPLIT"),
        ("hf:../shapes/test", "expected hf:OWNER/NAME/SPLIT"),
        ("hf:owner/shapes/train", "files in .*shapes were not read: .*train"),
        ("hf:owner/other/test", "other does not exist: .*--data.download true"),
    ],
)
def test_error_of_a_wrong_source_is_one_line(root, source, message):
    with pytest.raises(UserError, match=message) as caught:
        open_set("mine", source, root=root, labeled=True)
    assert "'mine'" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, MissingDataError) == ("other" in source)


def test_a_download_puts_all_files_into_the_folder_or_none(root, monkeypatch):
    def fetch(repository, repo_type, local_dir):
        assert (repository, repo_type) == ("owner/copy", "dataset")
        local_dir.mkdir()
        if fetch.broken:
            raise OSError("no route to the hub")
        source = root / "owner" / "shapes" / "test-00000-of-00001.parquet"
        (local_dir / source.name).write_bytes(source.read_bytes())

    fetch.broken = True
    monkeypatch.setattr("huggingface_hub.snapshot_download", fetch)
    with pytest.raises(MissingDataError, match=r"owner/copy \(no route to the hub\): check"):
        open_set("mine", "hf:owner/copy/test", root=root, labeled=True, download=True)
    assert not (root / "owner" / "copy").exists()
    (root / "owner" / ".copy.part").rmdir()
    fetch.broken = False
    assert len(open_set("mine", "hf:owner/copy/test", root=root, labeled=True, download=True)) == 3


def test_columns_of_images_and_labels_must_be_clear(root):
    folder = root / "owner" / "numbers"
    folder.mkdir()
    datasets.Dataset.from_dict({"a": [1], "b": [2]}).to_parquet(folder / "test.parquet")
    with pytest.raises(UserError, match="expected one column of images, got none among a, b"):
        open_set("mine", "hf:owner/numbers/test", root=root, labeled=False)
    (folder / "test.parquet").unlink()
    features = datasets.Features({"picture": datasets.Image(), "x": datasets.Value("int64")})
    rows = datasets.Dataset.from_dict({"picture": [encoded(9)], "x": [1]}, features=features)
    rows.to_parquet(folder / "test.parquet")
    assert len(open_set("ood", "hf:owner/numbers/test", root=root, labeled=False)) == 1
    with pytest.raises(UserError, match="one column of class labels, got none among picture, x"):
        open_set("id", "hf:owner/numbers/test", root=root, labeled=True)


def test_a_damaged_image_is_refused_with_its_place(root):
    folder = root / "owner" / "bad"
    folder.mkdir()
    features = datasets.Features({"image": datasets.Image()})
    rows = datasets.Dataset.from_dict({"image": [{"bytes": b"x", "path": None}]}, features=features)
    rows.to_parquet(folder / "test.parquet")
    images = open_set("mine", "hf:owner/bad/test", root=root, labeled=False)
    with pytest.raises(UserError, match="image 0 of mine is refused: it cannot be read"):
        images.image(0)


@pytest.mark.parametrize("card", ["README.md", ".huggingface.yaml"])
@pytest.mark.parametrize("path", ["http://127.0.0.1:9/x.parquet", "/etc/x.parquet", "../x.parquet"])
def test_a_card_cannot_name_files_elsewhere(root, card, path):
    """The library would fetch them."""
    text = f"configs: [{{config_name: default, data_files: [{{split: test, path: ['{path}']}}]}}]"
    fence = "---\n" if card == "README.md" else ""
    (root / "owner" / "shapes" / card).write_text(f"{fence}{text}\n{fence}")
    with pytest.raises(UserError, match=f"expected a data set of files in .*shapes, .*{path}"):
        open_set("mine", "hf:owner/shapes/test", root=root, labeled=True)


def test_a_card_can_name_its_own_files(root):
    text = "configs: [{config_name: default, data_files: [{split: test, path: 'test-*'}]}]"
    (root / "owner" / "shapes" / "README.md").write_text(f"---\n{text}\n---\nShapes.\n")
    assert len(open_set("mine", "hf:owner/shapes/test", root=root, labeled=True)) == 3


def test_an_endless_file_is_unreadable(tmp_path):
    features = datasets.Features({"image": datasets.Image(decode=False)})
    rows = {"image": [{"bytes": None, "path": "/dev/zero"}]}
    (tmp_path / "owner" / "endless").mkdir(parents=True)
    path = tmp_path / "owner" / "endless" / "test-0.parquet"
    datasets.Dataset.from_dict(rows, features=features).to_parquet(path)
    images = open_set("ood", "hf:owner/endless/test", root=tmp_path, labeled=False)
    assert images.contents().tolist() == [-1]
    with pytest.raises(UserError, match="is a device, expected a file"):
        images[0]

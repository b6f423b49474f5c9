"""The DataModule: groups, parts, limits, absent sets, command line and Lightning."""

from dataclasses import replace
from itertools import chain
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from lightning import LightningModule, Trainer
from PIL import Image
from torch.utils.data.distributed import DistributedSampler

from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.image_set import MissingDataError
from datamodules.ood import OODDataModule
from diffguard.errors import UserError

CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"


def _draw(folder, *names, value=255):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (10, 10), value).save(path)


@pytest.fixture
def root(tmp_path):
    """An ID set of two classes, one of them absent from validation, and two OOD sets."""
    _draw(tmp_path, *(f"train/{c}/{i}.png" for c in ("cat", "dog") for i in range(6)))
    _draw(tmp_path, *(f"val/dog/{i}.png" for i in range(3)))
    _draw(tmp_path, *(f"test/{c}/{i}.png" for c in ("cat", "dog") for i in range(2)))
    _draw(tmp_path, *(f"sky/{i}.png" for i in range(5)))
    _draw(tmp_path, *(f"sea/{i}.png" for i in range(3)))
    return tmp_path


def _config(root, **options):
    settings = {
        "id": IDSets("folder:train", "folder:val", "folder:test"),
        "ood": OODSets(near={"sky": "folder:sky"}, far={"sea": "folder:sea"}),
        "name": "pets",
        "root": str(root),
        "image_size": 8,
        "batch_size": 4,
        "train_batch_size": 4,
    }
    return DataConfig(**{**settings, **options})


def _module(root, **options):
    return OODDataModule(_config(root, **options))


def _pairs(loader):
    return [p for b in loader for p in zip(b["dataset"], b["index"].tolist(), strict=True)]


def test_test_sets_are_ordered_and_have_groups(root):
    data = _module(root, ood_validation={"other": "digits:6-9"})
    assert data.groups == {"pets": "id", "sky": "near", "sea": "far"}
    assert [images.name for images in data.evaluation_sets("test")] == ["pets", "sky", "sea"]
    validation = data.evaluation_sets("validation")
    assert [images.name for images in validation] == ["pets_validation", "other"]
    assert [images.name for images in data.evaluation_sets("train")] == ["pets_train"]
    loaders = data.test_dataloader()
    labels = [torch.cat([batch["label"] for batch in loader]).tolist() for loader in loaders]
    assert labels == [[0, 0, 1, 1], [-1] * 5, [-1] * 3]
    assert next(iter(loaders[0]))["image"].shape == (4, 1, 8, 8)


def test_ranks_share_the_validation_images_and_the_trainer_divides_no_share(root):
    data, places = _module(root), []
    for rank in range(2):
        data.trainer = SimpleNamespace(global_rank=rank, world_size=2)
        loader = data.val_dataloader()
        assert isinstance(loader.sampler, DistributedSampler)
        places += [batch["index"].tolist() for batch in loader]
    assert places == [[0, 2], [1]]


def test_labels_do_not_shift_if_a_part_lacks_a_class(root):
    data = _module(root)
    (batch,) = data.val_dataloader()
    assert batch["label"].tolist() == [1, 1, 1]
    assert data.class_names == ("cat", "dog")
    assert data.num_classes == 2


def test_class_names_are_those_given_or_numbers(root):
    data = _module(root, class_names=["dog", "cat", "cow"])
    assert data.num_classes == 3
    assert data.evaluation_sets("test")[0].labels.tolist() == [1, 1, 0, 0]
    (root / "list.txt").write_text("test/cat/0.png 0\ntest/dog/0.png 4\n")
    assert _module(root, id=IDSets(test="imglist:list.txt")).class_names == tuple("01234")


def test_evaluation_needs_no_training_data():
    data = OODDataModule(DataConfig(IDSets("imglist:none.txt@", "folder:none", "digits:0-5/test")))
    assert len(data.stream("test")) == 600


def test_limit_always_chooses_the_same_images_of_each_set(root):
    data = _module(root, limit=2)
    pairs = _pairs(chain(*data.test_dataloader()))
    assert [name for name, _ in pairs] == ["pets"] * 2 + ["sky"] * 2 + ["sea"] * 2
    assert pairs == _pairs(chain(*_module(root, limit=2, seed=5).test_dataloader()))
    assert len(data.evaluation_sets("validation")[0]) == 2
    assert len(data.evaluation_sets("train")[0]) == 12


def test_an_absent_ood_set_is_an_error_or_skipped(root):
    ood = OODSets(near={"sky": "folder:sky", "lake": "folder:lake"}, far={"pond": "my/pond"})
    with pytest.raises(MissingDataError, match=r"'lake'.*data\.root.*--data\.missing skip"):
        _module(root, ood=ood).evaluation_sets("test")
    data = _module(root, ood=ood, missing="skip")
    assert data.groups == {"pets": "id", "sky": "near"}
    assert list(data.sets.left_out) == ["lake", "pond"]
    assert str(root / "lake") in data.sets.left_out["lake"]


def test_one_error_lists_all_absent_sets_and_where_to_get_them(root):
    ood = OODSets(near={"lake": "folder:lake"}, far={"pond": "imglist:pond.txt@images"})
    with pytest.raises(MissingDataError) as caught:
        _module(root, ood=ood, get_from="the archive").evaluation_sets("test")
    message = str(caught.value)
    for part in ("'lake'", str(root / "lake"), str(root / "pond.txt"), str(root / "images")):
        assert part in message
    assert message.count("get it from the archive") == 1
    with pytest.raises(MissingDataError, match="get it from the archive"):
        _module(root, id=IDSets(test="folder:none"), get_from="the archive").stream("test")


def test_an_absent_id_set_and_a_wrong_source_are_never_skipped(root):
    with pytest.raises(MissingDataError, match="'pets'"):
        _module(root, id=IDSets(test="folder:none"), missing="skip").evaluation_sets("test")
    with pytest.raises(UserError, match=r"data\.id\.validation is not set"):
        _module(root, id=IDSets(test="folder:test")).val_dataloader()
    with pytest.raises(UserError, match="expected letters:test"):
        _module(root, ood=OODSets(far={"x": "letters:all"}), missing="skip").groups  # noqa: B018


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("batch_size", 0, r"data\.batch_size must be at least 1, got 0"),
        ("train_batch_size", -4, r"data\.train_batch_size must be at least 1"),
        ("image_size", 0, r"data\.image_size must be at least 1"),
        ("limit", 0, r"data\.limit must be at least 1"),
        ("image_size", 5000, r"data\.image_size must be at most 2,048, got 5,000"),
        ("batch_size", 10**9, r"data\.batch_size must be at most 65,536"),
        ("class_names", [], r"data\.class_names is an empty list"),
        ("num_workers", 10**9, r"data\.num_workers must be at most 256"),
        ("seed", -1, r"data\.seed must be at least 0"),
        ("num_workers", -1, r"data\.num_workers must be at least 0"),
        ("channels", 2, r"data\.channels must be 1 \(grayscale\) or 3"),
        ("name", "near", "'near' is reserved"),
    ],
)
def test_wrong_settings_are_refused_by_name(root, option, value, message):
    with pytest.raises(UserError, match=message):
        _module(root, **{option: value})


def test_workers_need_a_short_folder_for_temporary_files(root, monkeypatch):
    monkeypatch.setattr("multiprocessing.util.get_temp_dir", lambda: f"/tmp/{'x' * 110}")
    with pytest.raises(UserError, match=r"data\.num_workers above 0 needs .* set TMPDIR to"):
        _module(root, num_workers=1)
    _module(root, num_workers=0)


def test_only_prepare_data_downloads(root, monkeypatch):
    downloads = []

    class Absent:
        def __init__(self, root, train=True, download=False):
            downloads.append(download)
            raise RuntimeError("not found")

    monkeypatch.setattr("torchvision.datasets.MNIST", Absent)
    data = _module(root, ood=OODSets(far={"m": "torchvision:MNIST/test"}), download=True)
    with pytest.raises(MissingDataError, match="found no MNIST"):
        data.prepare_data()
    with pytest.raises(MissingDataError, match="found no MNIST"):
        data.evaluation_sets("test")
    assert downloads == [True, False]
    _module(root, ood=OODSets(far={"m": "torchvision:MNIST/test"})).prepare_data()
    assert downloads == [True, False]


def test_the_default_config_has_the_documented_counts():
    data = OODDataModule(DataConfig(**_arguments(yaml.safe_load(CONFIG.read_text())["data"])))
    assert data.groups == {
        "digits_0_5": "id", "digits_6_9": "near", "letters": "far", "patches": "far",
    }  # fmt: skip
    assert [len(images) for images in data.evaluation_sets("test")] == [600, 2000, 600, 600]
    assert [len(images) for images in data.evaluation_sets("validation")] == [400, 400, 400]
    assert data.num_classes == 6
    assert len(data.stream("test")) == 3800


def _arguments(section):
    return {**section, "id": IDSets(**section["id"]), "ood": OODSets(**section["ood"])}


class _Recorder(LightningModule):
    """Records the images of each training epoch."""

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen = {}

    def training_step(self, batch):
        self.seen.setdefault(self.current_epoch, []).append((batch["index"], batch["image"]))
        return self.weight * batch["image"].mean()

    def validation_step(self, batch):
        assert batch["dataset"][0] == "pets_validation"

    def test_step(self, batch, batch_idx, dataloader_idx=0):
        self.seen.setdefault("test", []).extend(batch["index"].tolist())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def _trainer(folder, epochs):
    return Trainer(
        default_root_dir=folder,
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        enable_model_summary=False,
        use_distributed_sampler=False,
    )


def test_resumed_training_sees_the_same_images(root):
    data = _module(root, augment="affine")
    whole = _Recorder()
    _trainer(root, 3).fit(whole, datamodule=data)
    assert [len(batches) for batches in whole.seen.values()] == [3, 3, 3]
    assert not torch.equal(whole.seen[0][0][0], whole.seen[1][0][0])
    first, rest = _Recorder(), _Recorder()
    trainer = _trainer(root, 1)
    trainer.fit(first, datamodule=_module(root, augment="affine"))
    trainer.save_checkpoint(root / "last.ckpt")
    resumed = _trainer(root, 3)
    resumed.fit(
        rest,
        datamodule=_module(root, augment="affine"),
        ckpt_path=root / "last.ckpt",
    )
    assert list(rest.seen) == [1, 2]
    for epoch, batches in rest.seen.items():
        for (index, image), (expected, picture) in zip(batches, whole.seen[epoch], strict=True):
            assert torch.equal(index, expected)
            assert torch.equal(image, picture)


def test_the_trainer_tests_every_image_once(root):
    _trainer(root, 1).test(model := _Recorder(), datamodule=_module(root), verbose=False)
    assert model.seen["test"] == [*range(4), *range(5), *range(3)]


def test_a_transform_replaces_the_augmentation(root):
    config = _config(root, augment="affine")
    data = OODDataModule(config, transform=torch.zeros_like)
    assert [batch["image"].any().item() for batch in data.train_dataloader()] == [False] * 3
    with pytest.raises(UserError, match=r"data\.in_memory false"):
        OODDataModule(replace(config, in_memory=True), transform=torch.zeros_like)


def test_a_limited_stream_has_images_of_every_class(data_root):
    """Lists are sorted by class, so the first images would all be of one class."""
    data = OODDataModule(
        DataConfig(IDSets(train="folder:train"), root=str(data_root), image_size=8)
    )
    stream = data.id_stream("train", 12)
    assert len(stream) == 12
    assert set(stream.sets[0].labels.tolist()) == {0, 1, 2}
    assert len(data.id_stream("train")) == 36

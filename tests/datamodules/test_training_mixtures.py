"""Training from files and from memory sees the same mixtures."""

import pytest
import torch

from datamodules.config import DataConfig, IDSets
from datamodules.ood import OODDataModule
from diffguard.augment.mixing import DiffuseMix
from diffguard.augment.mixtures import Mixtures


def batches(in_memory, mixtures, augment="none"):
    config = DataConfig(IDSets("digits:0-5/validation"), in_memory=in_memory)
    data = OODDataModule(config).for_stage(augment, 64, mixtures)
    loader = data.train_dataloader()
    loader.sampler.set_epoch(2)
    return list(loader)


@pytest.fixture(scope="module")
def mixtures():
    count = len(OODDataModule(DataConfig(IDSets("digits:0-5/validation"))).id_stream("train"))
    # The edit of an image is marked with its position.
    marks = (torch.arange(count) % 251).to(torch.uint8)
    edits = marks[:, None, None, None].expand(count, 1, 28, 28)
    return Mixtures(edits, torch.zeros(1, 1, 28, 28), DiffuseMix(0.0), 0.5, seed=0)


def test_mixtures_do_not_depend_on_where_the_images_are(mixtures):
    from_files, from_memory, plain = (
        batches(False, mixtures),
        batches(True, mixtures),
        batches(False, None),
    )
    mixed = 0
    for ours, theirs, original in zip(from_files, from_memory, plain, strict=True):
        torch.testing.assert_close(ours["image"], theirs["image"], atol=3e-3, rtol=0)
        # A mixture keeps the label of its image.
        assert torch.equal(ours["label"], original["label"])
        mixed += int((ours["image"] != original["image"]).flatten(1).any(1).sum())
    assert 0.4 < mixed / (64 * len(plain)) < 0.6


def test_a_mixture_contains_the_edit_of_its_own_image(mixtures):
    for ours, original in zip(batches(True, mixtures), batches(True, None), strict=True):
        rows = (ours["image"] != original["image"]).flatten(1).any(1)
        different = ours["image"][rows] != original["image"][rows]
        marks = (ours["index"][rows] % 251 / 255).float()[:, None, None, None]
        torch.testing.assert_close(
            ours["image"][rows][different],
            marks.expand_as(different)[different],
            atol=1e-6,
            rtol=0,
        )


def test_mixtures_are_augmented(mixtures):
    plain, flipped = batches(True, mixtures), batches(True, mixtures, augment="flip")
    for before, after in zip(plain, flipped, strict=True):
        same = (before["image"] == after["image"]).flatten(1).all(1)
        turned = (before["image"].flip(3) == after["image"]).flatten(1).all(1)
        assert (same | turned).all()
        assert turned.any()


def test_a_limit_chooses_training_images_and_no_others():
    data = OODDataModule(
        DataConfig(IDSets("digits:0-5/train", "digits:0-5/validation"), train_limit=50)
    )
    whole = OODDataModule(DataConfig(IDSets("digits:0-5/train", "digits:0-5/validation")))
    images = data.sets.id_set("train")
    assert len(images) == len(data.id_stream("train")) == 50
    assert images.indices == OODDataModule(data.config).sets.id_set("train").indices
    assert len(data.sets.id_set("validation")) == len(whole.sets.id_set("validation")) > 50

"""Training images: content, order, augmentation, mixtures and resuming."""

from functools import partial
from itertools import islice

import pytest
import torch

from datamodules.augmentation import Prepare, batch_augmentation, random_crop_and_flip, random_flip
from datamodules.config import DataConfig, IDSets
from datamodules.evaluation_stream import EvaluationStream
from datamodules.loader import ImageLoader, collate
from datamodules.ood import OODDataModule
from datamodules.training_memory import MemoryLoader, decode
from datamodules.training_stream import EpochSampler
from diffguard.augment.mixing import DiffuseMix
from diffguard.augment.mixtures import Mixtures
from diffguard.errors import UserError
from tests.helpers.tiny_training import images_of_three_classes


def loader(augment=None, *, count=20, batch_size=6, rank=0, ranks=1, seed=3):
    images = torch.arange(count)[:, None, None, None].expand(count, 1, 4, 4).to(torch.uint8)
    sampler = EpochSampler(range(count), num_replicas=ranks, rank=rank, seed=seed)
    return MemoryLoader(images, torch.arange(count) % 3, sampler, batch_size, augment, seed)


def epoch_of(loader, epoch):
    loader.sampler.set_epoch(epoch)
    return list(loader)


def test_decoded_images_equal_the_files():
    images = images_of_three_classes(10)
    stream = EvaluationStream([images], Prepare(8, 1))
    pixels, labels = decode(ImageLoader(stream, batch_size=4, collate_fn=collate))
    assert pixels.dtype == torch.uint8
    assert torch.equal(labels, images.labels)
    for i in range(10):
        assert torch.equal(pixels[i].float() / 255, images.image(i))


def test_each_epoch_has_its_own_order_of_images_with_their_labels():
    batches = loader()
    assert len(batches) == 3
    first, second = epoch_of(batches, 0), epoch_of(batches, 1)
    assert [batch["image"].shape for batch in first] == [(6, 1, 4, 4)] * 3
    for batch in first:
        assert torch.equal((batch["image"] * 255).round()[:, 0, 0, 0].long(), batch["index"])
        assert torch.equal(batch["label"], batch["index"] % 3)
    index = torch.cat([batch["index"] for batch in first])
    assert len(index.unique()) == 18
    assert not torch.equal(index, torch.cat([batch["index"] for batch in second]))
    again = torch.cat([batch["index"] for batch in epoch_of(loader(), 0)])
    assert torch.equal(index, again)


def test_the_order_equals_that_of_training_from_files():
    sampler = EpochSampler(range(20), num_replicas=1, rank=0, seed=3)
    sampler.set_epoch(4)
    index = torch.cat([batch["index"] for batch in epoch_of(loader(), 4)])
    assert index.tolist() == [index for index, _ in sampler][:18]


def test_processes_train_on_disjoint_images():
    index = [torch.cat([b["index"] for b in epoch_of(loader(rank=r, ranks=2), 0)]) for r in (0, 1)]
    assert len(torch.cat(index).unique()) == 12


def test_a_set_smaller_than_a_batch_is_one_batch():
    (batch,) = list(loader(count=4))
    assert len(batch["label"]) == 4


@pytest.mark.parametrize("stop", [1, 2])
def test_an_epoch_resumes_where_it_stopped(stop):
    whole = epoch_of(loader(random_crop_and_flip), 2)
    interrupted = loader(random_crop_and_flip)
    interrupted.sampler.set_epoch(2)
    start = list(islice(interrupted, stop))
    rest = loader(random_crop_and_flip)
    rest.load_state_dict(interrupted.state_dict())
    for batch, expected in zip(start + epoch_of(rest, 2), whole, strict=True):
        assert torch.equal(batch["image"], expected["image"])
        assert torch.equal(batch["index"], expected["index"])
    assert len(epoch_of(rest, 3)) == 3
    assert rest.state_dict() == {"batches": 0}


def test_half_of_the_images_are_flipped():
    images = torch.rand(400, 3, 4, 4)
    flipped = random_flip(images, torch.Generator().manual_seed(0))
    same = (flipped == images).flatten(1).all(1)
    turned = (flipped == images.flip(3)).flatten(1).all(1)
    assert torch.equal(same, ~turned)
    assert 160 < int(same.sum()) < 240


@pytest.mark.parametrize(
    ("name", "padding", "mode"), [("crop_flip", 4, "constant"), ("reflect_crop_flip", 2, "reflect")]
)
def test_crops_are_shifts_of_padded_images(name, padding, mode):
    images = torch.rand(300, 2, 8, 8) + 0.1
    cropped = batch_augmentation(name)(images, torch.Generator().manual_seed(0))
    padded = torch.nn.functional.pad(images, [padding] * 4, mode=mode)
    places = range(2 * padding + 1)
    shifts = set()
    for original, canvas, crop in zip(images, padded, cropped, strict=True):
        matches = [
            (top, left, flip)
            for top in places
            for left in places
            for flip in (False, True)
            if torch.equal(
                canvas[:, top : top + 8, left : left + 8].flip(2)
                if flip
                else canvas[:, top : top + 8, left : left + 8],
                crop,
            )
        ]
        assert len(matches) == 1, original
        shifts.add(matches[0])
    assert {top for top, _, _ in shifts} == {left for _, left, _ in shifts} == set(places)
    assert {flip for _, _, flip in shifts} == {False, True}


def test_augmentation_depends_on_the_seed_the_epoch_and_the_batch():
    same = torch.ones(6, 1, 8, 8, dtype=torch.uint8)
    same[:, :, :, :3] = 200

    def images(seed, epoch):
        sampler = EpochSampler(range(12), num_replicas=1, rank=0, seed=0)
        augment = batch_augmentation("crop_flip")
        pixels = same.repeat(2, 1, 1, 1)
        batches = MemoryLoader(pixels, torch.zeros(12), sampler, 6, augment, seed)
        return [batch["image"] for batch in epoch_of(batches, epoch)]

    first = images(0, 0)
    assert not torch.equal(*first)
    assert not torch.equal(first[0], images(1, 0)[0])
    assert not torch.equal(first[0], images(0, 1)[0])
    assert torch.equal(first[0], images(0, 0)[0])


def test_an_augmentation_of_single_images_is_refused_in_memory():
    assert batch_augmentation("none") is None
    with pytest.raises(UserError, match=r"affine works on single images.*data\.in_memory"):
        batch_augmentation("affine")


def test_the_data_module_decodes_once_for_all_stages():
    data = OODDataModule(
        DataConfig(IDSets("digits:0-5/validation"), in_memory=True, train_batch_size=100)
    )
    first = data.train_dataloader()
    assert isinstance(first, MemoryLoader)
    assert (len(first), first.augment) == (4, None)
    other = data.for_stage("flip", 50).train_dataloader()
    assert (len(other), other.augment) == (8, random_flip)
    assert other.images is first.images
    assert data.for_stage(None, None).config.train_batch_size == 100
    with pytest.raises(UserError, match=r"data\.train_batch_size must be at least 1"):
        data.for_stage(None, -1)


def mixed_batches(in_memory, mixtures, augment="none"):
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
        mixed_batches(False, mixtures),
        mixed_batches(True, mixtures),
        mixed_batches(False, None),
    )
    mixed = 0
    for ours, theirs, original in zip(from_files, from_memory, plain, strict=True):
        torch.testing.assert_close(ours["image"], theirs["image"], atol=3e-3, rtol=0)
        # A mixture keeps the label of its image.
        assert torch.equal(ours["label"], original["label"])
        mixed += int((ours["image"] != original["image"]).flatten(1).any(1).sum())
    assert 0.4 < mixed / (64 * len(plain)) < 0.6


def test_a_mixture_contains_the_edit_of_its_own_image(mixtures):
    for ours, original in zip(*map(partial(mixed_batches, True), (mixtures, None)), strict=True):
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
    plain, flipped = mixed_batches(True, mixtures), mixed_batches(True, mixtures, augment="flip")
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

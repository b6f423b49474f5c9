"""The evaluation stream and the training stream: order, shares, resuming and errors."""

import itertools

import pytest
import torch
from PIL import Image

from datamodules.augmentation import Prepare, augmentation
from datamodules.evaluation_stream import EvaluationStream
from datamodules.file_set import folder_set
from datamodules.image_set import TensorSet, no_labels
from datamodules.loader import ImageLoader, collate
from datamodules.training_stream import EpochSampler, TrainingStream
from diffguard.errors import UserError


def _set(name, count, side=6):
    images = torch.randint(0, 256, (count, 1, side, side), dtype=torch.uint8)
    return TensorSet(name, images, no_labels(count))


def _loader(stream, batch_size=4, **options):
    return ImageLoader(stream, batch_size=batch_size, collate_fn=collate, **options)


@pytest.fixture
def stream():
    return EvaluationStream([_set("a", 5), _set("b", 7, side=9).subset(4)], Prepare(8, 3))


def test_items_are_prepared_and_have_their_origin(stream):
    item = stream[6]
    index = stream.sets[1].indices[1]
    assert item.pop("image").shape == (3, 8, 8)
    assert item == {"label": -1, "dataset": "b", "index": index, "path": "", "error": ""}


def test_batches_have_every_item_once_in_order(stream):
    batches = list(_loader(stream))
    assert [len(batch["label"]) for batch in batches] == [4, 4, 1]
    batch = batches[0]
    assert batch["image"].shape == (4, 3, 8, 8)
    assert batch["label"].dtype == batch["index"].dtype == torch.int64
    pairs = [
        pair
        for batch in batches
        for pair in zip(batch["dataset"], batch["index"].tolist(), strict=True)
    ]
    assert (
        pairs
        == stream.pairs()
        == [("a", i) for i in range(5)] + [("b", index) for index in stream.sets[1].indices]
    )


@pytest.mark.parametrize("world_size", [1, 2, 4, 12])
def test_shares_are_disjoint_complete_and_may_be_empty(stream, world_size):
    shares = [stream.share(rank, world_size) for rank in range(world_size)]
    assert sorted(itertools.chain(*(s.pairs() for s in shares))) == sorted(stream.pairs())
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    for share in shares:
        assert sum(len(batch["label"]) for batch in _loader(share)) == len(share)
    if world_size == 12:
        assert len(_loader(shares[-1])) == 0


def test_stream_without_some_pairs_has_all_others(stream):
    index = stream.sets[1].indices[2]
    rest = stream.without({("a", 0), ("a", 3), ("b", index), ("elsewhere", 1)})
    assert len(rest) == 6
    assert rest.pairs() == [
        p for p in stream.pairs() if p not in {("a", 0), ("a", 3), ("b", index)}
    ]
    assert stream.without(set(stream.pairs())).pairs() == []
    assert rest.share(1, 2).pairs() == rest.pairs()[1::2]
    assert len(stream) == 9


@pytest.fixture
def broken(tmp_path):
    for name in ("a.png", "c.png"):
        Image.new("L", (8, 8), 255).save(tmp_path / name)
    (tmp_path / "b.png").write_text("not an image")
    return folder_set("images", tmp_path)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_unreadable_image_is_reported_in_one_line(broken, workers):
    loader = _loader(EvaluationStream([broken], Prepare(8, 1)), num_workers=workers)
    with pytest.raises(UserError, match=r"b\.png cannot be read") as caught:
        list(loader)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith("image ")


def test_an_unreadable_image_is_skipped_with_its_error(broken):
    stream = EvaluationStream([broken], Prepare(8, 1), on_error="skip")
    (batch,) = _loader(stream.share(0, 1).without(set()))
    assert [bool(error) for error in batch["error"]] == [False, True, False]
    assert "b.png cannot be read" in batch["error"][1]
    assert batch["path"] == ["a.png", "b.png", "c.png"]
    assert batch["image"].mean((1, 2, 3)).tolist() == [1.0, 0.0, 1.0]


def _epoch(epoch, seed=0, augment="affine", workers=0, rank=0, world_size=1):
    images = _set("train", 10)
    images._images = (torch.arange(360) % 256).to(torch.uint8).reshape(10, 1, 6, 6)
    stream = TrainingStream(images, Prepare(6, 1), augmentation(augment, 6), seed)
    sampler = EpochSampler(stream, num_replicas=world_size, rank=rank, seed=seed)
    sampler.set_epoch(epoch)
    batches = list(_loader(stream, sampler=sampler, num_workers=workers))
    indices = torch.cat([batch["index"] for batch in batches])
    return indices.tolist(), torch.cat([batch["image"] for batch in batches])


def test_an_epoch_depends_on_seed_and_number_alone():
    order, images = _epoch(3)
    assert sorted(order) == list(range(10))
    torch.rand(5)  # the state of torch's generator does not matter
    again, same = _epoch(3, workers=1)
    assert again == order
    assert torch.equal(same, images)
    for other in (_epoch(4), _epoch(3, seed=1)):
        assert other[0] != order
        by_index, others = (dict(zip(*pair, strict=True)) for pair in ((order, images), other))
        assert not torch.equal(by_index[0], others[0])


def test_augmentation_does_not_change_the_global_generator():
    torch.manual_seed(0)
    expected = torch.rand(3)
    stream = TrainingStream(_set("t", 3), Prepare(6, 1), augmentation("affine", 6), seed=2**32 - 1)
    torch.manual_seed(0)
    stream[1, 5]
    assert torch.equal(torch.rand(3), expected)


def test_ranks_train_on_different_images():
    first, second = (_epoch(0, rank=rank, world_size=2)[0] for rank in range(2))
    assert not set(first) & set(second)
    assert len(first) == len(second) == 5


def test_training_stops_at_an_unreadable_image(broken):
    stream = TrainingStream(broken, Prepare(8, 1), None, seed=0)
    with pytest.raises(UserError, match=r"b\.png cannot be read"):
        list(_loader(stream, sampler=EpochSampler(stream, num_replicas=1, rank=0)))

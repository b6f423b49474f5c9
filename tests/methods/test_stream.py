"""The stream of scored images: its rows, labels and masks."""

import math

import pytest
import torch
from PIL import Image

from datamodules.augmentation import Prepare
from datamodules.evaluation_stream import EvaluationStream
from datamodules.file_set import folder_set
from datamodules.loader import collate
from diffguard.classifiers.cam import cam_mask, grad_cam, scale_cam
from diffguard.errors import UserError
from diffguard.methods.items import Item
from diffguard.methods.items import items_of as items_of_batch
from diffguard.settings.guidance import (
    ClassifierFreeSettings,
    ClassifierGuidanceSettings,
    CropSettings,
)
from diffguard.settings.sections import EarlyStopSettings, InversionSettings
from tests.helpers.tiny_detector import build_detector, small_settings
from tests.helpers.tiny_models import tiny_classifier


def items_of(images, **options):
    return [Item(image, index=i, dataset="set", **options) for i, image in enumerate(images)]


def score(detector, items, batch_size=8, **options):
    """Scored images in the order of the items."""
    stream = detector.stream(batch_size, **options)
    scored = stream.push(items) + stream.flush()
    place = {item.index: number for number, item in enumerate(items)}
    return sorted(scored, key=lambda result: place[result.item.index])


def test_a_row_has_its_origin_and_the_classifiers_outputs(detector, images):
    items = [
        Item(image, label=i % 3, index=10 + i, path=f"{i}.png", dataset="mine")
        for i, image in enumerate(images)
    ]
    logits = detector.classifier(images).detach()
    for result, item, output in zip(score(detector, items), items, logits, strict=True):
        row = result.row
        assert result.item is item
        assert (row.dataset, row.index, row.path) == ("mine", item.index, item.path)
        assert row.label == item.label
        assert row.prediction == int(output.argmax())
        assert row.probability == pytest.approx(float(output.softmax(0).max()))
        assert sorted(row.scores) == sorted(detector.score_names())
        assert row.error == ""


def test_rows_have_steps_and_passes(detector, images):
    # 4 of 6 steps: 4 passes of inversion, 4 of synthesis with label and 4 without.
    for result in score(detector, items_of(images)):
        assert (result.row.stop_step, result.row.network_passes) == (4, 4 + 2 * 4)
        assert result.row.stop_step == result.reconstruction.stop_index + 1


def test_rows_have_the_stopping_step_of_an_early_stop(images):
    stop = EarlyStopSettings(thresholds={"psnr": 8.0})
    settings = small_settings(early_stop=stop, inversion=InversionSettings(depth=1.0))
    rows = [result.row for result in score(build_detector(settings), items_of(images))]
    assert len({row.stop_step for row in rows}) > 1
    assert all(row.network_passes == 3 * row.stop_step for row in rows)


def test_an_unreadable_image_gives_a_row_with_its_error(detector, images):
    items = items_of(images)
    torn = Item(torch.zeros(0), label=2, dataset="set", index=99, path="t.png", error="torn file")
    results = score(detector, [items[0], torn, *items[1:]])
    row = results[1].row
    assert results[1].reconstruction is None
    assert (row.dataset, row.index, row.path, row.label) == ("set", 99, "t.png", 2)
    assert (row.error, row.scores) == ("torn file", {})
    # It does not affect the other images.
    plain = score(detector, items)
    assert [result.row for result in results if not result.row.error] == [
        result.row for result in plain
    ]


def test_a_stream_may_have_unreadable_images_only(detector):
    torn = [Item(torch.zeros(0), index=i, error="torn") for i in range(20)]
    assert len(score(detector, torn)) == 20
    assert score(detector, []) == []


def test_a_batch_of_absurd_size_takes_no_memory():
    detector = build_detector()
    detector.classifier.size = (2048, 2048)
    with pytest.raises(UserError, match=r"a batch of 64 images of 2,048 × 2,048 .* at most 32"):
        detector.stream(64)


def test_rows_are_returned_before_the_stream_ends(detector, images):
    stream = detector.stream(8)
    early = [len(stream.push(items_of(images[:8]))) for _ in range(5)]
    assert sum(early) > 0
    assert len(stream.flush()) == 40 - sum(early)


def test_derived_scores_are_optional(detector, images):
    plain = score(detector, items_of(images), derive=False)
    full = score(detector, items_of(images))
    assert list(plain[0].row.scores) == detector.score_names(derived=False)
    for result, other in zip(plain, full, strict=True):
        assert result.row.scores.items() <= other.row.scores.items()


def test_an_additional_unguided_image_changes_no_score(detector, images):
    plain = score(detector, items_of(images))
    both = score(detector, items_of(images), unguided=True)
    for result, other in zip(plain, both, strict=True):
        assert result.reconstruction.unguided is None
        assert other.reconstruction.unguided.shape == images[0].shape
        assert not torch.equal(other.reconstruction.unguided, other.reconstruction.guided)
        assert torch.equal(result.reconstruction.guided, other.reconstruction.guided)
        assert result.row.scores == other.row.scores
        assert other.row.network_passes > result.row.network_passes


def oracle_labels(seed=0, shades=range(40), label=-1, first=0, **options):
    """Labels to which OOD images are guided."""
    settings = small_settings(label="oracle")
    detector = build_detector(settings, calibrated=False)
    detector.models.seed = seed
    images = [torch.full((1, 8, 8), shade / 40) for shade in shades]
    items = [Item(image, label=label, index=first + i, **options) for i, image in enumerate(images)]
    return [result.reconstruction.job.label for result in score(detector, items, derive=False)]


def test_oracle_labels_of_ood_images_depend_only_on_pixels_and_seed():
    labels = oracle_labels()
    assert set(labels) == {0, 1, 2}
    assert oracle_labels(shades=range(39, -1, -1)) == labels[::-1]
    assert oracle_labels(shades=[7] * 9) == oracle_labels(shades=[7]) * 9
    assert oracle_labels(seed=1) != labels
    assert oracle_labels(dataset="other", path="a.png", first=5) == labels


@pytest.mark.parametrize("name", ["crops", "oracle"])
def test_a_file_has_the_score_of_its_pixels_under_any_name(tmp_path, name):
    crops = CropSettings(number=2, size=6)
    changes = {
        "crops": {"guidance": ClassifierGuidanceSettings(crops=crops)},
        "oracle": {"label": "oracle"},
    }
    detector = build_detector(small_settings(**changes[name]))
    generator = torch.Generator().manual_seed(3)
    pixels = torch.randint(0, 256, (9, 3, 11, 17), generator=generator, dtype=torch.uint8)
    for number, image in enumerate(pixels):
        for folder, file in (("a", f"{number}.png"), ("b", f"{9 - number}.png")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).save(tmp_path / folder / file)
    plain = detector.score(pixels / 255.0, name="diffguard/logits_l1")
    assert len(plain.unique()) == 9
    for folder in ("a", "b"):
        stream = EvaluationStream([folder_set(folder, tmp_path / folder)], Prepare(8, 1))
        items = items_of_batch(collate(list(stream)))
        rows = [result.row for result in score(detector, items, batch_size=16)]
        scores = [row.scores["diffguard/logits_l1"] for row in rows]
        expected = plain if folder == "a" else plain.flip(0)
        assert scores == expected.tolist()


def test_the_oracle_uses_the_labels_of_id_images():
    assert set(oracle_labels(label=2)) == {2}


def test_the_predicted_label_guides_by_default(detector, images):
    predicted = detector.classifier(images).argmax(1).tolist()
    scored = score(detector, items_of(images, label=2))
    assert [result.reconstruction.job.label for result in scored] == predicted


@pytest.mark.parametrize("cut", [0.3, -0.3])
def test_the_cam_mask_of_the_label_reaches_the_reconstruction(images, cut):
    settings = small_settings(guidance=ClassifierFreeSettings(scale=2.0, cam_cut=cut))
    detector = build_detector(settings, calibrated=False)
    labels = detector.classifier(images).argmax(1)
    # Another classifier object with the same weights shares only the method.
    cam = grad_cam(tiny_classifier(3, channels=1), images, labels)
    expected = cam_mask(scale_cam(cam), cut)
    assert expected.any()
    assert not expected.all()
    plain = score(build_detector(calibrated=False), items_of(images))
    for result, mask, other in zip(score(detector, items_of(images)), expected, plain, strict=True):
        job = result.reconstruction.job
        assert job.mask.dtype == torch.bool
        assert float((job.mask != mask).float().mean()) < 0.05  # rounding depends on the batch
        assert other.reconstruction.job.mask is None
        # A full mask is the same as no mask.
        same = torch.equal(result.reconstruction.guided, other.reconstruction.guided)
        assert same == bool(mask.all())


def test_a_score_that_is_not_finite_names_the_file(images):
    detector = build_detector()
    with torch.no_grad():
        detector.classifier.network.fc.weight.fill_(math.inf)
    items = [Item(images[0], path="folder/a.png")]
    with pytest.raises(UserError, match=r"of image folder/a\.png is (nan|inf|-inf)"):
        score(detector, items)
    with torch.no_grad():
        detector.classifier.std.fill_(0.0)
    with pytest.raises(UserError, match=r"features of image folder/a\.png are not finite"):
        score(detector, items)

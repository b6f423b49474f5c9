"""Pictures of scored images: CAM, and where an image and its reconstruction differ."""

from dataclasses import replace

import torch
from torch import nn

from diffguard.classifiers.cam import grad_cam, scale_cam
from diffguard.methods.pictures import feature_location, panel_rows
from diffguard.scores.formulas import structure_map, texture_structure
from diffguard.scores.perceptual import DISTS


def test_rows_have_cam_reconstructions_and_the_location_of_the_difference(detector, images):
    scored = detector.score_images(images[:9])
    rows = panel_rows(detector.models, scored, "fusion")
    assert [row.score for row in rows] == [image.row.scores["fusion"] for image in scored]
    labels = torch.tensor([image.row.prediction for image in scored])
    cams = scale_cam(grad_cam(detector.classifier, images[:9], labels))
    for row, image, cam in zip(rows, scored, cams, strict=True):
        assert torch.equal(row.image, image.item.image)
        assert torch.equal(row.guided, image.reconstruction.guided)
        torch.testing.assert_close(row.cam, cam)
        assert row.location.name == "features"
        assert 0 <= row.location.values.min() <= row.location.values.max() <= 1
        assert row.location.values.max() > 0


def test_features_differ_where_the_images_differ(detector, images):
    changed = images[:2].clone()
    changed[1, :, :4, :4] = 1 - changed[1, :, :4, :4]
    maps = feature_location(detector.classifier, images[:2], changed)
    assert maps.shape == (2, 8, 8)
    assert maps[0].max() == 0
    assert maps[1].max() > 0


def test_an_unreadable_image_has_no_row_and_one_without_reconstruction_no_location(
    detector, images
):
    scored = detector.score_images(images[:2])
    scored[0].reconstruction = None
    (row, _) = panel_rows(detector.models, scored, "fusion")
    assert list(row.pictures) == ["input", "CAM"]
    scored[1].row = replace(scored[1].row, prediction=None)
    assert len(panel_rows(detector.models, scored, "fusion")) == 1


def test_location_of_dists_is_its_structure_term():
    a, b = torch.rand(2, 2, 5, 8, 8, generator=torch.Generator().manual_seed(0))
    beta = torch.rand(5)
    values = structure_map(a, b, beta)
    assert values.shape == (2, 8, 8)
    expected = texture_structure(a, b, 0.0, beta)
    torch.testing.assert_close(values.mean((1, 2)), expected)


def test_dists_locates_a_difference():
    torch.manual_seed(0)
    widths, layers = [64, 128, 256, 512, 512], []
    convolutions = dict(
        zip((0, 5, 10, 17, 24), zip([3, *widths], widths, strict=False), strict=True)
    )
    for place in range(31):
        layer = nn.Conv2d(*convolutions[place], 1) if place in convolutions else nn.Identity()
        layers.append(layer)
    weights = torch.ones(3 + sum(widths))
    network = DISTS(nn.Sequential(*layers), weights, weights)
    a = torch.rand(1, 3, 16, 16)
    b = a.clone()
    b[:, :, :4, :4] = 1 - b[:, :, :4, :4]
    location = network.location(a, b)[0]
    assert location.shape == (16, 16)
    assert location[:4, :4].mean() > 4 * location[4:, 4:].mean()


def test_a_classifier_without_positions_gets_no_maps(detector, images, monkeypatch):
    scored = detector.score_images(images[:1])
    layer = next(n for n, m in detector.classifier.network.named_modules() if type(m) is nn.Linear)
    monkeypatch.setattr(detector.classifier, "cam_layer", layer)
    (row,) = panel_rows(detector.models, scored, "fusion")
    assert list(row.pictures) == ["input", "guided", "|input − guided|"]

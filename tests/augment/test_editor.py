"""Edits by inversion and synthesis with the diffusion model."""

import pytest
import torch

from diffguard.augment.editor import InversionEditor, seconds_per_edit
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.diffusion.schedule import NoiseSchedule
from tests.helpers.tiny_models import two_layers


def editor(classes=4, depth=0.5, scale=2.0):
    network = two_layers(channels=1, classes=classes)
    null = None if classes is None else classes
    denoiser = PixelDenoiser(network, NoiseSchedule.linear(), 8, 1, classes, null)
    return InversionEditor(denoiser, 8, depth, scale, batch_size=8)


IMAGES = torch.rand(11, 1, 8, 8, generator=torch.Generator().manual_seed(0))
LABELS = [row % 4 for row in range(11)]


def test_an_edit_does_not_depend_on_the_other_images():
    edits = editor().edit(IMAGES, LABELS, 0)
    assert edits.shape == IMAGES.shape
    assert 0 <= edits.min() <= edits.max() <= 1
    for row in (0, 10):
        alone = editor().edit(IMAGES[row : row + 1], LABELS[row : row + 1], 0)
        assert torch.equal(alone[0], edits[row])


def test_synthesis_goes_toward_the_label_of_the_image():
    edits = editor().edit(IMAGES, LABELS, 0)
    other = editor().edit(IMAGES, [(label + 1) % 4 for label in LABELS], 0)
    assert (edits - other).abs().flatten(1).amax(1).min() > 1e-3


def test_later_attempts_invert_less():
    assert [editor(depth=0.8).inversion_steps(attempt) for attempt in range(6)] == [
        6,
        4,
        3,
        2,
        2,
        1,
    ]
    first, second = (editor().edit(IMAGES, LABELS, attempt) for attempt in (0, 1))
    assert not torch.equal(first, second)


def test_the_time_of_an_edit_is_estimated_from_a_single_step(monkeypatch):
    editing, steps, times = editor(depth=0.5), [], iter((0.0, 9.0, 10.0, 13.3))
    edit = editing.edit

    def remember(*arguments, most_steps):
        steps.append(most_steps)
        return edit(*arguments, most_steps=most_steps)

    monkeypatch.setattr(editing, "edit", remember)
    monkeypatch.setattr("time.perf_counter", lambda: next(times))
    # 3.3 s for 11 images and 1 + 2 of 4 + 2 · 4 passes.
    assert seconds_per_edit(editing, IMAGES, LABELS) == pytest.approx(3.3 / 11 * 4)
    assert steps == [1, 1]


def test_passes_are_counted():
    assert editor(depth=0.5).passes() == 4 + 2 * 4
    assert editor(depth=0.5).passes(most_steps=1) == 1 + 2
    assert editor(depth=0.5, scale=1.0).passes() == 4 + 4
    assert editor(classes=None).passes() == 4 + 4


def test_a_model_without_classes_makes_unguided_edits():
    edits = editor(classes=None).edit(IMAGES, LABELS, 0)
    assert torch.equal(edits, editor(classes=None).edit(IMAGES, [0] * 11, 0))

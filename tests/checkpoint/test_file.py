"""`detector.ckpt` restores the same detector from plain data."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from diffguard import Detector
from diffguard.checkpoint.file import library_versions, read_checkpoint
from diffguard.errors import UserError
from diffguard.settings.guidance import ClassifierGuidanceSettings
from diffguard.storage.state_dict import fill
from tests.helpers.saved_detector import CLASSIFIER, CONFIG, DIFFUSION, build
from tests.helpers.stranger import STRANGER


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A detector and its file. Tests must not change them."""
    detector, path = build(), tmp_path_factory.mktemp("saved") / "detector.ckpt"
    detector.save(path, CLASSIFIER, DIFFUSION, CONFIG)
    return detector, path


def test_a_loaded_detector_gives_the_same_scores(saved, images):
    detector, path = saved
    loaded = Detector.load(path)
    ours, theirs = (one.score_images(images) for one in (loaded, detector))
    assert [one.row for one in ours] == [one.row for one in theirs]
    assert set(ours[0].row.scores) == set(detector.score_names())
    ours, theirs = loaded.predict(images), detector.predict(images)
    assert torch.equal(ours.is_ood, theirs.is_ood)
    assert torch.equal(ours.percentile, theirs.percentile)
    assert loaded.settings == detector.settings
    assert (loaded.seed, loaded.image_size, loaded.image_channels) == (3, 8, 1)
    assert loaded.denoiser.antialias is False
    assert not any(network.training for network in (loaded.classifier, loaded.denoiser))
    assert not any(p.requires_grad for p in loaded.parameters())


def test_a_classifier_of_noisy_images_is_stored(tmp_path, images):
    guidance = ClassifierGuidanceSettings(scale=20.0, model="noisy", blend=False)
    detector, path = build(guidance=guidance), tmp_path / "detector.ckpt"
    detector.save(path, CLASSIFIER, DIFFUSION, CONFIG)
    restored = Detector.load(path).score(images, name="diffguard")
    assert torch.equal(restored, detector.score(images, name="diffguard"))
    protected = build(guidance=replace(guidance, model="protected"))
    assert not torch.equal(protected.score(images, name="diffguard"), restored)


def test_a_file_that_is_written_again_gives_the_same_detector(saved, tmp_path, images):
    detector, path = saved
    Detector.load(path).save(tmp_path / "again.ckpt", CLASSIFIER, DIFFUSION, CONFIG)
    again = Detector.load(tmp_path / "again.ckpt")
    assert torch.equal(again.score(images), detector.score(images))


def plain(value):
    """Whether a value is a tensor, a number, a string, or a list or dictionary of these."""
    if type(value) is dict:
        return all(type(key) is str and plain(one) for key, one in value.items())
    if type(value) is list:
        return all(plain(one) for one in value)
    return value is None or type(value) in (torch.Tensor, str, int, float, bool)


def test_the_file_has_only_plain_data(saved):
    content = torch.load(saved[1], weights_only=True)
    assert [key for key, value in content.items() if not plain(value)] == []
    assert content["config"] == CONFIG
    assert content["libraries"] == library_versions()
    assert {"python", "torch", "diffusers"} <= set(content["libraries"])


def test_a_crash_during_writing_preserves_the_old_file(saved, tmp_path, monkeypatch):
    path = tmp_path / "detector.ckpt"
    path.write_bytes(saved[1].read_bytes())

    def half(_content, file):
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", half)
    with pytest.raises(KeyboardInterrupt):
        saved[0].save(path, CLASSIFIER, DIFFUSION, CONFIG)
    assert path.read_bytes() == saved[1].read_bytes()
    assert [file.name for file in tmp_path.iterdir()] == ["detector.ckpt"]


def test_only_calibrated_detectors_are_saved(saved, tmp_path):
    detector = Detector.load(saved[1])
    detector.calibration = None
    with pytest.raises(UserError, match="only a calibrated detector"):
        detector.save(tmp_path / "detector.ckpt", CLASSIFIER, DIFFUSION, CONFIG)
    assert list(tmp_path.iterdir()) == []


def test_settings_can_be_replaced(saved, images):
    content = read_checkpoint(saved[1])
    changed = {**content["settings"], "decision": "msp", "accept": 0.5}
    restored = Detector.load(saved[1], settings=changed)
    assert torch.equal(restored.score(images), saved[0].score(images, name="msp"))
    with pytest.raises(UserError, match="'nope' is not a detector setting"):
        Detector.load(saved[1], settings={"nope": 1})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c.update(format="other"), "is not a detector checkpoint"),
        (lambda c: c.update(version=5), "format version 5, this program reads 1 to 4"),
        (lambda c: c.pop("classifier"), "is damaged"),
        (lambda c: c.update(reference={"features": None}), "is damaged"),
        (lambda c: c["classifier"]["spec"].update(kwargs={"depth": 3}), "cannot be built"),
        (lambda c: c["classifier"]["state"].pop("fc.bias"), r"classifier: 1 tensors .*\(fc.bias\)"),
        (lambda c: c["diffusion"]["state"].clear(), "do not fit the diffusion model"),
        (lambda c: c["diffusion"]["spec"].update(network="Pipeline"), "is not known"),
        (lambda c: c["classifier"]["spec"].update(arch="os.path.Evil"), "--trusted os.path.Evil"),
    ],
)
def test_parts_that_do_not_fit_together_are_refused(saved, tmp_path, change, message):
    content = read_checkpoint(saved[1])
    change(content)
    torch.save(content, tmp_path / "bad.ckpt")
    with pytest.raises(UserError, match=message) as caught:
        Detector.load(tmp_path / "bad.ckpt")
    assert "\n" not in str(caught.value)


def test_a_field_of_a_later_version_is_ignored(saved, images):
    content = read_checkpoint(saved[1])
    content["classifier"]["spec"]["later"] = 1
    assert torch.equal(Detector.from_checkpoint(content).score(images), saved[0].score(images))


def test_a_custom_class_must_be_trusted_explicitly(tmp_path, images):
    spec = replace(CLASSIFIER, arch=STRANGER, channels=3)
    detector, path = build(spec), tmp_path / "detector.ckpt"
    detector.save(path, spec, DIFFUSION, CONFIG)
    with pytest.raises(UserError, match=f"say so with --trusted {STRANGER}$"):
        Detector.load(path)
    restored = Detector.load(path, trusted=[STRANGER])
    assert torch.equal(restored.score(images), detector.score(images))


def test_weights_must_fit_exactly():
    network = nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 1))
    state = {name: torch.full_like(value, 0.5) for name, value in network.state_dict().items()}
    fill(network, state, "network")
    assert all(bool((value == 0.5).all()) for value in network.parameters())
    less = {name: value for name, value in state.items() if name != "1.bias"}
    with pytest.raises(UserError, match=r"1 tensors are missing \(1.bias\), 0 are left over"):
        fill(network, less, "network")
    with pytest.raises(UserError, match=r"0 tensors are missing \(\), 1 are left over \(new\)"):
        fill(network, {**state, "new": torch.zeros(1)}, "network")
    with pytest.raises(UserError, match=r"0.bias has shape \(4,\), expected \(3,\)"):
        fill(network, {**state, "0.bias": torch.zeros(4)}, "network")

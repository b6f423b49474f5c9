"""What several test files need: one thread, a tiny detector, a tiny trained run."""

import contextlib
import tempfile
from multiprocessing import connection

import pytest
import torch

import train
from diffguard.detector import Detector
from diffguard.scores.baselines import Reference
from diffguard.scores.calibration import Calibration
from diffguard.settings.detector import (
    DetectorSettings,
    GuidanceSettings,
    InversionSettings,
    SamplerSettings,
)
from tests.helpers.tiny_families import FILES, write_folder, write_stable_diffusion
from tests.helpers.tiny_models import denoiser_of, tiny_classifier, two_layers
from tests.helpers.tiny_project import write_config, write_data

CLASSES = 3


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _short_sockets():
    """Put the sockets of processes below /tmp if TMPDIR is longer than the name of one may be.

    Python does so by itself from 3.14 on.
    """
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        try:
            connection.Listener(family="AF_UNIX").close()
        except OSError:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
            patch.setattr("multiprocessing.util.get_temp_dir", lambda: folder)
        yield


def small_settings(**changes):
    """Settings of a quick detector; 6 steps, 4 of them inverted."""
    values = {
        "sampler": SamplerSettings(steps=6),
        "inversion": InversionSettings(depth=0.67),
        "guidance": GuidanceSettings(scale=2.0),
        "distances": ["logits_l1", "l2"],
        "baselines": ["msp", "knn"],
        "fused": ["knn"],
        "knn_k": 3,
    }
    return DetectorSettings(**{**values, **changes})


def build_detector(settings=None, *, calibrated=True, seed=0, noisy_classifier=None):
    """A detector of random networks on grey 8-pixel images, calibrated on random images."""
    settings = settings or small_settings()
    generator = torch.Generator().manual_seed(seed + 1)
    classifier = tiny_classifier(CLASSES, channels=1, seed=seed)
    denoiser = denoiser_of(two_layers(1, 8, CLASSES, seed), CLASSES)
    images = torch.rand(24, 1, 8, 8, generator=generator)
    with torch.no_grad():
        features = classifier.forward_features(images).features
    reference = Reference(features, torch.arange(24) % CLASSES)
    detector = Detector(
        classifier,
        denoiser,
        settings,
        image_size=8,
        image_channels=1,
        reference=reference,
        noisy_classifier=noisy_classifier,
    )
    if calibrated:
        stream = detector.stream(8, derive=False)
        from diffguard.methods.stream import Item

        items = [Item(image, index=i) for i, image in enumerate(images)]
        rows = [one.row for one in stream.push(items) + stream.flush()]
        names = detector.score_names(derived=False)
        scores = {n: torch.tensor([r.scores[n] for r in rows], dtype=torch.float64) for n in names}
        detector.calibration = Calibration.fit(scores, settings)
    return detector


@pytest.fixture(scope="session")
def detector():
    """A calibrated tiny detector; not to be changed."""
    return build_detector()


@pytest.fixture(scope="session")
def images():
    """Eleven grey images of 8 pixels in [0, 1]."""
    return torch.rand(11, 1, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Image folders in miniature."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, data_root):
    """A finished tiny run; not to be changed."""
    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder / "tiny.yaml", data_root)
    assert train.main(["--config", str(config), "--run_dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Where each family lies, written when it is first asked for."""
    root = tmp_path_factory.mktemp("models")
    made = {}

    def path(name):
        if name not in made:
            if name in FILES:
                made[name] = FILES[name].file
            elif name == "stable_diffusion":
                made[name] = write_stable_diffusion(root / name)
            else:
                made[name] = write_folder(name, root / name)
        return made[name]

    return path

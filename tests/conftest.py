"""Shared fixtures: one thread, a tiny detector and a tiny trained run.

pytest-xdist's controller reads this file too, so fixtures import the libraries when they run.
"""

import contextlib
import tempfile
from multiprocessing import connection

import pytest

from tests.helpers.tiny_project import write_config, write_data


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def _short_sockets():
    """Put the sockets of processes in /tmp if the path of TMPDIR is too long for them.

    Python 3.14 and newer do so automatically.
    """
    with pytest.MonkeyPatch.context() as patch, contextlib.ExitStack() as stack:
        try:
            connection.Listener(family="AF_UNIX").close()
        except OSError:
            folder = stack.enter_context(tempfile.TemporaryDirectory(dir="/tmp"))
            patch.setattr("multiprocessing.util.get_temp_dir", lambda: folder)
        yield


@pytest.fixture(scope="session")
def detector():
    """A calibrated tiny detector. Tests must not change it."""
    from tests.helpers.tiny_detector import build_detector

    return build_detector()


@pytest.fixture(scope="session")
def images():
    """Eleven grayscale images of 8 pixels in [0, 1]."""
    import torch

    return torch.rand(11, 1, 8, 8, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="session")
def data_root(tmp_path_factory):
    """Tiny image folders."""
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def run_folder(tmp_path_factory, data_root):
    """A finished tiny run. Tests must not change it."""
    import train

    folder = tmp_path_factory.mktemp("run")
    config = write_config(folder / "tiny.yaml", data_root)
    assert train.main(["--config", str(config), "--run_dir", str(folder / "run")]) == 0
    return folder / "run"


@pytest.fixture
def no_figures(monkeypatch):
    """Evaluations and trainings draw no figures, which take most of the time of a tiny one."""
    from diffguard.report import publish
    from lightning_modules.callbacks.classifier_figures import ClassifierFigures

    for name in ("_figures", "_panels"):
        monkeypatch.setattr(publish, name, lambda *_: ())
    monkeypatch.setattr(ClassifierFigures, "on_validation_epoch_end", lambda *_: None)


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    """Returns the path of a model of a family, which is written on first use."""
    from tests.helpers.tiny_families import FILES, write_folder, write_stable_diffusion

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

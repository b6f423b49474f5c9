"""Fixtures of the tests that run the scripts."""

import shutil

import pytest


@pytest.fixture
def ckpt(tmp_path, run_folder, no_figures):
    """The tiny detector in its own folder; its evaluations draw no figures."""
    return shutil.copy(run_folder / "detector.ckpt", tmp_path / "detector.ckpt")

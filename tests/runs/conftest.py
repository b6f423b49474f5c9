"""Fixtures of the tests that run the scripts."""

import shutil

import pytest


@pytest.fixture
def ckpt(tmp_path, run_folder):
    """The tiny detector in its own folder."""
    return shutil.copy(run_folder / "detector.ckpt", tmp_path / "detector.ckpt")

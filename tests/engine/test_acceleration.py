"""Memory format and compilation change no score beyond rounding."""

import pytest
import torch
from torch import nn

from diffguard.engine.acceleration import accelerate, check_compiler
from diffguard.errors import UserError
from tests.helpers.tiny_detector import build_detector, small_settings
from tests.helpers.tiny_models import tiny_unet


def test_channels_last_changes_no_score_beyond_rounding(images):
    plain = build_detector()
    other = build_detector(small_settings(channels_last=True))
    torch.testing.assert_close(other.score(images), plain.score(images), rtol=1e-3, atol=1e-5)


def test_channels_last_is_the_memory_format_of_the_weights():
    network = tiny_unet()
    accelerate(network, channels_last=True)
    assert network.conv_out.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", [True, "reduce-overhead", "max-autotune"])
def test_a_detector_compiles_its_network_once_and_for_one_shape(monkeypatch, mode):
    made = []
    monkeypatch.setattr("diffguard.methods.scorer.check_compiler", lambda _device: None)

    def compile(network, **options):
        made.append(options)
        network._compiled_call_impl = network._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile)
    detector = build_detector(small_settings(compile=mode), calibrated=False)
    network = detector.denoiser.network
    accelerate(network, compile=mode)
    state = dict(vars(network))
    detector.stream(8)
    assert vars(network) == state
    assert made == [{"mode": None if mode is True else mode, "dynamic": False}]


def test_missing_compiler_is_reported_in_one_line(monkeypatch):
    def compile(_function):
        def fail(_x):
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nin …")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(UserError, match=r"detector.compile .*No working C\+\+ compiler found\)"):
        check_compiler.__wrapped__(torch.device("cpu"))


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_scores(images):
    expected = build_detector().score(images)
    scores = build_detector(small_settings(compile=True)).score(images)
    torch.testing.assert_close(scores, expected, rtol=1e-3, atol=1e-5)

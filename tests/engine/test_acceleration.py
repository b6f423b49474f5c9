"""Memory format and compilation change no score beyond rounding."""

import pytest
import torch
from torch import nn

from diffguard.engine.acceleration import accelerate
from diffguard.errors import UserError
from tests.helpers.tiny_detector import build_detector, small_settings
from tests.helpers.tiny_models import tiny_unet


def test_channels_last_changes_no_score_beyond_rounding(images):
    plain = build_detector()
    other = build_detector(small_settings(channels_last=True))
    torch.testing.assert_close(other.score(images), plain.score(images), rtol=1e-3, atol=1e-5)


def test_channels_last_is_how_the_weights_lie():
    network = tiny_unet()
    accelerate(network, channels_last=True)
    assert network.conv_out.weight.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mode", [True, "reduce-overhead", "max-autotune"])
def test_the_network_is_compiled_once_and_for_one_shape(monkeypatch, mode):
    made = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)

    def compile(network, **options):
        made.append(options)
        network._compiled_call_impl = network._call_impl

    monkeypatch.setattr(nn.Module, "compile", compile)
    detector = build_detector(small_settings(compile=mode), calibrated=False)
    assert made == []
    detector.stream(8)
    detector.stream(8)
    assert made == [{"mode": None if mode is True else mode, "dynamic": False}]


def test_without_a_compiler_one_line_says_so(monkeypatch):
    def compile(_function):
        def fail(_x):
            raise RuntimeError("InvalidCxxCompiler: No working C++ compiler found\n\nin …")

        return fail

    monkeypatch.setattr(torch, "compile", compile)
    with pytest.raises(UserError, match=r"detector.compile .*No working C\+\+ compiler found\)"):
        accelerate(tiny_unet(), compile=True)


@pytest.mark.slow
def test_a_compiled_network_gives_the_same_scores(images):
    expected = build_detector().score(images)
    found = build_detector(small_settings(compile=True)).score(images)
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-5)

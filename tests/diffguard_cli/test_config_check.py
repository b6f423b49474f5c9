"""Mistakes in a training config, each refused in one line before any data is read."""

import pytest
import yaml

import train
from diffguard.errors import UserError
from diffguard_cli.config_check import check_config
from diffguard_cli.parser import parse
from tests.helpers.tiny_project import tiny_config

PARSER = train.build_parser()


def check(tmp_path, words):
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(tiny_config(tmp_path)))
    stages = ["--stages", "[classifier, diffusion, calibrate]"]
    arguments = ["--config", str(tmp_path / "tiny.yaml"), *stages, *words]
    check_config(PARSER.instantiate(parse(PARSER, arguments)))


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--stages", "[]"], "--stages is empty"),
        (["--classifier.channels", "0"], "classifier.channels must be at least 1, got 0"),
        (["--classifier.resize=-1"], "classifier.resize must be at least 1, got -1"),
        (["--classifier.size", "[5000, 8]"], "must be at most 2,048 pixels, got 5,000"),
        (["--classifier.resize", "5000"], "must be at most 2,048 pixels, got 5,000"),
        (
            ["--classifier.mean", "[]"],
            "classifier.mean must be a list of values, or left out, got []",
        ),
        (["--classifier.max_epochs", "0"], "classifier.max_epochs must be at least 1, got 0"),
        (["--classifier.batch_size", "0"], "classifier.batch_size must be at least 1, got 0"),
        (["--diffusion.max_epochs=-1"], "diffusion.max_epochs must be at least 1, got -1"),
        (["--diffusion.slice_size", "0"], "diffusion.slice_size must be at least 1, got 0"),
        (["--diffusion.sample_every=-1"], "diffusion.sample_every must be at least 0, got -1"),
        (["--diffusion.kwargs.attention", "1"], "diffusion.kwargs has no key 'attention': UNet2D"),
        (["--diffusion.scheduler.steps", "10"], "diffusion.scheduler has no key 'steps': DDPMSch"),
        (
            ["--diffusion.ckpt", "no/such/folder"],
            "diffusion.ckpt no/such/folder does not exist: ",
        ),
        (["--diffusion.finetune", "no.pt"], "diffusion.finetune no.pt does not exist: expected a"),
        (
            ["--diffusion.ckpt", "a/b", "--diffusion.finetune", "a/b"],
            "diffusion.ckpt names a trained model, so diffusion.finetune has no effect",
        ),
        (
            ["--diffusion.betas", "[0.9]"],
            "--diffusion.betas: expected 2 values, got [0.9]",
        ),
        (["--diffusion.lora_targets", "[to_q]"], "lora_targets has no effect without diffusion."),
        (["--diffusion.lora_alpha", "8"], "lora_alpha must be positive and needs diffusion.lora_r"),
        (["--noisy_classifier.width", "0"], "noisy_classifier.width must be at least 1, got 0"),
        (["--trainer.log_every_n_steps", "0"], "trainer.log_every_n_steps must be at least 1"),
        (["--trainer.accumulate_grad_batches", "0"], "accumulate_grad_batches must be at least 1"),
    ],
)
def test_a_config_that_cannot_be_trained_is_refused(tmp_path, words, line):
    with pytest.raises(UserError) as caught:
        check(tmp_path, words)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


def test_valid_configs_pass(tmp_path):
    check(tmp_path, [])
    # A hub id is not resolved yet, and a model that is not trained may have other keys.
    check(tmp_path, ["--diffusion.ckpt", "owner/name", "--diffusion.kwargs.attention", "1"])
    scheduler = "{_class_name: DDIMScheduler, _diffusers_version: '0.1', set_alpha_to_one: false}"
    check(tmp_path, ["--diffusion.scheduler", scheduler])

"""Options without effect on the command line of training."""

from types import SimpleNamespace

import pytest

from diffguard.augment.settings import AugmentSettings
from diffguard.errors import UserError
from diffguard_cli.config import ClassifierConfig, DiffusionConfig
from diffguard_cli.unused_options import check_training_options


def arguments(**sources):
    return SimpleNamespace(
        stages=sources.get("stages", ["classifier", "calibrate"]),
        augment=AugmentSettings(method="diffusemix"),
        classifier=ClassifierConfig(ckpt=sources.get("classifier")),
        diffusion=DiffusionConfig(
            ckpt=sources.get("diffusion"),
            finetune=sources.get("finetune"),
            network=sources.get("network", "UNet2DModel"),
        ),
    )


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ({"classifier": "c.pt"}, ["--classifier.max_epochs", "3"]),
        ({"classifier": "c.pt"}, ["--classifier.lr=0.1"]),
        ({"classifier": "c.pt"}, ["--classifier.pretrained", "true"]),
        ({"diffusion": "folder"}, ["--diffusion.ema_decay", "0.9"]),
        ({"diffusion": "folder"}, ["--diffusion.kwargs.layers_per_block", "1"]),
        ({"finetune": "folder"}, ["--diffusion.scheduler.beta_end", "0.1"]),
        ({"stages": ["calibrate"]}, ["--trainer.max_minutes", "9"]),
    ],
)
def test_options_of_a_model_that_is_not_trained_are_refused(sources, words):
    key = words[0].partition("=")[0]
    with pytest.raises(UserError, match=f"{key} has no effect here, because .*: leave it out"):
        check_training_options(words, arguments(**sources))


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        (
            {},
            [
                "--trainer.max_minutes",
                "9",
                "--classifier.lr",
                "0.1",
                "--diffusion.kwargs.layers_per_block",
                "1",
            ],
        ),
        (
            {"classifier": "c.pt"},
            ["--classifier.arch", "small_cnn", "--classifier.size", "[8, 8]"],
        ),
        ({"finetune": "folder"}, ["--diffusion.max_epochs", "3"]),
        ({"diffusion": "own.pt", "network": "my.Net"}, ["--diffusion.kwargs.width", "4"]),
    ],
)
def test_options_of_the_models_are_accepted(sources, words):
    check_training_options(words, arguments(**sources))

"""The Trainer of a config."""

import pytest

from diffguard.errors import UserError
from diffguard.training.trainer_config import TrainerConfig
from lightning_modules.trainer import scoring_trainer


@pytest.mark.parametrize("precision", ["16-mixed", "16"])
def test_half_precision_is_refused_on_a_cpu(precision):
    """Lightning would use bfloat16 there, which gives other scores."""
    config = TrainerConfig(accelerator="cpu", devices=1, precision=precision, progress=False)
    with pytest.raises(UserError, match=f"precision {precision} needs a GPU.* use bf16-mixed or"):
        scoring_trainer(config, "test")


@pytest.mark.parametrize("precision", ["x", "float16", "64-true", ""])
def test_unknown_precisions_are_refused(precision):
    with pytest.raises(UserError, match=f"precision must be one of 32-true.*, got '{precision}'"):
        TrainerConfig(precision=precision)

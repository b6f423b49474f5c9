"""The Trainer of a config."""

import inspect
import os
from dataclasses import fields

import lightning
import pytest
import torch

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


def test_what_is_fitted_before_the_processes_start_has_their_threads(monkeypatch, one_thread):
    """Otherwise the first process would fit with other last bits than the others."""
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.delenv("OMP_NUM_THREADS")  # Lightning's own value ends with the test.
    config = TrainerConfig(accelerator="cpu", devices=1, threads=3, progress=False)
    scoring_trainer(config, "test")
    assert torch.get_num_threads() == 3
    cores = max(8, os.cpu_count() or 1)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    config = TrainerConfig(accelerator="cpu", devices=2, strategy="ddp", progress=False)
    scoring_trainer(config, "test")
    assert torch.get_num_threads() == cores // 2


NOT_PASSED = {
    "logger": "trainer.loggers",
    "max_epochs": "<stage>.max_epochs",
    "check_val_every_n_epoch": "<stage>.val_every",
    "limit_test_batches": "data.limit",
    "limit_predict_batches": "data.limit",
    "enable_progress_bar": "trainer.progress",
    "overfit_batches": "replaces the sampler of the training loader, whose picks carry the epoch",
    "use_distributed_sampler": "the loaders divide the images among the processes",
    "enable_checkpointing": "the commands write the checkpoints of a stage",
    "default_root_dir": "run_dir",
    "plugins": "the commands set those that read checkpoints safely and start processes",
    "barebones": "turns logs and checkpoints off, which resuming needs",
    "enable_autolog_hparams": "the whole config is logged instead",
    "model_registry": "uploads to Lightning's cloud",
}


def test_each_argument_of_lightnings_trainer_is_an_option_or_has_a_reason_not_to_be():
    arguments = set(inspect.signature(lightning.Trainer).parameters)
    ours = {option.name for option in fields(TrainerConfig)}
    only_ours = {"threads", "progress", "max_minutes", "measure_rate", "loggers"}
    assert ours - only_ours == arguments - set(NOT_PASSED)
    assert set(NOT_PASSED) <= arguments

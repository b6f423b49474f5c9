"""What the loggers of a stage get."""

import sys

import pytest
import yaml
from lightning.pytorch.callbacks import LearningRateMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffguard.errors import UserError
from lightning_modules.callbacks.config_log import ConfigLog
from lightning_modules.classifier import ClassifierModule
from lightning_modules.loggers import build_loggers, end_runs
from lightning_modules.results_log import results_log
from tests.helpers import fake_wandb
from tests.helpers import tiny_training as tiny

CONFIG = {"seed": 3, "classifier": {"lr": 0.1, "betas": [0.9, 0.99]}}


def test_training_logs_metrics_rate_and_nested_config(tmp_path):
    loggers = build_loggers(["tensorboard", "csv"], tmp_path, "classifier")
    callbacks = [ConfigLog(CONFIG), LearningRateMonitor(logging_interval="epoch")]
    trainer = tiny.trainer(tmp_path, max_epochs=2, logger=loggers, callbacks=callbacks)
    trainer.fit(ClassifierModule(tiny.classifier()), tiny.train_loader(), tiny.val_loader())
    folder = tmp_path / "tensorboard" / "classifier"
    events = EventAccumulator(str(folder)).Reload()
    assert {"classifier/val_loss", "classifier/learning_rate"} <= set(events.Tags()["scalars"])
    # TensorBoard takes the columns of HPARAMS from the first run that names any.
    assert not events.summary_metadata.keys() & {"_hparams_/experiment"}
    (table,) = (tmp_path / "csv" / "classifier").rglob("metrics.csv")
    assert "classifier/val_loss" in table.read_text()
    values = yaml.safe_load((table.parent / "hparams.yaml").read_text())
    assert values["classifier"]["lr"] == 0.1


def test_wandb_gets_metrics_and_config_and_a_run_for_each_stage(tmp_path, monkeypatch):
    runs = fake_wandb.install(monkeypatch)
    loggers = build_loggers(["wandb"], tmp_path, "classifier")
    trainer = tiny.trainer(tmp_path, max_epochs=1, logger=loggers, callbacks=[ConfigLog(CONFIG)])
    trainer.fit(ClassifierModule(tiny.classifier()), tiny.train_loader(), tiny.val_loader())
    assert runs[0].options["name"] == f"{tmp_path.name}/classifier"
    assert {"classifier/val_loss", "classifier/val_accuracy"} <= set(runs[0].values)
    assert runs[0].config["classifier"]["lr"] == 0.1
    end_runs(loggers)
    (logger,) = build_loggers(["wandb"], tmp_path, "diffusion")
    logger.log_metrics({"loss": 1.0})
    assert runs[1].values == {"loss": 1.0}


def test_the_log_of_an_evaluation_ends_its_run(tmp_path, monkeypatch):
    runs = fake_wandb.install(monkeypatch)
    (logger,) = build_loggers(["wandb"], tmp_path, "evaluation")
    log = results_log(logger)
    log.metrics({"near/auroc/fusion": 0.9})
    assert not runs[0].is_finished
    log.close()
    assert runs[0].is_finished


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(UserError, match="pip install wandb"):
        build_loggers(["wandb"], tmp_path, "classifier")

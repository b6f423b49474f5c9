"""A stand-in for the package wandb, which records what a logger sends."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
from lightning.pytorch.loggers import wandb as lightning_wandb


class Run:
    """A run of W&B."""

    def __init__(self, wandb, options):
        self.wandb, self.options = wandb, options
        self.config, self.values, self.is_finished = Settings(), {}, False

    def log(self, values, step=None):
        self.values.update(values)

    def define_metric(self, *names, **options):
        pass

    def finish(self):
        self.wandb.run, self.is_finished = None, True


class Settings(dict):
    def update(self, values, allow_val_change=False):
        super().update(values)


def install(monkeypatch):
    """Put it in place of wandb; returns the list of its runs."""
    runs = []
    wandb = ModuleType("wandb")
    wandb.run = None

    def init(**options):
        wandb.run = Run(wandb, options)
        runs.append(wandb.run)
        return wandb.run

    wandb.init = init
    wandb.Image = wandb.Histogram = lambda values, **_options: np.asarray(values)
    wandb.Table = lambda **content: content["data"]
    wandb.plot = SimpleNamespace(pr_curve=lambda truth, ranks, names: (truth, ranks))
    monkeypatch.setattr(lightning_wandb, "_WANDB_AVAILABLE", True)
    modules = {
        "wandb": wandb,
        "wandb.sdk": SimpleNamespace(),
        "wandb.sdk.lib": SimpleNamespace(RunDisabled=type("RunDisabled", (), {})),
        "wandb.wandb_run": SimpleNamespace(Run=Run),
    }
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, name, module)
    return runs

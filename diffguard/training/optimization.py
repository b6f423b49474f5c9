"""Optimizers, learning rate schedules and gradient clipping."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from diffguard.training.settings import TrainingSettings


def build_optimizer(parameters: Iterable[nn.Parameter], settings: TrainingSettings) -> Optimizer:
    """The optimizer of the parameters that are trained."""
    trained = [parameter for parameter in parameters if parameter.requires_grad]
    lr, weight_decay = settings.lr, settings.weight_decay
    # Fused kernels are several times faster, on CPUs too: they need no Python per parameter.
    if settings.optimizer == "sgd":
        return SGD(trained, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=True)
    return AdamW(trained, lr, betas=settings.betas, weight_decay=weight_decay, fused=True)


def build_schedule(optimizer: Optimizer, settings: TrainingSettings, steps: int) -> LRScheduler:
    """The learning rate schedule, to be stepped after every step of the optimizer.

    Args:
        optimizer: The optimizer.
        settings: The settings.
        steps: Number of steps of the whole training, at least 1.
    """
    from diffusers import optimization

    if settings.schedule == "one_cycle":
        # OneCycleLR divides by the lengths of its two phases, which must not be zero.
        total = max(steps, 3)
        return OneCycleLR(
            optimizer,
            settings.lr,
            total_steps=total,
            pct_start=min(max(settings.warmup, 2 / total), 1 - 1 / total),
            cycle_momentum=False,
        )
    warmup_steps = round(settings.warmup * steps)
    if settings.schedule == "cosine":
        return optimization.get_cosine_schedule_with_warmup(optimizer, warmup_steps, steps)
    return optimization.get_constant_schedule_with_warmup(optimizer, warmup_steps)


def clip_gradients(optimizer: Optimizer, limit: float, algorithm: str | None = None) -> None:
    """Clip the gradients of an optimizer's parameters in place.

    Args:
        optimizer: The optimizer about to step.
        limit: The largest norm or value.
        algorithm: `value` limits each entry; `norm` or None limits the norm of the whole gradient.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if algorithm == "value":
        nn.utils.clip_grad_value_(parameters, limit)
    else:
        nn.utils.clip_grad_norm_(parameters, limit)

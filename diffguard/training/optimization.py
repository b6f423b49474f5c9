"""Optimizers, learning rate schedules and gradient clipping."""

from __future__ import annotations

from typing import Any

from torch import nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from diffguard.training.settings import TrainingSettings

_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def build_optimizer(module: nn.Module, settings: TrainingSettings) -> Optimizer:
    """The optimizer of the parameters that are trained."""
    lr, weight_decay = settings.lr, settings.weight_decay
    trained = _parameter_groups(module, settings)
    # Fused kernels are several times faster, on CPUs too: they need no Python per parameter.
    if settings.optimizer == "sgd":
        return SGD(trained, lr, momentum=0.9, nesterov=True, weight_decay=weight_decay, fused=True)
    return AdamW(trained, lr, betas=settings.betas, weight_decay=weight_decay, fused=True)


def _parameter_groups(module: nn.Module, settings: TrainingSettings) -> list[Any]:
    """All trained parameters, or two groups if biases of normalization have their own rate."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    factor = settings.norm_bias_lr_factor
    if factor == 1:
        return trained
    norms = [layer for layer in module.modules() if isinstance(layer, _BATCH_NORMS)]
    biases = [norm.bias for norm in norms if norm.bias is not None and norm.bias.requires_grad]
    names = {id(bias) for bias in biases}
    others = [parameter for parameter in trained if id(parameter) not in names]
    if not biases or not others:
        return trained
    decay = settings.weight_decay / factor
    return [
        {"params": others},
        {"params": biases, "lr": settings.lr * factor, "weight_decay": decay},
    ]


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
            [group["lr"] for group in optimizer.param_groups],
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

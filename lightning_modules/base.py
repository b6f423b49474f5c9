"""What training the classifier and the diffusion model have in common."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from lightning import LightningModule
from torch import Tensor, nn
from torch.optim import SGD, AdamW, Optimizer
from torch.optim.lr_scheduler import LRScheduler, OneCycleLR

from diffguard.errors import UserError
from lightning_modules.callbacks.resume import (
    GeneratorStates,
    generator_states,
    restore_generators,
)
from lightning_modules.resumed_state import (
    check_loop,
    check_optimizer,
    check_progress,
    check_scheduler,
    check_types,
)
from lightning_modules.training_values import check_accumulation, check_precision, check_values

OptimizerName = Literal["adamw", "sgd"]
ScheduleName = Literal["one_cycle", "cosine", "constant"]


class TrainingModule(LightningModule):
    """Optimiser, learning rate and reproducible randomness of a training stage.

    Torch's generators are seeded from (seed, epoch, rank) at the first batch of each epoch, and
    kept in checkpoints, so that training which resumes draws the same noise as training that never
    stopped. (Lightning restores weights, optimiser and schedule, but no generator.)

    Args:
        lr: Peak learning rate.
        weight_decay: Decoupled weight decay of AdamW, or the L2 penalty of SGD.
        optimizer: `adamw`, or `sgd` with Nesterov momentum 0.9.
        betas: AdamW's decay rates of the two moments.
        schedule: Learning rate over the optimiser's steps: `one_cycle` (cosine up, cosine down to
            almost zero; Smith & Topin, 2019), `cosine` (linear warm-up, cosine down to zero) or
            `constant` (after a linear warm-up).
        warmup: Share of all steps in which the learning rate rises, in [0, 1).
        channels_last: Train with weights in channels-last memory format, which tensor cores like.
        compiled: Train with compiled networks; validation runs them as they are.
        seed: Seed of the run, at least 0.

    Raises:
        UserError: For a value outside its range.
    """

    stage: ClassVar[str]

    def __init__(
        self,
        *,
        lr: float,
        weight_decay: float,
        optimizer: OptimizerName,
        schedule: ScheduleName,
        warmup: float,
        channels_last: bool,
        seed: int,
        betas: tuple[float, float] = (0.9, 0.999),
        compiled: bool = False,
    ) -> None:
        super().__init__()
        self.lr, self.weight_decay, self.betas = lr, weight_decay, betas
        self.optimizer, self.schedule, self.warmup = optimizer, schedule, warmup
        self.channels_last, self.compiled, self.seed = channels_last, compiled, seed
        self._planned_steps: float | None = None
        self._generators: list[GeneratorStates] | None = None
        self._loader_state: dict[str, int] | None = None
        check_values(
            self.stage,
            {
                "lr": lr,
                "weight_decay": weight_decay,
                "betas": betas,
                "optimizer": optimizer,
                "schedule": schedule,
                "warmup": warmup,
                "seed": seed,
            },
        )

    def configure_optimizers(self) -> dict[str, Any]:
        """Build the optimiser and a schedule that is stepped with it.

        Raises:
            UserError: If the schedule needs another length of training than there is.
        """
        optimizer = self._build_optimizer()
        if self.schedule == "constant" and self.warmup == 0:
            return {"optimizer": optimizer}
        scheduler = self._build_schedule(optimizer, self._count_steps())
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": scheduler, "interval": "step"},
        }

    def _build_optimizer(self) -> Optimizer:
        parameters = [p for p in self.parameters() if p.requires_grad]
        # The fused kernels are several times faster, on CPUs too: no Python per parameter.
        if self.optimizer == "sgd":
            return SGD(
                parameters,
                self.lr,
                momentum=0.9,
                nesterov=True,
                weight_decay=self.weight_decay,
                fused=True,
            )
        return AdamW(
            parameters, self.lr, betas=self.betas, weight_decay=self.weight_decay, fused=True
        )

    def _count_steps(self) -> int:
        steps = self.trainer.estimated_stepping_batches
        if math.isinf(steps):
            raise UserError(
                f"{self.stage}.schedule {self.schedule} needs to know how long training lasts: "
                f"set {self.stage}.max_epochs, or take schedule constant with warmup 0"
            )
        if self._planned_steps not in (None, steps):
            raise UserError(
                f"the {self.stage} was planned for {self._planned_steps} steps, and to resume with "
                f"{steps} would break its learning rate schedule: keep {self.stage}.max_epochs and "
                "the batch size, or start a new run"
            )
        self._planned_steps = steps
        return int(steps)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Note for how many steps the schedule was made, and every process's generators."""
        checkpoint["planned_steps"] = self._planned_steps
        checkpoint["generators"] = generator_states(self.device, self.trainer.world_size)
        loader = self.trainer.train_dataloader
        if hasattr(loader, "load_state_dict"):
            checkpoint["loader"] = loader.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Recall for how many steps the schedule was made; Lightning builds it after this.

        Raises:
            UserError: If the state of loop, optimizer, schedule or gradient scaler does not fit.
        """
        self._check_resumed(checkpoint)
        self._planned_steps = checkpoint.get("planned_steps")
        self._generators = checkpoint.get("generators")
        self._loader_state = checkpoint.get("loader")

    def _check_resumed(self, checkpoint: Mapping[str, Any]) -> None:
        check_types(checkpoint)
        # First the weights: another network explains all other differences.
        self.load_state_dict(checkpoint["state_dict"])
        check_loop(checkpoint["loops"]["fit_loop"], self.trainer.fit_loop.state_dict())
        optimizer = self._build_optimizer()
        steps, schedules = checkpoint["planned_steps"], checkpoint["lr_schedulers"]
        if bool(schedules) != (steps is not None):
            raise UserError("the checkpoint is damaged: its schedule and planned_steps disagree")
        if schedules:
            check_scheduler(schedules[0], self._build_schedule(optimizer, steps), steps)
        check_optimizer(checkpoint["optimizer_states"][0], optimizer)
        precision = self.trainer.precision_plugin
        name = type(precision).__qualname__
        if name in checkpoint:
            check_progress(checkpoint[name], precision.state_dict(), name)

    def _build_schedule(self, optimizer: Optimizer, steps: int) -> LRScheduler:
        from diffusers import optimization

        if self.schedule == "one_cycle":
            # OneCycleLR divides by the lengths of its two phases, which must not be zero.
            total = max(steps, 3)
            return OneCycleLR(
                optimizer,
                self.lr,
                total_steps=total,
                pct_start=min(max(self.warmup, 2 / total), 1 - 1 / total),
                cycle_momentum=False,
            )
        warmup_steps = round(self.warmup * steps)
        if self.schedule == "cosine":
            return optimization.get_cosine_schedule_with_warmup(optimizer, warmup_steps, steps)
        return optimization.get_constant_schedule_with_warmup(optimizer, warmup_steps)

    def on_fit_start(self) -> None:
        """Bring the networks to the form of training.

        Raises:
            UserError: For a precision that holds the weights in half precision.
        """
        check_precision(self.stage, str(self.trainer.precision))
        if self.channels_last:
            self.to(memory_format=torch.channels_last)
        if self.compiled:
            torch.compiler.set_stance("default")
            self.compile_networks()

    def on_fit_end(self) -> None:
        """Bring the weights back to the only memory format that safetensors can write."""
        self.to(memory_format=torch.contiguous_format)
        self._planned_steps = None

    def on_train_start(self) -> None:
        """Let the loader begin where it stopped.

        Lightning does not where a schedule asks for the number of steps: it has made the loader
        then before it reads the loader's state.

        Raises:
            UserError: If an epoch is too short for one step.
        """
        trainer = self.trainer
        check_accumulation(
            self.stage, trainer.num_training_batches, trainer.accumulate_grad_batches
        )
        loader = trainer.train_dataloader
        if self._loader_state is not None and hasattr(loader, "load_state_dict"):
            loader.load_state_dict(self._loader_state)
        self._loader_state = None

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:  # noqa: ARG002
        """Seed torch's generators at the first batch of an epoch; restore them in the middle.

        Not at the epoch's start: whether a loader's iterator is made (and draws a number) before or
        after that differs between an epoch that resumes and one that follows another.

        Raises:
            UserError: If an epoch goes on with another number of processes than it began with.
        """
        states, self._generators = self._generators, None
        if batch_idx > 0 and states is not None:
            if len(states) != self.trainer.world_size:
                raise UserError(
                    f"the {self.stage} stopped in the middle of an epoch on {len(states)} "
                    f"processes: resume it on as many, not on {self.trainer.world_size}"
                )
            restore_generators(states[self.global_rank], self.device)
        if batch_idx == 0:
            sequence = np.random.SeedSequence([self.seed, self.current_epoch, self.global_rank])
            torch.manual_seed(int(sequence.generate_state(1, np.uint64)[0]))

    def compile_networks(self) -> None:
        """Compile what is trained, in place."""
        raise NotImplementedError

    def run_network(self, batch: Mapping[str, Any]) -> None:
        """Run what is trained, once forward; what it costs is counted by this."""
        raise NotImplementedError

    def on_validation_start(self) -> None:
        """Run networks as they are: batches of other sizes would compile them again."""
        if self.compiled:
            torch.compiler.set_stance("force_eager")

    def on_validation_end(self) -> None:
        """Go on with compiled networks."""
        if self.compiled:
            torch.compiler.set_stance("default")

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Clip the gradient; Lightning itself refuses to under a fused optimizer.

        Args:
            optimizer: The optimizer about to step.
            gradient_clip_val: Largest norm or value; None or 0 does not clip.
            gradient_clip_algorithm: `norm` of the whole gradient (also for None), or `value` of
                each of its entries.
        """
        if not gradient_clip_val:
            return
        # Under 16-mixed the gradient is that of a scaled loss until the optimizer steps.
        scaler = getattr(self.trainer.precision_plugin, "scaler", None)
        if scaler is not None and getattr(optimizer, "_step_supports_amp_scaling", False):
            scaler.unscale_(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if gradient_clip_algorithm == "value":
            nn.utils.clip_grad_value_(parameters, gradient_clip_val)
        else:
            nn.utils.clip_grad_norm_(parameters, gradient_clip_val)

    def on_train_epoch_end(self) -> None:
        """Stop if training has diverged, before a checkpoint overwrites the last good one.

        Raises:
            UserError: If the mean loss of the epoch or a weight is not finite.
        """
        loss = float(self.trainer.callback_metrics[f"{self.stage}/train_loss"])
        if not math.isfinite(loss):
            raise self._diverged(f"its loss is {loss}")
        self.check_finite()

    def check_finite(self) -> None:
        """Raise `UserError` if a trained weight is not finite."""
        trained = [p.detach() for p in self.parameters() if p.requires_grad]
        if not torch.stack([p.isfinite().all() for p in trained]).all():
            raise self._diverged("its weights are not finite")

    def _diverged(self, reason: str) -> UserError:
        return UserError(
            f"the {self.stage} diverged: {reason} in epoch {self.current_epoch + 1}; "
            f"set a smaller {self.stage}.lr than {self.lr:g} (or clip the gradients) and "
            "train again"
        )

    def log_mean(self, name: str, value: Any, count: int) -> None:
        """Log the mean over an epoch as `<stage>/<name>`: one point an epoch, no cost a step."""
        self.log(
            f"{self.stage}/{name}",
            value,
            on_step=False,
            on_epoch=True,
            batch_size=count,
            sync_dist=isinstance(value, Tensor),
        )

    def load_state_dict(
        self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False
    ) -> Any:
        """Load weights; those of another network are the user's mistake.

        Raises:
            UserError: If names or shapes differ.
        """
        try:
            return super().load_state_dict(state_dict, strict=strict, assign=assign)
        except RuntimeError as error:
            detail = " ".join(str(error).split())
            raise UserError(
                f"the checkpoint of stage {self.stage} belongs to another network than the config "
                f"describes ({detail[:160]} …): resume with the config of its run"
            ) from error

"""Time-limited training: it stops in the middle of an epoch and resumes to the same bits."""

import time

import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision
from torchvision.transforms import v2

from datamodules.augmentation import Prepare, random_crop_and_flip
from datamodules.loader import collate
from datamodules.training_memory import MemoryLoader
from datamodules.training_stream import EpochSampler, TrainingLoader, TrainingStream
from diffguard.errors import UserError
from diffguard.training.optimization import build_optimizer
from diffguard.training.settings import ClassifierTraining, DiffusionTraining
from diffguard.training.trainer_config import TrainerConfig
from lightning_modules.callbacks.throughput import TrainingRate, forward_flops
from lightning_modules.callbacks.time_limit import TimeIsUpError, TimeLimit
from lightning_modules.checkpoint_io import SafeCheckpointIO, checkpoint_file, last_checkpoint
from lightning_modules.classifier import ClassifierModule
from lightning_modules.diffusion import DiffusionModule
from tests.helpers import tiny_training as tiny

pytestmark = pytest.mark.filterwarnings("ignore:.*exists and is not empty")


def from_files():
    augment = v2.RandomAffine(degrees=10, translate=(0.2, 0.2))
    stream = TrainingStream(tiny.images_of_three_classes(), Prepare(tiny.SIDE, 1), augment, seed=5)
    sampler = EpochSampler(stream, num_replicas=1, rank=0, seed=5)
    return TrainingLoader(stream, batch_size=12, sampler=sampler, collate_fn=collate)


def from_memory():
    images = tiny.images_of_three_classes()
    sampler = EpochSampler(images, num_replicas=1, rank=0, seed=5)
    return MemoryLoader(images._images, images.labels, sampler, 12, random_crop_and_flip, seed=5)


class StopAt(TimeLimit):
    """A time limit that is reached at a given step of the whole training."""

    def __init__(self, step, path):
        super().__init__(float("inf"), path)
        self.step = step

    def on_train_batch_end(self, trainer, *arguments):
        if trainer.global_step >= self.step:
            self.deadline = 0.0
        super().on_train_batch_end(trainer, *arguments)


def fit(folder, module, loader, *, callbacks=(), **options):
    trainer = tiny.trainer(folder, callbacks=callbacks, **options)
    trainer.fit(module, loader, tiny.val_loader(), ckpt_path=last_checkpoint(folder))
    return trainer


# Four epochs of four steps. Step 8 ends an epoch: training then stops a step later.
@pytest.mark.parametrize(("loader", "stops"), [(from_memory, (3, 8)), (from_files, (6, 15))])
@pytest.mark.parametrize("kind", ["classifier", "diffusion"])
def test_time_limited_training_ends_with_the_bits_of_uninterrupted_training(
    tmp_path, kind, loader, stops
):
    def module():
        if kind == "classifier":
            return ClassifierModule(
                tiny.classifier(), ClassifierTraining(lr=0.01, optimizer="sgd"), seed=3
            )
        return DiffusionModule(tiny.denoiser(), DiffusionTraining(lr=2e-3), seed=7)

    whole = fit(tmp_path / "whole", module(), loader())
    folder, steps = tmp_path / "parts", []
    for stop in stops:
        torch.manual_seed(stop)
        limit = StopAt(stop, checkpoint_file(folder))
        with pytest.raises(TimeIsUpError, match=f"at step {stop + (stop == 8)} of 16"):
            fit(folder, module(), loader(), callbacks=[limit])
        steps.append(torch.load(last_checkpoint(folder), weights_only=True)["global_step"])
    assert steps == [stop + (stop == 8) for stop in stops]
    torch.manual_seed(12345)
    resumed = fit(folder, module(), loader())
    tiny.assert_same_training(whole, resumed)


def test_an_epoch_does_not_resume_on_another_number_of_processes(tmp_path):
    def module():
        return DiffusionModule(tiny.denoiser(), DiffusionTraining(lr=2e-3))

    limit = StopAt(2, checkpoint_file(tmp_path))
    with pytest.raises(TimeIsUpError):
        fit(tmp_path, module(), from_memory(), callbacks=[limit])
    path = last_checkpoint(tmp_path)
    checkpoint = torch.load(path, weights_only=True)
    torch.save({**checkpoint, "generators": checkpoint["generators"] * 2}, path)
    with pytest.raises(UserError, match="on 2 processes: resume it on as many, not on 1"):
        fit(tmp_path, module(), from_memory())


def test_a_deadline_is_minutes_from_the_start():
    assert TrainerConfig().deadline(100.0) is None
    assert TrainerConfig(max_minutes=1.5).deadline(100.0) == 190.0
    with pytest.raises(UserError, match=r"trainer\.max_minutes must be positive and finite, got 0"):
        TrainerConfig(max_minutes=0.0)


def test_the_rate_counts_steps_after_the_first_and_no_validation(tmp_path, monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr("lightning_modules.callbacks.throughput._WARM_UP_STEPS", 5)
    lines = []
    rate = TrainingRate(lines.append)
    monkeypatch.setattr(time, "perf_counter", lambda: float(next(clock)))
    monkeypatch.setattr(
        "lightning_modules.callbacks.throughput.matrix_product_rate", lambda *_: 1e9
    )
    module = ClassifierModule(tiny.classifier())
    trainer = fit(tmp_path, module, from_memory(), callbacks=[rate])
    # Steps 6 to 16 in three epochs: a tick of the clock each, for any number of reads in between.
    assert rate.images == 11 * 12
    assert rate.seconds >= 3
    assert float(trainer.callback_metrics["classifier/images_per_second"]) == pytest.approx(
        rate.images / rate.seconds
    )
    (line,) = lines
    assert line.startswith(f"classifier: {rate.images / rate.seconds:,.0f} images per second")
    # A convolution of 8 filters of 3×3 at 4×4 places, a linear layer of 128×3; twice, three times.
    flops = 3 * 2 * (8 * 9 * 16 + 128 * 3) * rate.images / rate.seconds
    assert f"{flops / 1e12:.4g} TFLOP/s of the 0.001 TFLOP/s" in line


def test_flops_are_those_of_one_image_and_counting_changes_nothing():
    module = ClassifierModule(tiny.classifier())
    before = {name: value.clone() for name, value in module.state_dict().items()}
    batch = {"image": torch.rand(3, 1, 8, 8), "label": torch.zeros(3).long()}
    assert forward_flops(module, batch) == 2 * (8 * 9 * 16 + 128 * 3)
    assert all(torch.equal(value, before[name]) for name, value in module.state_dict().items())
    assert module.training


@pytest.mark.parametrize("kind", ["classifier", "diffusion"])
def test_compiled_training_learns_and_validates_without(tmp_path, kind, monkeypatch):
    calls = []

    def compile_with_eager(function, **options):
        assert options == {"mode": None, "dynamic": False}

        def backend(graph, _inputs):
            def run(*inputs):
                calls.append(torch.is_grad_enabled())
                return graph.forward(*inputs)

            return run

        return plain_compile(function, backend=backend, **options)

    plain_compile = torch.compile
    monkeypatch.setattr(torch, "compile", compile_with_eager)
    make = {
        "classifier": lambda **o: ClassifierModule(
            tiny.classifier(), ClassifierTraining(lr=0.01, **o)
        ),
        "diffusion": lambda **o: DiffusionModule(tiny.denoiser(), DiffusionTraining(**o)),
    }[kind]
    plain = fit(tmp_path / "plain", make(), from_memory(), max_epochs=2)
    compiled = fit(tmp_path / "compiled", make(compiled=True), from_memory(), max_epochs=2)
    assert len(calls) >= 8
    assert all(calls)
    for name, value in plain.lightning_module.state_dict().items():
        torch.testing.assert_close(compiled.lightning_module.state_dict()[name], value)


def test_bf16_trains_with_a_clipped_gradient(tmp_path):
    # Lightning's own clipping refuses the fused optimizers under mixed precision.
    module = DiffusionModule(tiny.denoiser(), DiffusionTraining(lr=5e-3))
    options = {"precision": "bf16-mixed", "gradient_clip_val": 1.0, "max_epochs": 8}
    trainer = fit(tmp_path, module, from_memory(), **options)
    assert trainer.callback_metrics["diffusion/train_loss"] < 0.8
    assert all(p.dtype == torch.float32 for p in module.parameters())


class Scaled(MixedPrecision):
    """16-mixed without half precision: only the scale of the loss is left."""

    def __init__(self):
        super().__init__("16-mixed", "cpu", scaler=torch.amp.GradScaler("cpu"))

    def autocast_context_manager(self):
        return torch.autocast("cpu", enabled=False)


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("algorithm", ["norm", "value", None])
def test_a_scaled_gradient_is_clipped_as_a_plain_one(tmp_path, optimizer, algorithm):
    clip = {"gradient_clip_val": 1e-3, "gradient_clip_algorithm": algorithm}

    def weights(name, **options):
        module = ClassifierModule(
            tiny.classifier(), ClassifierTraining(lr=0.1, optimizer=optimizer)
        )
        trainer = tiny.trainer(tmp_path / name, max_epochs=2, **options)
        trainer.fit(module, from_memory())
        return torch.cat([p.detach().flatten() for p in module.parameters()])

    plain = weights("plain", **clip)
    scaled = weights("scaled", **clip, plugins=[SafeCheckpointIO(), Scaled()])
    torch.testing.assert_close(scaled, plain, rtol=1e-4, atol=1e-6)
    assert (weights("free") - plain).abs().max() > 1e-3


@pytest.mark.parametrize(("algorithm", "order"), [(None, 2), ("norm", 2), ("value", torch.inf)])
def test_clipping_bounds_the_gradient(tmp_path, algorithm, order):
    module = ClassifierModule(tiny.classifier())
    module.trainer = tiny.trainer(tmp_path)
    optimizer = build_optimizer(module, module.settings)
    (1000 * module(torch.rand(4, 1, 8, 8))).square().mean().backward()

    def norm():
        return torch.cat([p.grad.flatten() for p in module.parameters()]).norm(order)

    before = norm()
    module.configure_gradient_clipping(optimizer, None, algorithm)
    assert norm() == before > 1
    module.configure_gradient_clipping(optimizer, 0.5, algorithm)
    assert float(norm()) == pytest.approx(0.5, rel=1e-3)


@pytest.mark.parametrize("precision", ["bf16-true", "16-true"])
def test_weights_are_not_trained_in_half_precision(tmp_path, precision):
    with pytest.raises(UserError, match=f"cannot be trained in {precision}.* bf16-mixed or 16-m"):
        fit(tmp_path, ClassifierModule(tiny.classifier()), from_memory(), precision=precision)


class StopAtBatch(TimeLimit):
    """A time limit that is reached in a given batch of an epoch."""

    def __init__(self, epoch, batch, path):
        super().__init__(float("inf"), path)
        self.place = (epoch, batch)

    def on_train_batch_end(self, trainer, *arguments):
        if (trainer.current_epoch, arguments[3]) >= self.place:
            self.deadline = 0.0
        super().on_train_batch_end(trainer, *arguments)


def test_accumulated_gradients_survive_a_stop_at_any_batch(tmp_path):
    def train(folder, *callbacks):
        options = {"max_epochs": 2, "accumulate_grad_batches": 2, "callbacks": callbacks}
        module = ClassifierModule(tiny.classifier(), ClassifierTraining(lr=0.01, optimizer="sgd"))
        # Five batches: two steps of two batches, and one of the last batch alone.
        loader = MemoryLoader(images._images, images.labels, sampler, 9, None, seed=5)
        return fit(folder, module, loader, **options)

    images = tiny.images_of_three_classes()
    sampler = EpochSampler(images, num_replicas=1, rank=0, seed=5)
    whole = train(tmp_path / "whole")
    for epoch, batch in [(0, 0), (0, 1), (0, 2), (0, 3), (0, 4), (1, 0), (1, 2)]:
        folder = tmp_path / f"{epoch}-{batch}"
        with pytest.raises(TimeIsUpError):
            train(folder, StopAtBatch(epoch, batch, checkpoint_file(folder)))
        tiny.assert_same_training(whole, train(folder))


@pytest.mark.parametrize("limit", [7, None])
def test_weights_that_are_not_finite_replace_no_checkpoint(tmp_path, limit):
    class Poison(tiny.Callback):
        def on_train_batch_end(self, trainer, module, *_):
            # After the last loss: step 7 is the last before the time limit, step 8 of an epoch.
            if trainer.global_step == (limit or 8):
                module.classifier.network[0].weight.data[0] = float("nan")

    def train(*callbacks):
        module = ClassifierModule(tiny.classifier())
        return fit(tmp_path, module, from_memory(), callbacks=callbacks)

    with pytest.raises(TimeIsUpError):
        train(StopAt(6, checkpoint_file(tmp_path)))
    before = last_checkpoint(tmp_path).read_bytes()
    callbacks = [StopAt(limit, checkpoint_file(tmp_path))] if limit else []
    with pytest.raises(UserError, match="the classifier diverged: its weights are not finite"):
        train(Poison(), *callbacks)
    assert last_checkpoint(tmp_path).read_bytes() == before

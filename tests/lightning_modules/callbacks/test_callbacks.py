import io
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from diffguard.denoisers.sampling import draw_samples
from diffguard.errors import UserError
from diffguard.training.settings import DiffusionTraining
from lightning_modules.callbacks import samples
from lightning_modules.callbacks.samples import SampleGrid
from lightning_modules.callbacks.training_bar import StageProgressBar
from lightning_modules.diffusion import DiffusionModule
from tests.helpers import tiny_training as tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.usefixtures("one_thread"),
]


def fit_with_bar(folder, bar, *, callbacks=(), **options):
    module = DiffusionModule(tiny.denoiser(), DiffusionTraining(lr=2e-3))
    options = {"max_epochs": 2, "enable_progress_bar": True} | options
    trainer = tiny.trainer(folder, callbacks=[bar, *callbacks], **options)
    trainer.fit(module, tiny.train_loader(), tiny.val_loader())
    return trainer


def lines_of(output):
    text = output.getvalue()
    assert "\r" not in text
    assert "\x1b" not in text
    return text.splitlines()


def test_lines_are_printed_without_a_terminal(tmp_path, capsys):
    output = io.StringIO()
    bar = StageProgressBar("2/3 diffusion", line_seconds=0, console=Console(file=output))
    fit_with_bar(tmp_path, bar, num_sanity_val_steps=1)
    lines = lines_of(output)
    assert len(lines) == 10  # eight steps, the last state, and the end
    assert all(line.startswith("2/3 diffusion: ") for line in lines)
    assert "12%" in lines[0]
    assert "epoch 1/2, loss " in lines[0]
    assert "val_loss" not in lines[0]
    assert "62%" in lines[4]
    assert "epoch 2/2, loss " in lines[4]
    assert "val_loss" in lines[4]
    assert "100%" in lines[-2]
    assert "done after" in lines[-1]
    assert capsys.readouterr().out == ""


def test_lines_have_a_minimum_interval(tmp_path):
    output = io.StringIO()
    bar = StageProgressBar("2/3 diffusion", line_seconds=1e6, console=Console(file=output))
    fit_with_bar(tmp_path, bar)
    first, last = lines_of(output)
    assert "12%" in first
    assert "done after" in last
    assert "epoch 2/2, loss " in last


def test_a_bar_on_a_terminal(tmp_path):
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=120, legacy_windows=False)
    fit_with_bar(tmp_path, StageProgressBar("2/3 diffusion", console=console))
    last = output.getvalue().rsplit("2/3 diffusion", 1)[1]
    assert "100%" in last
    assert "epoch 2/2, loss " in last


def test_an_interruption_is_reported(tmp_path):
    output = io.StringIO()
    bar = StageProgressBar("2/3 diffusion", console=Console(file=output))
    with pytest.raises(tiny.CrashError):
        fit_with_bar(tmp_path, bar, callbacks=[tiny.Crash(1)])
    assert "interrupted after" in lines_of(output)[-1]


def test_a_disabled_bar_prints_nothing(tmp_path):
    output = io.StringIO()
    bar = StageProgressBar("2/3 diffusion", console=Console(file=output))
    bar.disable()
    fit_with_bar(tmp_path, bar)
    assert output.getvalue() == ""


def test_sample_grids_reach_tensorboard(tmp_path):
    logger = TensorBoardLogger(tmp_path, name="tb")
    grid = SampleGrid(every_n_epochs=2, columns=4, steps=2)
    fit_with_bar(tmp_path, grid, max_epochs=3, logger=logger, enable_progress_bar=False)
    events = EventAccumulator(logger.log_dir, size_guidance={"images": 0}).Reload()
    images = events.Images("diffusion/samples")
    assert [image.step for image in images] == [8, 12]
    assert min(images[0].height, images[0].width) >= 480
    assert len(events.Scalars("diffusion/train_loss")) == 3
    losses = [event.value for event in events.Scalars("diffusion/val_loss")]
    assert len(losses) == 3
    levels = [f"diffusion/loss_at_noise/{number}_of_5" for number in range(1, 6)]
    by_noise = [[event.value for event in events.Scalars(tag)] for tag in levels]
    # Of the 20 validation images, each fifth of the schedule has four.
    assert np.mean(by_noise, axis=0).tolist() == pytest.approx(losses, rel=0.1)
    assert len(set(by_noise[0])) == 3


def test_a_sample_grid_shows_evenly_spaced_classes_by_name(monkeypatch):
    labels, figures = [], []

    def draw(_denoiser, rows, **_options):
        labels.append(rows.tolist())
        return torch.arange(len(rows)).div(len(rows)).view(-1, 1, 1, 1).expand(-1, 1, 8, 8)

    monkeypatch.setattr(samples, "draw_samples", draw)
    monkeypatch.setattr(samples, "pixels_of", figures.append)
    monkeypatch.setattr(samples, "log_picture", lambda *_: None)
    names = [f"name {label}" for label in range(100)]
    trainer = SimpleNamespace(
        current_epoch=0, max_epochs=1, loggers=[None], is_global_zero=True, global_step=1
    )
    expected = {100: [f"name {label}" for label in (0, 33, 66, 99)], None: [""]}
    expected[3] = ["class 0", "class 1", "class 2"]  # the model has other classes than the data
    for count, texts in expected.items():
        denoiser = SimpleNamespace(num_classes=count)
        module = SimpleNamespace(ema_denoiser=lambda d=denoiser: d, device="cpu")
        grid = SampleGrid(1, columns=2, max_classes=4, class_names=names)
        grid.on_train_epoch_end(trainer, module)
        axes = figures[-1].axes[0]
        assert [label.get_text() for label in axes.get_yticklabels()] == texts
        # Each name stands beside the middle of its row.
        height = axes.images[0].get_array().shape[0]
        assert height == len(texts) * 9 + 1
        middles = [row * 9 + 5 for row in range(len(texts))]
        assert axes.get_yticks() == pytest.approx(middles, abs=1)
    assert labels[0] == [0, 0, 33, 33, 66, 66, 99, 99]


def test_a_sample_grid_changes_no_training(tmp_path):
    with_grid = fit_with_bar(
        tmp_path / "a",
        SampleGrid(1, columns=1, steps=1),
        logger=TensorBoardLogger(tmp_path),
        enable_progress_bar=False,
    )
    without = fit_with_bar(tmp_path / "b", tiny.Callback(), enable_progress_bar=False)
    tiny.assert_same_training(with_grid, without)


@pytest.mark.parametrize("name", ["every_n_epochs", "columns", "max_classes", "steps"])
def test_a_sample_grid_has_at_least_one_sample(name):
    with pytest.raises(UserError, match="must be at least 1"):
        SampleGrid(**{"every_n_epochs": 1, name: 0})


class LabelDenoiser:
    """Predicts images of gray level k/10 for class k, and 0.5 without a class."""

    def __init__(self):
        real = tiny.denoiser()
        self.schedule, self.decode = real.schedule, real.decode
        self.channels, self.state_size = 1, tiny.SIDE
        self.num_classes, self.null_class = 3, 3

    def predict_noise(self, x, t, y):
        gray = torch.tensor([0.0, 0.1, 0.2, 0.5])[y].view(-1, 1, 1, 1) * 2 - 1
        alpha = self.schedule.alphas_cumprod[t].view(-1, 1, 1, 1).float()
        return (x - alpha.sqrt() * gray) / (1 - alpha).sqrt()


@pytest.mark.parametrize(
    ("scale", "expected"), [(0.0, [0.5, 0.5]), (1.0, [0.1, 0.2]), (1.2, [0.02, 0.14])]
)
def test_samples_follow_label_and_scale(scale, expected):
    labels = torch.tensor([1, 2])
    images = draw_samples(LabelDenoiser(), labels, steps=20, scale=scale)
    assert images.shape == (2, 1, tiny.SIDE, tiny.SIDE)
    # Guidance is on the noise: linear in the clean image at every step, the last one included.
    torch.testing.assert_close(images.mean((1, 2, 3)), torch.tensor(expected), atol=1e-3, rtol=0)


def test_samples_depend_on_the_seed_alone():
    model = tiny.denoiser().eval()
    labels = torch.tensor([0, 1])
    first, again, other = (
        draw_samples(model, labels, steps=2, scale=2.0, seed=seed).clone() for seed in (0, 0, 1)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("classes", [None, 3])
def test_a_model_without_null_class_draws_samples(classes):
    model = tiny.denoiser(num_classes=classes).eval()
    model.null_class = None
    images = draw_samples(model, torch.zeros(2, dtype=torch.long), steps=2, scale=2.0)
    assert images.shape == (2, 1, tiny.SIDE, tiny.SIDE)

import copy

import pytest
import torch
from diffusers import UNet2DModel
from diffusers.models.embeddings import LabelEmbedding
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.errors import UserError
from diffguard.training.ema import EMA
from diffguard.training.settings import DiffusionTraining
from lightning_modules.checkpoint_io import last_checkpoint
from lightning_modules.diffusion import DiffusionModule
from tests.helpers import tiny_training as tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.usefixtures("one_thread"),
]


def fit(folder, module, *, callbacks=(), ckpt_path=None, **options):
    trainer = tiny.trainer(folder, callbacks=callbacks, **options)
    trainer.fit(module, tiny.train_loader(), tiny.val_loader(), ckpt_path=ckpt_path)
    return trainer


class Record(tiny.Callback):
    """Records a logged value of every epoch."""

    def __init__(self, name):
        self.name, self.values = name, []

    def on_train_epoch_end(self, trainer, *_):
        self.values.append(float(trainer.callback_metrics[self.name]))


def distance(first, second):
    pairs = zip(first.parameters(), second.parameters(), strict=True)
    return sum(float((a - b).detach().square().sum()) for a, b in pairs)


@pytest.mark.parametrize("kind", ["unet", "dit"])
def test_loss_falls_and_the_average_lags_behind(tmp_path, kind):
    module = DiffusionModule(tiny.denoiser(kind), DiffusionTraining(lr=5e-3, loss_weighting="none"))
    start = copy.deepcopy(module.ema.module)
    val = Record("diffusion/val_loss")
    trainer = fit(tmp_path, module, max_epochs=12, callbacks=[val])
    assert trainer.callback_metrics["diffusion/train_loss"] < 0.7
    assert val.values[-1] < 0.7 * val.values[0]
    assert 0 < distance(start, module.ema.module) < distance(start, module.denoiser)


@pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
def test_every_prediction_type_trains(tmp_path, prediction):
    model = tiny.denoiser(prediction=prediction, num_classes=None)
    module = DiffusionModule(model, DiffusionTraining(lr=5e-3, loss_weighting="min_snr"))
    loss = Record("diffusion/train_loss")
    fit(tmp_path, module, max_epochs=10, callbacks=[loss])
    assert loss.values[-1] < 0.7 * loss.values[0]


@pytest.mark.parametrize(("kind", "crash_in"), [("unet", 2), ("dit", 1)])
def test_interrupted_training_resumes_to_the_same_bits(tmp_path, kind, crash_in):
    def run(folder, **options):
        module = DiffusionModule(tiny.denoiser(kind), DiffusionTraining(lr=2e-3), seed=7)
        return fit(tmp_path / folder, module, **options)

    whole = run("whole")
    with pytest.raises(tiny.CrashError):
        run("parts", callbacks=[tiny.Crash(crash_in)])
    torch.manual_seed(12345)
    resumed = run("parts", ckpt_path=last_checkpoint(tmp_path / "parts"))
    tiny.assert_same_training(whole, resumed)
    names = whole.lightning_module.state_dict().keys()
    assert any(name.startswith("ema.") for name in names)
    loss = "diffusion/val_loss"
    assert whole.callback_metrics[loss] == resumed.callback_metrics[loss]


def test_accumulated_gradients_move_the_average_once_a_step(tmp_path, monkeypatch):
    steps = []
    monkeypatch.setattr(EMA, "update", lambda _self, _module, step: steps.append(step))
    fit(tmp_path, DiffusionModule(tiny.denoiser()), max_epochs=2, accumulate_grad_batches=2)
    assert steps == [0, 1, 2, 3]


class Spy(nn.Module):
    """Wraps a network and records the labels of its calls."""

    def __init__(self, network):
        super().__init__()
        self.config, self.inner, self.labels = network.config, network, []

    def forward(self, x, t, class_labels):
        self.labels.append(class_labels)
        return self.inner(x, t, class_labels=class_labels)


def test_label_dropout_replaces_its_share_of_labels():
    module = DiffusionModule(tiny.denoiser(), DiffusionTraining(label_dropout=0.2))
    torch.manual_seed(0)
    labels = torch.arange(20_000) % 3
    dropped = module.drop_labels(labels)
    is_null = dropped == 3
    assert abs(float(is_null.float().mean()) - 0.2) < 0.01  # 3.5 standard deviations
    assert torch.equal(dropped[~is_null], labels[~is_null])


def test_dropped_labels_reach_the_network_in_training_but_not_in_validation():
    model = tiny.denoiser()
    model.network = Spy(model.network)
    module = DiffusionModule(model, DiffusionTraining(label_dropout=0.9))
    module.log_mean = lambda *_: None
    torch.manual_seed(0)
    batch = next(iter(tiny.val_loader()))
    module.training_step(batch, 0)
    assert (module.denoiser.network.labels[0] == 3).float().mean() > 0.5
    module.validation_step(batch, 0)
    assert torch.equal(module.ema.module.network.labels[0], batch["label"])


def test_dit_does_not_drop_labels_itself():
    module = DiffusionModule(tiny.denoiser("dit"), DiffusionTraining(label_dropout=0.5)).train()
    embeddings = [m for m in module.modules() if isinstance(m, LabelEmbedding)]
    assert len(embeddings) == 4  # two blocks, and their averages
    labels = torch.arange(300) % 3
    for embedding in embeddings:
        assert torch.equal(embedding(labels), embedding.embedding_table(labels))
        assert len(embedding.embedding_table.weight) == 4


def test_a_model_without_classes_gets_no_labels():
    model = tiny.denoiser(num_classes=None)
    model.network = Spy(model.network)
    module = DiffusionModule(model, DiffusionTraining(label_dropout=0.5))
    module.log_mean = lambda *_: None
    module.training_step(next(iter(tiny.val_loader())), 0)
    assert module.denoiser.network.labels == [None]


def test_validation_loss_is_repeatable_and_moves_no_generator():
    module = DiffusionModule(tiny.denoiser()).eval()
    losses = []

    def log_mean(name, value, _count):
        if name == "val_loss":
            losses.append(float(value))

    module.log_mean = log_mean
    batches = list(tiny.val_loader())
    state = torch.get_rng_state()
    for _ in range(2):
        for i, batch in enumerate(batches):
            module.validation_step(batch, i)
    assert losses[:3] == losses[3:]
    assert len(set(losses)) == 3
    assert torch.equal(torch.get_rng_state(), state)


def test_ema_denoiser_can_be_kept_as_a_diffusers_folder(tmp_path):
    module = DiffusionModule(tiny.denoiser(), DiffusionTraining(channels_last=True))
    fit(tmp_path, module, max_epochs=1)
    model = module.ema_denoiser()
    assert isinstance(model, PixelDenoiser)
    assert not any(m.training for m in model.modules())
    model.network.save_pretrained(tmp_path / "kept")
    network = UNet2DModel.from_pretrained(tmp_path / "kept")
    assert not tiny.bits_differ(network, module.ema.module.network)


def test_checkpoint_holds_plain_values_and_tensors_only(tmp_path):
    fit(tmp_path, DiffusionModule(tiny.denoiser()), max_epochs=1)
    checkpoint = torch.load(last_checkpoint(tmp_path), weights_only=True)
    assert checkpoint["epoch"] == 0
    assert "hyper_parameters" not in checkpoint


@pytest.mark.parametrize("classes", [None, 3])
def test_pairs_of_images_and_labels_train_and_test(tmp_path, classes):
    images = tiny.images_of_three_classes(24)
    stacked = torch.stack([images.image(i) for i in range(24)])
    pairs = DataLoader(TensorDataset(stacked, images.labels), batch_size=12)
    loader = DataLoader(stacked, batch_size=12) if classes is None else pairs
    module = DiffusionModule(tiny.denoiser(num_classes=classes))
    trainer = tiny.trainer(tmp_path, max_epochs=1)
    trainer.fit(module, loader, loader)
    results = trainer.test(module, loader, verbose=False)[0]
    assert results["diffusion/test_loss"] == trainer.callback_metrics["diffusion/test_loss"]
    validation = trainer.validate(module, loader, verbose=False)[0]
    assert results["diffusion/test_loss"] == validation["diffusion/val_loss"]


def test_a_fast_dev_run_takes_one_step():
    module = DiffusionModule(tiny.denoiser())
    options = {"fast_dev_run": True, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", logger=False, **options)
    trainer.fit(module, tiny.train_loader(), tiny.val_loader())
    assert trainer.global_step == 1


@pytest.mark.parametrize("label", [-1, 3])  # 3 is the null class
def test_labels_that_are_not_classes_are_refused(label):
    module = DiffusionModule(tiny.denoiser(num_classes=3))
    batch = torch.rand(2, 1, tiny.SIDE, tiny.SIDE), torch.tensor([0, label])
    message = f"an image has label {label}, but the diffusion model has 3 classes, 0 to 2"
    with pytest.raises(UserError, match=message):
        module.training_step(batch, 0)


def test_label_dropout_needs_a_null_class():
    model = tiny.denoiser()
    model.null_class = None
    with pytest.raises(UserError, match=r"set diffusion\.label_dropout to 0"):
        DiffusionModule(model)
    DiffusionModule(model, DiffusionTraining(label_dropout=0.0))

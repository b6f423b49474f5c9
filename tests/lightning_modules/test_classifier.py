import pytest
import torch
from lightning import Trainer
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torchvision.transforms import v2

from diffguard.classifiers.classifier import Classifier
from diffguard.errors import UserError
from diffguard.training.settings import ClassifierTraining
from lightning_modules.checkpoint_io import last_checkpoint
from lightning_modules.classifier import ClassifierModule
from tests.helpers import tiny_training as tiny

pytestmark = [
    pytest.mark.filterwarnings("ignore:.*exists and is not empty"),
    pytest.mark.usefixtures("one_thread"),
]


def fit(folder, module, loader=None, *, callbacks=(), ckpt_path=None, **options):
    trainer = tiny.trainer(folder, callbacks=callbacks, **options)
    trainer.fit(module, loader or tiny.train_loader(), tiny.val_loader(), ckpt_path=ckpt_path)
    return trainer


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_training_learns_and_logs(tmp_path, optimizer, schedule):
    module = ClassifierModule(
        tiny.classifier(),
        ClassifierTraining(lr=0.02, optimizer=optimizer, schedule=schedule, warmup=0.3),
    )
    trainer = fit(tmp_path, module, max_epochs=8)
    metrics = trainer.callback_metrics
    assert metrics["classifier/train_loss"] < 0.5
    assert metrics["classifier/val_accuracy"] > 0.95
    assert {"classifier/train_accuracy", "classifier/val_loss"} <= metrics.keys()


def test_validation_metrics_are_those_of_all_images(tmp_path):
    # Batches of 8, 8 and 4 images: a mean of the batches' means would differ.
    module = ClassifierModule(tiny.classifier())
    trainer = tiny.trainer(tmp_path)
    (result,) = trainer.validate(module, tiny.val_loader(), verbose=False)
    images = tiny.images_of_three_classes(20)
    batch = torch.stack([images.image(i) for i in range(20)])
    with torch.no_grad():
        logits = module.eval()(batch)
    right = (logits.argmax(1) == images.labels).float().mean()
    loss = torch.nn.functional.cross_entropy(logits, images.labels)
    assert result["classifier/val_accuracy"] == pytest.approx(float(right))
    assert result["classifier/val_loss"] == pytest.approx(float(loss))


def test_sanity_check_leaves_no_trace(tmp_path):
    # Before training most answers are wrong, after it none is.
    module = ClassifierModule(tiny.classifier(), ClassifierTraining(lr=0.02))
    options = {"check_val_every_n_epoch": 8, "num_sanity_val_steps": 2}
    trainer = fit(tmp_path, module, max_epochs=8, **options)
    assert trainer.callback_metrics["classifier/val_accuracy"] == 1.0


# The second recipe gives the optimizer two groups of parameters.
@pytest.mark.parametrize(
    ("crash_in", "recipe"),
    [(1, {}), (3, {}), (1, {"optimizer": "sgd", "norm_bias_lr_factor": 8})],
)
def test_interrupted_training_resumes_to_the_same_bits(tmp_path, crash_in, recipe):
    # Dropout, augmentation and order are random, and all come back.
    def run(folder, **options):
        settings = ClassifierTraining(lr=0.01, **recipe)
        module = ClassifierModule(tiny.classifier(), settings, seed=3)
        augment = v2.RandomAffine(degrees=10, translate=(0.2, 0.2))
        return fit(tmp_path / folder, module, tiny.train_loader(augment), **options)

    whole = run("whole")
    with pytest.raises(tiny.CrashError):
        run("parts", callbacks=[tiny.Crash(crash_in)])
    torch.manual_seed(12345)
    resumed = run("parts", ckpt_path=last_checkpoint(tmp_path / "parts"))
    tiny.assert_same_training(whole, resumed)


def test_resume_is_exact_with_a_plain_loader_too(tmp_path):
    # A DataLoader draws a number whenever it is iterated: earlier in a resumed epoch.
    stream = tiny.train_loader().dataset
    items = [stream[i, 0] for i in range(len(stream))]

    def run(folder, **options):
        module = ClassifierModule(tiny.classifier(), ClassifierTraining(lr=0.01))
        return fit(tmp_path / folder, module, DataLoader(items, batch_size=12), **options)

    whole = run("whole")
    with pytest.raises(tiny.CrashError):
        run("parts", callbacks=[tiny.Crash(2)])
    resumed = run("parts", ckpt_path=last_checkpoint(tmp_path / "parts"))
    tiny.assert_same_training(whole, resumed)


def test_another_seed_trains_other_weights(tmp_path):
    modules = [ClassifierModule(tiny.classifier(), seed=seed) for seed in (0, 1)]
    for module in modules:
        fit(tmp_path, module, max_epochs=1)
    assert tiny.bits_differ(*modules)


def test_label_smoothing_applies_to_the_training_loss_only(tmp_path):
    module = ClassifierModule(tiny.classifier(), ClassifierTraining(label_smoothing=0.5)).eval()
    batch = next(iter(tiny.val_loader()))
    logged = {}
    module.log_mean = lambda name, value, count: logged.__setitem__(name, value)
    with torch.no_grad():
        smoothed = module.training_step(batch, 0)
        module.validation_step(batch, 0)
        uniform = -module(batch["image"]).log_softmax(1).mean()
    assert smoothed == pytest.approx(float(0.5 * logged["val_loss"] + 0.5 * uniform), rel=1e-5)


@pytest.mark.parametrize("name", ["mixup", "cutmix"])
def test_images_of_a_batch_are_mixed_in_training_only(name):
    module = ClassifierModule(tiny.classifier(), ClassifierTraining(batch_mix=name)).eval()
    batch = next(iter(tiny.val_loader()))
    logged, seen = {}, []
    module.log_mean = lambda name, value, count: logged.__setitem__(name, value)
    module.classifier.register_forward_pre_hook(lambda _module, inputs: seen.append(inputs[0]))
    with torch.no_grad():
        torch.manual_seed(0)
        loss = module.training_step(batch, 0)
        module.validation_step(batch, 0)
    assert not torch.equal(seen[0], batch["image"])
    assert torch.equal(seen[1], batch["image"])
    # The first image is mixed with the last one, in the proportions of the labels.
    torch.manual_seed(0)
    mix = {"mixup": v2.MixUp, "cutmix": v2.CutMix}[name](num_classes=3)
    images, targets = mix(batch["image"], batch["label"])
    assert torch.equal(seen[0], images)
    with torch.no_grad():
        logits = module(images)
    expected = -(targets * logits.log_softmax(1)).sum(1).mean()
    assert float(loss) == pytest.approx(float(expected), rel=1e-5)
    assert float(logged["val_loss"]) != pytest.approx(float(loss))


def test_one_cycle_rises_in_its_warm_up(tmp_path):
    rates = []

    class Watch(tiny.Callback):
        def on_train_batch_start(self, trainer, *_):
            rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    module = ClassifierModule(tiny.classifier(), ClassifierTraining(lr=0.1, warmup=0.25))
    fit(tmp_path, module, callbacks=[Watch()])
    assert len(rates) == 16
    assert rates.index(max(rates)) == 3
    assert max(rates) == pytest.approx(0.1)
    assert rates[-1] < 1e-3


@pytest.mark.parametrize("schedule", ["one_cycle", "cosine", "constant"])
def test_a_fast_dev_run_takes_one_step_with_every_schedule(schedule):
    module = ClassifierModule(tiny.classifier(), ClassifierTraining(schedule=schedule))
    options = {"fast_dev_run": True, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", logger=False, **options)
    trainer.fit(module, tiny.train_loader(), tiny.val_loader())
    assert trainer.global_step == 1


def test_channels_last_is_for_training_only(tmp_path):
    module = ClassifierModule(tiny.classifier(), ClassifierTraining(channels_last=True))
    formats = []

    class Watch(tiny.Callback):
        def on_train_batch_start(self, *_):
            weight = module.classifier.network[0].weight
            formats.append(weight.is_contiguous(memory_format=torch.channels_last))

    fit(tmp_path, module, callbacks=[Watch()], max_epochs=1)
    assert all(formats)
    assert all(p.is_contiguous() for p in module.parameters())


def test_training_starts_in_training_mode():
    assert all(m.training for m in ClassifierModule(tiny.classifier().eval()).modules())


def test_divergence_is_reported_and_keeps_the_last_checkpoint(tmp_path):
    class Poison(tiny.Callback):
        def on_train_epoch_start(self, trainer, module):
            if trainer.current_epoch == 2:
                module.classifier.network[0].weight.data.fill_(float("nan"))

    with pytest.raises(UserError, match=r"classifier diverged.* epoch 3.*classifier\.lr"):
        fit(tmp_path, ClassifierModule(tiny.classifier()), callbacks=[Poison()])
    checkpoint = torch.load(last_checkpoint(tmp_path), weights_only=True)
    assert checkpoint["epoch"] == 1
    assert all(v.isfinite().all() for v in checkpoint["state_dict"].values())


def test_a_checkpoint_of_another_network_is_refused_in_one_line(tmp_path):
    fit(tmp_path, ClassifierModule(tiny.classifier()), max_epochs=1)
    other = tiny.classifier()
    other.network[5] = torch.nn.Linear(128, 4)
    with pytest.raises(UserError, match="belongs to another network") as caught:
        fit(tmp_path, ClassifierModule(other), ckpt_path=last_checkpoint(tmp_path))
    assert "\n" not in str(caught.value)


def pairs(count=24):
    images = tiny.images_of_three_classes(count)
    stacked = torch.stack([images.image(i) for i in range(count)])
    return DataLoader(TensorDataset(stacked, images.labels), batch_size=12)


def test_pairs_of_images_and_labels_train_and_test(tmp_path):
    module = ClassifierModule(tiny.classifier(), ClassifierTraining(lr=0.02))
    trainer = tiny.trainer(tmp_path, max_epochs=8)
    trainer.fit(module, pairs(), pairs())
    assert trainer.callback_metrics["classifier/val_accuracy"] > 0.9
    unlabeled = DataLoader(torch.rand(4, 1, tiny.SIDE, tiny.SIDE))
    (results, _) = trainer.test(module, [pairs(), unlabeled], verbose=False)
    assert set(results) == {"classifier/test_loss", "classifier/test_accuracy"}
    validation = trainer.validate(module, pairs(), verbose=False)[0]
    assert results["classifier/test_loss"] == validation["classifier/val_loss"]
    predictions = trainer.predict(module, pairs())
    assert [tuple(logits.shape) for logits in predictions] == [(12, 3), (12, 3)]


def test_normalized_images_are_refused(tmp_path):
    images = DataLoader(TensorDataset(torch.randn(12, 1, 8, 8), torch.zeros(12).long()), 12)
    with pytest.raises(UserError, match=r"must lie in \[0, 1\].* undo a normalization"):
        fit(tmp_path, ClassifierModule(tiny.classifier()), images)


@pytest.mark.parametrize(
    ("label", "message"),
    [(3, "an image has label 3, but the classifier has 3 classes, 0 to 2"), (-1, "has label -1")],
)
def test_labels_that_are_not_classes_are_refused(tmp_path, label, message):
    images = DataLoader(TensorDataset(torch.rand(2, 1, 8, 8), torch.tensor([0, label])), 2)
    with pytest.raises(UserError, match=message):
        fit(tmp_path, ClassifierModule(tiny.classifier()), images)


def test_a_batch_of_one_image_cannot_train_batch_norm():
    network = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Linear(64, 3))
    module = ClassifierModule(Classifier(network, 3, channels=1))
    with pytest.raises(UserError, match=r"a batch of one image.* drop_last=True"):
        module(torch.rand(1, 1, 8, 8))


def test_a_frozen_classifier_is_not_trained(tmp_path):
    module = ClassifierModule(tiny.classifier().requires_grad_(False))
    with pytest.raises(UserError, match=r"no weights to train.* requires_grad_\(True\)"):
        fit(tmp_path, module)
    module.classifier.network[-1].requires_grad_(True)
    assert fit(tmp_path, module, max_epochs=1).global_step == 4


def test_a_negative_seed_is_refused():
    with pytest.raises(UserError, match=r"classifier\.seed must be at least 0, got -1"):
        ClassifierModule(tiny.classifier(), seed=-1)


def test_a_schedule_needs_an_end(tmp_path):
    with pytest.raises(UserError, match=r"set classifier\.max_epochs"):
        fit(tmp_path, ClassifierModule(tiny.classifier()), max_epochs=-1)


def test_a_run_resumes_at_its_planned_length_only(tmp_path):
    fit(tmp_path, ClassifierModule(tiny.classifier()), max_epochs=2)
    path = last_checkpoint(tmp_path)
    with pytest.raises(UserError, match=r"planned for 8 steps.* with 12 .*classifier\.max_epochs"):
        fit(tmp_path, ClassifierModule(tiny.classifier()), max_epochs=3, ckpt_path=path)


def test_a_constant_rate_can_resume_for_more_epochs(tmp_path):
    def module():
        return ClassifierModule(
            tiny.classifier(), ClassifierTraining(schedule="constant", warmup=0.0)
        )

    fit(tmp_path, module(), max_epochs=2)
    path = last_checkpoint(tmp_path)
    assert fit(tmp_path, module(), max_epochs=3, ckpt_path=path).global_step == 12


def test_a_finished_stage_is_loaded_and_not_trained_again(tmp_path):
    first = fit(tmp_path, ClassifierModule(tiny.classifier()), max_epochs=2)
    module = ClassifierModule(tiny.classifier())
    again = fit(tmp_path, module, max_epochs=2, ckpt_path=last_checkpoint(tmp_path))
    assert again.global_step == 8
    tiny.assert_same_training(first, again)


def test_a_module_can_be_fitted_again(tmp_path):
    module = ClassifierModule(tiny.classifier())
    fit(tmp_path / "a", module, max_epochs=1)
    assert fit(tmp_path / "b", module, max_epochs=2).global_step == 8

"""`train.main`: stages, resuming, skipping and mistakes."""

import shutil

import pytest
import torch
import yaml
from safetensors.torch import load_file

import train
from diffguard import Detector
from diffguard.errors import UserError
from tests.helpers import fake_wandb
from tests.helpers.old_settings import version_2
from tests.helpers.tiny_project import write_config


@pytest.fixture
def config(tmp_path, data_root):
    return write_config(tmp_path / "tiny.yaml", data_root)


def start(config, *arguments):
    return train.main(["--config", str(config), *map(str, arguments)])


def test_a_run_writes_its_artifacts(run_folder):
    saved = yaml.safe_load((run_folder / "config.yaml").read_text())
    assert saved["classifier"]["kwargs"] == {"width": 4}
    assert (run_folder / "classifier" / "classifier.safetensors").is_file()
    assert (run_folder / "diffusion" / "unet" / "diffusion_pytorch_model.safetensors").is_file()
    assert list((run_folder / "tensorboard" / "diffusion").glob("events*"))
    detector = Detector.load(run_folder / "detector.ckpt")
    assert detector.classifier.class_names == ["dots", "left", "right"]
    assert len(detector.calibration.scores["fusion"]) == 24


def test_separate_stages_give_the_same_detector_as_one_run(tmp_path, config, run_folder, monkeypatch):
    folder = tmp_path / "steps"
    assert start(config, "--run_dir", folder, "--stages", "[classifier]") == 0
    assert not (folder / "detector.ckpt").exists()
    for stage in ("diffusion", "calibrate"):
        assert train.main(["--resume", str(folder), "--stages", f"[{stage}]"]) == 0
    for name in ("classifier/classifier", "diffusion/unet/diffusion_pytorch_model"):
        ours, theirs = (load_file(f / f"{name}.safetensors") for f in (folder, run_folder))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)
    ours, theirs = (Detector.load(f / "detector.ckpt") for f in (folder, run_folder))
    for name, values in theirs.calibration.scores.items():
        assert torch.equal(ours.calibration.scores[name], values), name


def test_resuming_a_finished_run_does_not_change_the_checkpoint(tmp_path, config, run_folder):
    folder = tmp_path / "again"
    arguments = ["--classifier.ckpt", run_folder / "classifier" / "classifier.safetensors"]
    arguments += ["--diffusion.ckpt", run_folder / "diffusion"]
    assert start(config, "--run_dir", folder, *arguments) == 0
    before, path = (folder / "detector.ckpt").read_bytes(), folder / "config.yaml"
    # The config of an earlier version is translated.
    config = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump({**config, "detector": version_2(config["detector"])}))
    assert train.main(["--resume", str(folder)]) == 0
    assert (folder / "detector.ckpt").read_bytes() == before
    assert yaml.safe_load(path.read_text()) == config


def test_a_refused_start_leaves_no_folder(tmp_path, config):
    with pytest.raises(UserError, match="batch_size must be at least 1"):
        start(config, "--run_dir", tmp_path / "new", "--data.batch_size", "-4")
    assert not (tmp_path / "new").exists()
    # The requirements of the last stage are checked before the first one trains.
    nowhere = ["--detector.perceptual_weights", tmp_path / "absent"]
    for arguments, message in (
        (["--detector.distances", "[nope]"], "unknown distance 'nope'"),
        (["--detector.baselines", "[nope]"], "baseline 'nope' is not known"),
        (["--detector.distances", "[logits_l1, l2, dists]", *nowhere], "no vgg16 weights"),
    ):
        with pytest.raises(UserError, match=message):
            start(config, "--run_dir", tmp_path / "new", *arguments)
        assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="has no trained classifier"):
        start(config, "--run_dir", tmp_path / "new", "--stages", "[calibrate]")
    assert not (tmp_path / "new").exists()


def test_stages_with_given_artifacts_are_skipped(tmp_path, config, run_folder, capsys):
    weights = run_folder / "classifier" / "classifier.safetensors"
    arguments = ["--classifier.ckpt", weights, "--diffusion.ckpt", run_folder / "diffusion"]
    assert start(config, "--run_dir", tmp_path / "given", *arguments) == 0
    output = capsys.readouterr().err
    assert "1/3 classifier: skipped, its model exists" in output
    assert "2/3 diffusion: skipped, its model exists" in output
    ours, theirs = (Detector.load(f / "detector.ckpt") for f in (tmp_path / "given", run_folder))
    assert torch.equal(ours.calibration.scores["fusion"], theirs.calibration.scores["fusion"])


def test_few_validation_images_give_a_warning(tmp_path, config, run_folder, capsys):
    arguments = ["--classifier.ckpt", run_folder / "classifier" / "classifier.safetensors"]
    arguments += ["--diffusion.ckpt", run_folder / "diffusion", "--stages", "[calibrate]"]
    start(config, "--run_dir", tmp_path / "few", *arguments)
    assert "only 24 ID validation images" in capsys.readouterr().err


def test_early_stop_is_calibrated_to_a_mean_depth(tmp_path, config, run_folder):
    arguments = ["--classifier.ckpt", run_folder / "classifier" / "classifier.safetensors"]
    arguments += ["--diffusion.ckpt", run_folder / "diffusion"]
    arguments += ["--detector.early_stop.mean_depth", "0.5", "--detector.inversion.depth", "1.0"]
    arguments += ["--detector.early_stop.thresholds.psnr", "0.0", "--detector.sampler.steps", "8"]
    assert start(config, "--run_dir", tmp_path / "stop", *arguments) == 0
    detector = Detector.load(tmp_path / "stop" / "detector.ckpt")
    assert detector.settings.early_stop.thresholds["psnr"] != 0.0
    rows = (tmp_path / "stop" / "calibration" / "scores.csv").read_text().splitlines()
    column = rows[0].replace('"', "").split(",").index("stop_step")
    depths = [int(row.replace('"', "").split(",")[column]) for row in rows[1:]]
    assert sum(depths) / len(depths) == pytest.approx(4, abs=0.75)


def test_a_classifier_of_noisy_images_is_trained_and_used(tmp_path, config, run_folder, capsys):
    arguments = ["--classifier.ckpt", run_folder / "classifier" / "classifier.safetensors"]
    arguments += ["--diffusion.ckpt", run_folder / "diffusion"]
    arguments += ["--stages", "[noisy_classifier, calibrate]", "--noisy_classifier.width", "8"]
    arguments += ["--noisy_classifier.max_epochs", "3", "--detector.guidance", "classifier"]
    arguments += ["--detector.classifier.blend", "false"]
    noisy = ["--detector.classifier.model", "noisy"]
    assert start(config, "--run_dir", tmp_path / "noisy", *arguments, *noisy) == 0
    assert list((tmp_path / "noisy" / "tensorboard" / "noisy_classifier").glob("events*"))
    ours = Detector.load(tmp_path / "noisy" / "detector.ckpt")
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(4, 1, 8, 8, generator=generator)
    scored = ours.score(images, name="diffguard/l2")
    with torch.no_grad():
        for parameter in ours.noisy_classifier.parameters():
            parameter.zero_()
    assert not torch.equal(ours.score(images, name="diffguard/l2"), scored)
    assert train.main(["--resume", str(tmp_path / "noisy")]) == 0
    assert "1/2 noisy_classifier: skipped, its model exists" in capsys.readouterr().err


def test_an_interrupted_run_loses_at_most_its_epoch(tmp_path, config, run_folder, monkeypatch):
    from lightning_modules.diffusion import DiffusionModule

    plain = DiffusionModule.training_step

    def killed(self, batch, batch_idx):
        if self.current_epoch == 1:
            raise KeyboardInterrupt
        return plain(self, batch, batch_idx)

    monkeypatch.setattr(DiffusionModule, "training_step", killed)
    assert start(config, "--run_dir", tmp_path / "cut") == 130
    monkeypatch.undo()
    assert train.main(["--resume", str(tmp_path / "cut")]) == 0
    file = "diffusion/unet/diffusion_pytorch_model.safetensors"
    ours, theirs = load_file(tmp_path / "cut" / file), load_file(run_folder / file)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_time_limited_training_equals_an_uninterrupted_run(
    tmp_path, config, run_folder, monkeypatch, capsys
):
    folder = tmp_path / "sessions"
    late = ["--trainer.max_minutes", "1e-6"]
    assert start(config, "--run_dir", folder, *late) == 4
    assert f"time is up at step 1 of 12; to resume: python train.py --resume {folder}" in (
        capsys.readouterr().err
    )
    assert train.main(["--resume", str(folder)]) == 4
    assert train.main(["--resume", str(folder), "--trainer.max_minutes", "null"]) == 0
    for name in ("classifier/classifier", "diffusion/unet/diffusion_pytorch_model"):
        ours, theirs = (load_file(f / f"{name}.safetensors") for f in (folder, run_folder))
        assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_each_stage_may_have_its_own_batch_size_augmentation_and_precision(tmp_path, config, monkeypatch):
    from lightning_modules.classifier import ClassifierModule

    plain, seen = ClassifierModule.training_step, []

    def watched(self, batch, batch_idx):
        loss = plain(self, batch, batch_idx)
        seen.append((len(batch["label"]), self.trainer.precision))
        assert self.trainer.datamodule.config.augment == "flip"
        return loss

    monkeypatch.setattr(ClassifierModule, "training_step", watched)
    changes = ["--classifier.batch_size", "9", "--classifier.augment", "flip"]
    changes += ["--classifier.precision", "bf16-mixed", "--data.in_memory", "true"]
    only = ["--stages", "[classifier]", "--classifier.max_epochs", "1", "--run_dir", tmp_path / "o"]
    measured = ["--trainer.measure_rate", "true"]
    assert start(config, *changes, *only, *measured) == 0
    assert seen == [(9, "bf16-mixed")] * 4


def test_options_of_the_trainer_and_other_loggers_reach_a_stage(tmp_path, config, monkeypatch):
    wandb_runs = fake_wandb.install(monkeypatch)
    monkeypatch.setattr("lightning_modules.callbacks.throughput._WARM_UP_STEPS", 0)
    only = ["--stages", "[classifier]", "--classifier.max_epochs", "1", "--run_dir", tmp_path / "o"]
    arguments = ["--trainer.limit_train_batches", "1", "--trainer.profiler", "simple"]
    arguments += ["--trainer.loggers", "[csv, wandb]", "--trainer.deterministic", "true"]
    assert start(config, *only, *arguments) == 0
    assert torch.load(
        tmp_path / "o" / "checkpoints" / "classifier" / "last.ckpt", weights_only=True
    )["global_step"] == 1
    (metrics,) = (tmp_path / "o" / "csv" / "classifier").rglob("metrics.csv")
    columns = metrics.read_text().splitlines()[0].split(",")
    assert any(column.endswith("/learning_rate") for column in columns)
    assert "classifier/images_per_second" in columns
    (hparams,) = (tmp_path / "o" / "csv" / "classifier").rglob("hparams.yaml")
    assert yaml.safe_load(hparams.read_text())["classifier"]["lr"] > 0
    assert [run.is_finished for run in wandb_runs] == [True]
    (report,) = (tmp_path / "o" / "profiler" / "classifier").iterdir()
    assert "run_training_epoch" in report.read_text()
    assert not (tmp_path / "o" / "tensorboard").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--nonsense", "1"], "--nonsense"),
        (["--data.batch_siz", "4"], "--data.batch_siz"),
        (["--classifier.lr", "fast"], "--classifier.lr"),
        (["--classifier.lr", "-1"], "classifier.lr must be positive"),
        (["--data.batch_size", "-4"], "data.batch_size must be at least 1, got -4"),
        (["--stages", "[fly]"], "stages"),
        (["--seed", "-1"], "--seed must be 0"),
        (["--classifier.val_every", "0"], "classifier.val_every must be at least 1"),
        (["--trainer.max_minutes", "0"], "trainer.max_minutes must be positive and finite, got 0"),
        (["--classifier.batch_size", "-1"], "classifier.batch_size must be at least 1, got -1"),
        (["--classifier.batch_size", "0"], "classifier.batch_size must be at least 1, got 0"),
        (["--classifier.mean", "[.nan]"], "classifier.mean must be finite numbers"),
        (["--classifier.std", "[0]"], "classifier.std must be positive numbers"),
        (["--classifier.max_epochs", "0"], "classifier.max_epochs must be at least 1, got 0"),
        (["--diffusion.lr", ".inf"], "diffusion.lr must be positive"),
        (["--diffusion.betas", "[0.9]"], "--diffusion.betas: expected 2 values, got [0.9]"),
        (["--diffusion.betas", "[0.9, 1]"], "diffusion.betas must be two numbers in [0, 1)"),
        (
            ["--diffusion.scheduler", "{beta_schedule: linear, beta_end: 2}"],
            "a number between 0 and 1",
        ),
        (["--diffusion.precision", "bf16-true"], "the diffusion cannot be trained in bf16-true"),
        (["--trainer.precision", "64-true"], "precision must be one of 32-true, bf16-mixed"),
        (["--detector.sampler.steps", "1001"], "detector.sampler: steps must be 1 to 1,000, got"),
        (["--detector.knn_k", "37"], "detector.knn_k is 37, but there are only 36 ID training"),
        (["--classifier.cam_layer", "none"], "the classifier has no layer 'none'"),
        (["--trainer.gradient_clip_val", "-1"], "trainer.gradient_clip_val must be at least 0"),
        (["--trainer.accumulate_grad_batches", "0"], "accumulate_grad_batches must be at least 1"),
        (["--trainer.accumulate_grad_batches", "4"], "an epoch of the classifier has 3 batches"),
        (["--trainer.limit_val_batches", "-1"], "trainer: You have passed invalid value -1 for limit_val"),
        (["--trainer.options.max_steps", "3"], "trainer.options.max_steps is now trainer.max_step"),
        (["--trainer.max_minutes", ".nan"], "trainer.max_minutes must be positive and finite"),
        (["--trainer.threads", "100000"], "trainer.threads must be 1 to 1,024, got 100,000"),
        (["--trainer.strategy", "single_device", "--trainer.devices", "2"], "uses one device"),
        (["--trainer.strategy", "ddp_spawn", "--trainer.devices", "2"], "use ddp"),
        (["--trainer.precision", "transformer-engine"], "precision must be one of 32-true"),
        (["--classifier.arch", "timm/no_such_net"], "no_such_net"),
        (["--classifier.arch", "os.path"], "os.path"),
        (["--classifier.ckpt", "none.pt"], "none.pt does not exist"),
        (["--diffusion.ckpt", "nowhere"], "nowhere does not exist"),
        (["--diffusion.network", "UNet"], "'UNet' cannot be trained"),
        (["--detector.distance", "[l1]"], "names l1, which is not computed"),
        (["--data.id.train", "folder:absent"], "absent"),
        (["--stages", "[calibrate]"], "has no trained classifier"),
        (["--resume", "nowhere"], "nowhere is not a run"),
    ],
)
def test_mistakes_are_one_line(tmp_path, config, run_folder, arguments, message):
    folder = [] if "--resume" in arguments else ["--run_dir", tmp_path / "wrong"]
    if "detector" in arguments[0]:
        arguments = [
            *arguments,
            "--classifier.ckpt",
            run_folder / "classifier/classifier.safetensors",
        ]
        arguments += ["--diffusion.ckpt", run_folder / "diffusion"]
    with pytest.raises(UserError) as caught:
        start(config, *folder, *arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "wrong").exists()


@pytest.mark.parametrize("section", ["classifier.ckpt", "diffusion.ckpt", "diffusion.finetune"])
def test_a_model_that_cannot_be_used_is_refused_before_training(tmp_path, config, section):
    wrong = tmp_path / "wrong.pt"
    torch.save({"weight": torch.zeros(2)}, wrong)
    folder = tmp_path / "run"
    with pytest.raises(UserError, match="wrong"):
        start(config, "--run_dir", folder, f"--{section}", wrong)
    assert not folder.exists()


def test_an_existing_run_is_not_overwritten_and_keeps_its_config(config, run_folder):
    with pytest.raises(UserError, match="exists already"):
        start(config, "--run_dir", run_folder)
    with pytest.raises(UserError, match="keeps its config, but seed differs"):
        train.main(["--resume", str(run_folder), "--seed", "5"])


def test_a_run_older_than_a_key_resumes(tmp_path, run_folder):
    folder = shutil.copytree(run_folder, tmp_path / "old")
    config = yaml.safe_load((folder / "config.yaml").read_text())
    del config["classifier"]["betas"]
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    assert train.main(["--resume", str(folder), "--stages", "[classifier]"]) == 0


def test_a_section_that_is_a_number_is_refused(tmp_path):
    (tmp_path / "five.yaml").write_text("classifier: 5")
    with pytest.raises(UserError, match="classifier must be a section of keys and values, got 5"):
        train.main(["--config", str(tmp_path / "five.yaml"), "--run_dir", str(tmp_path / "run")])
    assert not (tmp_path / "run").exists()

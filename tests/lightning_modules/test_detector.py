"""A detector in a user's own Trainer, with loaders of the user."""

import json
import os
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest
import torch
from lightning import LightningDataModule, Trainer
from PIL import Image
from torch.utils.data import DataLoader, TensorDataset

from diffguard.errors import UserError
from diffguard.report.metrics import compute_metrics
from diffguard.report.torch_metric import synchronized_metrics
from diffguard.score_table.table import ScoreTable
from lightning_modules import ClassifierModule, DetectorModule
from tests.helpers.scoring_processes import PROCESSES, data_module, free_port, score
from tests.helpers.tiny_detector import CLASSES, build_detector
from tests.helpers.tiny_models import tiny_classifier

QUIET = {
    "accelerator": "cpu",
    "logger": False,
    "enable_checkpointing": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
}

EVERY = {"batch_size": 8, "all_metrics": True}


def images(count, seed):
    """Images of another size than the detector's."""
    return torch.rand(count, 1, 12, 12, generator=torch.Generator().manual_seed(seed))


def loader(count, seed, batch_size: int | None = 3):
    labels = torch.arange(count) % CLASSES
    return DataLoader(TensorDataset(images(count, seed), labels), batch_size=batch_size)


def expected(detector, counts):
    """Metrics of single sets, from scores without a Trainer."""
    scores = {
        name: [result.row.scores for result in detector.score_images(images(count, seed))]
        for seed, (name, count) in enumerate(counts.items())
    }
    id_set, *ood_sets = scores
    values = {}
    for name in ood_sets:
        for column in detector.score_names():
            columns = [torch.tensor([row[column] for row in scores[n]]) for n in (id_set, name)]
            for metric, value in compute_metrics(*columns).items():
                values[f"{name}/{metric}/{column}"] = value
    return values


def agree(logged, values):
    assert {key: float(logged[key]) for key in values} == pytest.approx(values, abs=1e-6)


def test_a_test_logs_the_main_scores_on_the_groups():
    trainer, detector = Trainer(**QUIET), build_detector()
    counts = {"shapes": 7, "blank": 5, "noise": 4}
    loaders = {name: loader(n, seed) for seed, (name, n) in enumerate(counts.items())}
    trainer.test(DetectorModule(detector, batch_size=8), loaders, verbose=False)
    logged, values = trainer.callback_metrics, expected(detector, counts)
    main = ("diffguard", "fusion", "fusion_baselines")
    keys = [f"{metric}/{name}" for metric in ("auroc", "fpr95_id_positive") for name in main]
    group = {f"ood/{key}": (values[f"blank/{key}"] + values[f"noise/{key}"]) / 2 for key in keys}
    assert set(logged) == {*group, "shapes/accuracy"}
    agree(logged, group)
    predictions = detector.predict(images(7, 0)).label
    accuracy = (predictions == torch.arange(7) % CLASSES).float().mean()
    assert float(logged["shapes/accuracy"]) == pytest.approx(float(accuracy))


def test_names_and_groups_come_from_the_data_module(data_root):
    data = data_module(data_root)
    trainer, module = Trainer(**QUIET), DetectorModule(build_detector(), batch_size=8)
    trainer.test(module, datamodule=data, verbose=False)
    keys = {key.rsplit("/", 2)[0] for key in trainer.callback_metrics if key.endswith("/fusion")}
    assert keys == {"near", "far"}
    assert "shapes/accuracy" in trainer.callback_metrics
    predictions = trainer.predict(module, datamodule=data)
    counts = [sum(map(len, batches)) for batches in predictions]
    assert counts == [len(images) for images in data.evaluation_sets("test")]


def test_an_evaluation_and_a_detector_module_give_the_same_metrics(data_root, tmp_path):
    score(tmp_path, data_root, threads=torch.get_num_threads())
    detector, data, trainer = build_detector(), data_module(data_root), Trainer(**QUIET)
    trainer.test(DetectorModule(detector, **EVERY), datamodule=data, verbose=False)
    metrics = synchronized_metrics(
        ScoreTable.read(tmp_path / "scores.csv"),
        data.groups,
        detector.score_names(),
        rank=0,
        world_size=1,
    )
    for (name, dataset), values in metrics.items():
        for metric, value in values.items():
            logged = float(trainer.callback_metrics[f"{dataset}/{metric}/{name}"])
            assert logged == pytest.approx(value, abs=1e-6), (dataset, metric, name)


class UserData(LightningDataModule):
    """A data module of a user, whose named test loaders have another order than their groups."""

    groups: ClassVar = {"shapes": "id", "blank": "near"}

    def train_dataloader(self):
        return loader(6, 0)

    def val_dataloader(self):
        return loader(3, 1)

    def test_dataloader(self):
        return {"blank": loader(5, 1), "shapes": loader(7, 0)}


def test_a_data_module_of_a_user_trains_a_classifier_and_tests_a_detector():
    data = UserData()
    trainer = Trainer(**QUIET, max_epochs=1)
    trainer.fit(ClassifierModule(tiny_classifier(CLASSES, channels=1)), datamodule=data)
    assert trainer.global_step == 2
    trainer = Trainer(**QUIET)
    trainer.test(DetectorModule(build_detector(), batch_size=8), datamodule=data, verbose=False)
    values = expected(build_detector(), {"shapes": 7, "blank": 5})
    agree(trainer.callback_metrics, {"near/auroc/fusion": values["blank/auroc/fusion"]})


def test_a_prediction_is_a_list_of_verdicts():
    detector = build_detector()
    batches = Trainer(**QUIET).predict(DetectorModule(detector, batch_size=8), loader(7, 0, 4))
    assert [len(verdicts) for verdicts in batches] == [4, 3]
    whole = detector.predict(images(7, 0), batch_size=8)
    scores = torch.cat([verdicts.score for verdicts in batches])
    torch.testing.assert_close(scores, whole.score, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "batches",
    [
        DataLoader(TensorDataset(images(3, 0)), 2),
        DataLoader([torch.rand(1, 12, 12 + width) for width in range(3)], 2, collate_fn=list),
    ],
    ids=["tensors alone", "lists of several sizes"],
)
def test_images_without_labels_have_a_verdict_each(batches):
    module = DetectorModule(build_detector(), batch_size=8)
    assert [len(verdicts) for verdicts in Trainer(**QUIET).predict(module, batches)] == [2, 1]


def test_images_of_a_batch_have_any_form_of_a_prediction(tmp_path):
    pixels = np.random.default_rng(0).integers(256, size=(4, 12, 12), dtype=np.uint8)
    pictures = [Image.fromarray(image) for image in pixels]
    paths = [tmp_path / f"{row}.png" for row in range(4)]
    for picture, path in zip(pictures, paths, strict=True):
        picture.save(path)
    module = DetectorModule(build_detector(), batch_size=8)
    scores = []
    for forms in (pictures, list(pixels), paths, list(zip(pictures, range(4), strict=True))):
        batches = Trainer(**QUIET).predict(module, DataLoader(forms, 2, collate_fn=list))
        scores.append(torch.cat([verdicts.score for verdicts in batches]))
    assert all(torch.equal(score, scores[0]) for score in scores)
    pairs = DataLoader([(picture, 0) for picture in pictures], 2, collate_fn=list)
    bare = DataLoader(pictures[:3], 2, collate_fn=list)
    trainer = Trainer(**QUIET)
    trainer.test(module, {"shapes": pairs, "blank": bare}, verbose=False)
    assert {"shapes/accuracy", "ood/auroc/fusion"} <= set(trainer.callback_metrics)


def test_loaders_that_do_not_fit_the_groups_are_refused():
    def run(loaders, groups=None):
        module = DetectorModule(build_detector(), batch_size=8, groups=groups)
        Trainer(**QUIET).test(module, loaders, verbose=False)

    with pytest.raises(UserError, match="at least one OOD set"):
        run(loader(3, 0))
    with pytest.raises(UserError, match="there are 2 test loaders, but groups for 3 sets: a, b, c"):
        run([loader(3, 0), loader(3, 1)], {"a": "id", "b": "near", "c": "far"})
    with pytest.raises(UserError, match="one set of group 'id'"):
        run([loader(3, 0), loader(3, 1)], {"a": "near", "b": "far"})
    with pytest.raises(UserError, match="loaders are named a, c, but groups has the sets a, b:"):
        run({"a": loader(3, 0), "c": loader(3, 1)}, {"a": "id", "b": "near"})
    with pytest.raises(UserError, match="set ood has the name of the group of ood, b, whose mean"):
        run({"a": loader(3, 0), "ood": loader(3, 1), "b": loader(3, 2)})


def test_named_loaders_find_their_groups_in_any_order():
    detector, groups = build_detector(), {"shapes": "id", "blank": "near"}
    trainer = Trainer(**QUIET)
    module = DetectorModule(detector, groups=groups, **EVERY)
    trainer.test(module, {"blank": loader(5, 1), "shapes": loader(7, 0)}, verbose=False)
    agree(trainer.callback_metrics, expected(detector, {"shapes": 7, "blank": 5}))


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (torch.tensor([0, 1, CLASSES]), f"set shapes has label {CLASSES}, but the detector has"),
        (torch.zeros(3, CLASSES), "set shapes: labels must be whole numbers .*got .3, 3. float32"),
    ],
)
def test_labels_that_are_not_classes_are_refused(labels, message):
    id_loader = DataLoader(TensorDataset(images(3, 0), labels), batch_size=3)
    loaders = {"shapes": id_loader, "blank": loader(3, 1)}
    with pytest.raises(UserError, match=message):
        Trainer(**QUIET).test(DetectorModule(build_detector(), batch_size=8), loaders)


@pytest.mark.parametrize("labels", [[0, 1, 2], torch.arange(3), None])
def test_labels_of_id_images_have_any_form(labels):
    batch = images(3, 0) if labels is None else (images(3, 0), labels)
    loaders = {"shapes": DataLoader([batch], batch_size=None), "blank": loader(3, 1)}
    trainer = Trainer(**QUIET)
    trainer.test(DetectorModule(build_detector(), batch_size=8), loaders, verbose=False)
    assert ("shapes/accuracy" in trainer.callback_metrics) == (labels is not None)


def test_a_missing_label_is_reported():
    id_loader = DataLoader([(images(3, 0), [0, 1])], batch_size=None)
    loaders = {"shapes": id_loader, "blank": loader(3, 1)}
    with pytest.raises(UserError, match="set shapes: a batch has 3 images and 2 labels"):
        Trainer(**QUIET).test(DetectorModule(build_detector(), batch_size=8), loaders)


def test_a_loader_without_batches_gives_single_images():
    detector, counts = build_detector(), {"shapes": 4, "blank": 3}
    loaders = {name: loader(n, seed, None) for seed, (name, n) in enumerate(counts.items())}
    trainer, module = Trainer(**QUIET), DetectorModule(detector, **EVERY)
    trainer.test(module, loaders, verbose=False)
    agree(trainer.callback_metrics, expected(detector, counts))
    assert [len(verdicts) for verdicts in trainer.predict(module, loader(2, 0, None))] == [1, 1]


def test_labels_of_ood_images_are_ignored():
    ood = DataLoader(TensorDataset(images(3, 1), torch.tensor([90, 91, 92])), batch_size=3)
    loaders = {"shapes": loader(3, 0), "blank": ood}
    Trainer(**QUIET).test(DetectorModule(build_detector(), batch_size=8), loaders, verbose=False)


def test_one_process_needs_no_float64_on_its_device(monkeypatch):
    """Apple's GPUs do not have it; `meta` stands for one."""
    module = DetectorModule(build_detector(), batch_size=8)
    loaders = {"shapes": loader(3, 0), "blank": loader(3, 1)}
    module.trainer = SimpleNamespace(world_size=1, test_dataloaders=loaders, datamodule=None)
    monkeypatch.setattr(DetectorModule, "device", torch.device("meta"))
    module.on_test_epoch_start()
    assert module.metrics.device.type == module.accuracy.device.type == "cpu"


# A number of images that two processes do not share evenly, a set of one image, and a rank
# without any image of its own.
UNEVEN = ({"shapes": 7, "blank": 5, "noise": 1}, {"shapes": 1, "blank": 1})
# Each process has loaders of its own.
SHARES = {"shapes": 3, "blank": 4}


def _process(rank, port, folder):
    torch.set_num_threads(1)
    variables = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": 2}
    variables |= {"LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ |= {name: str(value) for name, value in variables.items()}
    trainer = Trainer(devices=2, strategy="ddp", **QUIET)
    results = []
    for counts in UNEVEN:
        loaders = {name: loader(n, seed) for seed, (name, n) in enumerate(counts.items())}
        trainer.test(DetectorModule(build_detector(), **EVERY), loaders, verbose=False)
        results.append({key: float(value) for key, value in trainer.callback_metrics.items()})
    trainer = Trainer(devices=2, strategy="ddp", use_distributed_sampler=False, **QUIET)
    # The first process reads one set and the second the other; then one of them reads both.
    for owners in ((0, 1), (0, 0), (1, 1)):
        shares = {
            name: loader(n * (rank == owners[seed]), seed)
            for seed, (name, n) in enumerate(SHARES.items())
        }
        trainer.test(DetectorModule(build_detector(), **EVERY), shares, verbose=False)
        results.append({key: float(value) for key, value in trainer.callback_metrics.items()})
    # Lightning divides the images of a prediction without repeats; a share may be empty too.
    module = DetectorModule(build_detector(), batch_size=8)
    verdicts = [
        Trainer(devices=2, strategy="ddp", **QUIET).predict(module, loader(7, 0)),
        trainer.predict(module, loader(5 * rank, 0)) or [],  # None without images
    ]
    scores = [[float(verdict.score) for batch in part for verdict in batch] for part in verdicts]
    (folder / f"{rank}.json").write_text(json.dumps([results, scores]))


def test_two_processes_log_the_metrics_and_predict_the_verdicts_of_one(tmp_path):
    port = free_port()
    processes = [
        PROCESSES.Process(target=_process, args=(rank, port, tmp_path)) for rank in range(2)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(300)
    assert [process.exitcode for process in processes] == [0, 0]
    (first, scores), (second, other_scores) = (
        json.loads((tmp_path / f"{rank}.json").read_text()) for rank in range(2)
    )
    # Lightning logs nothing in a process without any image.
    assert (second[-2], first[-1]) == ({}, {})
    second[-2], first[-1] = first[-2], second[-1]
    assert first == second
    for logged, counts in zip(first, (*UNEVEN, *(SHARES,) * 3), strict=True):
        agree(logged, expected(build_detector(), counts))
    verdicts = build_detector().predict(images(7, 0), batch_size=8)
    assert scores[0] == pytest.approx(verdicts.score[::2].tolist(), rel=1e-3)
    assert other_scores[0] == pytest.approx(verdicts.score[1::2].tolist(), rel=1e-3)
    assert (scores[1], len(other_scores[1])) == ([], 5)

"""The batch size of network calls, and out-of-memory errors."""

import json

import pytest
import torch
from torch import nn

from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.ood import OODDataModule
from diffguard.errors import UserError
from diffguard.failures import is_out_of_memory
from diffguard.methods.batch_size import fastest, find_batch_size
from diffguard.methods.registry import build_methods
from diffguard.score_table.table import ScoreTable
from diffguard.training.trainer_config import TrainerConfig
from diffguard_cli import measurements
from diffguard_cli.scoring import ScoringRun
from lightning_modules.trainer import scoring_trainer
from tests.helpers.tiny_detector import build_detector, small_settings

PLAIN = {"baselines": ["msp"], "fused": [], "decision": "diffguard"}


class Hungry(nn.Module):
    """A network that runs out of memory, either with too many rows or after some calls."""

    def __init__(self, network, rows=10**6, calls=10**6):
        super().__init__()
        self.network, self.config, self.rows, self.calls = network, network.config, rows, calls
        self.seen = []

    def forward(self, x, t, class_labels=None):
        self.seen.append(len(x))
        if len(x) > self.rows or len(self.seen) > self.calls:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB.")
        return self.network(x, t, class_labels=class_labels)


def hungry(**limits):
    detector = build_detector(small_settings(**PLAIN), calibrated=False)
    detector.denoiser.network = Hungry(detector.denoiser.network, **limits)
    return detector


def data_of(root, batch_size):
    return OODDataModule(
        DataConfig(
            id=IDSets(test=str(root / "test")),
            ood=OODSets(
                far={f"of_{name}": str(root / name) for name in ("far", "train", "validation")}
            ),
            image_size=8,
            channels=1,
            batch_size=batch_size,
        )
    )


def start(detector, data, folder, **trainer):
    config = TrainerConfig(accelerator="cpu", devices=1, progress=False, **trainer)
    run = ScoringRun(detector, data, data.stream("test"), folder, {}, derive=False)
    finished = run.run(scoring_trainer(config, "test"))
    return finished, ScoreTable.read(finished.table)


def frozen(folder):
    manifest = json.loads((folder / "manifest.json").read_text())
    return manifest["batch_size"], manifest["batch_size_setting"]


def scores_of(folder):
    return (folder / "scores.csv").read_bytes()


def test_a_batch_too_large_is_halved_before_the_first_row(data_root, tmp_path, capsys):
    detector = hungry(rows=8)
    run, table = start(detector, data_of(data_root, 32), tmp_path / "halved")
    assert set(detector.denoiser.network.seen) == {32, 16, 8}
    assert run.batch_size == 8
    assert frozen(tmp_path / "halved") == (8, 32)
    assert "out of memory with 32 images a batch: trying 16" in capsys.readouterr().err
    assert len(table) == 18 + 9 + 36 + 24
    start(hungry(), data_of(data_root, 8), tmp_path / "requested")
    assert scores_of(tmp_path / "halved") == scores_of(tmp_path / "requested")


def test_a_resumed_run_keeps_the_halved_batch(data_root, tmp_path):
    start(hungry(rows=8), data_of(data_root, 16), tmp_path)
    whole, rows = scores_of(tmp_path), tmp_path / "scores" / "rank-0.csv"
    rows.write_bytes(rows.read_bytes()[:900])
    detector = hungry()
    start(detector, data_of(data_root, 16), tmp_path)
    assert set(detector.denoiser.network.seen) == {8}
    assert scores_of(tmp_path) == whole
    with pytest.raises(UserError, match="batch_size was 8, is 24"):
        start(hungry(), data_of(data_root, 24), tmp_path)


def test_out_of_memory_after_the_first_row_is_an_error_and_loses_no_row(data_root, tmp_path):
    _, whole = start(detector := hungry(), data_of(data_root, 16), tmp_path / "whole")
    calls = len(detector.denoiser.network.seen)
    folder = tmp_path / "cut"
    detector = hungry(calls=calls - 1)
    data = data_of(data_root, 16)
    with pytest.raises(UserError, match=r"16 images a batch.*finished scores are kept.*--output"):
        start(detector, data, folder)
    assert set(detector.denoiser.network.seen) == {16}
    rows = (folder / "scores" / "rank-0.csv").read_text().count("\n") - 1
    assert 0 < rows < len(whole)
    # Existing rows fix the size, also for a resumed run.
    with pytest.raises(UserError, match=r"16 images a batch.*finished scores are kept"):
        start(hungry(rows=8), data_of(data_root, 16), folder)
    start(hungry(), data_of(data_root, 16), folder)
    assert scores_of(folder) == scores_of(tmp_path / "whole")


def test_the_smallest_batch_that_does_not_fit_is_an_error(data_root, tmp_path):
    with pytest.raises(UserError, match="even with 8 images a batch"):
        start(hungry(rows=4), data_of(data_root, 16), tmp_path)


def test_auto_is_determined_once_and_recorded(data_root, tmp_path, monkeypatch, capsys):
    detector = hungry(rows=16)
    run, table = start(detector, data_of(data_root, "auto"), tmp_path)
    assert {8, 16} <= set(detector.denoiser.network.seen)
    assert run.batch_size in (8, 16)
    assert frozen(tmp_path) == (run.batch_size, "auto")
    assert f"batch size: {run.batch_size}" in capsys.readouterr().err
    rows = tmp_path / "scores" / "rank-0.csv"
    rows.write_bytes(rows.read_bytes()[:900])

    def never(*_):
        raise AssertionError("a resumed run takes the frozen size")

    monkeypatch.setattr(measurements, "find_batch_size", never)
    again, resumed = start(hungry(), data_of(data_root, "auto"), tmp_path)
    assert again.batch_size == run.batch_size
    assert len(resumed) == len(table)


def test_the_search_ends_at_the_number_of_images():
    detector = hungry()
    methods = build_methods(detector.models, {})
    assert find_batch_size(detector.models, methods, detector.baselines, 20) in (8, 16)
    assert set(detector.denoiser.network.seen) == {8, 16}


class Rates:
    """Speeds by batch size; a size without a speed runs out of memory."""

    def __init__(self, **rates):
        self.rates, self.tried = {int(key[1:]): rate for key, rate in rates.items()}, []

    def __call__(self, size):
        self.tried.append(size)
        if size not in self.rates:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried …")
        return self.rates[size]


@pytest.mark.parametrize(
    ("rates", "best", "tried"),
    [
        ({"b8": 1, "b16": 2, "b32": 3}, 32, [8, 16, 32, 64]),
        ({"b8": 1, "b16": 3, "b32": 2}, 16, [8, 16, 32, 64]),
        ({"b8": 1, "b16": 1.01, "b32": 1.5, "b64": 1.4}, 32, [8, 16, 32, 64, 128]),
        ({"b8": 3, "b16": 2, "b32": 3.01, "b64": 9}, 8, [8, 16, 32]),
    ],
)
def test_auto_takes_the_fastest_size_that_fits(rates, best, tried):
    rate = Rates(**rates)
    assert fastest(rate, 1000) == best
    assert rate.tried == tried


def test_other_errors_of_the_search_are_raised():
    with pytest.raises(UserError, match="even with 8"):
        fastest(Rates(), 64)

    def broken(_size):
        raise RuntimeError("shapes differ")

    with pytest.raises(RuntimeError, match="shapes differ"):
        fastest(broken, 64)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError("x"), True),
        (MemoryError(), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory"), True),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (ValueError("out of memory"), False),
    ],
)
def test_errors_of_exhausted_memory_are_recognized(error, expected):
    assert is_out_of_memory(error) == expected


def test_all_calls_have_the_precision_of_the_trainer(data_root, tmp_path):
    detector, seen = hungry(), []
    detector.denoiser.network.network.register_forward_pre_hook(
        lambda *_: seen.append(torch.is_autocast_enabled("cpu"))
    )
    start(detector, data_of(data_root, 16), tmp_path, precision="bf16-mixed")
    assert set(seen) == {True}

"""The metric and the report on two real processes, started once for all cases."""

from pathlib import Path

import torch
import torch.multiprocessing as mp
from small_table import GROUPS, make_table

from diffguard.errors import UserError
from diffguard.ood_metrics import OODMetrics, compute_metrics
from diffguard.report import summarise

GENERATOR = torch.Generator().manual_seed(0)
SCORES = (torch.randn(191, generator=GENERATOR) * 10).round().double()
LABELS = torch.tensor([0] * 110 + [-1] * 81)


def batches(start, stop, size):
    parts = SCORES[start:stop].split(size), LABELS[start:stop].split(size)
    return list(zip(*parts, strict=True))


CASES = {
    "uneven": [batches(0, 123, 50), batches(123, None, 9)],
    "second empty": [batches(0, None, 64), []],
    "first empty": [[], batches(0, None, 64)],
    "nan": [batches(0, None, 64), [(torch.tensor([float("nan")]), torch.tensor([0]))]],
}


def _outcome(shard):
    metric = OODMetrics()
    for scores, labels in shard:
        metric.update(scores, labels)
    try:
        return {name: float(value) for name, value in metric.compute().items()}
    except UserError as error:
        return str(error)


def _worker(rank, folder):
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/init", rank=rank, world_size=2
    )
    outcomes = {name: _outcome(shards[rank]) for name, shards in CASES.items()}
    outcomes["report"] = summarise(make_table(), GROUPS, draws=20, rank=rank, world_size=2)
    if rank == 0:  # alone: must not wait for the other
        outcomes["alone"] = summarise(make_table(), GROUPS, draws=20)
    torch.save(outcomes, Path(folder) / f"{rank}.pt")
    torch.distributed.destroy_process_group()


def test_two_processes(tmp_path):
    mp.spawn(_worker, (str(tmp_path),), nprocs=2)
    metrics = compute_metrics(SCORES[LABELS >= 0], SCORES[LABELS < 0])
    report = summarise(make_table(), GROUPS, draws=20)
    for rank in range(2):
        outcomes = torch.load(tmp_path / f"{rank}.pt", weights_only=True)
        for name in ("uneven", "second empty", "first empty"):
            assert outcomes[name] == metrics
        # A rank that raised alone would leave the other waiting, so both must refuse the NaN.
        assert "1 of 192 scores are NaN or infinite" in outcomes["nan"]
        assert outcomes["report"] == report
        assert outcomes.get("alone", report) == report

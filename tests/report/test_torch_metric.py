"""The metric and a table's figures on two real processes, started once for all cases."""

import pytest
import torch

from diffguard.errors import UserError
from diffguard.report.metrics import compute_metrics
from diffguard.report.summary import summarize
from diffguard.report.torch_metric import OODMetrics, synchronized_metrics
from tests.helpers.scoring_processes import PROCESSES
from tests.helpers.sklearn_values import sklearn_metrics
from tests.helpers.small_table import GROUPS, NAMES, make_run, make_table

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
    table = make_table()
    outcomes["table"] = synchronized_metrics(table, GROUPS, NAMES, rank=rank, world_size=2)
    if rank == 0:  # alone: must not wait for the other
        outcomes["alone"] = synchronized_metrics(table, GROUPS, NAMES, rank=0, world_size=1)
    torch.save(outcomes, folder / f"{rank}.pt")
    torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("two")
    workers = [PROCESSES.Process(target=_worker, args=(rank, folder)) for rank in range(2)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0]
    return [torch.load(folder / f"{rank}.pt", weights_only=True) for rank in range(2)]


@pytest.mark.parametrize("rank", [0, 1])
def test_batches_of_two_processes_count_once(outcomes, rank):
    metrics = compute_metrics(SCORES[LABELS >= 0], SCORES[LABELS < 0])
    for name in ("uneven", "second empty", "first empty"):
        assert outcomes[rank][name] == metrics
    # A rank that raised alone would leave the other waiting, so both must refuse the NaN.
    assert "1 of 192 scores are NaN or infinite" in outcomes[rank]["nan"]


def test_a_table_shared_out_over_processes_is_scikit_learn_on_the_whole(outcomes):
    table = make_table()
    assert outcomes[0]["table"] == outcomes[1]["table"] == outcomes[0]["alone"]
    assert set(outcomes[0]["table"]) == {(n, s) for n in NAMES for s in GROUPS if s != "digits"}
    for (name, dataset), metrics in outcomes[0]["table"].items():
        ident, ood = (table.scores[name][table.rows(one)] for one in ("digits", dataset))
        assert metrics == pytest.approx(sklearn_metrics(ident, ood), abs=1e-12)


def test_results_use_the_metrics_of_all_processes(outcomes):
    results = summarize(make_run(), draws=20, metrics=outcomes[0]["table"])
    assert results == summarize(make_run(), draws=20)
    wrong = {key: dict.fromkeys(values, 0.25) for key, values in outcomes[0]["table"].items()}
    rows = summarize(make_run(), draws=20, metrics=wrong)["rows"]
    assert {row["auroc"] for row in rows} == {0.25}

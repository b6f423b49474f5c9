"""Event files of an evaluation, read back."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2
from tensorboard.util import tensor_util

from diffguard.report.overview import headline
from diffguard.report.publish import report
from tests.helpers.small_table import GROUPS, NAMES, make_run

CONFIG = {"detector": {"decision": "fusion", "sampler": {"steps": 50}}, "trainer": {}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Results of the small run, written twice: the second replaces the first."""
    folder = tmp_path_factory.mktemp("small")
    settings = {"config": CONFIG, "command": "diffguard evaluate --ckpt demo"}
    run = make_run(settings=settings, headline=["diffguard", "fusion"])
    for _ in range(2):
        report(run, folder, folder / "tensorboard")
    return folder


@pytest.fixture(scope="module")
def log(folder):
    return EventAccumulator(str(folder / "tensorboard" / "evaluation"), {"histograms": 0}).Reload()


@pytest.fixture(scope="module")
def results(folder):
    return json.loads((folder / "results.json").read_text())


def tensor(log, tag):
    (event,) = log.Tensors(tag)
    return tensor_util.make_ndarray(event.tensor_proto)


def test_scalars_are_the_main_scores_on_near_and_far(log, results):
    rows = {(row["score"], row["dataset"]): row for row in results["rows"]}
    expected = {
        f"{group}/{metric}/{score}": rows[score, group][metric]
        for group in ("near", "far")
        for metric in ("auroc", "fpr95_id_positive")
        for score in ("msp", "diffguard", "fusion", "fusion_baselines")
    }
    scalars = {tag: log.Scalars(tag) for tag in log.Tags()["scalars"]}
    assert all(len(events) == 1 for events in scalars.values())
    assert {tag: events[0].value for tag, events in scalars.items()} == pytest.approx(expected)


def test_every_score_has_a_histogram_per_set(log):
    table = make_run().table
    names = {f"scores_{name.replace('/', '.')}/{dataset}" for name in NAMES for dataset in GROUPS}
    assert set(log.Tags()["histograms"]) == names
    for name in ("msp", "diffguard/l2"):
        (event,) = log.Histograms(f"scores_{name.replace('/', '.')}/far_b")
        values = table.scores[name][table.rows("far_b")]
        histogram = event.histogram_value
        assert (histogram.num, sum(histogram.bucket)) == (19, 19)
        assert (histogram.min, histogram.max) == (values.min(), values.max())
        assert histogram.sum == pytest.approx(values.sum())


def test_pr_curves_count_images(log):
    table = make_run().table
    curves = {tag for tag in log.Tags()["tensors"] if tag.startswith("pr_")}
    sets = ("near_a", "far_a", "far_b")
    assert curves == {f"pr_{name}/{s}" for name in ("diffguard", "fusion") for s in sets}
    counts = tensor(log, "pr_fusion/far_a")
    assert counts.shape == (6, 127)
    true_positives, false_positives, true_negatives, false_negatives = counts[:4]
    assert (true_positives + false_negatives == 40).all()
    assert (false_positives + true_negatives == 49).all()
    ident, ood = (table.scores["fusion"][table.rows(name)] for name in ("digits", "far_a"))
    pairs = {((ident >= cut).sum(), (ood >= cut).sum()) for cut in np.r_[ident, ood, np.inf]}
    assert set(zip(false_positives.tolist(), true_positives.tolist(), strict=True)) <= pairs


def test_text_has_the_table_the_thresholds_and_the_command(log, results):
    (text,) = (
        tensor(log, t) for t in log.Tags()["tensors"] if t == "detector/summary/text_summary"
    )
    lines = text.item().decode().splitlines()
    assert lines[0] == headline(results)
    assert lines[2] == f"Accuracy on digits: {100 * results['id']['accuracy']:.2f}%."
    row = next(r for r in results["rows"] if (r["score"], r["dataset"]) == ("fusion", "near"))
    assert any(line.startswith(f"| fusion | {100 * row['auroc']:.1f} |") for line in lines), lines
    ident = next(r for r in results["id"]["scores"] if r["score"] == "fusion")
    shares = f"{100 * ident['accepted']:.1f}% | {100 * row['ood_flagged']:.1f}%"
    assert any(f"| {ident['threshold']:.4g} | {shares}" in line for line in lines), lines
    assert lines[-1].strip() == "diffguard evaluate --ckpt demo"


def test_hparams_compare_the_main_metrics(log):
    content = log.SummaryMetadata("_hparams_/session_start_info").plugin_data.content
    session = plugin_data_pb2.HParamsPluginData.FromString(content).session_start_info
    assert session.hparams["detector/sampler/steps"].number_value == 50
    assert session.hparams["seed"].number_value == 3
    content = log.SummaryMetadata("_hparams_/experiment").plugin_data.content
    experiment = plugin_data_pb2.HParamsPluginData.FromString(content).experiment
    metrics = [info.name.tag for info in experiment.metric_infos]
    assert metrics == [
        f"{group}/{metric}/{score}"
        for score in ("fusion", "diffguard")
        for group in ("near", "far")
        for metric in ("auroc", "fpr95_id_positive")
    ]
    assert set(metrics) <= set(log.Tags()["scalars"])
    # TensorBoard shows these columns first.
    columns = {info.name for info in experiment.hparam_infos if info.differs}
    assert columns == {"seed", "detector/sampler/steps"}


def test_charts_of_the_main_metrics_are_arranged(log):
    (event,) = log.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    (category,) = layout.category
    assert category.title == "Detector"
    assert [chart.title for chart in category.chart] == [
        "AUROC (near)", "FPR@95 (near)", "AUROC (far)", "FPR@95 (far)"
    ]  # fmt: skip
    scores = ("fusion", "msp", "diffguard", "fusion_baselines")
    patterns = list(category.chart[0].multiline.tag)
    tags = [
        [tag for tag in log.Tags()["scalars"] if re.match(pattern, tag)] for pattern in patterns
    ]
    assert tags == [[f"near/auroc/{score}"] for score in scores]


def test_pictures_are_those_of_the_folder(log, folder):
    from PIL import Image

    names = {path.stem for path in (folder / "figures").iterdir()}
    assert {"at_a_glance", "roc_fusion", "scores_diffguard"} <= names
    assert set(log.Tags()["images"]) == {f"detector/{name}" for name in names}
    (picture,) = log.Images("detector/at_a_glance")
    with Image.open(folder / "figures" / "at_a_glance.png") as image:
        assert (picture.width, picture.height) == image.size


def test_an_evaluation_replaces_the_event_files_of_an_earlier_one(folder):
    assert len(list((folder / "tensorboard" / "evaluation").iterdir())) == 1


def test_names_from_users_become_valid_tags(tmp_path):
    run = make_run()
    names = {name: name for name in run.groups} | {"far_b": "é a?"}
    table = replace(
        run.table, dataset_names=tuple(names.get(n, n) for n in run.table.dataset_names)
    )
    groups = {names[name]: group for name, group in run.groups.items()}
    report(replace(run, table=table, groups=groups), tmp_path, tmp_path / "tensorboard")
    log = EventAccumulator(str(tmp_path / "tensorboard" / "evaluation")).Reload()
    assert "scores_msp/é_a_" in log.Tags()["histograms"]

"""A run that resumes at any point gives the table of an uninterrupted run, to the last bit."""

import shutil

import pytest
import torch

from diffguard.methods.items import Item
from diffguard.score_table.writer import read_done
from diffguard.scores.baseline_table import BASELINES as TABLE
from diffguard.scores.baseline_table import VALIDATION_BASELINES
from tests.helpers.scoring_processes import errors_of, evaluate, score
from tests.helpers.tiny_detector import build_detector, small_settings

# SHE needs images of every class that the random network recognizes; others need a calibration.
BASELINES = [name for name in TABLE if name not in ("she", *VALIDATION_BASELINES)]
SETTINGS = {"baselines": BASELINES, "fused": BASELINES}
IMAGES = 4 + 4 + 4  # of the three sets; a batch is 8


@pytest.fixture(scope="module")
def whole(tmp_path_factory, data_root):
    folder = tmp_path_factory.mktemp("whole") / "run"
    score(folder, data_root, limit=4, **SETTINGS)
    return folder


def interrupted(whole, folder, left):
    """A copy of the folder in which `left` images are not yet scored."""
    shutil.copytree(whole, folder)
    (folder / "scores.csv").unlink()
    table = folder / "scores" / "rank-0.csv"
    lines = table.read_bytes().splitlines(keepends=True)
    table.write_bytes(b"".join(lines[: len(lines) - left]))
    assert len(read_done(folder)) == IMAGES - left
    return folder


@pytest.mark.parametrize("left", range(1, IMAGES))
def test_scores_do_not_depend_on_the_images_already_scored(whole, tmp_path, data_root, left):
    folder = interrupted(whole, tmp_path / "run", left)
    score(folder, data_root, limit=4, **SETTINGS)
    assert (folder / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()


@pytest.mark.parametrize("left", [1, 3, 12])
def test_two_processes_give_the_same_bits(whole, tmp_path, data_root, left):
    folder = interrupted(whole, tmp_path / "run", left)
    assert evaluate(folder, data_root, world=2, limit=4, **SETTINGS) == [0, 0], errors_of(folder)
    assert (folder / "scores.csv").read_bytes() == (whole / "scores.csv").read_bytes()


@pytest.mark.parametrize("size", [8, 24, 64])
def test_rows_do_not_depend_on_their_batch(size):
    detector = build_detector(small_settings(**SETTINGS))
    images = torch.rand(size + 3, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    items = [Item(image, index=i) for i, image in enumerate(images)]

    def rows(part):
        stream = detector.stream(size)
        return {image.row.index: image.row for image in stream.push(part) + stream.flush()}

    expected = rows(items)
    for part in (items[-1:], items[-2:], items[:3], items[::-1], items[5 : size + 1]):
        assert rows(part) == {item.index: expected[item.index] for item in part}


def test_knn_uses_the_threads_of_torch(monkeypatch, images):
    from diffguard.scores import neighbors

    detector, seen = build_detector(small_settings()), []
    index = detector.baselines._scores["knn"].index
    plain = index.kneighbors

    def watched(features, **options):
        pools = neighbors._thread_pools().select(user_api="openmp").info()
        seen.append((index.n_jobs, {pool["num_threads"] for pool in pools}))
        return plain(features, **options)

    monkeypatch.setattr(index, "kneighbors", watched)
    detector.score(images)
    assert set(map(str, seen)) == {"(1, {1})"}

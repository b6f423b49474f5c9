"""Speed and scores of the engine against a plain loop; see `plain_loop.py`."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from measured import Row, Scoring, difference, scores_by_image
from network_calls import NetworkCalls, networks_of, synchronize
from plain_loop import score_plainly
from subjects import Subject

from datamodules.evaluation_stream import EvaluationStream
from diffguard.detector import Detector
from diffguard.methods.items import Item, items_of

# Number of images for the speed of the plain loop, and for its scores in float64.
PLAIN_IMAGES = 64
EXACT_IMAGES = 32
ROUNDS = 20


def best_batch(
    detector: Detector, sizes: Sequence[int], precision: Any
) -> tuple[int, dict[int, float]]:
    """The fastest batch size of bare denoiser calls, and size -> least seconds per row.

    Among sizes within 5% of the fastest, the largest is returned, because it needs the fewest
    calls. Batches of one are measured as well. All sizes are measured in turn, so that changes in
    the machine's speed affect all of them.
    """
    network, channels = detector.denoiser.network, detector.denoiser.channels
    side, null, device = detector.denoiser.state_size, detector.denoiser.null_class, detector.device
    times = dict.fromkeys((1, *sizes), float("inf"))
    with precision(), torch.inference_mode():
        for _ in range(ROUNDS):
            for size in times:
                labels = None if null is None else torch.full((size,), null, device=device)
                x = torch.randn(size, channels, side, side, device=device)
                t = torch.full((size,), 500, device=device)
                for _ in range(2):
                    synchronize()
                    began = time.perf_counter()
                    network(x, t, class_labels=labels)
                    synchronize()
                    times[size] = min(times[size], (time.perf_counter() - began) / size)
    least = min(times.values())
    return max(size for size in times if times[size] <= 1.05 * least), times


def measure_plain(
    subject: Subject,
    detector: Detector,
    ours: Scoring,
    our_calls: NetworkCalls,
    best: int,
    times: dict[int, float],
    precision: Any,
) -> list[Row]:
    """(a) Our speed against a plain loop, on every n-th of the same images.

    On a CPU, the gain of the bare network comes from the calls that both loops make, each repeated
    immediately, because a machine's speed at batch 1 changes from minute to minute.
    """
    subject.data.config = replace(subject.data.config, batch_size=best)
    stream = subject.stream.share(0, max(1, len(subject.stream) // PLAIN_IMAGES))
    calls = NetworkCalls(networks_of(detector), paired=our_calls.paired)
    with calls.noted():
        scores, seconds = _score(subject, detector, stream, precision)
    seconds = (seconds - calls.paired_seconds) / len(scores)
    gain = times[1] / times[best]
    if calls.paired:
        single = calls.paired_seconds_per_row("denoiser", 1)
        gain = single / our_calls.paired_seconds_per_row("denoiser", best)
    speedup = seconds * ours.images_per_second
    apart = difference(scores, scores_by_image(ours.table))
    return [
        Row("plain loop: images", len(scores)),
        Row("plain loop: (e) images per second", 1 / seconds),
        Row("plain loop: relative difference of the scores", apart),
        Row(f"plain loop: gain of the bare denoiser from batch 1 to {best}", gain),
        Row("(a) ours / plain loop", speedup),
        Row(
            "(a) ours / plain loop, over the bare gain",
            speedup / gain,
            ">= 1.3",
            speedup / gain >= 1.3,
        ),
    ]


def _score(
    subject: Subject,
    detector: Detector,
    stream: EvaluationStream,
    precision: Any,
) -> tuple[dict[tuple[str, int], dict[str, float]], float]:
    """Scores of the plain loop, and its duration in seconds."""
    scores: dict[tuple[str, int], dict[str, float]] = {}
    began = time.perf_counter()
    with torch.inference_mode(), precision():
        for batch in subject.data.stream_loader(stream):
            items = items_of(batch)
            scores |= dict(zip(map(place, items), score_plainly(detector, items), strict=True))
    return scores, time.perf_counter() - began


def measure_exactness(subject: Subject, detector: Detector, batch_size: int) -> list[Row]:
    """(a) The scores of both loops in float64, where rounding errors do not grow."""
    detector = detector.double()
    stream = subject.stream.share(0, max(1, len(subject.stream) // EXACT_IMAGES))
    with torch.inference_mode():
        batches = subject.data.stream_loader(stream)
        items = [replace(i, image=i.image.double()) for b in batches for i in items_of(b)]
        running = detector.stream(batch_size, derive=False)
        results = running.push(items) + running.flush()
        plain = dict(zip(map(place, items), score_plainly(detector, items), strict=True))
    apart = difference(plain, {place(image.item): image.row.scores for image in results})
    name = "plain loop: relative difference of the scores in float64"
    return [Row(name, apart, "<= 1e-4", apart <= 1e-4)]


def place(item: Item) -> tuple[str, int]:
    """Set and index of an image."""
    return item.dataset, item.index

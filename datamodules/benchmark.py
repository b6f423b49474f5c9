"""The sources of a benchmark: ID parts and OOD sets, and the rules for them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import combinations, product

from datamodules.config import IDSets, OODSets, Part
from datamodules.sources import same_source
from diffguard.errors import UserError

_Named = tuple[str, str | None]  # a name and its source
PARTS: tuple[Part, ...] = ("train", "validation", "test")

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")


def part_name(name: str, part: Part) -> str:
    """The name of a part of the ID data set `name`; the test set has the plain name."""
    return name if part == "test" else f"{name}_{part}"


def check_sets(
    name: str, id: IDSets, ood: OODSets, ood_validation: Mapping[str, str], root: str | None
) -> None:
    """Check that names fit into tables and paths, and that nothing is chosen on test data.

    Raises:
        UserError: If a name has other characters, is reserved or is used twice; if a test source is
            also used for training, calibration or choosing settings; or if the shares are wrong.
    """
    if id.all and (id.train or id.validation or id.test):
        raise UserError(
            "data.id.all is split into three parts: leave out data.id.train, validation and test"
        )
    if len(id.shares) != 3 or min(id.shares) < 0 or abs(sum(id.shares) - 1) > 1e-6:
        raise UserError(
            "data.id.shares must be three shares (train, validation, test) with sum 1, got "
            f"{id.shares}"
        )
    names = {"near", "far", part_name(name, "train"), part_name(name, "validation")}
    for set_name in (name, *ood.near, *ood.far, *ood_validation):
        if not _NAME.fullmatch(set_name):
            raise UserError(
                f"data set name {set_name!r} must consist of letters, digits, '_', '.' and '-', "
                "and must not start with '.' or '-': it is used in tables and file names"
            )
        if set_name in names:
            raise UserError(f"data set name {set_name!r} is reserved or used twice: rename the set")
        names |= {set_name, "id"}
    tests = {name: id.source("test"), **ood.near, **ood.far}
    others = {"id.train": id.train, "id.validation": id.validation}
    others |= {f"ood_validation.{key}": source for key, source in ood_validation.items()}
    for (key, source), (test, _) in _of_one_source(product(others.items(), tests.items()), root):
        raise UserError(
            f"data.{key} ({source}) is also the test set {test!r}: give it another source, because "
            "nothing may be chosen on test data"
        )
    for (first, source), (second, _) in _of_one_source(combinations(tests.items(), 2), root):
        raise UserError(
            f"the test sets {first!r} and {second!r} have images in common ({source}): give one of "
            "them another source, or leave it out"
        )
    for (first, source), (second, _) in _of_one_source(combinations(others.items(), 2), root):
        raise UserError(
            f"data.{first} and data.{second} have images in common ({source}): give each its own, "
            "because a threshold or choice made on images that were used before is worthless"
        )


def _of_one_source(
    pairs: Iterable[tuple[_Named, _Named]], root: str | None
) -> Iterator[tuple[_Named, _Named]]:
    """The pairs of named sources that share images; sources that are not set are skipped."""
    for first, second in pairs:
        if first[1] and second[1] and same_source(first[1], second[1], root):
            yield first, second

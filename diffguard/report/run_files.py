"""An evaluation folder on disk: everything that results are computed from, without a model.

| file | contents |
| --- | --- |
| `scores.csv` | the score table |
| `manifest.json` | the run: sets with their groups, seed, settings |
| `calibration.csv` | scores of the ID validation images, for normalization |
| `run.json` | facts that results report: config, absent sets, thresholds, baselines; file digests |
| `contents.npy` | a hash per image, which reveals another image of the same name |
| `timing.jsonl` | the time that scoring took |
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any, NotRequired

import numpy as np
from pydantic import Field, FiniteFloat
from torch import Tensor
from typing_extensions import TypedDict

from diffguard.errors import UserError
from diffguard.report.calibration_file import read_calibration, write_calibration
from diffguard.report.opponents import Opponents, PlainOpponents, comparisons
from diffguard.report.score_costs import read_cost
from diffguard.report.scored_run import ScoredRun, Thresholds
from diffguard.score_table.contents import read_contents
from diffguard.score_table.manifest import FORMAT, read_manifest
from diffguard.score_table.merge import merge
from diffguard.score_table.table import ScoreTable
from diffguard.scores.fusion_rule import DIFFGUARD, FUSION
from diffguard.storage.files import replace_file
from diffguard.storage.json_files import read_json
from diffguard.storage.reading import open_regular

_DIGESTED = ("scores.csv", "calibration.csv", "contents.npy")


class _Thresholds(TypedDict):
    accept: Annotated[float, Field(gt=0, lt=1)]
    scores: dict[str, FiniteFloat]


class _RunFile(TypedDict):
    """`run.json`."""

    settings: dict[str, Any]
    absent: dict[str, str]
    thresholds: NotRequired[_Thresholds | None]
    baselines: NotRequired[PlainOpponents | None]
    parts: NotRequired[dict[str, list[str]]]
    digests: NotRequired[dict[str, Annotated[str, Field(max_length=64)]]]


def read_run(folder: Path, table: ScoreTable | None = None) -> ScoredRun:
    """Read an evaluation folder; complete tables of an earlier version are merged.

    Args:
        folder: The output folder of an evaluation.
        table: Its score table, if it was already read.

    Raises:
        UserError: If the folder is not an evaluation, not all of its images are scored, or a file
            is damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None or not {"groups", "sets", "seed"} <= set(manifest):
        raise UserError(
            f"{folder} is not an evaluation of ID and OOD sets: expected its output folder, "
            "with manifest.json and scores.csv"
        )
    if table is None:
        if not os.path.lexists(folder / "scores.csv"):
            _check_derived(folder, manifest)
            merge(folder)
        table = ScoreTable.read(folder / "scores.csv")
    content = _read_run_file(folder) or {"settings": manifest, "absent": {}}
    _check_digests(folder, content.get("digests", {}))
    _check_rows(folder, table, manifest["sets"])
    # The first format identified images by their size.
    contents = read_contents(folder) if manifest.get("format", 1) > 1 else None
    if contents is not None and len(contents) != len(table):
        raise UserError(
            f"{folder / 'contents.npy'} has {len(contents)} images, the table {len(table)}: "
            "restore the file, or delete it"
        )
    table, remarks = comparable(table)
    thresholds, baselines = content.get("thresholds"), content.get("baselines")
    opponents = None if baselines is None else Opponents.from_plain(baselines)
    return ScoredRun(
        folder=folder,
        table=table,
        groups=manifest["groups"],
        sets=manifest["sets"],
        seed=manifest["seed"],
        calibration=read_calibration(folder),
        settings=content["settings"],
        absent=content["absent"],
        cost=read_cost(folder, table, content.get("parts", {})),
        headline=[name for name in (DIFFGUARD, FUSION) if name in table.scores],
        comparisons=comparisons(table.scores, opponents),
        remarks=remarks,
        contents=contents,
        thresholds=None if thresholds is None else Thresholds(**thresholds),
        opponents=opponents,
    )


def comparable(table: ScoreTable) -> tuple[ScoreTable, list[str]]:
    """The table with the scores that all images have, and a remark on those of a cascade.

    Args:
        table: A score table.
    """
    complete = table.complete_scores
    absent = [name for name in table.scores if name not in complete]
    if not absent:
        return table, []
    remark = f"only images in doubt have {', '.join(absent)}, which are left out of the results"
    return replace(table, scores={name: table.scores[name] for name in complete}), [remark]


def _check_derived(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse tables that are to be merged but hold no derived scores."""
    if manifest.get("format") == FORMAT:
        raise UserError(
            f"{folder} has no scores.csv: start the same evaluation again, which writes it and "
            "scores only images that are left"
        )


def write_run(
    folder: Path,
    calibration: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    absent: Mapping[str, str],
    thresholds: Thresholds | None = None,
    opponents: Opponents | None = None,
    parts: Mapping[str, Sequence[str]] | None = None,
) -> None:
    """Write `calibration.csv` and `run.json` next to a merged score table.

    Args:
        folder: The evaluation folder.
        calibration: Score -> `(n,)` of the ID validation images.
        settings: Facts about the run that results report; plain values only.
        absent: Sets of the config that were missing, with the reason.
        thresholds: The calibrated thresholds; None without any.
        opponents: The baselines that DiffGuard is compared with; None records none.
        parts: Derived score -> the plain scores that it needs; None records none.

    Raises:
        UserError: If the files cannot be written.
    """
    write_calibration(Path(folder), calibration)
    content = {
        "settings": settings,
        "absent": absent,
        "thresholds": None if thresholds is None else asdict(thresholds),
        "baselines": None if opponents is None else opponents.as_plain(),
        "parts": {name: list(plain) for name, plain in (parts or {}).items()},
        "digests": _digests(Path(folder)),
    }
    with replace_file(Path(folder) / "run.json") as path:
        path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def _digests(folder: Path) -> dict[str, str]:
    """SHA-256 of the existing files that results are computed from."""
    digests = {}
    for name in _DIGESTED:
        try:
            with open_regular(folder / name) as file:
                digests[name] = hashlib.file_digest(file, "sha256").hexdigest()
        except FileNotFoundError:
            continue
    return digests


def _check_digests(folder: Path, before: Mapping[str, str]) -> None:
    now = _digests(folder)
    for name, digest in before.items():
        if name in now and now[name] != digest:
            raise UserError(
                f"{folder / name} has changed since it was written: restore it, or start the same "
                "evaluation again, which writes the file without scoring again"
            )


def _check_rows(folder: Path, table: ScoreTable, sets: Mapping[str, Mapping[str, Any]]) -> None:
    """Check that a table has a row for each image of the manifest's sets, in order."""
    codes = {name: code for code, name in enumerate(table.dataset_names)}
    counts = np.bincount(table.dataset, minlength=len(codes))
    for name in dict.fromkeys([*sets, *codes]):
        count = int(counts[codes[name]]) if name in codes else 0
        expected = sets.get(name, {}).get("n", 0)
        if count != expected:
            raise UserError(
                f"{folder / 'scores.csv'} is damaged: it has {count} rows of {name}, expected "
                f"{expected}: delete it and start the same command again, which writes it from the "
                "tables in scores"
            )
    order = table.dataset.astype(np.int64) << 32 | table.index
    if (np.diff(order) <= 0).any():
        raise UserError(
            f"{folder / 'scores.csv'} is damaged: a row is repeated or out of order: delete it and "
            "start the same command again, which writes it from the tables in scores"
        )


def _read_run_file(folder: Path) -> _RunFile | None:
    try:
        content: _RunFile = read_json(folder / "run.json", _RunFile)
    except FileNotFoundError:
        return None
    return content

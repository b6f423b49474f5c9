"""An evaluation folder as it lies on disk: all that results are made from, without any model.

| file | what it holds |
| --- | --- |
| `scores.csv` | the score table |
| `manifest.json` | what it belongs to: sets with their groups, seed, settings |
| `calibration.csv` | scores of the ID validation images, from which normalisation comes |
| `run.json` | what results tell of the run: config, versions, device, absent sets |
| `contents.npy` | a number per image that tells whether its file is the same |
| `timing.jsonl` | what it cost |
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffguard.calibration import DIFFGUARD, FUSION, FUSION_BASELINES
from diffguard.contents import read_contents
from diffguard.errors import UserError
from diffguard.files import replace_file
from diffguard.manifest import read_manifest
from diffguard.score_files import encode_rows
from diffguard.score_table import ScoreTable
from diffguard.scores import merge
from diffguard.timing import read_timing


@dataclass(frozen=True)
class ScoredRun:
    """A scored run, or several of the same data joined.

    Attributes:
        folder: Its evaluation folder.
        table: The score table.
        groups: Set name -> `id`, `near` or `far`.
        sets: Set name -> what the manifest says of it: number of images, fingerprint.
        seed: Seed of the run.
        calibration: Score -> `(n,)` float64 of the ID validation images; empty where the folder has
            none.
        settings: What results tell of the run.
        absent: Sets that were asked for and not there, with the reason.
        cost: Images per second and fill of the batches, where the folder tells.
        headline: Scores of which figures are drawn.
        comparisons: Pairs (score, against) whose AUROC is compared.
        remarks: What a reader of the results must know.
        contents: `(N,)` int64 in the order of the table, different where an image is another one;
            None where the folder does not tell.
    """

    folder: Path
    table: ScoreTable
    groups: dict[str, str]
    sets: dict[str, dict[str, Any]]
    seed: int
    calibration: dict[str, Tensor]
    settings: dict[str, Any]
    absent: dict[str, str]
    cost: dict[str, Any]
    headline: list[str]
    comparisons: list[tuple[str, str]]
    remarks: list[str] = field(default_factory=list)
    contents: NDArray[np.int64] | None = None


def read_run(folder: Path, table: ScoreTable | None = None) -> ScoredRun:
    """Read an evaluation folder; tables that are whole but not merged yet are merged.

    Args:
        folder: The output folder of an evaluation.
        table: Its score table, where it was read before.

    Raises:
        UserError: If the folder is no evaluation, its images are not all scored, or a file is
            damaged.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None or not {"groups", "sets", "seed"} <= set(manifest):
        raise UserError(
            f"{folder} is no evaluation of ID and OOD sets: expected an output folder of "
            "evaluate.py, with manifest.json and scores.csv"
        )
    if table is None:
        if not (folder / "scores.csv").is_file():
            merge(folder)
        table = ScoreTable.read(folder / "scores.csv")
    contents = read_contents(folder)
    if contents is not None and len(contents) != len(table):
        raise UserError(
            f"{folder / 'contents.npy'} is of {len(contents)} images, the table of {len(table)}: "
            "restore the file, or delete it"
        )
    told = _read_told(folder / "run.json") or {"settings": manifest, "absent": {}}
    pair = (FUSION, FUSION_BASELINES)
    return ScoredRun(
        folder=folder,
        table=table,
        groups=manifest["groups"],
        sets=manifest["sets"],
        seed=manifest["seed"],
        calibration=_read_calibration(folder / "calibration.csv"),
        settings=told["settings"],
        absent=told["absent"],
        cost=_cost(folder),
        headline=[name for name in (DIFFGUARD, FUSION) if name in table.scores],
        comparisons=[pair] if set(pair) <= set(table.scores) else [],
        contents=contents,
    )


def keep_run(
    folder: Path,
    calibration: Mapping[str, Tensor],
    settings: Mapping[str, Any],
    absent: Mapping[str, str],
) -> None:
    """Write `calibration.csv` and `run.json` beside a score table.

    Args:
        folder: The evaluation folder.
        calibration: Score -> `(n,)` of the ID validation images.
        settings: What results tell of the run, plain values only.
        absent: Sets that were asked for and not there, with the reason.

    Raises:
        UserError: If the files cannot be written.
    """
    rows = zip(*(values.tolist() for values in calibration.values()), strict=True)
    with replace_file(Path(folder) / "calibration.csv") as path:
        path.write_bytes(encode_rows([list(calibration), *rows]))
    with replace_file(Path(folder) / "run.json") as path:
        text = json.dumps({"settings": settings, "absent": absent}, indent=2)
        path.write_text(text + "\n", encoding="utf-8")


def _cost(folder: Path) -> dict[str, float]:
    timing = read_timing(folder)
    if not timing["seconds"]:
        return {}
    speed = timing["images"] / timing["seconds"]
    return {"images_per_second": speed, "batch_fill": timing["fill"]}


def _read_calibration(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        names, *rows = list(csv.reader(file)) or [[]]
    try:
        values = torch.tensor([[float(cell) for cell in row] for row in rows], dtype=torch.float64)
        columns = dict(zip(names, values.reshape(len(rows), len(names)).T, strict=True))
        if not values.isfinite().all():
            raise ValueError("a score is not finite")  # noqa: TRY301
    except (ValueError, RuntimeError) as error:
        raise UserError(
            f"{path} is damaged ({error}): expected a number per score and ID validation image; "
            "evaluate again with the checkpoint, which scores nothing anew and writes it"
        ) from error
    return columns


def _read_told(path: Path) -> dict[str, dict[str, Any]] | None:
    if not path.is_file():
        return None
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}): delete or restore it") from error
    parts = [told.get(name) for name in ("settings", "absent")] if isinstance(told, dict) else []
    if not parts or not all(isinstance(part, dict) for part in parts):
        raise UserError(f"{path} must hold settings and absent sets: delete or restore it")
    return told

"""Several evaluations in one command: of several trainings, or of one detector with several seeds.

Each evaluation has its own folder, in which it resumes. If one of them fails, the finished ones
keep their results.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lightning.pytorch.utilities import rank_zero_only

from diffguard.errors import UserError
from diffguard.pretrained import checkpoint_file
from diffguard.printing import say
from diffguard.report.join import run_labels
from diffguard.report.seed_tables import to_markdown, write_seeds
from diffguard.report.seeds import read_seeds
from diffguard.storage.paths import require_file, user_path
from diffguard_cli.evaluation_detector import results_folder


@dataclass(frozen=True)
class PlannedRun:
    """An evaluation of a command that makes several.

    Attributes:
        ckpt: The checkpoint.
        seed: The detector's seed; None for the checkpoint's.
        label: Name of its folder in that of the results.
    """

    ckpt: str
    seed: int | None
    label: str

    def folder(self, output: str | None) -> Path:
        """The folder of its results.

        Args:
            output: The command's folder of results; None if it names none.
        """
        if self.seed is None and output is None:
            return results_folder(self.ckpt) / "evaluation"
        return (Path(output) if output else results_folder(self.ckpt) / "seeds") / self.label


def planned_runs(ckpts: Sequence[str], seeds: Sequence[int]) -> list[PlannedRun]:
    """The evaluations of a command with several checkpoints or seeds.

    Args:
        ckpts: The checkpoints, at least one.
        seeds: The seeds of `--seeds`; empty without the option.

    Raises:
        UserError: If both are several, a seed or checkpoint is repeated, there is only one seed, a
            seed is out of range, or a checkpoint is missing.
    """
    if len(ckpts) > 1 and seeds:
        raise UserError("--seeds varies the seed of one detector: give one --ckpt, or no --seeds")
    if seeds:
        if len(set(seeds)) < max(2, len(seeds)):
            raise UserError(f"--seeds takes two different seeds or more, got {list(seeds)}")
        if min(seeds) < 0 or max(seeds) >= 2**32:
            raise UserError(f"--seeds must be 0 to {2**32 - 1:,}, got {list(seeds)}")
        return [PlannedRun(ckpts[0], seed, f"seed{seed}") for seed in seeds]
    files = [checkpoint_file(user_path(ckpt, "--ckpt")) for ckpt in ckpts]
    paths = [require_file(file, "checkpoint") for file in files]
    if len({path.resolve() for path in paths}) < len(paths):
        raise UserError("--ckpt got a checkpoint twice: name each one once")
    if len({results_folder(ckpt).resolve() for ckpt in ckpts}) < len(ckpts):
        raise UserError("--ckpt got two checkpoints in one folder: give each its own folder")
    labels = run_labels([path.parent for path in paths])
    return [PlannedRun(ckpt, None, label) for ckpt, label in zip(ckpts, labels, strict=True)]


@rank_zero_only
def announce(run: PlannedRun, folder: Path) -> None:
    """Report which evaluation begins, and the folder of its results."""
    say(f"{run.label}: {run.ckpt} to {folder}", file=sys.stderr)


@rank_zero_only
def report_seeds(folders: Sequence[Path], output: Path | None) -> None:
    """Print the results over the seeds, and write them.

    Args:
        folders: The folders of finished evaluations.
        output: Folder for `seeds.md` and `seeds.json`; None writes no file.
    """
    seeds = read_seeds(folders)
    say("", *to_markdown(seeds).splitlines())
    if output is not None:
        write_seeds(output, seeds)
        say("", f"Results: {output / 'seeds.md'}")

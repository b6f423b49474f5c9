"""An evaluation folder: which run its scores belong to, and what is left to score in it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from diffguard.checkpoint.versions import with_all_classes
from diffguard.engine.acceleration import CompileMode
from diffguard.engine.memory import too_large
from diffguard.errors import UserError
from diffguard.score_table.contents import changed_images, write_contents
from diffguard.score_table.manifest import (
    FORMAT,
    MACHINE,
    check_manifest,
    open_manifest,
    read_manifest,
    write_manifest,
)
from diffguard.score_table.partial import read_partial
from diffguard.score_table.writer import read_done
from diffguard.settings.detector import DetectorSettings
from diffguard.settings.old_keys import translated
from diffguard.settings.plain import completed, to_dict
from diffguard.settings.roles import DECIDING, DERIVING
from diffguard.storage.environment import describe_machine
from diffguard.storage.files import refuse_links
from diffguard_cli.scoring_terms import Terms

if TYPE_CHECKING:
    from datamodules.evaluation_stream import EvaluationStream
    from datamodules.ood import OODDataModule

# Scores `(N,)` by their names, NaN if missing -> `(N,)`, whether images lack a score.
Lack = Callable[[Mapping[str, NDArray[np.float64]]], NDArray[np.bool_]]
# Key of a manifest of an earlier version -> its present name.
_RENAMED = {"batch_size_asked": "batch_size_setting"}


@dataclass(frozen=True)
class OpenFolder:
    """An evaluation folder that belongs to a run.

    Attributes:
        path: The folder.
        manifest: What its scores depend on.
        rest: `(N, 2)` int64, what is left to score, as the stream selects it.
        completes: Whether some of these images have rows that lack a score. All images then get all
            scores, so that no image has two rows that differ in what they lack.
    """

    path: Path
    manifest: dict[str, Any]
    rest: NDArray[np.int64]
    completes: bool = False

    @property
    def batch_size(self) -> int:
        """Rows of every network call."""
        return int(self.manifest["batch_size"])

    @property
    def compile(self) -> CompileMode:
        """How the diffusion network is compiled."""
        compile: CompileMode = self.manifest["settings"]["compile"]
        return compile

    @property
    def machine(self) -> dict[str, str | int]:
        """What the first process contributes to the last bits of a score."""
        return dict(self.manifest[MACHINE])

    @property
    def threads(self) -> int:
        """CPU threads of each process."""
        return int(self.machine["threads"])

    def shrink(self, batch_size: int) -> None:
        """Freeze a smaller batch size.

        Raises:
            UserError: If the folder has a row already, perhaps of an earlier run.
        """
        if read_done(self.path):
            raise UserError(too_large(self.batch_size))
        self.manifest["batch_size"] = batch_size
        write_manifest(self.path, self.manifest)


class ScoringFolder:
    """What the scores in a folder depend on, compared with what a run is about to add.

    The batch size, the number of CPU threads and compilation decide on the last bits of a score. If
    they are left open, a run that resumes takes those it began with.

    Args:
        path: The folder.
        data: The DataModule.
        stream: The images.
        settings: The detector's settings, before anything was fitted.
        seed: The detector's seed.
        identity: What else the scores depend on.
        threads: CPU threads of a process; None leaves them open.
        lack: Finds images whose rows lack a score; None accepts all rows.
    """

    def __init__(
        self,
        path: Path,
        data: OODDataModule,
        stream: EvaluationStream,
        settings: DetectorSettings,
        seed: int,
        identity: Mapping[str, Any],
        threads: int | None,
        lack: Lack | None = None,
    ) -> None:
        self.path, self.identity, self._lack = path, dict(identity), lack
        self._data, self._stream, self._settings, self._seed = data, stream, settings, seed
        self._request = Terms.of_settings(data.batch_size, threads, settings.compile)

    def check(self, device: torch.device) -> None:
        """Compare the folder with this run; nothing is written.

        Args:
            device: The device of the networks.

        Raises:
            UserError: If the folder belongs to another run, naming what differs, or if an image has
                changed since it was scored.
        """
        self._score_mask(device)

    def is_free(self, device: torch.device) -> bool:
        """Whether the folder holds no scores yet, or those of this very run."""
        # Images that cannot be read are an error of their own, and not a reason to skip the folder.
        _ = (self._sets, self._stream.contents)
        if not os.path.lexists(self.path):
            return True
        try:
            self.check(device)
        except UserError:
            return False
        return True

    def open(
        self, device: torch.device, names: Sequence[str], measure: Callable[[Terms, int], Terms]
    ) -> OpenFolder:
        """Make the folder this run's; the first process calls this before there is a row.

        Args:
            device: The device of the networks.
            names: The columns of scores.
            measure: Completes the terms for a number of images, by measuring what is left open.

        Raises:
            UserError: As `check`, or if the folder cannot be written.
        """
        score_mask = self._score_mask(device)
        terms = measure(self._terms(), int(np.count_nonzero(~score_mask)))
        terms = replace(terms, threads=terms.threads or torch.get_num_threads())
        # If another launch of the same command was faster, its batch size counts.
        manifest = self._manifest(device, terms.resumed(read_manifest(self.path) or {}), names)
        write_contents(self.path, self._stream.contents)
        complete = bool(score_mask.all())
        open_manifest(self.path, manifest, complete=complete, upgrade=self._upgrade)
        return OpenFolder(
            self.path, manifest, self._stream.select[~score_mask], bool(self._lacking())
        )

    def machine(self, device: torch.device, threads: int | None) -> dict[str, str | int]:
        """What this process contributes to the last bits of a score."""
        return describe_machine(device, threads or torch.get_num_threads())

    def _score_mask(self, device: torch.device) -> NDArray[np.bool_]:
        """Check the folder; `(N,)`, which images of the stream have their scores."""
        refuse_links(self.path / "scores", self.path / "calibration")
        manifest = self._manifest(device, self._terms())
        check_manifest(self.path, manifest, complete=True, upgrade=self._upgrade)
        score_mask: NDArray[np.bool_] = self._stream.among(read_done(self.path) - self._lacking())
        complete = bool(score_mask.all())
        check_manifest(self.path, manifest, complete=complete, upgrade=self._upgrade)
        positions = changed_images(self.path, self._stream.contents, score_mask)
        if len(positions):
            which, position = self._stream.select[positions[0]].tolist()
            images = self._stream.sets[which]
            item = images.describe(position)
            others = f", and so have {len(positions) - 1:,} others" if len(positions) > 1 else ""
            raise UserError(
                f"{item['path'] or 'image ' + str(item['index'])} of the set {images.name} has "
                f"changed since it was scored{others}: {self.path} holds the scores of the old "
                "image; restore it to resume there, or name another folder with --output"
            )
        return score_mask

    def _lacking(self) -> set[tuple[str, int]]:
        """Images that have rows under other settings, without a score that is needed now."""
        if self._lack is None:
            return set()
        images, scores = read_partial(self.path)
        if not images:
            return set()
        flags = self._lack(scores)
        return {image for image, flag in zip(images, flags, strict=True) if flag}

    def _terms(self) -> Terms:
        return self._request.resumed(self._upgrade(read_manifest(self.path) or {}))

    def _upgrade(self, manifest: dict[str, Any]) -> dict[str, Any]:
        settings = manifest.get("settings")
        is_old = isinstance(settings, Mapping) and "gen_classes" not in settings
        return _upgraded(manifest, self._data.num_classes if is_old else 0)

    def _manifest(
        self, device: torch.device, terms: Terms, names: Sequence[str] = ()
    ) -> dict[str, Any]:
        settings = to_dict(self._settings)
        return {
            "format": FORMAT,
            **self.identity,
            "settings": {**_scoring(settings), "compile": terms.compile},
            "seed": self._seed,
            "batch_size": terms.batch_size,
            "batch_size_setting": terms.requested,
            **({"scores": list(names)} if names else {}),
            "image_size": self._data.image_size,
            "channels": self._data.channels,
            "sets": self._sets,
            MACHINE: self.machine(device, terms.threads),
        }

    @cached_property
    def _sets(self) -> dict[str, Any]:
        return {
            images.name: {"n": len(images), "fingerprint": images.fingerprint()}
            for images in self._stream.sets
        }


def _upgraded(manifest: dict[str, Any], classes: int) -> dict[str, Any]:
    """A manifest of any version with the present keys, for a number of ID classes."""
    manifest = {_RENAMED.get(key, key): value for key, value in manifest.items()}
    settings = manifest.get("settings")
    if isinstance(settings, Mapping):
        manifest["settings"] = _scoring(completed(with_all_classes(translated(settings), classes)))
    return manifest


def _scoring(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings on which the scores in the tables of processes depend."""
    return {key: value for key, value in settings.items() if key not in (*DECIDING, *DERIVING)}

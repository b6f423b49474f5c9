"""The stage `augment`: edits of the training images, and the mixtures that training draws."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import Tensor
from torchvision.utils import save_image

from diffguard.augment.cache import EditCache, cache_folder
from diffguard.augment.checking import make_edits
from diffguard.augment.editor import seconds_per_edit
from diffguard.augment.fractal_folder import read_fractals
from diffguard.augment.fractals import draw_fractals
from diffguard.augment.mixing import HALVES, DiffuseMix
from diffguard.augment.mixtures import Mixtures
from diffguard.augment.settings import AugmentSettings
from diffguard.batching import fixed_batch_size
from diffguard.errors import UserError
from diffguard.processes.agreement import wait_until
from diffguard.report.progress import StageProgress, clock
from diffguard.storage.files import replace_file
from diffguard_cli.arguments import TrainingArguments
from diffguard_cli.edit_models import load_models
from diffguard_cli.interrupts import interruptible
from diffguard_cli.run import Run
from lightning_modules.callbacks.time_limit import TimeIsUpError
from lightning_modules.connection import connect, first_process_does
from lightning_modules.processes import SharedWork
from lightning_modules.trainer import scoring_trainer

_SHEET_COLUMNS = 8


def augment(run: Run, arguments: TrainingArguments, title: str) -> None:
    """Edit the training images on all processes, and write a sheet of samples.

    An interrupted stage resumes with the blocks that are missing. Complete edits of the same
    images, models and settings are used as they are.

    Args:
        run: The run.
        arguments: The command line of training.
        title: Title of the progress.

    Raises:
        UserError: If a model cannot be loaded, or the edits cannot be written.
        TimeIsUpError: If the time limit was reached.
    """
    work = _EditRun(run, arguments, title)
    work.make()
    if work.trainer.is_global_zero:
        work.write_sheet()
        run.edits_record.write_text(
            json.dumps({"edits": str(work.cache.folder.resolve())}), encoding="utf-8"
        )
    work.trainer.strategy.barrier("edits recorded")


def check_edits(run: Run, settings: AugmentSettings) -> None:
    """Make sure that the edits exist which the classifier is to be trained with.

    Raises:
        UserError: If they do not.
    """
    if settings.method != "none" and not run.edits_record.is_file():
        raise UserError(
            f"augment.method {settings.method} trains the classifier with edits, and {run.folder} "
            "has none: add augment to --stages, before classifier"
        )


def load_mixtures(run: Run, settings: AugmentSettings) -> Mixtures | None:
    """The mixtures that the classifier is trained with; None with `augment.method` none.

    Raises:
        UserError: If the edits are missing or damaged.
    """
    if settings.method == "none":
        return None
    check_edits(run, settings)
    folder = Path(json.loads(run.edits_record.read_text(encoding="utf-8"))["edits"])
    edits = EditCache(folder, len(run.data.id_stream("train"))).read()
    transform = DiffuseMix(settings.fractal_weight, settings.seam)
    return Mixtures(edits, _fractals(run, settings), transform, settings.share, settings.seed or 0)


def _fractals(run: Run, settings: AugmentSettings) -> Tensor:
    size, channels = run.data.image_size, run.data.channels
    if settings.fractals is not None:
        return read_fractals(Path(settings.fractals), size, channels)
    return draw_fractals(settings.fractal_count, size, channels, settings.seed or 0)


class _EditRun:
    """Makes the edits of a run.

    Attributes:
        trainer: Connects the processes.
        cache: The edits.
    """

    def __init__(self, run: Run, arguments: TrainingArguments, title: str) -> None:
        self.run, self.settings, self.title = run, arguments.augment, title
        self.stream = run.data.id_stream("train")
        self.batch_size = fixed_batch_size(run.data.read_size)
        self.trainer = scoring_trainer(run.trainer, title)
        connect(self.trainer)
        if run.trainer.threads is not None:
            torch.set_num_threads(run.trainer.threads)
        device = self.trainer.strategy.root_device
        models = load_models(run, arguments, self.batch_size, device)
        self._editor, self._classify = models.editor, models.classify
        settings = arguments.augment
        identity = {
            **models.identity,
            "images": self.stream.sets[0].identity(),
            "size": [run.data.channels, run.data.image_size],
            "batch_size": self.batch_size,
            "precision": str(run.trainer.precision),
        }
        root = Path(settings.cache) if settings.cache else run.folder / "augment"
        self.cache = EditCache(cache_folder(root, identity), len(self.stream))

    def make(self) -> None:
        """Make the missing blocks, and join them."""
        trainer, cache = self.trainer, self.cache
        pending = first_process_does(trainer, cache.pending)
        if pending:
            self._report_cost(pending)
            self._make_blocks(pending)
        missing = len(first_process_does(trainer, cache.pending))
        if missing:
            raise TimeIsUpError(f"time is up with {missing:,} of {len(cache.blocks):,} blocks left")
        if not cache.is_complete:
            first_process_does(trainer, cache.finish)
        wait_until(lambda: cache.is_complete, cache.folder, trainer.global_rank)
        summary = cache.summary()
        rejections = ", ".join(f"{count:,} {fault}" for fault, count in summary["rejected"].items())
        self.run.say(
            f"{self.title}: {summary['edited']:,} of {summary['images']:,} images edited; rejected "
            f"edits: {rejections}; see {self.run.edits_sheet}"
        )

    def _report_cost(self, pending: list[int]) -> None:
        """Report the cost of the first edits; it is not known in advance how many are rejected."""
        blocks = [self.cache.blocks[number] for number in pending]
        count = sum(map(len, blocks))
        passes = self._editor.passes()
        if self.trainer.is_global_zero:
            images, labels = self._images(blocks[0][: self.batch_size])
            with self.trainer.precision_plugin.test_step_context():
                seconds = seconds_per_edit(self._editor, images, labels.tolist())
            self.run.say(
                f"{self.title}: {count:,} edits of {passes} network passes, {count * passes:,} in "
                f"all, about {clock(seconds * count / self.trainer.world_size)}; rejected edits "
                "are made again"
            )
        if self._classify is None:
            self.run.say("note: without augment.classifier, edits that change the class are kept")

    def _make_blocks(self, pending: list[int]) -> None:
        work = SharedWork(self.trainer)

        def make() -> None:
            with self._progress(len(pending)) as progress:
                for (turn,) in work.batches(len(pending), 1):
                    if self.run.deadline is not None and time.monotonic() >= self.run.deadline:
                        return
                    self._make_block(pending[turn])
                    progress.update(turn + 1)

        with interruptible(), self.trainer.precision_plugin.test_step_context():
            work.together("edits", make)

    def _progress(self, blocks: int) -> StageProgress:
        is_shown = self.run.trainer.progress and self.trainer.is_global_zero
        console = None if is_shown else Console(quiet=True)
        return StageProgress(self.title, blocks, console=console)

    @torch.no_grad()
    def _make_block(self, number: int) -> None:
        images, labels = self._images(self.cache.blocks[number])
        edits = make_edits(self._editor, images, labels, self._classify, self.settings.attempts)
        self.cache.write(number, edits)

    def _images(self, positions: Sequence[int]) -> tuple[Tensor, Tensor]:
        (batch,) = self.run.data.stream_loader(self.stream, [list(positions)])
        return batch["image"].to(self.trainer.strategy.root_device), batch["label"]

    def write_sheet(self) -> None:
        """Write the sheet: originals, edits, fractals, and mixtures with each half."""
        count = min(_SHEET_COLUMNS, len(self.stream))
        # Spread over the data set, which is often sorted by class.
        positions = torch.linspace(0, len(self.stream) - 1, count).long().tolist()
        images, _ = self._images(positions)
        edits = self.cache.read()[positions].float() / 255.0
        fractals = _fractals(self.run, self.settings)
        fractals = fractals[torch.arange(count) % len(fractals)]
        transform = DiffuseMix(self.settings.fractal_weight, self.settings.seam)
        rows = [images.cpu(), edits, fractals]
        for half in range(len(HALVES)):
            halves = torch.full((count,), half)
            rows.append(transform(images.cpu(), edits, fractals, halves))
        with replace_file(self.run.edits_sheet) as temporary:
            save_image(torch.cat(rows), temporary, nrow=count, padding=1, format="png")

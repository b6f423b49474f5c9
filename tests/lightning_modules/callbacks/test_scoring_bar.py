"""Progress over all processes, from their growing tables."""

import contextlib
import io

from lightning import LightningModule
from rich.console import Console

from diffguard.errors import UserError
from diffguard.score_table.writer import ScoreWriter
from lightning_modules.callbacks.scoring_bar import ScoringProgressBar, watched
from tests.helpers import tiny_training as tiny
from tests.helpers.table_rows import NAMES, ROWS


def append(folder, rank, rows):
    with ScoreWriter(folder, rank, NAMES) as writer:
        writer.write(rows)


class Scoring(LightningModule):
    """Writes two rows a batch; another process has written one before and one meanwhile."""

    def __init__(self, folder):
        super().__init__()
        self.folder = folder

    def test_step(self, batch, batch_idx):
        if batch_idx == 0:
            append(self.folder, 1, ROWS[3:4])
        append(self.folder, 0, ROWS[4 + 2 * batch_idx : 6 + 2 * batch_idx])


def progress_of(folder, line_seconds, fails=False, **options):
    append(folder, 1, ROWS[:3])
    output = io.StringIO()
    bar = ScoringProgressBar("evaluate", line_seconds, console=Console(file=output, **options))
    trainer = tiny.trainer(folder, callbacks=[bar], enable_progress_bar=True)
    with contextlib.suppress(UserError), watched(trainer, folder, 20):
        trainer.test(Scoring(folder), tiny.val_loader(), verbose=False)
        if fails:
            raise UserError("the disk is full")
    return output.getvalue()


def test_lines_show_images_rate_remaining_time_and_depth(tmp_path):
    first, *_, last, end = progress_of(tmp_path, 0.0).splitlines()
    assert first.startswith("evaluate: 30%, 0:0")
    assert " left, 6 of 20 images, " in first
    assert " images/s, mean depth " in first
    assert "10 of 20 images" in last
    assert "done after" in end


def test_a_failed_run_is_not_reported_as_done(tmp_path):
    *_, end = progress_of(tmp_path, 60.0, fails=True).splitlines()
    assert "interrupted after" in end
    assert "10 of 20 images" in end


def test_a_line_is_printed_every_minute(tmp_path):
    lines = progress_of(tmp_path, ScoringProgressBar("x").line_seconds).splitlines()
    assert ScoringProgressBar("x").line_seconds == 60
    assert len(lines) == 2  # the first state and the last
    assert "6 of 20 images" in lines[0]
    assert "10 of 20 images" in lines[1]


def test_a_bar_on_a_terminal(tmp_path):
    text = progress_of(tmp_path, 60.0, force_terminal=True, width=150, legacy_windows=False)
    last = text.rsplit("evaluate", 1)[1]
    assert "50%" in last
    assert "10 of 20 images" in last


def test_a_trainer_without_a_bar_shows_nothing(tmp_path):
    with watched(tiny.trainer(tmp_path), tmp_path, 20):
        pass

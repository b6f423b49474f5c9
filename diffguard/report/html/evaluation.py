"""The report of an evaluation on ID and OOD sets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffguard.report.gallery import GalleryImage
from diffguard.report.html.charts import Chart, roc_chart, score_chart, stage_chart
from diffguard.report.html.gallery_note import reconstruction_notes
from diffguard.report.html.page import Page, Skipped, write_page
from diffguard.report.html.table import views
from diffguard.report.notes import make_notes
from diffguard.report.overview import (
    deciding_score,
    headline,
    main_scores,
    threshold_sentence,
)
from diffguard.report.score_costs import costs_of
from diffguard.report.scored_run import ScoredRun
from diffguard.report.sentence import STAGES
from diffguard.report.tables import COST_LEGEND, LEGEND

_NO_DETECTOR = "No images are shown: they need the detector. Evaluate with --ckpt."
_NO_THRESHOLD = (
    "No images are shown: there are too few ID validation images for a threshold at this share of "
    "accepted images."
)


def write_evaluation(
    path: Path,
    run: ScoredRun,
    results: Mapping[str, Any],
    images: Sequence[GalleryImage] = (),
    command: str = "",
) -> None:
    """Write `report.html` of an evaluation.

    Args:
        path: The file.
        run: The scored run.
        results: Its results, as `summary.summarize` returns them.
        images: The gallery.
        command: The command that makes the report from score tables; empty if there is none.

    Raises:
        UserError: If the file cannot be written.
    """
    settings = results["settings"]
    skipped = [Skipped(name, reason) for name, reason in results["absent"].items()]
    skipped += [
        Skipped(f"{row['dataset']}: {row['path'] or row['index']}", row["error"])
        for row in results["left_out"]
    ]
    page = Page(
        title="Evaluation of an OOD detector",
        headline=headline(results),
        score=deciding_score(results),
        groups=run.groups,
        lines=[
            *filter(None, [threshold_sentence(results)]),
            *run.remarks,
            *([] if images else [_reason(run, command)]),
        ],
        views=views(results, main_scores(results)),
        main_scores=main_scores(results),
        legend=f"{LEGEND} {COST_LEGEND}" if costs_of(results) else LEGEND,
        charts=list(_charts(run)),
        images=images,
        gallery_note=_note(run, images),
        facts=_facts(run, results),
        settings=settings,
        skipped=skipped,
        commands=_commands(settings, command),
    )
    write_page(path, page)


def _commands(settings: Mapping[str, Any], command: str) -> list[str]:
    """The commands that make the report again: those of the runs, then those that report them."""
    runs = [run["settings"].get("command", "") for run in settings.get("runs", ())]
    commands = dict.fromkeys([*runs, settings.get("command", ""), command])
    return [text for text in commands if text]


def _reason(run: ScoredRun, command: str) -> str:
    """Why the page shows no images; `command` is that of a report of score tables."""
    return _NO_DETECTOR if command or run.thresholds is not None else _NO_THRESHOLD


def _note(run: ScoredRun, images: Sequence[GalleryImage]) -> str:
    """Which images the gallery shows, and how many have all pictures."""
    count = sum(len(run.table.rows(name)) for name in run.groups)
    parts = []
    if len(images) < count:
        parts.append(
            f"{len(images):,} of {count:,} images are shown: the hardest mistakes, and correct "
            "verdicts at even ranks of the score; scores.csv has all."
        )
    return " ".join([*parts, *reconstruction_notes(images)])


def _facts(run: ScoredRun, results: Mapping[str, Any]) -> dict[str, str]:
    facts: dict[str, str] = {}
    settings = results["settings"]
    for label, text in make_notes(results):
        if label != "Left out":
            facts[label] = f"{facts[label]}; {text}" if label in facts else text
    for label, key in (("Seed", "seed"), ("Device", "device"), ("Batch size", "batch_size")):
        if key in settings:
            facts[label] = str(settings[key])
    for name, group in run.groups.items():
        facts[f"Set {name}"] = f"{group}, {len(run.table.rows(name)):,} images"
    libraries = settings.get("libraries", {})
    if libraries:
        facts["Versions"] = ", ".join(f"{name} {version}" for name, version in libraries.items())
    return facts


def _charts(run: ScoredRun) -> Iterator[Chart]:
    table = run.table
    ident = next(name for name, group in run.groups.items() if group == "id")
    others = [name for name in run.groups if name != ident]
    for name in run.headline:
        parts = {key: table.scores[name][table.rows(key)] for key in (ident, *others)}
        yield roc_chart(name, parts[ident], {key: parts[key] for key in others})
        yield score_chart(name, parts, run.threshold_of(name))
    if (table.stage == 1).any():
        stages = {key: table.stage[table.rows(key)] for key in run.groups}
        shares = {
            key: [float((s == stage).mean()) for stage in STAGES] for key, s in stages.items()
        }
        yield stage_chart(shares, list(STAGES.values()))

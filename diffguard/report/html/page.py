"""The page itself: fills the template, and lets the browser load and run nothing else.

File names and class names are foreign text. jinja2 escapes them, and the content security policy
allows the scripts of the page by their hashes, so that no text of a page can become code.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from plotly.offline import get_plotlyjs

from diffguard.printing import printable
from diffguard.report.gallery import GalleryImage
from diffguard.report.html.charts import Chart
from diffguard.report.html.table import View
from diffguard.report.html.thumbnails import Thumbnail, within_budget
from diffguard.report.sentence import STAGES
from diffguard.storage.files import replace_file

_FOLDER = files("diffguard.report.html")
_MOST_BYTES = 25_000_000
_MOST_SKIPPED = 500  # rows; more are in the score table
_FILTER_NAMES = {"prediction": "predicted label"}
_GROUPS = {"id": "ID", "near": "near OOD", "far": "far OOD"}


@dataclass(frozen=True)
class Skipped:
    """A file or a set that has no scores, with the reason."""

    name: str
    reason: str


@dataclass(frozen=True)
class Page:
    """The content of a report.

    Attributes:
        title: Title of the page.
        headline: The result in one sentence.
        score: The score that decides.
        groups: Set name -> `id`, `near` or `far`; empty if it is unknown.
        lines: Further sentences below it.
        views: The tables of results; none for a folder of images.
        main_scores: The scores whose rows are shown at first.
        legend: What the columns of the tables mean.
        charts: The charts.
        images: The gallery, in the order in which it is shown at first.
        gallery_note: Which images the gallery shows.
        facts: Label -> value: seed, device, cost and the like.
        settings: All settings and versions; plain values.
        skipped: Files and sets without scores.
        commands: The commands that make this report again; empty if they are unknown.
    """

    title: str
    headline: str
    score: str = ""
    groups: Mapping[str, str] = field(default_factory=dict)
    lines: Sequence[str] = ()
    views: Sequence[View] = ()
    main_scores: Sequence[str] = ()
    legend: str = ""
    charts: Sequence[Chart] = ()
    images: Sequence[GalleryImage] = ()
    gallery_note: str = ""
    facts: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    skipped: Sequence[Skipped] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True)
class _Card:
    """An image of the gallery with those of its pictures that fit on the page."""

    image: GalleryImage
    pictures: Sequence[Thumbnail]


def write_page(path: Path, page: Page) -> None:
    """Write a report.

    Args:
        path: The file; an older one is replaced at once.
        page: Its content.

    Raises:
        UserError: If the file cannot be written.
    """
    text = render(page)
    with replace_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="")


def render(page: Page, most_bytes: int = _MOST_BYTES) -> str:
    """The page as HTML; pictures, then whole images are left out from the end if it is too large.

    Args:
        page: The content.
        most_bytes: Size of the page as UTF-8.
    """
    images = page.images
    # Without the data of its pictures, but with their headings.
    outline = _render(page, [_Card(image, _headings(image)) for image in images])
    while (budget := most_bytes - len(outline.encode("utf-8"))) < 0 and images:
        images = images[: len(images) // 2]
        outline = _render(page, [_Card(image, _headings(image)) for image in images])
    pictures = within_budget([image.pictures for image in images], budget)
    return _render(page, [_Card(*pair) for pair in zip(images, pictures, strict=True)])


def _headings(image: GalleryImage) -> list[Thumbnail]:
    return [replace(picture, source="") for picture in image.pictures]


def _render(page: Page, cards: Sequence[_Card]) -> str:
    reduced = [card for card in cards if len(card.pictures) < len(card.image.pictures)]
    without_pictures = sum(not card.pictures for card in reduced)
    scripts = [_script("report.js")]
    if page.charts:
        scripts = [_plotly(), _script("charts.js"), *scripts]
    return _template().render(
        page=page,
        cards=cards,
        without_pictures=without_pictures,
        without_most=len(reduced) - without_pictures,
        skipped=page.skipped[:_MOST_SKIPPED],
        filter_names=_FILTER_NAMES,
        filters=_filters([card.image for card in cards]),
        score=page.score,
        groups=_GROUPS,
        sets=len({card.image.dataset for card in cards}),
        style=Markup((_FOLDER / "report.css").read_text(encoding="utf-8")),
        scripts=scripts,
        hashes=" ".join(map(_hash, scripts)),
        settings=yaml.safe_dump(_plain(page.settings), sort_keys=False, allow_unicode=True),
    )


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        # A text may hold control characters and bytes of a file name that are not UTF-8.
        finalize=lambda value: printable(value) if type(value) is str and "\n" not in value
        else value,
    )  # fmt: skip
    environment.filters |= {"json_for_html": _json_for_html, "printable": printable}
    return environment.from_string((_FOLDER / "report.html").read_text(encoding="utf-8"))


def _json_for_html(text: str) -> Markup:
    """JSON that cannot end the script element that holds it."""
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _script(name: str) -> Markup:
    return Markup((_FOLDER / name).read_text(encoding="utf-8"))


@cache
def _plotly() -> Markup:
    return Markup(get_plotlyjs())


def _hash(script: Markup) -> str:
    """A source of the content security policy that allows one script."""
    digest = hashlib.sha256(script.encode("utf-8")).digest()
    return f"'sha256-{base64.b64encode(digest).decode('ascii')}'"


def _filters(images: Sequence[GalleryImage]) -> dict[str, list[tuple[str, str]]]:
    """Filter -> (value, text) of its choices; filters with one choice are left out."""
    verdicts = dict.fromkeys("ood" if image.facts.is_ood else "id" for image in images)
    stages = sorted({image.facts.stage for image in images if image.facts.stage})
    predictions = sorted({image.facts.prediction for image in images})
    choices = {
        "set": [(name, name) for name in dict.fromkeys(image.dataset for image in images)],
        "verdict": [(name, name.upper()) for name in verdicts],
        "stage": [(str(stage), f"{stage}: {STAGES[stage]}") for stage in stages],
        "prediction": [(name, name) for name in predictions],
        "outcome": [(text, text) for text in dict.fromkeys(i.outcome for i in images) if text],
    }
    return {name: values for name, values in choices.items() if len(values) > 1}


def _plain(value: Any) -> Any:
    """A value that YAML can hold, with printable texts."""
    if isinstance(value, Mapping):
        return {printable(str(key)): _plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, bool | int | float) or value is None:
        return value
    return printable(str(value))

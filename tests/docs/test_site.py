"""The documentation as a site."""

import re
from importlib import import_module
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
NAV = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))["nav"]


def pages(entries):
    for entry in entries:
        if isinstance(entry, str):
            yield entry
        else:
            for part in entry.values():
                yield from pages(part)


def test_the_site_builds_without_warnings(tmp_path):
    pytest.importorskip("material", reason="the extra docs is not installed: mkdocs-material")
    pytest.importorskip("mkdocstrings", reason="the extra docs is not installed: mkdocstrings")
    from mkdocs.commands.build import build
    from mkdocs.config import load_config

    build(load_config(str(ROOT / "mkdocs.yml"), strict=True, site_dir=str(tmp_path)))
    detector = (tmp_path / "api" / "detector" / "index.html").read_text(encoding="utf-8")
    assert 'id="diffguard.detector.Detector.predict"' in detector
    # A reader's browser fetches nothing from other hosts.
    home = (tmp_path / "index.html").read_text(encoding="utf-8")
    assert not re.findall(r"<(?:script|link|img)[^>]*(?:src|href)=\"?https?://(?!squidfunk)", home)


def test_every_page_is_in_the_navigation():
    docs = ROOT / "docs"
    paths = {path.relative_to(docs).as_posix() for path in docs.rglob("*.md")}
    assert set(pages(NAV)) == paths


@pytest.mark.parametrize(
    ("page", "package"),
    [
        ("detector", "diffguard"),
        ("lightning", "lightning_modules"),
        ("data", "datamodules"),
    ],
)
def test_the_reference_covers_the_public_names(page, package):
    text = (ROOT / "docs" / "api" / f"{page}.md").read_text(encoding="utf-8")
    names = {path.rpartition(".")[2] for path in re.findall(r"^::: (\S+)$", text, re.MULTILINE)}
    public = set(import_module(package).__all__)
    assert public - names <= {"DEMO_IMAGES", "MissingDataError"}

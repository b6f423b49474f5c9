"""Reads the elements of an HTML page."""

from __future__ import annotations

from dataclasses import dataclass, field
from html.parser import HTMLParser

EMPTY = {"meta", "link", "img", "input", "br"}


@dataclass
class Element:
    tag: str
    attributes: dict[str, str | None]
    text: str = ""
    inside: list[str] = field(default_factory=list)


class Reader(HTMLParser):
    """Collects all elements with the text in them."""

    def __init__(self):
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []

    def handle_starttag(self, tag, attrs):
        element = Element(tag, dict(attrs), inside=[e.tag for e in self._open])
        self.elements.append(element)
        if tag not in EMPTY:
            self._open.append(element)

    def handle_endtag(self, tag):
        assert self._open.pop().tag == tag

    def handle_data(self, data):
        for element in self._open:
            element.text += data


def read_page(text):
    """The elements of a well-formed page, in order."""
    reader = Reader()
    reader.feed(text)
    reader.close()
    assert not reader._open
    return reader.elements


def select(elements, tag, **attributes):
    """Elements by tag and attributes; `_` in a name stands for `-`."""
    wanted = {name.strip("_").replace("_", "-"): value for name, value in attributes.items()}
    return [
        element
        for element in elements
        if element.tag == tag
        and all(element.attributes.get(name) == value for name, value in wanted.items())
    ]

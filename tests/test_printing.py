"""Printing text from files: control characters are escaped, and no text ends a run."""

import io
import sys

import pytest
from rich.console import Console

from diffguard.printing import printable, say
from diffguard.report.progress import StageProgress
from diffguard.report.summary import summarize
from diffguard.report.terminal import print_table
from tests.helpers.commands import command
from tests.helpers.small_table import make_run

CASES = {
    "plain ü 図 😀": "plain ü 図 😀",
    "\x1b[2J": r"\x1b[2J",
    "a\nb\r\tc\x00": r"a\nb\r\tc\x00",
    "\x9b31m": r"\x9b31m",
    "caf\udce9.png": r"caf\xe9.png",
    "gpj.\u202eexe\u2028": r"gpj.\u202eexe\u2028",
    "\ud800": r"\ud800",
}


class Terminal(io.TextIOWrapper):
    """A stream with one strict encoding."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding, newline="")

    def shown(self):
        self.flush()
        return self.buffer.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
def test_any_text_is_printed_as_one_harmless_line(encoding):
    for text, expected in CASES.items():
        assert printable(text) == expected
        stream = Terminal(encoding)
        say(text, "next", file=stream)
        assert stream.shown() == expected.encode(encoding, "backslashreplace") + b"\nnext\n"


def controls(text):
    return [c for c in text.replace("\n", "") if not c.isprintable()]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_control_characters_in_names_are_escaped_in_tables_and_progress(encoding):
    evil = "\x1b]0;owned\x07\x9b図"
    results = summarize(make_run(), draws=100)
    for row in results["rows"]:
        row["score"] = evil + row["score"]
        row["dataset"] = evil + row["dataset"]
    results["absent"] = {"gone": f"because {evil}"}
    stream = Terminal(encoding)
    print_table(results, Console(file=stream, width=400))
    with StageProgress(evil, 3, console=Console(file=stream, width=100)) as progress:
        progress.update(1, evil)
    output = stream.shown().decode(encoding)
    assert controls(output) == []
    assert output.count(r"\x1b]0;owned\x07\x9b") > 10


def test_control_characters_in_names_are_escaped_in_errors():
    result = command("evaluate.py", "--ckpt", "no\x1b[2J\x9bwhere.ckpt", "--debug")
    assert controls(result.stderr) == []
    assert r"no\x1b[2J\x9bwhere.ckpt does not exist" in result.stderr
    assert "Traceback" in result.stderr


def test_say_prints_to_the_current_standard_output(monkeypatch):
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stdout", stream)
    say("a\x07")
    assert stream.getvalue() == "a\\x07\n"

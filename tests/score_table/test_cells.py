import csv
import io

import pytest

from diffguard.score_table.cells import from_cell, to_cell

PLAIN = ["", "deep/000.png", "a, b", 'say "x"', "ü 図 😀", "a=b", r"back\slash", "1.5", "don't"]
ESCAPED = {
    "=HYPERLINK(1).png": "'=HYPERLINK(1).png",
    "+1": "'+1",
    "-2": "'-2",
    "@SUM(A1)": "'@SUM(A1)",
    "\uff1d1": "'\uff1d1",
    "'quoted'": "''quoted'",
    "\t=1": "'\\u0009=1",
    "two\r\nlines": "'two\\u000d\\u000alines",
    "caf\udce9\\x": "'caf\\xe9\\\\x",
    "\x1b[2J\x9b": "'\\u001b[2J\\u009b",
    "\ud800": "'\\ud800",
}


@pytest.mark.parametrize("text", [*PLAIN, *ESCAPED])
def test_cell_is_not_a_formula_and_is_restored(text):
    cell = to_cell(text)
    assert cell == ESCAPED.get(text, text)
    assert from_cell(cell) == text
    cell.encode("utf-8")
    line = io.StringIO(newline="")
    csv.writer(line).writerow([cell, -1.5])
    assert line.getvalue().count("\n") == 1
    assert next(csv.reader([line.getvalue()])) == [cell, "-1.5"]

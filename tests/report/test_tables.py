import pytest

from diffguard.report.markdown import to_markdown
from diffguard.report.summary import summarize
from diffguard.report.tables import percent
from tests.helpers.small_table import NAMES, make_run


@pytest.fixture(scope="module")
def results():
    return summarize(make_run(), draws=100)


def parse(markdown):
    """Title of each table -> rows of cells, the heading first."""
    tables = {}
    for line in markdown.splitlines():
        if line.startswith("## "):
            rows = tables[line[3:]] = []
        elif line.startswith("|") and "---" not in line:
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
    return tables


def test_markdown_has_a_table_per_metric_with_every_score_and_set(results):
    tables = parse(to_markdown(results))
    heads = ["AUROC", "Flagged", "FPR@95 ID", "FPR@95 OOD", "AUPR In", "AUPR Out"]
    titles = [f"{head}, %" for head in heads]
    ident = "digits · ID · 49 images, %"
    assert list(tables) == [ident, *titles]
    heads = ["Accepted all", "Accepted right", "Accepted wrong", "Accepted accuracy", "AURC"]
    assert tables[ident][0] == ["score", *heads]
    names = ("accepted", "accepted_right", "accepted_wrong")
    for cells, entry in zip(tables.pop(ident)[1:], results["id"]["scores"], strict=True):
        assert cells[:4] == [entry["score"], *(percent(entry[name]) for name in names)]
        assert cells[5].strip("*") == f"{100 * entry['aurc']:.2f}"
    for rows in tables.values():
        assert rows[0] == [
            "score",
            "near_a · near · 30 images",
            "far_b · far · 19 images",
            "far_a · far · 40 images",
            "mean of 1 near set · 30 images",
            "mean of 2 far sets · 59 images",
        ]
        assert [row[0] for row in rows[1:]] == NAMES
    cells = [cell for row in tables["FPR@95 OOD, %"][1:] for cell in row[1:]]
    by_score = [row for name in NAMES for row in results["rows"] if row["score"] == name]
    for cell, row in zip(cells, by_score, strict=True):
        value, ends = cell.split(" (")
        assert value.strip("*") == f"{100 * row['fpr95_ood_positive']:.1f}"
        low, high = (percent(end) for end in row["fpr95_ood_positive_ci95"])
        assert ends == f"{low}–{high})"


def test_markdown_gives_the_interval_and_marks_the_best(results):
    rows = parse(to_markdown(results))["AUROC, %"][1:]
    far = [row for row in results["rows"] if row["dataset"] == "far"]
    best = max(row["auroc"] for row in far)
    for cells, row in zip(rows, far, strict=True):
        low, high = (f"{100 * value:.2f}" for value in row["auroc_ci95"])
        mark = "**" if row["auroc"] == best else ""
        assert cells[-1] == f"{mark}{100 * row['auroc']:.2f}{mark} ({low}–{high})"


def test_markdown_has_the_notes(results):
    lines = to_markdown(results).splitlines()
    assert "- ID accuracy: 89.80 % (digits, 49 images)" in lines
    assert "- Threshold: chosen to accept 90% of new ID images on average" in lines
    assert "- Cost: 12.5 images per second, 46.9 network passes per image" in lines
    assert "- Left out: 2 unreadable images (far_b 1, digits 1)" in lines


def test_a_name_cannot_break_the_table(results):
    rows = [row | {"dataset": row["dataset"].replace("far_a", "a|b")} for row in results["rows"]]
    assert "| a\\|b · far · 40 images |" in to_markdown(results | {"rows": rows})


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1.0, 2, "100"), (0.99999, 2, "100"), (0.9999, 2, "99.99"), (0.0, 1, "0.0"), (0.5, 1, "50.0")],
)
def test_percentages_have_fixed_digits_except_100(value, digits, text):
    assert percent(value, digits) == text

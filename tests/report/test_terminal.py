import io
import re

import pytest
from rich.console import Console

from diffguard.report.summary import summarize
from diffguard.report.terminal import print_overview, print_table
from tests.helpers.small_table import make_run


@pytest.fixture(scope="module")
def results():
    return summarize(make_run(), draws=100)


def show(results, width, **options):
    file = io.StringIO()
    print_table(results, Console(file=file, width=width, **options))
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 120, 160, 250])
def test_lines_fit_and_no_figure_is_lost(results, width):
    text = show(results, width)
    assert max(map(len, text.splitlines())) <= width
    assert not re.search(r" +$", text.split("ID accuracy")[0], re.MULTILINE)
    for row in results["rows"]:
        line = [ln for ln in text.splitlines() if ln.split(" ")[0] == row["score"]]
        figures = " ".join(line)
        assert f"{100 * row['auroc']:.2f}" in figures
        assert "–".join(f"{100 * v:.2f}" for v in row["auroc_ci95"]) in figures
        for name in ("fpr95_id_positive", "fpr95_ood_positive", "aupr_in", "ood_flagged"):
            assert f"{100 * row[name]:.1f}" in figures
    for title in ("near_a · near · 30 images", "mean of 1 near set", "mean of 2 far sets"):
        assert title in text


def test_one_table_when_it_fits_and_means_apart_when_it_does_not(results):
    assert show(results, 330).count("\nscore ") == 1
    blocks = show(results, 120).split("\nscore ")
    assert len(blocks) == 6
    assert "digits · ID · 49 images" in blocks[0]
    assert "mean of 1 near set · 30 images" in blocks[3]
    assert "mean of 2 far sets · 59 images" in blocks[4]


def test_notes_stand_below_the_table(results):
    text = " ".join(show(results, 100).split())
    assert "ID accuracy 89.80 % (digits, 49 images)" in text
    assert "Cost 12.5 images per second, 46.9 network passes per image" in text
    assert re.search(
        r"fusion − fusion_baselines near AUROC [+−]\d+\.\d\d \(95% CI .* to .*\)", text
    )
    assert "Left out 2 unreadable images (far_b 1, digits 1)" in text


def test_the_best_of_each_column_is_bold(results):
    text = show(results, 250, force_terminal=True, color_system="standard")
    bold = re.findall(r"\x1b\[1;32m *([\d.]+)", text)
    for metric, better in (("auroc", max), ("fpr95_id_positive", min)):
        digits = 2 if metric == "auroc" else 1
        for dataset in ("near_a", "far_a", "near"):
            best = better(r[metric] for r in results["rows"] if r["dataset"] == dataset)
            assert f"{100 * best:.{digits}f}" in bold


def test_a_pipe_gets_whole_lines(results, capsys):
    print_table(results)
    lines = capsys.readouterr().out.splitlines()
    assert 80 < max(map(len, lines)) <= 120
    assert not any("…" in line for line in lines)


def test_an_output_without_unicode_gets_ascii(results):
    raw = io.BytesIO()
    file = io.TextIOWrapper(raw, encoding="latin-1")
    print_table(results, Console(file=file, width=100))
    file.flush()
    assert "fusion - fusion_baselines" in raw.getvalue().decode("latin-1")


def test_names_that_look_like_markup_are_shown_as_they_are(results):
    rows = [
        row | {"dataset": row["dataset"].replace("far_a", "[red]a|b")} for row in results["rows"]
    ]
    odd = results | {"rows": rows}
    assert "[red]a|b · far" in show(odd, 120)


def show_overview(results, width=100):
    file = io.StringIO()
    print_overview(results, Console(file=file, width=width))
    return file.getvalue()


def test_the_overview_fits_a_screen_and_has_the_main_scores(results):
    text = show_overview(results)
    lines = text.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 100
    heads = "near AUROC near FPR@95 far AUROC far FPR@95"
    assert heads in " ".join(text.split())
    for score in ("msp", "diffguard", "fusion", "fusion_baselines"):
        line = next(line for line in lines if line.split(" ")[0] == score)
        rows = {r["dataset"]: r for r in results["rows"] if r["score"] == score}
        cells = [
            figure
            for group in ("near", "far")
            for figure in (
                f"{100 * rows[group]['auroc']:.2f}",
                f"{100 * rows[group]['fpr95_id_positive']:.1f}",
            )
        ]
        assert line.split()[1:] == cells
    assert "diffguard/l2" not in text
    row = next(r for r in results["rows"] if (r["score"], r["dataset"]) == ("fusion", "near"))
    assert f"fusion detects {100 * (1 - row['fpr95_id_positive']):.1f}% of near-OOD" in text


def test_equal_rows_of_the_overview_are_merged(results):
    rows = [
        {**row, "score": "fusion_baselines"} if row["score"] == "msp" else row
        for row in results["rows"]
        if row["score"] != "fusion_baselines"
    ]
    rows += [row for row in results["rows"] if row["score"] == "msp"]
    text = show_overview({**results, "rows": rows})
    assert "msp = fusion_baselines" in text

"""`report.html`: numbers, hostile names, size."""

import base64
import hashlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import diffguard.report.html
from diffguard.report.figures import COLORS
from diffguard.report.html.charts import roc_chart, score_chart, stage_chart
from diffguard.report.html.evaluation import write_evaluation
from diffguard.report.html.images import write_images
from diffguard.report.html.page import Page, Skipped, render
from diffguard.report.html.table import views
from diffguard.report.html.thumbnails import Thumbnail, thumbnails, within_budget
from diffguard.report.overview import headline, main_scores
from diffguard.report.panel import PanelRow
from diffguard.report.summary import summarize
from tests.helpers.html_page import read_page, select
from tests.helpers.small_report import HOSTILE, SCRIPT, make_gallery, pictures_of, write_report
from tests.helpers.small_table import make_run, make_table

FOLDER = Path(diffguard.report.html.__file__).parent


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    results, images = write_report(path)
    return read_page(path.read_text(encoding="utf-8")), results, images


def test_the_table_holds_the_values_of_the_results(report):
    elements, results, _ = report
    cells = {}
    name = None
    for element in elements:
        if element.tag == "th" and element.attributes.get("scope") == "row":
            name = element.text
        if "data-metric" in element.attributes:
            key = (name, element.attributes["data-dataset"], element.attributes["data-metric"])
            cells[key] = element.attributes["data-value"]
    metrics = ("auroc", "fpr95_id_positive", "fpr95_ood_positive", "aupr_in", "aupr_out")
    for row in results["rows"]:
        for metric in (*metrics, "ood_flagged"):
            value = cells.pop((row["score"], row["dataset"], metric))
            assert value == ("" if row[metric] is None else str(row[metric]))
    for row in results["id"]["scores"]:
        for metric in ("accepted", "accepted_right", "accuracy_accepted", "aurc"):
            assert float(cells.pop((row["score"], "digits", metric))) == row[metric]
    assert {metric for _, _, metric in cells} <= {"accepted_wrong"}
    (heading,) = select(elements, "h1")
    assert heading.text == headline(results)
    rows = {r["dataset"]: r for r in results["rows"] if r["score"] == "fusion"}
    ident = next(row for row in results["id"]["scores"] if row["score"] == "fusion")
    near, far = (100 * rows[group]["ood_flagged"] for group in ("near", "far"))
    assert (
        f"it accepts {100 * ident['accepted']:.1f}% of ID images and flags {near:.1f}% of "
        f"near-OOD images and {far:.1f}% of far-OOD images."
    ) in [e.text.partition("threshold, ")[2] for e in select(elements, "p")]


def test_near_and_far_sets_are_folded(report):
    elements, _, _ = report
    hidden = {
        e.attributes["data-dataset"]
        for e in elements
        if "data-dataset" in e.attributes and "hidden" in e.attributes
    }
    assert hidden == {"near_a", "far_a", "far_b"}
    assert [e.text for e in select(elements, "button", class_="fold")] == [
        "Show the near sets", "Show the far sets", "Show all scores",
    ]  # fmt: skip


def test_the_main_scores_are_shown_first(report):
    elements, results, _ = report
    names = [e.text.split("\n")[0] for e in select(elements, "tr", class_="minor")]
    every = {row["score"] for row in results["rows"]}
    assert set(names) == every - set(main_scores(results)) == {"diffguard/l2"}


def test_the_best_main_score_is_bold_while_the_others_are_folded(report):
    _, results, _ = report
    best = {
        column: [name for name, cells in view.rows.items() if cells[column].is_best]
        for view in views(results, ["msp", "fusion_baselines"])[:1]
        for column in range(len(view.columns))
    }
    assert all({"msp", "fusion_baselines"} & set(names) for names in best.values())
    assert any(set(names) - {"msp", "fusion_baselines"} for names in best.values())


def test_each_image_has_verdict_reason_pictures_scores_and_p_values(report):
    elements, _, images = report
    cards = select(elements, "article")
    assert len(cards) == len(images)
    for card, image in zip(cards, images, strict=True):
        assert card.attributes["data-name"] == image.name
        assert float(card.attributes["data-score"]) == image.score
        assert card.attributes["data-verdict"] == ("ood" if image.facts.is_ood else "id")
        assert image.text in card.text
        for name, value in image.scores.items():
            p_value = image.facts.p_values.get(name)
            shown = "–" if p_value is None else f"{p_value:.3g}"
            assert f"{name}{value:.4g}{shown}" in card.text.replace("\n", "")
    heads = ["input", "CAM", "guided", "|input − guided|", "features"]
    assert [e.text for e in select(elements, "figcaption")[:5]] == heads
    assert len(select(elements, "img")) == 5 * len(images)


def test_hostile_names_stay_text(report):
    elements, _, _ = report
    assert all(e.attributes["src"].startswith("data:image/") for e in select(elements, "img"))
    assert not [e for e in elements if any(name.startswith("on") for name in e.attributes)]
    assert HOSTILE in [e.attributes.get("data-name") for e in elements]
    assert any(SCRIPT in e.text for e in select(elements, "b"))
    scripts = [e for e in select(elements, "script") if "type" not in e.attributes]
    assert len(scripts) == 3  # Plotly, the charts, the page
    policy = select(elements, "meta")[1].attributes["content"]
    digests = [hashlib.sha256(script.text.encode()).digest() for script in scripts]
    allowed = re.findall(r"'sha256-([^']+)'", policy)
    assert allowed == [base64.b64encode(digest).decode() for digest in digests]
    assert "default-src 'none'" in policy
    assert not [e for e in elements if e.attributes.get("href", "#")[0] != "#"]


def test_skipped_files_command_and_settings_are_listed(report):
    elements, results, _ = report
    rows = [e.text for e in elements if e.tag == "td" and e.attributes.get("class") == "text"]
    assert rows == ["is absent", *(row["error"] for row in results["left_out"])]
    command, settings = (e.text for e in select(elements, "pre"))
    assert command == f"evaluate --images '{SCRIPT}'"
    assert f"note: {SCRIPT}" in settings


def test_charts_show_every_set_and_the_threshold(report):
    elements, _, _ = report
    figures = [json.loads(e.text) for e in select(elements, "script", type="application/json")]
    assert len(figures) == 4
    assert [len(figure["data"]) for figure in figures] == [3, 4, 3, 4]
    assert all(figure["layout"]["shapes"] for figure in figures[1::2])
    assert len(select(elements, "div", role="img")) == 4


def test_tables_hold_the_values_of_the_charts():
    ident, ood = np.arange(100.0), np.arange(90.0, 110.0)
    chart = roc_chart("msp", ident, {SCRIPT: ood})
    assert chart.heads[3] == "detected, 5% of ID flagged"
    # Five ID images lie above 94, and 15 of the 20 OOD images.
    assert chart.rows == [[SCRIPT, "97.50%", "55.0%", "75.0%", "100.0%", "100.0%"]]
    chart = score_chart("msp", {"digits": ident, "far": ood}, 94.0)
    assert chart.heads[4] == "50% quantile"
    assert chart.rows[0][:2] == ["digits", "100"]
    assert (chart.rows[0][4], chart.rows[0][-1]) == ("49.5", "5.0%")
    assert score_chart("msp", {"far": ood}, None).heads[-1] == "95% quantile"
    chart = stage_chart({"far": [0.25, 0.75]}, ["one", "two"])
    assert (chart.heads, chart.rows) == (["set", "one", "two"], [["far", "25.0%", "75.0%"]])


def test_the_score_of_a_single_image_is_within_its_chart():
    chart = score_chart("msp", {"ID": np.linspace(0, 1, 1000), "mine": np.array([6.0])}, 0.9)
    edges = json.loads(chart.figure)["data"][1]["x"]
    values = np.frombuffer(base64.b64decode(edges["bdata"]), edges["dtype"])
    assert values.max() == pytest.approx(6)


def test_names_in_charts_are_not_markup():
    chart = score_chart("msp", {SCRIPT: np.arange(9.0), "b": np.ones(3)}, None)
    assert json.loads(chart.figure)["data"][0]["name"].startswith("&lt;/script&gt;")
    assert chart.summary == f"{SCRIPT} (9): median 4; b (3): median 1"


def test_pictures_beyond_the_budget_are_left_out_from_the_last_image_on():
    images = [thumbnails(pictures_of(row, side=100)) for row in range(4)]
    inputs = [len(pictures[0].source) for pictures in images]
    whole = [sum(len(picture.source) for picture in pictures) for pictures in images]

    def counts(budget):
        return [len(pictures) for pictures in within_budget(images, budget)]

    assert counts(sum(whole)) == [5, 5, 5, 5]
    assert counts(sum(whole) - 1) == [5, 5, 5, 1]
    assert counts(whole[0] + sum(inputs[1:])) == [5, 1, 1, 1]
    assert counts(sum(inputs) - 1) == [1, 1, 1, 0]


def test_a_page_has_a_largest_size():
    picture = Thumbnail("guided", "data:image/png;base64," + "A" * 9000)
    image = make_gallery(make_table()).image(1)
    scores = {f"a_rather_long_name_of_a_score_{number}": 0.5 for number in range(60)}
    p_values = {**image.facts.p_values, **scores}
    large = replace(
        image,
        name="x" * 100,
        scores=scores,
        facts=replace(image.facts, p_values=p_values),
        pictures=[picture] * 2,
    )
    skipped = [Skipped(f"{'d' * 100}/{number}.png", "truncated") for number in range(100_000)]
    page = Page("Verdicts", "2 of 3", score="fusion", images=[large] * 40, skipped=skipped)
    text = render(page, 600_000)
    assert 550_000 < len(text.encode()) <= 600_000
    assert text.count("<article") == 40
    assert 1 < text.count(picture.source) < 80
    assert "which keeps this file small" in text
    assert text.count("truncated") == 500
    assert "and 99,500 more, see scores.csv" in text
    # Texts that are too long even without pictures leave out images.
    page = replace(page, images=[replace(large, name="x" * 9000)] * 40)
    text = render(page, 600_000)
    assert len(text.encode()) <= 600_000
    assert f"Only the first {text.count('<article')} of these 40 images" in text


@pytest.mark.parametrize(
    ("thresholds", "command", "reason"),
    [
        (None, "", "too few ID validation images"),
        (None, "evaluate --scores a", "Evaluate with --ckpt."),
    ],
)
def test_a_page_without_images_gives_the_reason(tmp_path, thresholds, command, reason):
    run = make_run(thresholds=thresholds)
    write_evaluation(tmp_path / "report.html", run, summarize(run, draws=5), command=command)
    assert reason in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_large_pictures_are_shrunk_and_small_ones_are_exact():
    image = torch.rand(3, 20, 10)
    (thumbnail,) = thumbnails(PanelRow(image, None, "a", 0.0, "b"))
    data = base64.b64decode(thumbnail.source.partition(",")[2])
    pixels = np.asarray(Image.open(io.BytesIO(data)))
    np.testing.assert_array_equal(pixels, (255 * image).round().byte().permute(1, 2, 0))
    large = torch.rand(1, 500, 400)
    for side, size in ((96, (77, 96)), (160, (128, 160))):
        source = thumbnails(PanelRow(large, None, "a", 0.0, "b"), side)[0].source
        picture = Image.open(io.BytesIO(base64.b64decode(source.partition(",")[2])))
        assert picture.size == size


def test_a_folder_of_images_gets_a_report(tmp_path):
    gallery = make_gallery(make_table())
    images = [gallery.image(row) for row in gallery.rows[:5].tolist()]
    lines = ["drift found: p = 0.01"]
    write_images(tmp_path / "report.html", gallery, images, {"seed": 3}, lines)
    elements = read_page((tmp_path / "report.html").read_text(encoding="utf-8"))
    flagged = int(gallery.judgment.is_ood.sum())
    (heading,) = select(elements, "h1")
    assert heading.text == f"{flagged} of 142 images look out of distribution"
    texts = [e.text for e in select(elements, "p")]
    assert "drift found: p = 0.01" in texts
    assert any("The 5 most suspicious of 142 images" in text for text in texts)
    skipped = [e for e in elements if e.tag == "td" and e.attributes.get("class") == "text"]
    assert [e.text for e in skipped] == ["truncated", "not used", "too large"]


def luminance(color):
    parts = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(first, second):
    bright, dark = sorted((luminance(first), luminance(second)), reverse=True)
    return (bright + 0.05) / (dark + 0.05)


@pytest.fixture(params=[0, 1], ids=["light", "dark"])
def colors(request):
    style = (FOLDER / "report.css").read_text(encoding="utf-8")
    block = re.findall(r":root \{(.*?)\}", style, re.DOTALL)[request.param]
    return dict(re.findall(r"--([\w-]+): (#[0-9a-f]{6});", block))


def test_texts_have_the_contrast_of_wcag_aa(colors):
    pairs = [(text, page) for text in ("text", "quiet", "link") for page in ("page", "surface")]
    for text, page in [*pairs, ("ood", "ood-surface"), ("id", "id-surface")]:
        assert contrast(colors[text], colors[page]) >= 4.5, (text, page)


def test_curves_and_borders_have_the_contrast_of_wcag_aa(colors):
    curves = [colors[f"curve-{number}"] for number in range(len(COLORS))]
    assert len(set(curves)) == len(COLORS)
    # Verdicts mark the edge of a card; `quiet` borders controls, and `link` the focus.
    for color in [*curves, *(colors[name] for name in ("ood", "id", "quiet", "link"))]:
        assert contrast(color, colors["page"]) >= 3, color


def test_curves_of_figures_contrast_with_white():
    assert min(contrast(color, "#ffffff") for color in COLORS) >= 3

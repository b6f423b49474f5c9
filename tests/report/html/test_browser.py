"""`report.html` in a browser: skipped where playwright or Chromium is absent."""

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from tests.helpers.small_report import HOSTILE, SCRIPT, write_report

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

# A busy machine loads a page slowly.
TIMEOUT = 120_000  # ms
playwright.expect.set_options(timeout=TIMEOUT)

# The color of each curve, and the color of the style sheet that it should have.
CURVES = """() => {
  const style = getComputedStyle(document.documentElement);
  return [...document.querySelectorAll(".plot")].flatMap((plot) =>
    plot.data.map((trace) => [trace.line.color, style.getPropertyValue(`--curve-${trace.meta}`)])
  );
}"""

FIRST_CURVE = """() => {
  const line = document.querySelector(".plot .scatterlayer path.js-line");
  return getComputedStyle(line).stroke.match(/\\d+/g).slice(0, 3);
}"""


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as program:
        try:
            browser = program.chromium.launch(
                executable_path=shutil.which("chromium"), args=["--no-sandbox"]
            )
        except playwright.Error as error:
            pytest.skip(f"Chromium does not start: {str(error).splitlines()[0]}")
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "report.html"
    return path, *write_report(path)


@pytest.fixture
def page(browser, report):
    page = browser.new_page(viewport={"width": 1600, "height": 900})
    page.set_default_timeout(TIMEOUT)
    page.problems = []
    page.on("console", lambda message: page.problems.append(message.text))
    page.on("pageerror", lambda error: page.problems.append(str(error)))
    page.on("dialog", lambda dialog: (page.problems.append(dialog.message), dialog.dismiss()))
    page.on("request", lambda r: page.problems.append(r.url) if r.url[:4] == "http" else None)
    page.goto(report[0].as_uri())
    yield page
    assert page.problems == []
    page.close()


def test_tables_sort_unfold_and_hold_the_results(page, report):
    results = report[1]
    expected = {r["score"]: r["auroc"] for r in results["rows"] if r["dataset"] == "near"}
    column = "#results .view:not([hidden]) td[data-dataset=near][data-metric=auroc]"

    def values():
        return page.eval_on_selector_all(column, "cells => cells.map(c => +c.dataset.value)")

    assert sorted(values()) == sorted(expected.values())
    header = page.locator("#results .view:not([hidden]) th.near button").first
    header.focus()
    page.keyboard.press("Enter")
    assert values() == sorted(expected.values(), reverse=True)
    page.keyboard.press("Enter")
    assert values() == sorted(expected.values())
    folded = page.locator(".view:not([hidden]) td[data-dataset=near_a]").first
    assert not folded.is_visible()
    page.get_by_role("button", name="Show the near sets").click()
    assert folded.is_visible()
    page.get_by_label("Metrics").select_option("AUPR")
    assert page.locator(".view:not([hidden]) td[data-metric=aupr_in]").first.is_visible()
    assert page.locator("td[data-metric=auroc]:visible").count() == 0


def test_the_gallery_filters_and_orders(page, report):
    images = report[2]
    assert page.locator(".card").count() == len(images)

    def scores():
        return page.eval_on_selector_all(".card", "cards => cards.map(c => +c.dataset.score)")

    assert scores() == [image.score for image in images]
    page.get_by_label("order").select_option("most suspicious first")
    assert scores() == sorted((image.score for image in images), reverse=True)
    page.locator("select[name=verdict]").select_option("ood")
    flagged = [image for image in images if image.facts.is_ood]
    assert page.locator(".card:visible").count() == len(flagged)
    assert page.locator("#shown").text_content() == f"{len(flagged)} of {len(images)} images"
    assert page.get_by_label("predicted label").get_attribute("name") == "prediction"
    page.get_by_label("score from").fill("1.5")
    above = [image for image in flagged if image.score >= 1.5]
    assert page.locator(".card:visible").count() == len(above)
    choices = {
        "set": ("near_a", [image.dataset for image in images]),
        "stage": ("1", [str(image.facts.stage) for image in images]),
        "prediction": (SCRIPT, [image.facts.prediction for image in images]),
        "outcome": ("missed OOD", [image.outcome for image in images]),
    }
    for name, (value, values) in choices.items():
        page.get_by_role("button", name="Reset").click()
        playwright.expect(page.locator(".card[hidden]")).to_have_count(0)
        page.locator(f"select[name={name}]").select_option(value)
        assert page.locator(".card:visible").count() == values.count(value)
        assert 0 < values.count(value) < len(images)


def test_values_of_charts_open_with_the_keyboard(page):
    table = page.get_by_role("region", name="Values of ROC curves of fusion")
    assert not table.is_visible()
    page.get_by_text("Values of ROC curves of fusion").focus()
    page.keyboard.press("Enter")
    assert table.is_visible()
    assert table.locator("tbody tr").count() == 3


def test_hostile_names_do_nothing(page):
    assert page.get_by_text(HOSTILE, exact=True).count() == 1
    assert page.locator("img[src=x]").count() == 0


def screenshot(place, **options):
    """The pixels `(H, W, 3)` of a page or an element."""
    picture = Image.open(io.BytesIO(place.screenshot(**options)))
    return np.asarray(picture.convert("RGB"))


@pytest.mark.parametrize("width", [400, 1600])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_fits_its_window_and_draws_its_charts(page, width, scheme):
    page.set_viewport_size({"width": width, "height": 900})
    page.emulate_media(color_scheme=scheme)
    playwright.expect(page.locator(".plot svg.main-svg").nth(3)).to_be_attached()
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    color = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert color == ("rgb(255, 255, 255)" if scheme == "light" else "rgb(13, 17, 23)")
    curves = page.evaluate(CURVES)
    assert curves
    assert all(color == expected for color, expected in curves)
    text = page.evaluate("getComputedStyle(document.querySelector('.plot text.legendtext')).fill")
    assert text == ("rgb(31, 35, 40)" if scheme == "light" else "rgb(230, 237, 243)")
    whole = screenshot(page, full_page=True)
    height = page.evaluate("document.documentElement.scrollHeight")
    assert whole.shape == (height, width, 3)
    background = (255, 255, 255) if scheme == "light" else (13, 17, 23)
    share = (whole == background).all(-1).mean()
    assert 0.1 < share < 0.9  # neither blank, nor in the other theme
    plot = page.locator(".plot").first
    name = [int(part) for part in page.evaluate(FIRST_CURVE)]
    assert (screenshot(plot) == name).all(-1).sum() > 100  # the curve is drawn
    # The reconstruction of the first image is noise, not a black square.
    assert screenshot(page.locator(".card img[alt^=guided]").first).std() > 20

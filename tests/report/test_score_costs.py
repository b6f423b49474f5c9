"""The cost of each score follows from the recorded work, and is shown in every table."""

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from diffguard.report.html.table import views
from diffguard.report.join import join_runs
from diffguard.report.markdown import to_markdown
from diffguard.report.overview import summary_markdown
from diffguard.report.results_files import write_results
from diffguard.report.score_costs import score_costs
from diffguard.report.summary import summarize
from diffguard.report.terminal import print_table
from diffguard.score_table.timing import Work
from tests.helpers.small_table import NAMES, make_run

# Ten images in two processes; half of them reach the diffusion model.
WORK = [
    Work("classifier", ["msp", "odin", "diffguard/l2", "diffguard/unguided/l2"], 6, 0.6, 6.0),
    Work("classifier", ["msp", "odin", "diffguard/l2", "diffguard/unguided/l2"], 4, 0.4, 4.0),
    Work("msp", ["msp"], 0, 0.1),
    Work("odin", ["odin"], 0, 0.3, 20.0, 10.0),
    Work("diffusion", ["diffguard/l2", "diffguard/unguided/l2"], 0, 3.0, 0.0, 0.0, 30),
    Work("diffusion", ["diffguard/unguided/l2"], 0, 1.0, 0.0, 0.0, 10),
    Work("diffguard", ["diffguard/l2", "diffguard/unguided/l2"], 0, 0.5, 5.0),
]
PARTS = {
    "diffguard": ["diffguard/l2"],
    "fusion": ["diffguard/l2", "diffguard/unguided/l2", "msp"],
    "fusion/absent": ["diffguard/l2", "knn"],
}
EXPECTED = {
    "msp": (1, 0, 0, 110),
    "odin": (3, 1, 0, 130),
    "diffguard": (1.5, 0, 3, 450),
    "diffguard/unguided/l2": (1.5, 0, 4, 550),
    "fusion": (1.5, 0, 4, 560),
}


def test_a_cost_is_that_of_all_parts_with_shared_work_once():
    costs = score_costs([*EXPECTED, "fusion/absent"], 10, WORK, PARTS)
    assert costs["classifier_milliseconds"] == pytest.approx(100)
    assert [tuple(row.values()) for row in costs["scores"]] == [
        (score, *map(pytest.approx, values)) for score, values in EXPECTED.items()
    ]
    assert score_costs(["msp"], 10, [], PARTS) == {}


def test_images_whose_work_was_lost_do_not_count_and_repeated_work_does():
    lost = score_costs(["diffguard"], 40, WORK, PARTS)["scores"][0]
    assert lost["diffusion_passes"] == 3
    repeated = score_costs(["diffguard"], 5, WORK, PARTS)["scores"][0]
    assert (repeated["diffusion_passes"], repeated["classifier_passes"]) == (6, 3)


@pytest.fixture(scope="module")
def run():
    rows = [
        {
            "score": name,
            "classifier_passes": 1.0,
            "gradients": 0.25,
            "diffusion_passes": 41.0 + place,
            "milliseconds": 1234.5 + place,
        }
        for place, name in enumerate(NAMES[:-1])
    ]
    return make_run(cost={"classifier_milliseconds": 0.5, "scores": rows})


@pytest.fixture(scope="module")
def results(run):
    return summarize(run, draws=20)


def test_every_table_shows_the_costs(results, tmp_path):
    title = "Cost per image · classifier alone 0.5 ms"
    markdown = to_markdown(results)
    assert f"## {title}" in markdown
    assert "| fusion | 1 | 0.25 | 44 | 1,238 |" in markdown
    assert "| fusion_baselines | – | – | – | – |" in markdown
    file = io.StringIO()
    print_table(results, Console(file=file, width=100))
    block = file.getvalue().split(title)[1]
    assert any(line.split() == ["msp", "1", "0.25", "41", "1,234"] for line in block.splitlines())
    assert "as if the score were the only one" in " ".join(block.split())
    assert "| diffusion passes | ms per image |" in summary_markdown(results)
    view = views(results, ["diffguard"])[-1]
    assert view.name == "Cost per image"
    assert [cell.text for cell in view.rows["msp"]] == ["1", "0.25", "41", "1,234"]
    write_results(tmp_path, results)
    lines = list(csv.DictReader((tmp_path / "results.csv").read_text("utf-8").splitlines()))
    costs = {(line["score"], line["diffusion_passes"], line["milliseconds"]) for line in lines}
    assert ("msp", "41.0", "1234.5") in costs
    assert ("fusion_baselines", "", "") in costs


def test_joined_runs_keep_the_costs_of_their_scores(run):
    table = replace(run.table, scores={n: v + 1 for n, v in run.table.scores.items()})
    rows = [{**row, "diffusion_passes": 7.0} for row in run.cost["scores"]]
    other = replace(run, folder=Path("b"), table=table, cost={"scores": rows})
    joined = join_runs([replace(run, folder=Path("a")), other])
    passes = {row["score"]: row["diffusion_passes"] for row in joined.cost["scores"]}
    assert (passes["msp (a)"], passes["msp (b)"]) == (41.0, 7.0)

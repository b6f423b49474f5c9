"""The report of a small run, with images whose names are hostile."""

from dataclasses import replace

import torch

from diffguard.report.decision import Decision
from diffguard.report.gallery import Gallery, Judge
from diffguard.report.html.evaluation import write_evaluation
from diffguard.report.html.thumbnails import thumbnails
from diffguard.report.panel import HeatMap, PanelRow
from diffguard.report.summary import summarize
from diffguard.scores.calibration import Calibration
from diffguard.scores.fusion_rule import FusionRule
from tests.helpers.small_table import make_run

HOSTILE = "<img src=x onerror=alert(1)>.png"
SCRIPT = "</script><script>alert(2)</script>"
CLASSES = ("zero", SCRIPT, "two", "three", "four")


def pictures_of(row, side=8):
    image, guided = torch.rand(2, 1, side, side, generator=torch.Generator().manual_seed(row))
    location = HeatMap("features", torch.eye(side))
    return PanelRow(image, guided, "three", 0.5, "digits", cam=torch.eye(side), location=location)


def make_gallery(table, decision="fusion", cascade=None):
    generator = torch.Generator().manual_seed(0)
    scores = {
        name: torch.randn(99, generator=generator, dtype=torch.float64)
        for name in ("msp", "diffguard/l2")
    }
    rule = FusionRule(distance=["l2"], baselines=["msp"], fused=["msp"], cascade=cascade)
    calibration = Calibration.fit(scores, rule)
    return Gallery(table, Judge(calibration, CLASSES, Decision(decision, 0.9)))


def write_report(path):
    """Write a report; returns its results and the images of its gallery."""
    run = make_run(
        headline=["diffguard", "fusion"],
        settings={"seed": 7, "command": f"evaluate --images '{SCRIPT}'", "note": SCRIPT},
        absent={SCRIPT: "is absent"},
    )
    run.table.path[0] = HOSTILE
    gallery = make_gallery(run.table)
    images = [
        gallery.image(row, thumbnails(pictures_of(row)), "id" if row < 50 else "near")
        for row in (*range(12), 60, 61, 90)
    ]
    images = [
        replace(image, facts=replace(image.facts, stage=1 + place % 2))
        for place, image in enumerate(images)
    ]
    results = summarize(run, draws=20)
    write_evaluation(path, run, results, images)
    return results, images

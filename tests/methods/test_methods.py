"""Methods alongside DiffGuard, against plain loops for one image."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from diffguard.detector import Detector
from diffguard.diffusion.path import Path
from diffguard.engine.plain import Noise, invert_until_stop
from diffguard.engine.program import Program
from diffguard.errors import UserError
from diffguard.methods.items import Item
from diffguard.methods.outcomes import outcomes_of
from diffguard.methods.registry import build_methods
from diffguard.methods.reuse import reusable_fits
from diffguard.score_table.table import ScoreTable
from diffguard.scores.mixture import fit_mixture, negative_log_density
from diffguard.settings.guidance import ClassifierFreeSettings, ClassifierGuidanceSettings
from diffguard.settings.mixture_methods import DiffPathSettings
from diffguard.settings.plain import to_dict
from diffguard.settings.reconstruction_methods import DdpmOodSettings
from diffguard.settings.sections import EarlyStopSettings, InversionSettings
from tests.helpers.commands import start
from tests.helpers.tiny_detector import CLASSES, build_detector, small_settings

IMAGES = torch.rand(40, 1, 8, 8, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(40) % CLASSES
pytestmark = pytest.mark.filterwarnings("ignore:with only", "ignore:the classifier")


def settings_of(**changes):
    values = {
        "methods": ["diffguard", "diffpath", "guidance_norm"],
        "diffpath": DiffPathSettings(components=2, images=40),
        "early_stop": EarlyStopSettings(thresholds={"psnr": 8.0}),
        "inversion": InversionSettings(depth=1.0),
        "fused": ["knn", "diffpath"],
    }
    return small_settings(**{**values, **changes})


@pytest.fixture(scope="module")
def calibrated():
    detector = build_detector(settings_of(), calibrated=False)
    return detector.calibrate([(IMAGES, LABELS)], reference=[(IMAGES, LABELS)], batch_size=8)


@pytest.fixture(scope="module")
def exact():
    """Methods in float64 with their outcomes for images at different depths."""
    models = build_detector(settings_of(), calibrated=False).models.double()
    methods = build_methods(models, {})
    program = Program.joined(method.program() for method in methods)
    batch = {"image": IMAGES.double(), "label": LABELS, "error": [""] * 40}
    outcomes = list(outcomes_of(models, methods[0].recipe.sampler, program, [batch], 8))
    assert len({outcome.last_step[methods[0].recipe.invert] for outcome in outcomes}) > 1
    return models, methods, outcomes


def test_guidance_norm_is_the_mean_along_the_guided_path(exact):
    models, (diffguard, _, method), outcomes = exact
    recipe = diffguard.recipe
    scores = method.scores(outcomes, None, 64)["guidance_norm"]
    for outcome, score in zip(outcomes, scores, strict=True):
        noise, norms = Noise(models.denoiser, outcome.job.label), []

        def guided(x, t, noise=noise, norms=norms):
            norms.append((noise(x, t, 1.0) - noise(x, t)).norm())
            return noise(x, t, recipe.guidance.scale)

        path, stop = invert_until_stop(noise, recipe, outcome.job.image[None])
        start = int(recipe.plan.start_index(torch.tensor(stop)))
        list(path.synthesize(guided, start))
        assert len(norms) == start + 1
        assert score == pytest.approx(float(torch.stack(norms).mean()), rel=1e-10)


def test_diffpath_has_the_statistics_of_the_inversion(exact):
    models, (diffguard, method, _), outcomes = exact
    recipe, steps = diffguard.recipe, len(diffguard.recipe.plan)
    for outcome, statistics in zip(outcomes, method._statistics(outcomes), strict=True):
        noise, path = Noise(models.denoiser, outcome.job.label), []

        def watched(x, t, noise=noise, path=path):
            path.append(noise(x, t))
            return path[-1]

        clean = models.denoiser.encode(outcome.job.image[None])
        inversion = Path(recipe.sampler.solver, recipe.plan, clean)
        list(inversion.invert(watched, outcome.last_step[recipe.invert] + 1))
        path = torch.cat(path)
        expected = []
        for values in (path, path.diff(dim=0) * steps):
            sums = [(values**power).sum() / max(1, len(values)) for power in (1, 2, 3)]
            expected += [sums[0], sums[1].sqrt(), sums[2].sign() * sums[2].abs() ** (1 / 3)]
        torch.testing.assert_close(statistics, torch.stack(expected), rtol=1e-10, atol=1e-10)


def test_a_mixture_is_that_of_its_densities():
    values = torch.randn(200, 3, generator=torch.Generator().manual_seed(0)).double()
    values[:100] += 5
    state = fit_mixture(values, 2)
    x = (values - values.mean(0)) / values.std(0, correction=0)
    density = 0.0
    for weight, mean, root in zip(
        state["weights"], state["means"], state["precision_roots"], strict=True
    ):
        covariance = torch.linalg.inv(root @ root.T)
        density += float(weight) * multivariate_normal(mean, covariance).pdf(x)
    torch.testing.assert_close(
        negative_log_density(values, state), -torch.from_numpy(density).log(), rtol=1e-9, atol=1e-9
    )
    with pytest.raises(UserError, match="101 Gaussians needs at least 202 ID training images"):
        fit_mixture(values, 101)


def test_methods_change_no_score_of_diffguard_and_cost_no_pass(calibrated):
    alone = build_detector(
        settings_of(methods=["diffguard"], fused=["knn"], diffpath=DiffPathSettings())
    )
    results = calibrated.score_images(IMAGES, batch_size=8)
    for result, other in zip(results, alone.score_images(IMAGES, batch_size=8), strict=True):
        assert result.row.network_passes == other.row.network_passes
        for name in ("diffguard/logits_l1", "diffguard/l2", "msp"):
            assert result.row.scores[name] == other.row.scores[name]
        assert sorted(result.row.scores) == sorted(calibrated.score_names())
    assert {"fusion/diffpath", "fusion/guidance_norm"} < set(calibrated.score_names())


def test_scores_do_not_depend_on_order_and_batch(calibrated):
    def scores(images, batch_size=8, portion=40):
        stream = calibrated.stream(batch_size)
        rows = []
        for begin in range(0, 40, portion):
            items = [Item(images[i], index=i) for i in range(begin, min(40, begin + portion))]
            rows += [scored.row for scored in stream.push(items)]
        rows += [scored.row for scored in stream.flush()]
        return [row.scores for row in sorted(rows, key=lambda row: row.index)]

    expected = scores(IMAGES)
    assert scores(IMAGES.flip(0), portion=3)[::-1] == expected
    for row, other in zip(scores(IMAGES, batch_size=16), expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


@pytest.fixture(scope="module")
def saved(run_folder, tmp_path_factory):
    """A detector with fitted methods, and its file."""
    template = Detector.load(run_folder / "detector.ckpt")
    settings = settings_of(
        methods=["diffguard", "diffpath", "ddpm_ood"],
        ddpm_ood=DdpmOodSettings(levels=1, depth=0.2, images=8),
    )
    detector = Detector(**{**vars(template.parts), "settings": settings, "calibration": None})
    detector.calibrate([(IMAGES, LABELS)], reference=[(IMAGES, LABELS)], batch_size=8)
    file = tmp_path_factory.mktemp("saved") / "detector.ckpt"
    detector.save(file)
    return detector, file


def test_a_saved_detector_scores_the_same(saved):
    detector, file = saved
    again = Detector.load(file)
    for name in ("diffpath", "ddpm_ood"):
        assert torch.equal(detector.score(IMAGES, name=name), again.score(IMAGES, name=name))


def test_a_setting_that_no_fit_reads_needs_no_training_images(saved, tmp_path, capsys):
    _, file = saved
    words = ["--data.id.train", "null", "--panels", 0, "--output", tmp_path]
    with pytest.raises(UserError, match=r"data\.id\.train"):
        start(file, *words, "--detector.classifier_free.scale", 3)
    assert start(file, *words, "--detector.knn_k", 2) == 0
    assert "calibrating again" in capsys.readouterr().err
    assert np.isfinite(ScoreTable.read(tmp_path / "scores.csv").scores["diffpath"]).all()


@pytest.mark.parametrize(
    ("changes", "kept"),
    [
        ({}, {"diffpath", "ddpm_ood"}),
        ({"knn_k": 4, "baselines": ["msp", "knn", "klm"]}, {"diffpath", "ddpm_ood"}),
        ({"diffpath": DiffPathSettings(components=3, images=40)}, {"ddpm_ood"}),
        ({"methods": ["diffguard", "diffpath", "ddpm_ood", "lmd"]}, {"diffpath", "ddpm_ood"}),
        ({"inversion": InversionSettings(depth=0.5)}, set()),
        ({"early_stop": EarlyStopSettings({"psnr": 8.0}, mean_depth=0.5)}, set()),
    ],
)
def test_fits_are_reused_if_no_setting_that_they_read_changed(changes, kept):
    names = ["diffguard", "diffpath", "ddpm_ood"]
    settings, fits = settings_of(methods=names), {name: {} for name in (*names[1:], "klm")}
    assert set(reusable_fits(fits, settings, replace(settings, **changes))) == kept


def test_a_fit_that_is_damaged_or_of_another_size_is_refused(saved, tmp_path):
    content = torch.load(saved[1], weights_only=True)
    fits = content["fits"]
    without = {name: value for name, value in fits["diffpath"].items() if name != "means"}
    smaller = {**fits["diffpath"], "means": fits["diffpath"]["means"][:, :5]}
    longer = {name: torch.cat([value, value]) for name, value in fits["ddpm_ood"].items()}
    damages = [{"diffpath": without}, {"diffpath": smaller}, {"ddpm_ood": longer}, {"lmd": longer}]
    for damage in damages:
        torch.save({**content, "fits": {**fits, **damage}}, tmp_path / "damaged.ckpt")
        with pytest.raises(UserError, match=f"the fit of {next(iter(damage))} is not one"):
            Detector.load(tmp_path / "damaged.ckpt")


def test_the_fit_of_other_settings_is_not_used(saved):
    detector, file = saved
    ddpm_ood = replace(detector.settings.ddpm_ood, distances=["l2"])
    settings = to_dict(replace(detector.settings, ddpm_ood=ddpm_ood))
    other = Detector.load(file, settings=settings)
    with pytest.raises(UserError, match="the methods ddpm_ood are not fitted: call"):
        other.score(IMAGES, name="diffpath")


def test_unfitted_and_unknown_methods_are_refused():
    with pytest.raises(UserError, match="names 'nope', expected some of diffguard, diffpath"):
        settings_of(methods=["diffguard", "nope"])
    with pytest.raises(UserError, match=r"must name diffguard.* write \[diffguard, diffpath\]"):
        settings_of(methods=["diffpath"])
    with pytest.raises(UserError, match="diffpath has no effect here"):
        settings_of(methods=["diffguard"], fused=["knn"])
    for guidance in (ClassifierFreeSettings(scale=1.0), ClassifierGuidanceSettings()):
        with pytest.raises(UserError, match="guidance_norm needs passes both without and with"):
            settings_of(guidance=guidance)
    detector = build_detector(settings_of(), calibrated=False)
    with pytest.raises(UserError, match="the methods diffpath are not fitted: call"):
        detector.score(IMAGES, name="msp")
    with pytest.raises(UserError, match="method diffpath is fitted on ID training images: give"):
        detector.calibrate([(IMAGES, LABELS)])

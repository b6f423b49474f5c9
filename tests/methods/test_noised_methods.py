"""Methods that start from noised images, against plain loops for one image."""

from dataclasses import replace

import pytest
import torch

from diffguard.errors import UserError
from diffguard.images import pixel_key
from diffguard.methods.items import Item
from diffguard.methods.models import Models
from diffguard.methods.outcomes import outcomes_of
from diffguard.methods.registry import build_methods
from diffguard.randomness import image_generator
from diffguard.scores.formulas import ssim
from diffguard.settings.guidance import ClassifierGuidanceSettings
from diffguard.settings.reconstruction_methods import (
    DdpmOodSettings,
    DiffNbSettings,
    MinoritySettings,
)
from diffguard.settings.sections import SamplerSettings
from tests.helpers.tiny_detector import CLASSES, build_detector, small_settings
from tests.helpers.tiny_models import denoiser_of, two_layers

IMAGES = torch.rand(20, 1, 8, 8, generator=torch.Generator().manual_seed(5))
LABELS = torch.arange(20) % CLASSES
METHODS = ["diffguard", "diffnb", "ddpm_ood", "minority"]
# Of 6 steps: 3 from 0.5, 5 from 0.8; 2 and 5 for two levels.
DIFFNB = DiffNbSettings(depth=0.5, repeats=2, scale=2.5)
DDPM_OOD = DdpmOodSettings(levels=2, depth=0.8, images=20)
MINORITY = MinoritySettings(depth=0.8, repeats=3)
PASSES = {"diffnb": 3 * 2 * 2, "ddpm_ood": 2 + 5, "minority": 3}
pytestmark = pytest.mark.filterwarnings("ignore:with only", "ignore:the classifier")


def settings_of(**changes):
    sections = {"diffnb": DIFFNB, "ddpm_ood": DDPM_OOD, "minority": MINORITY}
    return small_settings(**{"methods": METHODS, **sections, "fused": ["knn", "diffnb"], **changes})


@pytest.fixture(scope="module")
def calibrated():
    detector = build_detector(settings_of(), calibrated=False)
    return detector.calibrate([(IMAGES, LABELS)], reference=[(IMAGES, LABELS)], batch_size=8)


@pytest.fixture(scope="module")
def exact():
    """Models in float64, and the outcomes of each method by name."""
    models = build_detector(settings_of(), calibrated=False).models.double()
    batch = {"image": IMAGES[:9].double(), "label": LABELS[:9], "error": [""] * 9}
    methods = {method.name: method for method in build_methods(models, {})}
    sampler = methods["diffguard"].recipe.sampler
    outcomes = {
        name: list(outcomes_of(models, sampler, methods[name].program(), [batch], 8))
        for name in PASSES
    }
    return models, methods, outcomes


def noised(models, image, repeat, step):
    generator = image_generator(models.seed, pixel_key(image), "noise", repeat, step)
    alpha, clean = models.plan.alphas[step], models.denoiser.encode(image[None])
    noise = torch.randn(clean.shape[1:], generator=generator).double()
    return alpha.sqrt() * clean + (1 - alpha).sqrt() * noise


def predict(models, x, step, label):
    return models.denoiser.predict_noise(
        x, models.plan.timesteps[step][None], torch.tensor([label])
    )


def clean_of(x, noise, alpha):
    return (x - (1 - alpha).sqrt() * noise) / alpha.sqrt()


def denoised(models, x, steps, label, scale):
    """DDIM toward the image."""
    alphas = torch.cat([torch.ones(1).double(), models.plan.alphas])
    for step in reversed(range(steps)):
        noise = predict(models, x, step, CLASSES)
        if scale:
            noise = noise + scale * (predict(models, x, step, label) - noise)
        clean = clean_of(x, noise, alphas[step + 1])
        x = alphas[step].sqrt() * clean + (1 - alphas[step]).sqrt() * noise
    return models.denoiser.decode(x)


def check_scores(exact, name, expected, method=None):
    models, methods, outcomes = exact
    images = torch.stack([outcome.job.image for outcome in outcomes[name][:8]])
    output = models.classify(images, 8)
    scores = (method or methods[name]).scores(outcomes[name][:8], output, 8)
    for image, score in zip(images, scores[name], strict=True):
        assert score == pytest.approx(float(expected(image)), rel=1e-10, abs=0)
    assert {outcome.passes for outcome in outcomes[name]} == {PASSES[name]}


def test_diffnb_is_the_change_of_the_logits(exact):
    models = exact[0]

    def expected(image):
        logits = models.classifier(image[None])
        label, distances = int(logits.argmax()), []
        for repeat in range(2):
            neighbor = denoised(models, noised(models, image, repeat, 2), 3, label, 2.5)
            distances.append((models.classifier(neighbor) - logits).abs().sum())
        return torch.stack(distances).mean()

    check_scores(exact, "diffnb", expected)


def test_ddpm_ood_is_the_mean_z_score_over_levels_and_distances(exact):
    models, methods, outcomes = exact

    def distances(image):
        pictures = [denoised(models, noised(models, image, 0, s - 1), s, 0, 0.0) for s in (2, 5)]
        return torch.stack([d(image, p[0]) for p in pictures for d in (norm, structure)])

    def norm(a, b):
        return (a - b).norm()

    def structure(a, b):
        return ssim(a[None], b[None])[0]

    fitted = type(methods["ddpm_ood"])(
        models, methods["ddpm_ood"].recipe, methods["ddpm_ood"].fit(outcomes["ddpm_ood"])
    )
    values = torch.stack([distances(o.job.image) for o in outcomes["ddpm_ood"]])
    mean, deviation = values.mean(0), values.std(0)
    check_scores(
        exact, "ddpm_ood", lambda image: ((distances(image) - mean) / deviation).mean(), fitted
    )
    with pytest.raises(UserError, match="needs at least 2 ID training images, got 1"):
        fitted.fit(outcomes["ddpm_ood"][:1])
    with pytest.raises(UserError, match="equal or not finite for all ID training"):
        fitted.fit(outcomes["ddpm_ood"][:1] * 3)


def test_minority_is_the_error_of_the_clean_estimate(exact):
    models = exact[0]

    def expected(image):
        errors = []
        for repeat in range(3):
            x = noised(models, image, repeat, 4)
            clean = clean_of(x, predict(models, x, 4, CLASSES), models.plan.alphas[4])
            errors.append((models.denoiser.decode(clean)[0] - image).norm())
        return torch.stack(errors).mean()

    check_scores(exact, "minority", expected)


def test_scores_do_not_depend_on_order_and_batch(calibrated):
    def scores(images, batch_size=8, portion=20):
        stream = calibrated.stream(batch_size)
        rows = []
        for begin in range(0, 20, portion):
            items = [Item(images[i], index=i) for i in range(begin, min(20, begin + portion))]
            rows += [scored.row for scored in stream.push(items)]
        rows += [scored.row for scored in stream.flush()]
        return [row.scores for row in sorted(rows, key=lambda row: row.index)]

    expected = scores(IMAGES)
    assert {"diffnb", "ddpm_ood", "minority", "fusion/minority"} < set(expected[0])
    assert set(expected[0]) == set(calibrated.score_names())
    assert scores(IMAGES.flip(0), portion=3)[::-1] == expected
    for row, other in zip(scores(IMAGES, batch_size=16), expected, strict=True):
        assert row == pytest.approx(other, rel=1e-3, abs=1e-5)


def test_methods_leave_diffguard_as_it_is_and_add_their_passes(calibrated):
    alone = build_detector(small_settings())
    results = calibrated.score_images(IMAGES[:8], batch_size=8)
    for result, other in zip(results, alone.score_images(IMAGES[:8], batch_size=8), strict=True):
        assert result.row.network_passes == other.row.network_passes + sum(PASSES.values())
        for name in ("diffguard/logits_l1", "diffguard/l2", "msp"):
            assert result.row.scores[name] == other.row.scores[name]


def test_diffnb_at_scale_1_makes_one_pass_a_step_and_takes_any_distance():
    diffnb = replace(DIFFNB, scale=1.0, distance="feature_cosine@stage2")
    models = build_detector(settings_of(diffnb=diffnb), calibrated=False).models
    method = build_methods(models, {})[1]
    batch = {"image": IMAGES[:8], "label": LABELS[:8], "error": [""] * 8}
    outcomes = list(outcomes_of(models, method.recipe.sampler, method.program(), [batch], 8))
    assert {outcome.passes for outcome in outcomes} == {PASSES["diffnb"] // 2}
    output = models.classify(torch.stack([o.job.image for o in outcomes]), 8, method.layers)
    pictures = [o.pictures[phase] for o in outcomes for phase in method.program().pictures]
    features = models.classify(torch.stack(pictures), 16, method.layers).layers["stage2"]
    a, b = output.layers["stage2"], features.view(8, 2, -1)
    expected = (1 - torch.cosine_similarity(a[:, None], b, dim=2)).mean(1).tolist()
    assert method.scores(outcomes, output, 8)["diffnb"].tolist() == pytest.approx(
        expected, abs=1e-5
    )


@pytest.mark.parametrize(
    ("section", "values", "message"),
    [
        (DiffNbSettings, {"depth": 0.0}, "detector.diffnb.depth must lie in \\(0, 1\\], got 0"),
        (DiffNbSettings, {"scale": 0.0}, "detector.diffnb.scale must be above 0"),
        (DiffNbSettings, {"distance": "l3"}, "unknown distance 'l3'"),
        (MinoritySettings, {"depth": 1.2}, "detector.minority.depth must lie in"),
        (MinoritySettings, {"repeats": 0}, "detector.minority.repeats must be at least 1, got 0"),
        (MinoritySettings, {"distance": "logits_l1"}, "minority.distance must be one of l1, l2"),
        (DdpmOodSettings, {"levels": 0}, "detector.ddpm_ood.levels must be at least 1, got 0"),
        (DdpmOodSettings, {"distances": []}, "detector.ddpm_ood.distances names no distance"),
        (DdpmOodSettings, {"distances": ["l2", "l2"]}, "distances names l2 more than once"),
        (DdpmOodSettings, {"images": 1}, "detector.ddpm_ood.images must be at least 2"),
    ],
)
def test_a_section_refuses_values_out_of_range(section, values, message):
    with pytest.raises(UserError, match=message):
        section(**values)


def test_settings_that_do_not_fit_the_model_are_refused():
    levels = settings_of(ddpm_ood=DdpmOodSettings(levels=6, depth=0.8))
    with pytest.raises(UserError, match=r"levels must be at most 5, the steps of .* 0.8 out of 6"):
        build_detector(levels, calibrated=False)
    with pytest.raises(UserError, match=r"detector.minority has no effect here: leave it out"):
        settings_of(methods=METHODS[:-1])
    with pytest.raises(UserError, match="one network pass, and the solver pndm begins with two"):
        settings_of(sampler=SamplerSettings(steps=6, solver="pndm"))
    models = build_detector(calibrated=False).models
    guided = settings_of(guidance=ClassifierGuidanceSettings())
    unconditional = {**models.arguments, "denoiser": denoiser_of(two_layers(1)), "settings": guided}
    with pytest.raises(UserError, match="the method diffnb need a class-conditional diffusion mod"):
        Models(**unconditional)
    free = settings_of(
        methods=["diffguard", "ddpm_ood", "minority"],
        diffnb=DiffNbSettings(),
        fused=["knn"],
        guidance=ClassifierGuidanceSettings(),
    )
    Models(**{**unconditional, "settings": free})

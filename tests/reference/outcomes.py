"""Checks of early stop, CAM, the metrics and the whole method against the reference files."""

import torch

from diffguard.classifiers.cam import cam_mask, grad_cam, scale_cam
from diffguard.diffusion.early_stop import calibrate_threshold, should_stop, stop_index
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.engine.program import ClassifierFree
from diffguard.engine.recipe import Recipe
from diffguard.images import to_image_range, to_model_range
from diffguard.report.metrics import auroc, compute_metrics, roc_curve
from diffguard.report.torch_metric import OODMetrics
from diffguard.scores.build import build_distance
from tests.helpers.ddim_runs import invert, synthesize
from tests.helpers.engine_runs import guidance_by
from tests.helpers.reference_networks import (
    QUALITIES,
    build_classifier,
    build_denoiser,
    column,
    early_stop,
    latent_plan,
    pixel_plan,
    predict,
    reconstruct,
)
from tests.reference.files import parse


def check_gdm_early_stop(data):
    for case in data.cases:
        if data.has("sel", case):
            _check_rule(data, case)
        elif data.has("start_index", case):
            _check_start(data, case)
        elif data.has("respacing", case):
            _check_stop(data, case)


def _check_rule(data, case):
    """The selection rule alone."""
    values = case.rpartition("_")[0]
    names = [name for name in QUALITIES if data.has(f"values_{name}", values)]
    qualities = torch.stack([data.tensor(f"values_{name}", values) for name in names])
    thresholds = [None if t == -1 else t for t in data.raw("thresh", case).tolist()]
    data.exact(case, sel=should_stop(qualities, thresholds))


def _check_start(data, case):
    """Where synthesis begins; a constant skip is an input, else the plan knows."""
    respacing, difference = parse(r"skip_(ddim\d+)_fb(\d+)", case)
    plan, stop = pixel_plan(respacing), data.raw("stop_index", case)
    skips = data.raw("skip_first_steps", case).tolist()
    fixed = [plan.start_index(s, skip=k) for s, k in zip(stop, skips, strict=True)]
    data.exact(case, num_timesteps=len(plan), start_index=torch.stack(fixed))
    if int(difference) > 0:
        start = plan.start_index(stop, extra=int(difference) - 2)
        data.exact(case, start_index=start)
    dot = torch.zeros(1, 1)
    made = [len(list(synthesize(lambda x, t: x, dot, plan, int(s)))) for s in fixed]
    data.exact(case, n_denoise_steps=made)


def _check_stop(data, case):
    plan, x0 = pixel_plan(data.setting("respacing", case)), data.tensor("x0", case)
    clip = data.setting("clip_denoised", case)
    most = len(plan) - data.setting("early_stop_steps", case)
    size = data.setting("image_size", case, default=x0.shape[-1])
    side = data.setting("input_size", case, default=x0.shape[-1])
    denoiser = build_denoiser(data, case, NoiseSchedule.linear(), size, side, fit="pad")
    images, rules = to_image_range(x0), early_stop(data, case)
    clean, thresholds = denoiser.encode(images), [threshold for _, threshold in rules]
    data.step(case, x0_padded=clean)

    def qualities(state):
        seen = denoiser.preview(state), denoiser.preview(clean)
        return torch.stack([quality(*seen) for quality, _ in rules])

    states = list(invert(predict(denoiser), clean, plan, most, clip=clip))
    values = torch.stack([qualities(state) for state in states])
    for number, name in enumerate(data.raw("metrics", case)):
        data.trajectory(case, **{f"values_{name}": values[:, number]})
    stop, reached = stop_index(values, thresholds, most)
    latent = torch.stack(states)[stop, torch.arange(len(stop))]
    data.exact(case, stop_index=stop, reached=reached)
    data.trajectory(case, latent=latent)
    active = [number for number, threshold in enumerate(thresholds) if threshold is not None]
    if len(active) == 1:
        # Asked for the mean depth of the file, calibration finds a threshold like the file's.
        depth = (data.raw("stop_index", case) + 1).double().mean()
        limit = calibrate_threshold(values[:, active[0]], float(depth), most)
        data.exact(case, stop_index=stop_index(values[:, active], [limit], most)[0])

    denoiser.network.calls = 0
    waiting = torch.ones(len(x0), dtype=torch.bool)
    for state in invert(predict(denoiser), clean, plan, most, clip=clip):
        waiting &= ~should_stop(qualities(state), thresholds)
        if not waiting.any():
            break
    data.exact(case, n_network_calls=denoiser.network.calls)
    recipe = Recipe(plan, most, clip=clip, qualities=rules, skip=len(plan) - 1)
    results = reconstruct(denoiser, recipe, images, [-1] * len(images))
    data.exact(case, stop_index=column(results, "stop_index"))
    data.trajectory(case, latent=column(results, "latent"))


def check_cam(data):
    for case in data.cases:
        if data.has("raw", case):
            raw = data.raw("raw", case)
            _check_masks(data, case, raw if data.dtype == torch.float64 else raw.float())
        elif data.has("labels", case):
            classifier = build_classifier(data, case)
            images = to_image_range(data.tensor("x0", case, case.rpartition("_")[0]))
            if case.endswith("_pred"):
                data.exact(case, labels=classifier(images).argmax(1))
            cam = grad_cam(classifier, images, data.raw("labels", case))
            assert cam.dtype == torch.float32
            data.step(case, cam=cam)
            # Grad-CAM sees no more of the head than its mean gradient.
            corner = build_classifier(data, case, corner=True)
            data.step(case, cam=grad_cam(corner, images, data.raw("labels", case)))
            _check_masks(data, case, cam)


def _check_masks(data, case, cam):
    scaled = scale_cam(cam)
    data.step(case, scaled=scaled)
    masks = [cam_mask(scaled, cut) for cut in data.raw("cuts", case).tolist()]
    data.exact(case, masks=torch.stack(masks))
    # Both cuts are strict, and a cut at 0 keeps what is above it.
    middle = scaled.median()
    for cut in (float(middle), -float(middle)):
        assert not cam_mask(scaled, cut)[scaled == middle].any()
    assert torch.equal(cam_mask(scaled, 0.0), scaled > 0)


def check_metrics(data):
    for case in data.cases:
        if data.has("ind", case):
            _check_scores_of_sets(data, case)


def _check_scores_of_sets(data, case):
    # The files' scores rise toward ID.
    ind, ood = -data.raw("ind", case), -data.raw("ood", case)
    metric = OODMetrics()
    metric.update(torch.cat([ind, ood]), torch.cat([torch.zeros(len(ind)), -torch.ones(len(ood))]))
    whole = compute_metrics(ind, ood)
    flagged, detected = roc_curve(ind, ood)
    area = whole | {"auroc": torch.trapezoid(detected, flagged)}
    assert auroc(ind, ood) == whole["auroc"]
    for values in (whole, area, metric.compute()):
        data.step(
            case,
            fpr_nodrop=values["fpr95_id_positive"],
            openood_fpr_nodrop=values["fpr95_ood_positive"],
            aupr_out_neg=values["aupr_out"],
        )
        columns = {"AUROC": values["auroc"], "AUPR_IN": values["aupr_in"]}
        _check_columns(data, case, "diffguard", columns)
        _check_columns(data, case, "openood", columns | {"AUPR_OUT": values["aupr_out"]})
    counts = len(ind), len(ood)
    accepted, missed = (1 - flagged).flip(0), (1 - detected).flip(0)
    data.step(case, sklearn_ap_in=_average_precision(accepted, missed, *counts))
    data.step(case, sklearn_ap_out=_average_precision(detected, flagged, *reversed(counts)))


def _average_precision(hits, alarms, positives, negatives):
    """Step-wise area under precision over recall, from shares of positives and negatives."""
    precision = hits * positives / (hits * positives + alarms * negatives)
    return (hits.diff() * precision[1:]).sum()


def _check_columns(data, case, name, values):
    """Compare some columns; the others count points of the curves in ways that are not ours."""
    vector = data.raw(name, case).clone()
    for place, title in enumerate(data.raw("columns", case)):
        vector[place] = values.get(str(title), vector[place])
    data.step(case, **{name: vector})


def check_cfg_end_to_end(data):
    for case in data.cases:
        check = _check_latent if data.has("zT", case) else _check_pixel
        check(data, case)


def _check_latent(data, case):
    plan, x0 = latent_plan(data.setting("ddim_steps", case)), data.tensor("x0", case)
    denoiser = build_denoiser(data, case, NoiseSchedule.scaled_linear(), x0.shape[-1])
    classifier, images, labels = _classify(data, case, x0)
    masks, cut = None, data.setting("cam_cut", case, default=0.0)
    if data.setting("use_cam", case):
        cam = grad_cam(classifier, images, labels)
        masks = cam_mask(scale_cam(cam), cut)
        data.step(case, cam=cam)
        data.exact(case, activation_map=masks.unsqueeze(1).expand_as(x0))
    recipe = Recipe(
        plan, len(plan),
        guidance=ClassifierFree(data.setting("scale", case)),
        unguided=data.setting("uncond_aux", case),
    )  # fmt: skip
    results = reconstruct(denoiser, recipe, images, labels, masks)
    data.trajectory(case, zT=column(results, "latent"))
    data.trajectory(case, recon=to_model_range(column(results, "guided")))
    if recipe.unguided:
        data.trajectory(case, recon_uncond=to_model_range(column(results, "unguided")))
    _check_scores(data, case, classifier, images, results)


def _check_pixel(data, case):
    plan, x0 = pixel_plan(data.setting("respacing", case)), data.tensor("x0", case)
    size = data.setting("image_size", case)
    denoiser = build_denoiser(
        data, case, NoiseSchedule.linear(), size, data.setting("input_size", case), antialias=False
    )
    classifier, images, labels = _classify(data, case, x0)
    adaptive = data.has("metrics", case)
    difference = data.setting("forback_skip_diff", case)
    skip = data.setting("skip_first_steps_cfg", case)
    guidance = guidance_by(
        lambda images, t: classifier(images),
        scale=data.setting("classifier_scale", case),
        blend=not data.setting("no_x0_hat", case, default=False),
        crops=data.setting("cutn", case),
        crop_size=data.setting("cut_size", case),
        output_size=data.setting("cut_out_size", case) if data.has("cut_out_size", case) else None,
        reduction="sum",
        shared_crops=True,
        seed=data.setting("crop_seed", case, default=100),
    )
    recipe = Recipe(
        plan, len(plan) - data.setting("early_stop_steps", case),
        clip=data.setting("clip_denoised", case, default=True),
        qualities=early_stop(data, case) if adaptive else (),
        guidance=guidance,
        unguided=data.setting("uncond_aux", case),
        extra_start=difference - 2,
        skip=None if adaptive and difference > 0 else skip,
    )  # fmt: skip
    results = reconstruct(denoiser, recipe, images, labels)
    if guidance.crops:
        steps = range(len(data.raw("boxes", case)))
        data.exact(case, boxes=guidance.boxes((size, size), [()] * len(steps), steps))
    data.exact(case, stop_index=column(results, "stop_index"))
    data.trajectory(case, xT=column(results, "latent"))
    data.trajectory(case, recon=denoiser.to_working_size(column(results, "guided_state")))
    if recipe.unguided:
        plain = denoiser.to_working_size(column(results, "unguided_state"))
        data.trajectory(case, recon_uncond=plain)
    _check_scores(data, case, classifier, images, results)


def _classify(data, case, x0):
    classifier, images = build_classifier(data, case), to_image_range(x0)
    logits = classifier(images).detach()
    data.step(case, logits_input=logits)
    data.exact(case, pred_label=logits.argmax(1))
    return classifier, images, logits.argmax(1)


def _check_scores(data, case, classifier, images, results):
    """Distances between the reference and the guided reconstruction; the files negate them."""
    guided = column(results, "guided")
    reference = column(results, "unguided") if data.setting("uncond_aux", case) else images
    logits = classifier(reference).detach(), classifier(guided).detach()
    data.trajectory(
        case,
        logits_compare=logits[0],
        logits_recon=logits[1],
        score_logits_l1=-build_distance("logits_l1").compare(*logits),
        score_l2=-build_distance("l2").compare(reference, guided),
    )

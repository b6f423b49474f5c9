"""Checks of the schedule, the solvers and guidance against the reference files."""

from dataclasses import replace

import torch

from diffguard.denoisers.scheduler_config import schedule_from_config
from diffguard.diffusion.guidance import blend_clean, classifier_free, classifier_gradient
from diffguard.diffusion.schedule import NoiseSchedule, expand, predict_clean
from diffguard.engine.recipe import Recipe
from diffguard.images import to_image_range, to_model_range
from tests.helpers.ddim_runs import inversion_step, invert, synthesis_step, synthesize
from tests.helpers.engine_runs import guidance_by
from tests.helpers.reference_networks import (
    build_classifier,
    build_denoiser,
    column,
    latent_plan,
    pixel_plan,
    predict,
    reconstruct,
)
from tests.reference.files import parse


def check_schedule(data):
    for name in data.shared:
        kind, column, steps = parse(r"(gdm|ldm)_(\w+)_(\d+)", name)
        for schedule in _same_schedules(kind, int(steps), data.raw(f"{kind}_betas_{steps}")):
            data.step("", **{name: _cast(data, getattr(schedule, column))})
    for case in data.cases:
        kind, steps = parse(r"(gdm|ldm)_(ddim\d+|S\d+)", case)
        plan = pixel_plan(steps) if kind == "gdm" else latent_plan(int(steps.removeprefix("S")))
        data.exact(case, timestep_map=plan.timesteps, timesteps=plan.timesteps)
        levels, below = _cast(data, plan.alphas), _cast(data, plan.alphas_prev)
        data.step(case, alphas_cumprod=levels, alphas_cumprod_prev=below)
        data.step(case, ddim_alphas=levels, ddim_alphas_prev=below)
        data.step(case, alphas_cumprod_next=_cast(data, plan.alphas_next))
        data.step(case, betas=_cast(data, plan.betas))


def _same_schedules(kind, steps, betas):
    """A published schedule by name, and as diffusers' schedulers write it down."""
    yield (NoiseSchedule.linear if kind == "gdm" else NoiseSchedule.scaled_linear)(steps)
    config = {"num_train_timesteps": steps, "trained_betas": None}
    if kind == "gdm":
        yield schedule_from_config({"num_train_timesteps": steps})
        config |= {"beta_schedule": "linear", "beta_start": 1e-4, "beta_end": 0.02}
    else:
        config |= {"beta_schedule": "scaled_linear", "beta_start": 0.0015, "beta_end": 0.0195}
    yield schedule_from_config(config)
    yield schedule_from_config(config | {"trained_betas": betas.tolist()})


def _cast(data, levels):
    """Levels as they reach states of the run's precision."""
    return expand(levels, torch.empty(1, dtype=data.dtype))


def _check_frames(data, case, states, step):
    """Compare a trajectory, and one call of `step(x, steps done)` on all its frames at once."""
    if not data.has("traj", case):
        return
    done = data.raw("traj_idx", case)
    data.trajectory(case, traj=torch.stack(states)[done])
    frames = data.tensor("traj", case)
    followed = torch.nonzero(done.diff() == 1).flatten()
    if len(followed):
        x = frames[followed]
        after = step(x.flatten(0, 1), done[followed].repeat_interleave(x.shape[1]))
        data.step(case, traj=frames.index_copy(0, followed + 1, after.view_as(x)))


def check_gdm_inversion(data):
    for case in data.cases:
        _check_pixel_inversion(data, case)


def _check_pixel_inversion(data, case):
    respacing, clip, early = parse(r"(ddim\d+)_clip([01])(?:_es(\d+))?", case)
    plan, x0, clip = pixel_plan(respacing), data.tensor("x0", case), clip == "1"
    denoiser = build_denoiser(data, case, NoiseSchedule.linear(), x0.shape[-1])
    noise, most = predict(denoiser), len(plan) - int(early or 0)
    states = [x0, *invert(noise, x0, plan, most, clip=clip)]
    data.exact(case, n_steps=denoiser.network.calls)
    data.trajectory(case, xT=states[-1])
    for prediction in ("epsilon", "v_prediction", "sample"):
        schedule = NoiseSchedule.linear(prediction_type=prediction)

        def step(x, index, schedule=schedule):
            x, eps = _retell(schedule, plan, x, noise(x, plan.timesteps[index]), index)
            return inversion_step(x, eps, plan, index, clip=clip)

        _check_frames(data, case, states, step)
    recipe = Recipe(plan, most, clip=clip, skip=len(plan) - 1)
    results = reconstruct(denoiser, recipe, to_image_range(x0), [-1] * len(x0))
    data.exact(case, last_index=column(results, "stop_index").unique().squeeze())
    data.trajectory(case, xT=column(results, "latent"))


def _retell(schedule, plan, x, eps, index):
    """State and noise, by way of what a network of any prediction type is trained to give."""
    t, alpha, _ = plan.inversion(index)
    clean = predict_clean(x, eps, alpha)
    state = schedule.add_noise(clean, eps, t)
    return state, schedule.to_noise(schedule.training_target(clean, eps, t), state, t)


def check_gdm_guidance(data):
    plan, index = pixel_plan(data.setting("respacing")), data.raw("indices")
    data.exact("", timesteps=plan.timesteps[index])
    for case in data.cases:
        _check_gradient(data, case, plan, index)


def _check_gradient(data, case, plan, index):
    no_blend, cut, labels = parse(r"(no)?x0hat(_cut)?_(\w+)", case)
    frames, labels = data.tensor("x_t", case), data.raw(f"y_{labels}", case)
    count = frames.shape[1]
    # All steps in one call, each sample at its own.
    x, labels = frames.flatten(0, 1), labels.repeat(len(index))
    t, alpha, _ = plan.synthesis(index.repeat_interleave(count))
    steps = torch.arange(len(index)).repeat_interleave(count).tolist()
    denoiser = build_denoiser(data, case, NoiseSchedule.linear(), x.shape[-1])
    eps, classifier, shown = predict(denoiser)(x, t), build_classifier(data, case), []
    scale, crops = data.setting("classifier_scale", case), data.setting("cutn", case)
    size, output_size = data.setting("cut_size", case), data.setting("cut_out_size", case)

    def classify(images, t):
        shown.append(images.detach())
        return classifier(images)

    guidance = guidance_by(
        classify, scale, blend=no_blend is None,
        crops=crops if cut else 0, crop_size=size, output_size=output_size,
        reduction="sum", shared_crops=True, seed=data.setting("crop_seed", case),
    )  # fmt: skip

    def gradient(guidance):
        return guidance.gradient(
            denoiser, x, eps, t, alpha,
            labels=labels, keys=[()] * len(x), steps=steps, batch_size=len(x),
        ).view_as(frames)  # fmt: skip

    def alone(u, boxes):
        """One sample after the other; crops see nothing of a margin around the image."""
        u = u if boxes is None else torch.nn.functional.pad(u, (0, 3, 0, 5))
        results = [
            classifier_gradient(
                classifier, u[k : k + 1], labels[k : k + 1], 1.0,
                boxes=None if boxes is None else boxes[steps[k]][None],
                crop_size=size, output_size=output_size,
            )
            for k in range(len(u))
        ]  # fmt: skip
        return torch.cat(results)[..., : x.shape[-2], : x.shape[-1]].view_as(frames)

    data.step(case, grad=gradient(guidance))
    u, boxes = blend_clean(x, eps, alpha, blend=no_blend is None), None
    if cut:
        boxes = guidance.boxes(x.shape[-2:], [()] * len(index), range(len(index)))
        data.exact(case, boxes=boxes)
        mean = replace(guidance, scale=scale * crops, reduction="mean")
        # Crops resized to twice the side, of which the classifier takes every second pixel.
        double = replace(
            guidance, output_size=2 * output_size,
            classify=lambda images, t: classifier(images[:, :, ::2, ::2]),
        )  # fmt: skip
        data.step(case, grad=gradient(mean))
        data.step(case, grad=gradient(double))
    else:
        views = shown[0][: int((labels >= 0).sum())]
        data.step(case, classifier_input=views.unflatten(0, (len(index), -1)))
    data.step(case, grad=scale * alone(u, boxes))


def check_gdm_denoise(data):
    for case in data.cases:
        _check_pixel_synthesis(data, case)


def _check_pixel_synthesis(data, case):
    plan, x = pixel_plan(data.setting("respacing", case)), data.tensor("xT", case)
    start = plan.start_index(torch.tensor(0), skip=data.setting("skip_first_steps", case))
    clip = data.setting("clip_denoised", case)
    denoiser = build_denoiser(data, case, NoiseSchedule.linear(), x.shape[-1])
    classifier, noise = build_classifier(data, case), predict(denoiser)
    predicted = classifier(to_image_range(data.tensor("x0", case))).argmax(1)
    if case == "guided":
        data.exact(case, y=predicted)
    guidance = guidance_by(
        lambda images, t: classifier(images),
        scale=data.setting("classifier_scale", case),
        blend=not data.setting("no_x0_hat", case),
    )
    labels = data.raw("y", case) if data.has("y", case) else torch.full((len(x),), -1)

    def guide(x, eps, index):
        t, alpha, _ = plan.synthesis(torch.as_tensor(index).expand(len(x)))
        return guidance.gradient(
            denoiser, x, eps, t, alpha, labels=labels.repeat(len(x) // len(labels)),
            keys=[()] * len(x), steps=[0] * len(x), batch_size=len(x),
        )  # fmt: skip

    def step(x, done):
        eps, index = noise(x, plan.timesteps[start - done]), start - done
        gradient = guide(x, eps, index) if data.has("y", case) else None
        return synthesis_step(x, eps, plan, index, clip=clip, gradient=gradient)

    guided = guide if data.has("y", case) else None
    states = [x, *synthesize(noise, x, plan, int(start), clip=clip, guide=guided)]
    _check_frames(data, case, states, step)
    data.trajectory(case, final=states[-1])


def check_ldm_inversion(data):
    for case in data.cases:
        _check_latent_inversion(data, case)


def _check_latent_inversion(data, case):
    plan = latent_plan(data.setting("ddim_steps", case))
    z0, labels = data.tensor("z0", case), data.raw("labels", case)
    scale, null = data.setting("scale", case), data.setting("unconditional_diffuse", case)
    denoiser = build_denoiser(data, case, NoiseSchedule.scaled_linear(), z0.shape[-1])
    noise = _free_noise(denoiser, labels, scale, unconditional=null)
    states = [z0, *invert(noise, z0, plan, len(plan))]
    _check_frames(
        data, case, states,
        lambda x, i: inversion_step(x, noise(x, plan.timesteps[i]), plan, i),
    )  # fmt: skip
    data.trajectory(case, final=states[-1])
    kind = "null" if null else "label" if scale == 1 else "guided"
    recipe = Recipe(plan, len(plan), inversion=kind, inversion_scale=scale, skip=len(plan) - 1)
    results = reconstruct(denoiser, recipe, denoiser.preview(z0), labels)
    data.trajectory(case, final=column(results, "latent"))


def check_ldm_denoise(data):
    if "activation_map" in data.shared:
        _mask(data, "")
    for case in data.cases:
        _check_latent_synthesis(data, case, _mask(data, case) if case.endswith("_cam") else None)


def _mask(data, case):
    """The mask of a case or of all, which the file repeats for every channel."""
    channels = data.raw("activation_map", case)
    data.exact(case, activation_map=channels[:, :1].expand_as(channels))
    return channels[:, 0]


def _check_latent_synthesis(data, case, mask):
    plan = latent_plan(data.setting("ddim_steps", case))
    z, labels = data.tensor("zT", case), data.raw("labels", case)
    denoiser = build_denoiser(data, case, NoiseSchedule.scaled_linear(), z.shape[-1])
    scale, null = data.setting("scale", case), case.startswith("uncond")
    noise = _free_noise(denoiser, labels, scale, unconditional=null, mask=mask)
    start = int(plan.start_index(torch.tensor(0), skip=0))
    states = [z, *synthesize(noise, z, plan, start)]

    def step(x, done):
        return synthesis_step(x, noise(x, plan.timesteps[start - done]), plan, start - done)

    _check_frames(data, case, states, step)
    data.trajectory(case, final=states[-1])
    data.trajectory(case, image=to_model_range(denoiser.decode(states[-1])))


def _free_noise(denoiser, labels, scale, *, unconditional, mask=None):
    """The noise under classifier-free guidance, for any number of repeats of the labels."""

    def noise(x, t):
        repeats = len(x) // len(labels)
        null = predict(denoiser, torch.full((len(x),), denoiser.null_class))(x, t)
        if unconditional:
            return null
        label = predict(denoiser, labels.repeat(repeats))(x, t)
        where = None if mask is None else mask.repeat(repeats, 1, 1)
        return classifier_free(null, label, scale, where)

    return noise

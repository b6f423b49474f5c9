"""Schedules beyond the reference files, against diffusers and general laws."""

import math

import diffusers
import pytest
import torch

from diffguard.denoisers.scheduler_config import schedule_from_config
from diffguard.diffusion.plan import SamplingPlan, respace
from diffguard.diffusion.schedule import NoiseSchedule, predict_clean
from diffguard.errors import UserError


class TestNoiseSchedule:
    """Betas and levels against the schedulers of diffusers."""

    @pytest.mark.parametrize("steps", [1, 8, 1000])
    def test_cosine_schedule_and_spacings_equal_diffusers(self, steps):
        scheduler = diffusers.DDPMScheduler(beta_schedule="squaredcos_cap_v2")
        for schedule in (NoiseSchedule.cosine(), schedule_from_config(scheduler.config)):
            actual = schedule.alphas_cumprod.float()
            torch.testing.assert_close(actual, scheduler.alphas_cumprod, rtol=2e-4, atol=1e-11)
        kinds = {"even": "linspace", "stride": "leading"}
        for spacing, name in kinds.items():
            scheduler = diffusers.DDIMScheduler(timestep_spacing=name, steps_offset=0)
            scheduler.set_timesteps(steps)
            assert torch.equal(respace(1000, steps, spacing), scheduler.timesteps.flip(0))
        shifted = respace(1000, steps, "shifted")
        assert shifted.max() < 1000
        assert torch.equal(shifted, (respace(1000, steps, "stride") + 1)[: len(shifted)])

    @pytest.mark.parametrize(
        "scheduler",
        [
            diffusers.DDPMScheduler(),
            diffusers.DDPMScheduler(
                beta_schedule="squaredcos_cap_v2", num_train_timesteps=400, prediction_type="sample"
            ),
            diffusers.DDIMScheduler(
                beta_schedule="scaled_linear",
                beta_start=8.5e-4,
                beta_end=0.012,
                prediction_type="v_prediction",
            ),
            diffusers.PNDMScheduler(num_train_timesteps=50, prediction_type="v_prediction"),
            diffusers.EulerDiscreteScheduler(beta_schedule="scaled_linear"),
            diffusers.DDPMScheduler(beta_schedule="sigmoid", num_train_timesteps=100),
            diffusers.DDPMScheduler(beta_schedule="laplace", num_train_timesteps=100),
            diffusers.DDIMScheduler(trained_betas=[0.1, 0.2, 0.4], prediction_type="sample"),
            diffusers.LCMScheduler(),
            diffusers.UnCLIPScheduler(),
            diffusers.RePaintScheduler(),
        ],
    )
    def test_reads_the_config_of_any_diffusers_scheduler(self, scheduler):
        schedule = schedule_from_config(scheduler.config)
        assert schedule.prediction_type == scheduler.config.get("prediction_type", "epsilon")
        assert schedule.alphas_cumprod.dtype == torch.float64
        # diffusers multiplies in float32.
        close = {"rtol": 2e-4, "atol": 1e-11}
        expected = scheduler.alphas_cumprod.double()
        torch.testing.assert_close(schedule.alphas_cumprod, expected, **close)

    @pytest.mark.parametrize(
        "kind", [diffusers.DDIMScheduler, diffusers.LCMScheduler, diffusers.UnCLIPScheduler]
    )
    def test_missing_config_values_default_to_those_of_the_scheduler(self, kind):
        schedule = schedule_from_config({"_class_name": kind.__name__})
        expected = kind().alphas_cumprod.double()
        torch.testing.assert_close(schedule.alphas_cumprod, expected, rtol=2e-4, atol=1e-11)

    @pytest.mark.parametrize(
        ("config", "message"),
        [
            ({"beta_schedule": "steps"}, "beta schedule 'steps' is not known"),
            ({"rescale_betas_zero_snr": True}, "rescale_betas_zero_snr"),
            ({"prediction_type": "flow"}, "prediction type 'flow' is not known"),
            ({"_class_name": "FlowMatchEulerDiscreteScheduler"}, "FlowMatch.* has no betas"),
            ({"trained_betas": 0.02}, "trained_betas .* must be a list of numbers, got 0.02"),
            ({"trained_betas": []}, "one or more betas between 0 and 1, got 0"),
            ({"trained_betas": [0.1, 1.5]}, r"betas between 0 and 1, got 2 \(0.1, 1.5\)"),
            ({"trained_betas": [0.1, float("nan")]}, "betas between 0 and 1"),
            ({"trained_betas": ["a"]}, "must be a list of numbers"),
            ({"trained_betas": [[0.1], [0.2]]}, "must be a list of numbers"),
            ({"num_train_timesteps": 0}, "num_train_timesteps .* must be 1 to 100,000, got 0"),
            ({"num_train_timesteps": -5, "beta_schedule": "squaredcos_cap_v2"}, "must be 1 to "),
            ({"num_train_timesteps": 10**9}, "must be 1 to 100,000, got 1,000,000,000"),
            ({"num_train_timesteps": 2.5}, "must be 1 to 100,000, got 2.5"),
            ({"beta_start": 0.0}, "beta_start .* between 0 and 1, got 0.0"),
            ({"beta_start": "1e-4"}, "beta_start .* between 0 and 1, got '1e-4'"),
            ({"beta_end": float("inf")}, "beta_end .* between 0 and 1"),
        ],
    )
    def test_unsupported_configs_are_refused(self, config, message):
        with pytest.raises(UserError, match=message):
            schedule_from_config(config)

    @pytest.mark.parametrize("prediction", ["v_prediction", "sample"])
    def test_schedule_may_end_on_pure_noise(self, prediction):
        scheduler = diffusers.DDIMScheduler(
            num_train_timesteps=50, rescale_betas_zero_snr=True, prediction_type=prediction
        )
        schedule = schedule_from_config(scheduler.config)
        assert schedule.prediction_type == prediction
        # Half of float32's spacing at 1.
        assert float(schedule.alphas_cumprod[-1]) == pytest.approx(2.0**-24, rel=1e-6)
        torch.testing.assert_close(
            schedule.alphas_cumprod[:-1],
            scheduler.alphas_cumprod[:-1].double(),
            rtol=2e-4,
            atol=1e-7,
        )
        # In float32, the clean image that the network predicts at the last step is still recovered.
        x0, noise, t = torch.randn(3, 4), torch.randn(3, 4), torch.full((3,), 49)
        x_t = schedule.add_noise(x0, noise, t)
        actual = schedule.to_noise(schedule.training_target(x0, noise, t), x_t, t)
        clean = predict_clean(x_t, actual, schedule.alphas_cumprod[t])
        torch.testing.assert_close(clean, x0, rtol=0, atol=0.01)

    def test_defaults_are_those_of_the_published_models(self):
        linear, latent = NoiseSchedule.linear(), NoiseSchedule.scaled_linear()
        assert (float(linear.betas[0]), float(linear.betas[-1])) == pytest.approx((1e-4, 0.02))
        assert (float(latent.betas[0]), float(latent.betas[-1])) == pytest.approx((0.0015, 0.0195))
        assert len(linear) == len(latent) == 1000
        assert torch.equal(schedule_from_config({}).betas, linear.betas)
        # Steps of one length, in double precision: of betas, of their roots, of the cosine's angle.
        angles = (
            NoiseSchedule.cosine().alphas_cumprod[:-9].sqrt() * math.cos(math.pi / 252)
        ).acos()
        for values in (linear.betas, latent.betas.sqrt(), angles):
            steps = values.diff()
            torch.testing.assert_close(steps, steps.mean().expand_as(steps), rtol=1e-8, atol=0)

    def test_given_betas_are_not_rounded(self):
        betas = [0.1, 0.2, 1 / 3]
        schedule = schedule_from_config({"trained_betas": betas})
        assert schedule.betas.tolist() == betas
        assert NoiseSchedule(torch.tensor(betas)).prediction_type == "epsilon"

    def test_add_noise_and_velocity_equal_diffusers(self):
        scheduler = diffusers.DDPMScheduler(prediction_type="v_prediction")
        schedule = schedule_from_config(scheduler.config)
        x0, noise, t = (
            torch.randn(4, 1, 3, 3),
            torch.randn(4, 1, 3, 3),
            torch.tensor([0, 5, 500, 999]),
        )
        close = {"rtol": 1e-4, "atol": 1e-5}
        torch.testing.assert_close(
            schedule.add_noise(x0, noise, t), scheduler.add_noise(x0, noise, t), **close
        )
        torch.testing.assert_close(
            schedule.training_target(x0, noise, t), scheduler.get_velocity(x0, noise, t), **close
        )


class TestSpacing:
    """Timesteps of a shorter plan."""

    def test_spacings_equal_the_published_timesteps(self):
        assert respace(1000, 4, "stride").tolist() == [0, 250, 500, 750]
        assert respace(1000, 334, "stride").tolist() == list(range(0, 1000, 3))
        assert respace(1000, 4, "shifted").tolist() == [1, 251, 501, 751]
        # Latent diffusion's count differs where the steps do not divide the total.
        assert [len(respace(1000, n, "shifted")) for n in (30, 300, 1000)] == [31, 333, 999]

    @pytest.mark.parametrize(
        ("steps", "spacing", "message"),
        [
            (300, "stride", "no integer stride gives 300 of 1000"),
            (0, "even", r"steps must be 1 to 1,000, got 0"),
            (1001, "even", r"got 1,001"),
            (10, "odd", "spacing 'odd' is not known"),
        ],
    )
    def test_impossible_spacings_are_refused(self, steps, spacing, message):
        with pytest.raises(UserError, match=message):
            respace(1000, steps, spacing)


class TestSamplingPlan:
    """Levels between which inversion and synthesis step."""

    @pytest.mark.parametrize("first_level", ["clean", "first"])
    def test_previous_and_next_levels_are_shifted_levels(self, first_level):
        schedule = NoiseSchedule.linear()
        plan = SamplingPlan.build(schedule, 10, first_level=first_level)
        assert plan.pairing == "target"
        torch.testing.assert_close(plan.alphas, schedule.alphas_cumprod[plan.timesteps])
        assert plan.alphas_prev[0] == (1 if first_level == "clean" else schedule.alphas_cumprod[0])
        assert torch.equal(plan.alphas_prev[1:], plan.alphas[:-1])
        assert torch.equal(plan.alphas_next[:-1], plan.alphas[1:])
        assert plan.alphas_next[-1] == 0

    @pytest.mark.parametrize("pairing", ["current", "target"])
    def test_synthesis_starts_at_the_level_reached_by_inversion(self, pairing):
        plan = SamplingPlan.build(NoiseSchedule.linear(), 12, pairing=pairing)
        # With pairing "current" the last step leaves the schedule.
        stop = torch.arange(len(plan) - (pairing == "current")).flip(0)
        start = plan.start_index(stop)
        assert torch.equal(plan.synthesis(start)[1], plan.inversion(stop)[2])
        assert torch.equal(plan.inversion(stop)[0], plan.timesteps[stop])
        top = torch.full_like(stop, len(plan) - 1)
        assert torch.equal(plan.start_index(stop, extra=2), torch.minimum(start + 2, top))
        assert plan.start_index(stop, extra=2, skip=3).tolist() == [len(plan) - 4] * len(stop)

"""The networks of the reference files, wrapped by the adapters of `diffguard`."""

from types import SimpleNamespace

import torch
from torch import nn
from torch.nn import functional as F

from diffguard.classifiers.classifier import Classifier
from diffguard.denoisers.pixel import PixelDenoiser
from diffguard.diffusion.plan import SamplingPlan
from diffguard.diffusion.schedule import NoiseSchedule
from diffguard.engine.engine import Engine
from diffguard.engine.jobs import Job
from diffguard.images import to_model_range
from diffguard.scores.build import build_distance
from diffguard.scores.distances import Views
from diffguard.scores.formulas import psnr

# The authors' qualities: PSNR with peak 255 on [-1, 1], and DISTS without a network.
QUALITIES = {
    "psnr": lambda a, b: psnr(to_model_range(a), to_model_range(b), peak=255.0),
    "dists": lambda a, b: build_distance("dists_statistics").quality(Views(a), Views(b)),
}


class NoiseNetwork(nn.Module):
    """Two convolutions; counts its calls."""

    def __init__(self, weights, size):
        super().__init__()
        self.weights = nn.ParameterDict(weights)
        self.config = {"in_channels": weights["conv1_w"].shape[1], "sample_size": size}
        self.calls = 0

    def forward(self, x, t, class_labels=None):
        self.calls += 1
        w = self.weights
        h = F.conv2d(x, w["conv1_w"], w["conv1_b"], padding=1)
        shift = w["w_t"] * (t.to(x) / 1000).unsqueeze(1)
        if class_labels is not None:
            shift = shift + w["emb"][class_labels]
        h = torch.tanh(h + shift[:, :, None, None])
        return SimpleNamespace(sample=F.conv2d(h, w["conv2_w"], w["conv2_b"], padding=1))


class ClassifierNetwork(nn.Module):
    """One convolution, tanh, the spatial mean (or the features of one corner) and a linear layer.

    With `corner` the logits differ, but their mean gradient over space is the same.
    """

    def __init__(self, weights, corner=False):
        super().__init__()
        self.corner = corner
        self.conv = nn.Conv2d(3, len(weights["conv_b"]), 3, stride=2, padding=1)
        self.tanh = nn.Tanh()
        self.lin = nn.Linear(weights["lin_w"].shape[1], len(weights["lin_b"]))
        self.to(weights["conv_w"].dtype)
        self.load_state_dict({name.replace("_w", ".weight").replace("_b", ".bias"): value
                              for name, value in weights.items()})  # fmt: skip

    def forward(self, z):
        features = self.tanh(self.conv(z))
        return self.lin(features[:, :, 0, 0] if self.corner else features.mean(dim=(2, 3)))


def build_classifier(data, case="", *, corner=False):
    """The protected classifier of a case."""
    network = ClassifierNetwork(data.weights(case, "cls"), corner)
    return Classifier(network, network.lin.out_features, cam_layer="tanh").eval()


def build_denoiser(data, case, schedule, size, image_size=None, **options):
    """The diffusion model of a case, for states of `size` pixels and images of `image_size`."""
    weights = data.weights(case, "net")
    classes = {}
    if "emb" in weights:
        null = data.setting("null_class", case)
        classes = {"num_classes": len(weights["emb"]) - 1, "null_class": null}
    network = NoiseNetwork(weights, size)
    return PixelDenoiser(network, schedule, image_size or size, **classes, **options)


def pixel_plan(respacing):
    """The pixel model's plan, named `ddim<N>`."""
    steps = int(respacing.removeprefix("ddim"))
    return SamplingPlan.build(NoiseSchedule.linear(), steps, "stride", "current")


def latent_plan(steps):
    """The latent model's plan."""
    schedule = NoiseSchedule.scaled_linear()
    return SamplingPlan.build(schedule, steps, "shifted", "target", first_level="first")


def predict(denoiser, label=None):
    """`(x, t) -> ε`, with one label per row, or without."""
    return torch.no_grad()(lambda x, t: denoiser.predict_noise(x, t, label))


def early_stop(data, case):
    """The qualities of a case with their thresholds; the files write -1 for "off"."""
    names, thresholds = data.raw("metrics", case), data.raw("thresh", case).tolist()
    return [
        (QUALITIES[str(name)], None if threshold == -1 else threshold)
        for name, threshold in zip(names, thresholds, strict=True)
    ]


def reconstruct(denoiser, recipe, images, labels, masks=None):
    """Run the engine with a batch size of 8; results in the order of the images."""
    masks = [None] * len(images) if masks is None else masks
    jobs = [
        Job(image, int(label), (str(row),), mask)
        for row, (image, label, mask) in enumerate(zip(images, labels, masks, strict=True))
    ]
    engine = Engine(denoiser, recipe.sampler, recipe.program(), batch_size=8)
    done = {outcome.job.key: outcome for outcome in engine.push(jobs) + engine.flush()}
    return [recipe.reconstruction(done[job.key]) for job in jobs]


def column(results, name):
    """One attribute of all results as a tensor."""
    values = [getattr(result, name) for result in results]
    return torch.stack(values) if isinstance(values[0], torch.Tensor) else torch.tensor(values)

"""The models that edit training images and check the edits."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any, cast

import torch
from torch import Tensor, nn

from diffguard.augment.checking import Classify
from diffguard.augment.editor import Editor, InversionEditor
from diffguard.batching import in_fixed_batches
from diffguard.classifiers.classifier import Classifier
from diffguard.denoisers.custom import weight_parts
from diffguard.storage.state_dict import weights_hash
from diffguard_cli.arguments import TrainingArguments
from diffguard_cli.classifier_model import load_classifier
from diffguard_cli.diffusion_model import load_trained
from diffguard_cli.run import Run


@dataclass
class EditModels:
    """The models of the stage `augment`.

    Attributes:
        editor: Makes the edits.
        classify: Maps images to predicted classes; None if edits are not checked by a classifier.
        identity: Plain values that identify the models and the settings of the edits.
    """

    editor: Editor
    classify: Classify | None
    identity: dict[str, Any]


def load_models(
    run: Run, arguments: TrainingArguments, batch_size: int, device: torch.device
) -> EditModels:
    """Load the models that the section `augment` names.

    Args:
        run: The run.
        arguments: The command line of training.
        batch_size: Images of every network call.
        device: The device of the models.

    Raises:
        UserError: If a model cannot be loaded.
    """
    settings = arguments.augment
    editor, networks, description = _load_editor(run, arguments, batch_size, device)
    identity: dict[str, Any] = {"editor": description, "attempts": settings.attempts}
    classify: Classify | None = None
    if settings.classifier is not None:
        config = replace(arguments.classifier, ckpt=settings.classifier)
        judge, spec = load_classifier(run, config)
        judge = judge.to(device).eval()
        networks.append(judge.network)
        classify = partial(_predict, judge, batch_size)
        identity["classifier"] = asdict(spec)
    identity["weights"] = weights_hash(networks)
    return EditModels(editor, classify, identity)


def _predict(classifier: Classifier, batch_size: int, images: Tensor) -> Tensor:
    return in_fixed_batches(lambda rows: classifier(rows).argmax(1), images, batch_size)


def _load_editor(
    run: Run, arguments: TrainingArguments, batch_size: int, device: torch.device
) -> tuple[Editor, list[nn.Module], dict[str, Any]]:
    """The editor, its networks, and what its edits depend on apart from their weights."""
    settings = arguments.augment
    if settings.instruct.weights is not None:
        # Loading its libraries takes seconds.
        from diffguard.augment.instruct import InstructEditor

        seed = settings.seed or 0
        instruct = InstructEditor(settings.instruct, batch_size, seed, device)
        # The weights are identified by their content.
        values = asdict(replace(settings.instruct, weights=None))
        return instruct, instruct.networks, {**values, "seed": seed, **instruct.configs}
    loaded = load_trained(run, arguments.diffusion)
    denoiser = loaded.denoiser
    cast(nn.Module, denoiser).to(device).eval()
    editor = InversionEditor(denoiser, settings.steps, settings.depth, settings.scale, batch_size)
    values = {name: getattr(settings, name) for name in ("steps", "depth", "scale")}
    return editor, list(weight_parts(denoiser).values()), {**values, **asdict(loaded.spec)}

"""The cost of the detector that a training config leads to, without training it."""

from __future__ import annotations

from diffguard.cost import Cost, dry_run, format_cost
from diffguard.methods.checks import sees_labels
from diffguard.printing import say
from diffguard.training.precision import weight_dtype
from diffguard_cli.arguments import TrainingArguments
from diffguard_cli.classifier_model import classifier_spec
from diffguard_cli.diffusion_model import planned_spec


def planned_cost(arguments: TrainingArguments) -> Cost:
    """The networks and passes of the detector of a config; see `diffguard.cost.dry_run`.

    Networks to train are built without memory. A diffusion model that the config names is read,
    and images only if the classes have no names in `data.class_names`.

    Raises:
        UserError: If a network cannot be built, or the settings do not fit the networks.
    """
    data, classifier, diffusion = arguments.data, arguments.classifier, arguments.diffusion
    same_classes = sees_labels(arguments.detector)
    return dry_run(
        classifier_spec(classifier, data),
        planned_spec(diffusion, data, same_classes=same_classes),
        arguments.detector,
        dtype=weight_dtype(arguments.trainer.precision),
        trusted=(classifier.arch, diffusion.network),
    )


def print_cost(cost: Cost) -> None:
    """Print a cost on the standard output."""
    say(*format_cost(cost).splitlines())

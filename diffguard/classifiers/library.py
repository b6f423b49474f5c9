"""Names and arguments of the classifiers of torchvision and timm.

They come from tables that ship with the libraries; nothing is downloaded.
"""

from __future__ import annotations

from typing import Any

from diffguard.errors import UserError


def torchvision_model(name: str) -> str:
    """The name of torchvision's builder for `NAME` or `NAME.WEIGHTS`.

    Raises:
        UserError: For a name that is not one of its image classifiers.
    """
    import torchvision

    model = name.partition(".")[0]
    # Builders for other tasks download backbone weights by default.
    if model not in torchvision.models.list_models(module=torchvision.models):
        raise UserError(
            f"classifier torchvision/{name} cannot be built: torchvision has no classifier of "
            "that name"
        )
    return model


def torchvision_weights(name: str) -> Any:
    """The weights of torchvision by `NAME` or `NAME.WEIGHTS`, such as `resnet50.IMAGENET1K_V1`.

    Raises:
        UserError: For a name that it does not know.
    """
    import torchvision

    published = torchvision.models.get_model_weights(torchvision_model(name))
    tag = name.partition(".")[2] or "DEFAULT"
    try:
        return published[tag]
    except KeyError as error:
        raise UserError(
            f"classifier torchvision/{name} cannot be built: unknown weights {tag}, expected one "
            f"of {', '.join(published.__members__)}"
        ) from error


def timm_model(name: str) -> str:
    """The current name of timm's model `NAME` or `NAME.TAG`; timm still accepts old names.

    Raises:
        UserError: For a name that timm does not know, or a model that it has removed.
    """
    import timm

    model, _, tag = name.partition(".")
    if not timm.is_model(model):
        raise UserError(f"classifier timm/{name} cannot be built: unknown model ({model})")
    current = timm.models.get_deprecated_models().get(model, model)
    if not current:
        raise UserError(f"classifier timm/{name} cannot be built: timm has removed {model}")
    return f"{current.partition('.')[0]}.{tag}" if tag else current


def timm_config(name: str) -> Any:
    """The `PretrainedCfg` that timm publishes for a model; None if there is none.

    Raises:
        UserError: For a name or tag that timm does not know.
    """
    import timm

    try:
        return timm.get_pretrained_cfg(timm_model(name))
    except RuntimeError as error:
        raise UserError(f"classifier timm/{name} cannot be built: {error}") from error


def published_arguments(arch: str, num_classes: int) -> dict[str, Any]:
    """Constructor arguments that torchvision adds when it loads published weights.

    A network that is rebuilt without them has the same weights but different outputs.

    Args:
        arch: `torchvision/NAME`, `torchvision/NAME.WEIGHTS`, or another, which adds nothing.
        num_classes: Number K of classes. Auxiliary heads are kept only for the published classes.

    Raises:
        UserError: For a name that torchvision does not know.
    """
    library, _, name = arch.partition("/")
    if library != "torchvision":
        return {}
    meta, model = torchvision_weights(name).meta, torchvision_model(name)
    if model == "googlenet":
        return {"transform_input": True, "aux_logits": False}
    if model == "inception_v3":
        own_heads = num_classes == len(meta["categories"])
        return {"transform_input": True, "aux_logits": own_heads}
    if model.startswith("vit_"):
        return {"image_size": meta["min_size"][0]}
    return {}

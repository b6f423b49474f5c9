"""Shipped configs, changed so that they fit tiny data and networks."""

# These distances need no perceptual network, whose weights are not available.
STAND_IN = {"dists": "dists_statistics", "lpips": "gmsd", "lpips_alex": "l1"}
_STAGE = {"batch_size": None, "precision": None, "compiled": False}
# Settings of a config that do not fit tiny networks, three classes and grayscale images.
RESET = {
    "stages": ["classifier", "diffusion", "calibrate"],
    "data": {
        "class_names": None,
        "download": False,
        "limit": None,
        "num_workers": 0,
        "on_error": "stop",
    },
    "classifier": {
        "arch": "small_cnn",
        "pretrained": False,
        "ckpt": None,
        "channels": None,
        "size": None,
        "resize": None,
        "interpolation": None,
        "mean": None,
        "std": None,
        "feature_layer": None,
        "cam_layer": None,
        "max_epochs": 1,
        "val_every": 1,
        **_STAGE,
    },
    "diffusion": {
        "network": "UNet2DModel",
        "ckpt": None,
        "model": {"image_size": None, "num_head_channels": None},
        "null_class": None,
        "fit": "resize",
        "max_epochs": 1,
        "val_every": 1,
        **_STAGE,
    },
    "trainer": {"num_nodes": 1, "strategy": "auto", "precision": "32-true", "threads": 1},
}


def stand_in(name):
    """A distance without a perceptual network or a layer of another classifier."""
    before, _, plain = name.rpartition("/") if name.startswith("unguided/") else ("", "", name)
    base, at, _ = plain.partition("@")
    return "/".join(filter(None, [before, STAND_IN.get(base, base) + ("@stage2" if at else "")]))


def shrink(settings):
    """Adapt detector settings to tiny networks and few images."""
    small = {"sampler": {"steps": 4}, "knn_k": 3, "vim_dim": None, "perceptual_weights": None}
    for key in ("distances", "unguided", "distance"):
        if key in settings:
            small[key] = [stand_in(name) for name in settings[key]]
    # The tiny classifier may recognize no image of a class, which `she` refuses.
    if "baselines" in settings:
        small["baselines"] = [name for name in settings["baselines"] if name != "she"]
    thresholds = settings.get("early_stop", {}).get("thresholds")
    if thresholds:
        result = {stand_in(name): value for name, value in thresholds.items()}
        small["early_stop"] = {"thresholds": result}
    if settings.get("classifier", {}).get("crops", {}).get("number"):
        small["classifier"] = {"crops": {"number": 2, "size": 6}}
    return small


def merge(below, above):
    """Merge nested dictionaries; the second has precedence."""
    both = dict(below)
    for key, value in above.items():
        nested = isinstance(value, dict) and isinstance(both.get(key), dict)
        both[key] = merge(both[key], value) if nested else value
    return both

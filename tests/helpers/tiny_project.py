"""A tiny project: image folders and a config."""

import numpy as np
import yaml
from PIL import Image

CLASSES = ("dots", "left", "right")
SIDE = 8


def write_images(folder, count, pattern, seed):
    """Write grayscale PNGs of a pattern on noise."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    for number in range(count):
        image = rng.integers(0, 60, (SIDE, SIDE))
        if pattern == "left":
            image[:, :3] += 180
        elif pattern == "right":
            image[:, 5:] += 180
        elif pattern == "dots":
            image[::3, ::3] += 180
        elif pattern == "noise":
            image = rng.integers(0, 256, (SIDE, SIDE))
        Image.fromarray(image.astype(np.uint8)).save(folder / f"{number:03}.png")


def write_data(root):
    """Write ID folders of three classes, one near-OOD and one far-OOD folder."""
    for part, count, seed in (("train", 12, 0), ("validation", 8, 10), ("test", 6, 20)):
        for number, name in enumerate(CLASSES):
            write_images(root / part / name, count, name, seed + number)
    write_images(root / "near", 7, "blank", 30)
    write_images(root / "far", 9, "noise", 31)
    return root


def tiny_config(root):
    """A config that runs in seconds."""
    return {
        "data": {
            "name": "shapes",
            "root": str(root),
            "id": {p: f"folder:{p}" for p in ("train", "validation", "test")},
            "ood": {"near": {"blank": "folder:near"}, "far": {"noise": "folder:far"}},
            "image_size": SIDE,
            "channels": 1,
            "batch_size": 8,
            "train_batch_size": 12,
        },
        "classifier": {"kwargs": {"width": 4}, "max_epochs": 4, "lr": 0.01},
        "diffusion": {
            "kwargs": {
                "layers_per_block": 1,
                "block_out_channels": [8],
                "down_block_types": ["DownBlock2D"],
                "up_block_types": ["UpBlock2D"],
                "norm_num_groups": 4,
            },
            "max_epochs": 2,
            "sample_every": 0,
        },
        "detector": {
            "sampler": {"steps": 4},
            "distances": ["logits_l1", "l2"],
            "distance": ["l2"],
            "baselines": ["msp", "knn"],
            "fused": ["knn"],
            "knn_k": 3,
        },
        "trainer": {"accelerator": "cpu", "devices": 1, "progress": False},
    }


def write_config(path, root, **changes):
    """Write the tiny config with some changed sections."""
    config = tiny_config(root)
    for section, values in changes.items():
        if isinstance(values, dict) and isinstance(config.get(section), dict):
            config[section] |= values
        else:
            config[section] = values
    path.write_text(yaml.safe_dump(config))
    return path

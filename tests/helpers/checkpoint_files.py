"""The checkpoints of the conversion tests, with inputs and expected outputs.

For each checkpoint, the folder has a `<name>.json` (hyperparameters, names of the two other files)
and a `<name>.npz` (inputs and outputs). `DIFFGUARD_CHECKPOINTS` sets a folder other than
`tests/checkpoints`.
"""

import gzip
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from diffguard.denoisers.formats import CheckpointOptions
from diffguard.storage.foreign import read_checkpoint_tensors

OWN = Path(__file__).parents[1] / "checkpoints"
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")


def folder():
    return Path(os.environ.get("DIFFGUARD_CHECKPOINTS") or OWN)


@dataclass(frozen=True)
class Case:
    folder: Path
    name: str

    @property
    def info(self):
        return json.loads((self.folder / f"{self.name}.json").read_text())

    @property
    def file(self):
        """The checkpoint file; None if the tensors come from a recipe."""
        return None if "recipe" in self.info else self.folder / self.info["checkpoint"].split()[0]

    @property
    def is_classifier(self):
        return "stem_and_layer_widths" in self.info or "num_blocks" in self.info

    def tensors(self):
        if self.file is None:
            return _from_recipe(self.folder, self.info)
        tensors = read_checkpoint_tensors(self.file)
        removed = re.search(r"with the entry (\S+) removed", self.info["checkpoint"])
        if removed:
            del tensors[removed.group(1)]
        return tensors

    def arrays(self):
        """Inputs and outputs; some inputs are stored with another case."""
        arrays = dict(np.load(self.folder / self.info["arrays"]))
        other = re.search(r"(\S+\.npz)", str(self.info.get("inputs", "")))
        if other:
            inputs = np.load(self.folder / other.group(1))
            arrays = {**{key: inputs[key] for key in ("x", "t")}, **arrays}
        return {key: torch.from_numpy(value) for key, value in arrays.items()}

    def options(self):
        info = self.info
        return options_of(info.get("flags") or info.get("Model") or info.get("yaml"))


def options_of(settings):
    """Our options, from the hyperparameters with their original names."""
    if "model" in settings:
        params = settings["model"]["params"]
        unet = params["unet_config"]["params"]
        resolution = params["first_stage_config"]["params"]["ddconfig"]["resolution"]
        return CheckpointOptions(image_size=resolution, **_heads(unet))
    if "attention_resolutions" in settings:
        return CheckpointOptions(
            image_size=settings["image_size"],
            new_attention_order=settings.get("use_new_attention_order", False),
            noise_schedule=settings["noise_schedule"],
            **_heads(settings),
        )
    return CheckpointOptions(image_size=settings["image_size"])


def _heads(settings):
    # num_head_channels has precedence over num_heads, as in the original programs.
    if settings.get("num_head_channels", -1) > 0:
        return {"num_head_channels": settings["num_head_channels"]}
    return {"num_heads": settings["num_heads"]}


def cases_in(folder):
    """All cases of a folder with stored outputs."""
    paths = sorted(folder.glob("*.json"))
    return [Case(folder, p.stem) for p in paths if "arrays" in json.loads(p.read_text())]


def cases():
    """All cases that are compared with stored outputs."""
    return cases_in(folder())


def full_size():
    """Names and shapes of full-size models: `(title, entry)`."""
    has_own = (folder() / "fullsize_keys.json.gz").is_file()
    return list(_full_size_in(folder() if has_own else OWN).items())


def _full_size_in(folder):
    with gzip.open(folder / "fullsize_keys.json.gz") as file:
        return json.load(file)


def _from_recipe(folder, info):
    """Tensors at full width, drawn from NumPy's generator in the listed order."""
    entry = _full_size_in(folder)["OpenOOD resnet18_32x32 best.ckpt"]["tensors"]
    random = np.random.RandomState(20240607)  # the recipe's generator
    tensors = {}
    for name, shape in entry.items():
        if name.endswith("num_batches_tracked"):
            tensors[name] = torch.tensor(39100)
            continue
        a = random.standard_normal(size=shape)
        if len(shape) == 4:
            a = a * np.sqrt(2 / (shape[1] * shape[2] * shape[3]))
        elif name == "fc.weight":
            a = a * 1.5 / np.sqrt(shape[1])
        elif name == "fc.bias":
            a = 0.3 * a
        elif name.endswith("running_mean"):
            a = 0.2 * a
        elif name.endswith("running_var"):
            a = np.exp(0.3 * a)
        elif name.endswith("weight"):
            a = 0.6 + 0.1 * a
        else:
            a = 0.2 * a
        tensors[name] = torch.from_numpy(a.astype(np.float32))
    check = info["check"]
    first = tensors["conv1.weight"].flatten()[0].item()
    assert abs(first - check["first value of conv1.weight"]) < 1e-9
    total = tensors["fc.weight"].double().sum().item()
    assert abs(total - check["sum of fc.weight in float64"]) < 1e-9
    return tensors

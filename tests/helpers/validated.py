"""A detector whose config names an OOD validation set."""

import torch

from diffguard.checkpoint.file import read_checkpoint
from tests.helpers.tiny_project import write_images


def with_ood_validation(ckpt, folder):
    """Copy a checkpoint to a folder, with the OOD validation set `choice` of four images."""
    content = read_checkpoint(ckpt)
    write_images(folder / "choice", 4, "noise", 77)
    content["config"]["data"]["ood_validation"] = {"choice": str(folder / "choice")}
    torch.save(content, folder / "detector.ckpt")
    return folder / "detector.ckpt"

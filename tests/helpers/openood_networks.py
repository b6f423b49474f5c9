"""Networks with the tensors of OpenOOD's checkpoints."""

from __future__ import annotations

import torch
import torchvision

from diffguard.classifiers.openood import ResNet18_32x32


def openood_network(tensors):
    """The network of a state dict, loaded strictly, in evaluation mode.

    Its size follows from the shapes of the tensors, which may be on the meta device.
    """
    classes = len(tensors["fc.weight"])
    with torch.device("meta"):
        if "layer1.0.conv3.weight" in tensors:
            network = torchvision.models.resnet50(num_classes=classes)
        else:
            layers = [f"layer{n}" for n in range(1, 5)]
            widths = [len(tensors[f"{layer}.0.conv1.weight"]) for layer in layers]
            blocks = [
                len({name.split(".")[1] for name in tensors if name.startswith(f"{layer}.")})
                for layer in layers
            ]
            network = ResNet18_32x32(classes, [len(tensors["conv1.weight"]), *widths], blocks)
    network.load_state_dict(tensors, assign=True)
    return network.eval()

"""A stand-in for the parts of OpenOOD v1.5 that call a postprocessor."""

import sys
from types import ModuleType

import numpy as np
from torch.utils.data import DataLoader, Dataset

from tests.helpers.sklearn_values import sklearn_metrics


class BasePostprocessor:
    def __init__(self, config):
        self.config = config


class Samples(Dataset):
    """Items as OpenOOD's data sets give them: normalized images, with further entries."""

    def __init__(self, images, labels, mean, std):
        self.images, self.labels, self.mean, self.std = images, labels, mean, std

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = (self.images[index] - self.mean) / self.std
        return {"image_name": f"{index}.png", "data": image, "label": self.labels[index]}


def evaluator_class(id_sets, ood_sets):
    """An `Evaluator` whose data are given; `ood_sets` are its near sets."""

    class Evaluator:
        def __init__(self, net, id_name, postprocessor):
            assert id_name == "cifar10"
            if not isinstance(postprocessor, BasePostprocessor):
                raise TypeError("postprocessor should inherit BasePostprocessor")
            self.net, self.postprocessor = net, postprocessor
            self.loaders = {name: DataLoader(data, 4) for name, data in id_sets.items()}
            self.ood = {name: DataLoader(data, 4) for name, data in ood_sets.items()}
            postprocessor.setup(net, self.loaders, {"near": self.ood})
            if postprocessor.APS_mode and not postprocessor.hyperparam_search_done:
                raise AssertionError("the stand-in has no search")

        def eval_ood(self):
            predictions, ident, labels = self.postprocessor.inference(
                self.net, self.loaders["test"], True
            )
            result = {"accuracy": float(np.mean(predictions == labels))}
            for name, loader in self.ood.items():
                _, confidence, labels = self.postprocessor.inference(self.net, loader, True)
                assert (labels == -1).all()
                result[name] = sklearn_metrics(-ident, -confidence)["auroc"]
            return result

    return Evaluator


def install(monkeypatch, evaluator=None):
    """Make `import openood` find the stand-in."""
    modules = {
        "openood": {},
        "openood.postprocessors": {"BasePostprocessor": BasePostprocessor},
        "openood.evaluation_api": {"Evaluator": evaluator},
    }
    for name, values in modules.items():
        module = ModuleType(name)
        vars(module).update(values)
        monkeypatch.setitem(sys.modules, name, module)

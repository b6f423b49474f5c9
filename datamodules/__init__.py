"""Data: named ID and OOD sets, training batches and the evaluation stream."""

from datamodules.benchmark import IDSets, OODSets
from datamodules.image_set import ImageSet, MissingDataError, TensorSet
from datamodules.ood import OODDataModule
from datamodules.sources import open_set

__all__ = [
    "IDSets",
    "ImageSet",
    "MissingDataError",
    "OODDataModule",
    "OODSets",
    "TensorSet",
    "open_set",
]

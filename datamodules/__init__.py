"""Data: named ID and OOD sets, training batches and the evaluation stream."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from datamodules.config import DataConfig, IDSets, OODSets
    from datamodules.file_set import FileSet
    from datamodules.image_set import ImageSet, MissingDataError, TensorSet
    from datamodules.ood import OODDataModule
    from datamodules.sources import open_set

__all__ = [
    "DataConfig",
    "FileSet",
    "IDSets",
    "ImageSet",
    "MissingDataError",
    "OODDataModule",
    "OODSets",
    "TensorSet",
    "open_set",
]

_MODULES = {
    "DataConfig": "datamodules.config",
    "FileSet": "datamodules.file_set",
    "IDSets": "datamodules.config",
    "ImageSet": "datamodules.image_set",
    "MissingDataError": "datamodules.image_set",
    "OODDataModule": "datamodules.ood",
    "OODSets": "datamodules.config",
    "TensorSet": "datamodules.image_set",
    "open_set": "datamodules.sources",
}


def __getattr__(name: str) -> Any:
    """Import a public name at its first use, so that `--help` does not wait for Lightning."""
    if name not in _MODULES:
        raise AttributeError(f"module 'datamodules' has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)

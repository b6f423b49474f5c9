"""Calibration from the command line."""

from datamodules.config import DataConfig, IDSets
from datamodules.ood import OODDataModule
from diffguard_cli.calibrate import training_images


def test_training_images_are_counted_beyond_the_limit(data_root):
    sets = IDSets("folder:train", "folder:validation")
    training = training_images(OODDataModule(DataConfig(sets, root=str(data_root), image_size=8)))
    assert training.count() == 36
    assert sum(len(batch["image"]) for batch in training.batches(12)) == 12

"""The `data` section on the command line."""

from pathlib import Path

import yaml
from jsonargparse import ArgumentParser

from datamodules.config import DataConfig, IDSets, OODSets
from datamodules.ood import OODDataModule

CONFIG = Path(__file__).parents[2] / "configs" / "digits.yaml"


def _parse(*argv):
    parser = ArgumentParser(exit_on_error=False)
    parser.add_argument("--config", action="config")
    parser.add_class_arguments(DataConfig, "data")
    # jsonargparse renamed `instantiate_classes` in 4.49.
    build = getattr(parser, "instantiate", None) or parser.instantiate_classes
    return OODDataModule(build(parser.parse_args(argv)).data)


def test_the_command_line_adds_a_set_and_keeps_the_others(tmp_path):
    config = tmp_path / "config.yaml"
    data = yaml.safe_load(CONFIG.read_text())["data"]
    config.write_text(yaml.safe_dump({"data": data}, sort_keys=False))
    data = _parse("--config", str(config), "--data.ood.far.mine", "DIR", "--data.limit", "7")
    assert data.sets.ood.near == {"digits_6_9": "digits:6-9"}
    assert data.sets.ood.far == {
        "letters": "letters:test",
        "patches": "patches:test",
        "mine": "DIR",
    }
    assert data.sets.id == IDSets("digits:0-5/train", "digits:0-5/validation", "digits:0-5/test")
    assert data.config.limit == 7
    data = _parse("--config", str(config), "--data.ood_validation.mine", "DIR")
    assert list(data.sets.ood_validation) == ["letters_k_z", "blends", "mine"]
    data = _parse("--data.id.test", "digits:0-5/test", "--data.ood.near.mine", "DIR")
    assert data.sets.ood == OODSets(near={"mine": "DIR"})
    assert OODDataModule(DataConfig(IDSets())).sets.ood == OODSets()

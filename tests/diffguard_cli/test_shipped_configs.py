"""Shipped configs are found by name from any folder."""

from pathlib import Path

import pytest

from diffguard.errors import UserError
from diffguard_cli import training
from diffguard_cli.parser import Parser, parse
from diffguard_cli.shipped_configs import config_file, shipped_configs

CONFIGS = Path(__file__).parents[2] / "configs"


def test_all_configs_are_shipped():
    assert shipped_configs() == {path.stem: path for path in CONFIGS.glob("*.yaml")}


def test_config_is_found_by_name_outside_the_clone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").mkdir()  # a folder of data is not a config
    parser = training.build_parser()
    overlaid = parse(parser, ["--config", "cifar10", "--config", "cifar10_full"])
    assert overlaid.data.name == "cifar10"
    assert overlaid.data.limit is None
    assert parse(parser, ["--config", "cifar10"]).data.limit == 1000


def test_existing_file_wins_over_a_shipped_config(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cifar10").write_text("seed: 7\n", encoding="utf-8")
    assert config_file("cifar10") == Path("cifar10")
    parser = Parser("A program.")
    parser.add_argument("--seed", type=int)
    assert parse(parser, ["--config", "cifar10"]).seed == 7


@pytest.mark.parametrize("name", ["cifar1000", "absent.yaml", "configs/absent.yaml"])
def test_unknown_name_lists_the_shipped_configs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError) as caught:
        config_file(name)
    assert str(caught.value) == (
        f"config {name} does not exist: expected a YAML file, or one of the shipped configs "
        f"{', '.join(path.stem for path in sorted(CONFIGS.glob('*.yaml')))}"
    )


def test_run_without_a_config_takes_the_shipped_default_in_any_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    parser = training.build_parser()
    source = training._find_config([], parser)
    assert parse(parser, source.argv).data.name == "digits_0_5"
    assert source.name == "digits"
    assert training._find_config(["--config", "cifar10"], parser).name == "cifar10"

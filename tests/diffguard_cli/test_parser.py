"""The parser: values, keys, usage and messages."""

import json
import os
from dataclasses import dataclass
from typing import Literal

import pytest
import yaml

import evaluate
import train
from diffguard.errors import UserError
from diffguard_cli import compact, convert, tune
from diffguard_cli.parser import Parser, parse, plain_line


@dataclass
class Section:
    """A section of a config."""

    rate: float = 0.5
    kind: Literal["one", "two"] = "one"


@pytest.fixture
def parser():
    parser = Parser("A program.")
    parser.add_argument("--number", type=int, default=3)
    parser.add_argument("--section", type=Section, default=Section())
    return parser


@pytest.fixture(scope="module")
def training():
    return train.build_parser()


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("plain", "plain"),
        ("two\n  lines\n", "two lines"),
        ("problems:\n- first\n- second", "problems: first second"),
        ("above\n-----\nbelow", "above below"),
        ('Parser key "data.root": not a path', "--data.root: not a path"),
        ("", "ValueError"),
        ("\n \n", "ValueError"),
    ],
)
def test_messages_become_one_line(text, line):
    assert plain_line(ValueError(text)) == line


def test_values_are_typed_and_later_values_win(parser, tmp_path):
    config = tmp_path / "c.yaml"
    config.write_text("number: 5\nsection: {rate: 1e-2, kind: two}\n")
    values = parse(parser, ["--config", str(config), "--section.rate", "2"])
    assert (values.number, values.section.rate, values.section.kind) == (5, 2.0, "two")
    assert values.debug is False
    assert parse(parser, ["--debug"]).debug is True


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--number", "x"], "--number"),
        (["--numbe", "4"], "--numbe"),
        (["--section.rat", "4"], "--section.rat"),
        (["--section.kind", "three"], "--section.kind"),
        (["--section.rate", "fast"], "fast"),
        (["stray"], "stray"),
        (["--config", "absent.yaml"], "absent.yaml"),
        (["--config", "c.yaml"], "speed"),
        (["--config", "broken.yaml"], "broken.yaml: Problems parsing config: "),
        (["--config", "broken.yaml"], "at line 2, column 1"),
        (["--config", "text.yaml"], "text.yaml: Unexpected config: hello"),
        (["--config", "long.yaml"], f"long.yaml: Unexpected config: {'a' * 60}…"),
        (["--config", "binary.yaml"], "binary.yaml: it is not text in UTF-8: expected a YAML file"),
    ],
)
def test_mistakes_are_one_line_without_the_usage(
    parser, argv, message, capsys, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "c.yaml").write_text("section: {speed: 3}\n")
    (tmp_path / "broken.yaml").write_text("section: {rate: [\n")
    (tmp_path / "text.yaml").write_text("hello\n")
    (tmp_path / "long.yaml").write_text("a" * 5000)
    (tmp_path / "binary.yaml").write_bytes(b"\x80\x02")
    with pytest.raises(UserError) as caught:
        parse(parser, argv)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "usage" not in str(caught.value).lower()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "argv",
    [
        ["--se", "1"],
        ["--stage", "[classifier]"],
        ["--data.batch", "8"],
        ["--detector.classifier_free.scal", "1"],
        ["--trainer.nope", "1"],
        ["--diffusion.lrs", "1"],
    ],
)
def test_the_scripts_refuse_unknown_and_shortened_keys(argv):
    with pytest.raises(UserError, match=argv[0]):
        parse(train.build_parser(), argv)
    with pytest.raises(UserError, match=argv[0]):
        parse(evaluate.build_parser(), ["--ckpt", "x", *argv])


@pytest.mark.parametrize(
    ("argv", "line"),
    [
        (["--seed", "x"], "--seed: expected a whole number, got x"),
        (["--seed", ""], "--seed: expected a whole number, got nothing"),
        (["--run_dir", ""], "--run_dir is empty: give it a value, or leave it out"),
        (["--classifier.ckpt", ""], "--classifier.ckpt is empty: give it a value, or leave it out"),
        (["--stages", "classifier"], "--stages: expected a list such as '[a, b]', got classifier"),
        (
            ["--stages", "[calibration]"],
            "--stages: expected classifier, diffusion, noisy_classifier, augment, or calibrate, "
            "got calibration",
        ),
        (["--data", "x"], "--data: expected its keys and values, or a YAML file with them"),
        (["--data={x: 1}"], "data has no key 'x'"),
        (
            ["--detector", "absent.yaml"],
            "--detector: expected its keys and values, or a YAML file with them, not the "
            "name of a class",
        ),
        (["--data.limit", "1.5"], "--data.limit: expected a whole number or null, got 1.5"),
        (
            ["--data.ood.far", "x"],
            "--data.ood.far: expected names and values such as '{name: value}', with a space after "
            "the colon, got x",
        ),
        (
            ["--classifier.mean", "1"],
            "--classifier.mean: expected a list of numbers or null, got 1",
        ),
        (
            ["--data.class_names", "[1]"],
            "--data.class_names: expected a list of names such as '[a, b]', or null, got [1]",
        ),
        (["--detector.accept", "null"], "--detector.accept: expected a number, got null"),
        (["--detector.combine", "x"], "--detector.combine: expected mean or tandem, got x"),
        (["--trainer.progress", "x"], "--trainer.progress: expected true or false, got x"),
    ],
)
def test_errors_of_wrong_types_are_in_plain_words(training, argv, line):
    with pytest.raises(UserError) as caught:
        parse(training, argv)
    assert str(caught.value) == line


@pytest.mark.parametrize("section", ["data", "data.ood", "detector", "detector.sampler", "trainer"])
@pytest.mark.parametrize("value", [[1], None, 7])
def test_a_file_has_keys_and_values_in_a_section(training, tmp_path, section, value):
    for key in reversed(section.split(".")):
        value = {key: value}
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(value))
    with pytest.raises(UserError, match=r"section of keys and values|its keys and values"):
        parse(training, ["--config", str(path)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("".join(f"k{i}: 1\n" for i in range(6000)), "more than 5,000 keys"),
        (f"seed: 0x{'f' * 10_000}\n", "a whole number of more than"),
        ("data: PLACE\n", "it is a named pipe, expected a file"),
        ("detector: {sampler: PLACE}\n", "it is a named pipe, expected a file"),
    ],
)
def test_values_that_the_parser_cannot_handle_are_refused(training, tmp_path, text, message):
    os.mkfifo(tmp_path / "pipe")
    path = tmp_path / "config.yaml"
    path.write_text(text.replace("PLACE", str(tmp_path / "pipe")))
    with pytest.raises(UserError, match=message):
        parse(training, ["--config", str(path)])
    with pytest.raises(UserError, match="it is a named pipe, expected a file"):
        parse(training, ["--data", str(tmp_path / "pipe")])


def test_names_of_many_classes_are_parsed(training):
    # Copying the list for each of its items would take hours.
    names = tuple(f"class {number}" for number in range(20_000))
    assert parse(training, [], {"data": {"class_names": list(names)}}).data.class_names == names


@pytest.mark.parametrize("script", [train, evaluate, tune, convert, compact])
def test_usage_is_one_line_and_keys_stand_in_groups(script, capsys):
    with pytest.raises(SystemExit):
        script.build_parser().parse_args(["--help"])
    usage, empty, *_ = capsys.readouterr().out.splitlines()
    assert usage.startswith("usage: ")
    assert len(usage) <= 100
    assert empty == ""
    options, *sections = script.build_parser()._action_groups[1:]
    assert not [action.dest for action in options._group_actions if "." in action.dest]
    for group in sections:
        section, *keys = [action.dest for action in group._group_actions]
        assert {key.rpartition(".")[0] for key in keys} == {section}


def test_schema_describes_a_config(training):
    schema = json.loads(training.get_completion_script("jsonschema"))
    assert schema["properties"]["data"]["properties"]["on_error"]["enum"] == ["stop", "skip"]
    assert schema["properties"]["detector"]["additionalProperties"] is False


def test_config_is_printed_with_the_help_as_comments(training, capsys):
    with pytest.raises(SystemExit):
        training.parse_args(["--config", str(train.DEFAULT_CONFIG), "--print_config=comments"])
    text = capsys.readouterr().out
    assert "\n# seed of all random numbers" in text
    assert yaml.safe_load(text)["data"]["name"] == "digits_0_5"

"""The form of guidance on the command line and in config files."""

import io
from contextlib import redirect_stdout
from itertools import count

import pytest
import yaml

import train
from diffguard.errors import UserError
from diffguard.settings.guidance import ClassifierFreeSettings, ClassifierGuidanceSettings
from diffguard_cli.detector_options import instantiate
from diffguard_cli.parser import parse

FREE = {"guidance": "classifier_free", "classifier_free": {"scale": 1.5}}
CLASSIFIER = {"guidance": "classifier", "classifier": {"scale": 5.0, "crops": {"number": 2}}}
CHOOSE = ["--detector.guidance", "classifier"]


@pytest.fixture(scope="module")
def training():
    return train.build_parser()


@pytest.fixture
def config(tmp_path):
    """Words that name a config file with detector settings."""
    numbers = count()

    def words(settings):
        path = tmp_path / f"{next(numbers)}.yaml"
        path.write_text(yaml.safe_dump({"detector": settings}))
        return ["--config", str(path)]

    return words


def guidance(parser, argv, defaults=None):
    """The guidance of a command line that names no data."""
    values = parse(parser, argv, defaults)
    del values["data"]
    return instantiate(parser, values).detector.guidance


def test_the_command_line_replaces_the_guidance_of_a_config(training, config):
    assert guidance(training, config(FREE)) == ClassifierFreeSettings(1.5)
    assert guidance(training, [*config(FREE), *CHOOSE]) == ClassifierGuidanceSettings()
    scale = ["--detector.classifier.scale", "7"]
    assert guidance(training, [*config(FREE), *scale, *CHOOSE]) == ClassifierGuidanceSettings(7.0)
    settings = guidance(training, [*config(CLASSIFIER), *scale])
    assert (settings.scale, settings.crops.number) == (7.0, 2)
    defaults = {"detector": FREE}
    assert guidance(training, [*CHOOSE, *scale], defaults) == ClassifierGuidanceSettings(7.0)


def test_a_config_replaces_the_guidance_of_a_config_below(training, config):
    above = {"guidance": "classifier"}
    assert guidance(training, config(FREE) + config(above)) == ClassifierGuidanceSettings()
    assert guidance(training, config(CLASSIFIER) + config(FREE)) == ClassifierFreeSettings(1.5)
    more = {"classifier": {"scale": 2.0}}
    settings = guidance(training, config(CLASSIFIER) + config(more))
    assert (settings.scale, settings.crops.number) == (2.0, 2)


@pytest.mark.parametrize(
    ("configs", "words"),
    [
        ([FREE], ["--detector.classifier.scale", "3"]),
        ([FREE], ["--detector.classifier={scale: 3}"]),
        ([FREE], ["--detector.guidance", "classifier_free", "--detector.classifier.blend", "true"]),
        ([CLASSIFIER], ["--detector.classifier_free.cam_cut", "0.3"]),
        ([FREE | CLASSIFIER], []),
        ([FREE, {"classifier": {"scale": 2.0}}], []),
        ([FREE], ["--detector", "{classifier: {scale: 2}}"]),
    ],
)
def test_settings_of_the_other_form_are_refused(training, config, configs, words):
    argv = [word for settings in configs for word in config(settings)]
    with pytest.raises(UserError, match=r"has no effect here: it belongs to .*; leave") as error:
        parse(training, [*argv, *words])
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("settings", [FREE, CLASSIFIER])
def test_a_printed_config_has_the_guidance_in_use(training, config, settings):
    text = io.StringIO()
    with redirect_stdout(text), pytest.raises(SystemExit):
        parse(train.build_parser(), [*config(settings), "--print_config"])
    printed = yaml.safe_load(text.getvalue())["detector"]
    assert set(printed) & {"classifier_free", "classifier"} == {settings["guidance"]}
    assert guidance(training, config(printed)) == guidance(training, config(settings))


def test_settings_of_the_other_form_are_not_dropped_from_a_printed_config(config):
    words = ["--detector.classifier.scale", "3", "--print_config"]
    with pytest.raises(UserError, match="has no effect here"):
        parse(train.build_parser(), [*config(FREE), *words])


def test_help_shows_both_forms(training):
    text = training.format_help()
    for option in ("guidance", "classifier_free.cam_cut", "classifier.crops.number", "label"):
        assert f"--detector.{option}" in text


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (
            ["--detector.guidance.kind=classifier"],
            "detector.guidance.kind is now detector.guidance",
        ),
        (
            ["--detector.guidance.skip", "2"],
            "detector.guidance.skip is now detector.synthesis.skip",
        ),
        (["--detector", "{guidance: {label: oracle}}"], "guidance.label is now detector.label"),
        (
            ["--detector.guidance", "{kind: classifier}"],
            "expected classifier_free or classifier, got {'kind': 'classifier'}",
        ),
        (["--detector.sampler.steps", "0"], "detector.sampler.steps must be at least 1, got 0"),
        (
            ["--detector.classifier_free.scale", "-1"],
            "detector.classifier_free.scale must be at least 0, which is no guidance, got -1",
        ),
        (["--detector.accept", "2"], "detector.accept must lie between 0 and 1, got 2"),
    ],
)
def test_mistakes_in_settings_are_one_line(training, words, line):
    with pytest.raises(UserError) as error:
        guidance(training, words)
    assert str(error.value).endswith(line)
    assert "\n" not in str(error.value)


def test_old_keys_in_a_config_are_refused_with_the_file(training, config):
    words = config({"guidance": {"kind": "classifier", "label": "oracle"}})
    line = (
        f"{words[1]}: detector.guidance.kind is now detector.guidance; "
        "detector.guidance.label is now detector.label"
    )
    with pytest.raises(UserError) as error:
        parse(training, words)
    assert str(error.value) == line

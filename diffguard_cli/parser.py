"""Typed command lines, whose mistakes are errors of one line."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any, NoReturn

import yaml
from jsonargparse import (
    ActionConfigFile,
    ArgumentError,
    ArgumentParser,
    Namespace,
    get_loader,
    set_loader,
    set_parsing_settings,
)

from diffguard.errors import UserError, one_line
from diffguard.settings.old_keys import refuse_old_keys, refuse_old_option
from diffguard.storage.paths import expand_home, require_file, user_path
from diffguard_cli.detector_options import replace_guidance, without_unused_guidance
from diffguard_cli.old_trainer_keys import refuse_old_trainer_keys, refuse_old_trainer_option
from diffguard_cli.parser_messages import plain_message
from diffguard_cli.shipped_configs import config_file
from diffguard_cli.yaml_text import check_loaded, check_yaml

# Of a value in an error line.
_MOST_CHARACTERS = 60
_PATHS = (
    *("ckpt", "output", "diffusion_model", "run_dir", "resume", "data.root"),
    *("classifier.ckpt", "diffusion.ckpt", "diffusion.finetune", "detector.perceptual_weights"),
)


class _Config(ActionConfigFile):
    """The option `--config`, which also takes the name of a shipped config."""

    def __call__(
        self, parser: Any, cfg: Any, values: Any, option_string: str | None = None
    ) -> None:
        super().__call__(parser, cfg, str(config_file(values)), option_string)


class Parser(ArgumentParser):
    """jsonargparse's parser with short errors, a usage of one line, and `--debug`.

    Args:
        description: What the command does.
        prog: The start of the command line.
        usage: The rest of the usage line, such as `CKPT [--KEY VALUE …]`.
        config: Whether to add `--config` and `--print_config`.
    """

    def __init__(
        self,
        description: str,
        prog: str | None = None,
        usage: str = "[--KEY VALUE …]",
        config: bool = True,
    ) -> None:
        set_parsing_settings(
            # By default, a value such as `my_module.Class` is imported before it is refused.
            import_path_denylist=["*"],
            instantiate_subclass_spec_in_any=False,
            add_print_completion_argument=True,
        )
        set_loader("yaml", _load_checked, exceptions=(yaml.YAMLError,))
        super().__init__(
            prog=prog,
            usage=f"%(prog)s {usage}",
            description=description,
            exit_on_error=False,
            allow_abbrev=False,
        )
        if config:
            self.add_argument(
                "--config",
                action=_Config,
                metavar="FILE_OR_NAME",
                help="YAML file, or the name of a shipped config; may be given repeatedly",
            )
        self.add_argument(
            "--debug", action="store_true", help="also show the traceback of a user's mistake"
        )

    def parse_path(self, path: Any, *args: Any, **options: Any) -> Namespace:
        """Parse a config file; an error names the file."""
        require_file(user_path(str(path), "--config"), "config")
        try:
            return replace_guidance(super().parse_path(path, *args, **options))
        except (UserError, ArgumentError, TypeError, ValueError, KeyError) as error:
            text = plain_line(error).replace('in "<unicode string>", line', "at line")
            if isinstance(error, UnicodeDecodeError):
                text = "it is not text in UTF-8: expected a YAML file"
            raise UserError(f"{path}: {text}") from error

    def dump(self, namespace: Namespace, *args: Any, **options: Any) -> str:
        """Values as YAML, without those that are not in use."""
        return str(super().dump(without_unused_guidance(namespace, self.args), *args, **options))

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise instead of printing the usage."""
        raise UserError(plain_line(UserError(message))) from ex


_load_yaml = get_loader("yaml")


def _load_checked(text: str) -> Any:
    """Load YAML as the parser does, but refuse texts without bounds and old keys."""
    check_yaml(text)
    values = _load_yaml(text)
    check_loaded(values)
    for settings in (values, values.get("detector")) if isinstance(values, Mapping) else ():
        refuse_old_keys(settings)
    if isinstance(values, Mapping):
        refuse_old_trainer_keys(values.get("trainer"))
    return values


def parse(
    parser: Parser,
    argv: Sequence[str],
    defaults: Mapping[str, Any] | None = None,
    source: str = "",
) -> Namespace:
    """Parse a command line.

    Args:
        parser: The parser.
        argv: The command line, without the name of the program.
        defaults: Values that the command line overrides; None for the parser's own.
        source: The file of these values, for error lines.

    Raises:
        UserError: If a key is unknown, a value is empty or has a wrong type, or a config is
            unreadable.
    """
    for word in argv:
        refuse_old_option(word)
        refuse_old_trainer_option(word)
    sections = parser.get_defaults(skip_validation=True)
    _check_files(argv, sections)
    try:
        base = None if defaults is None else _base(parser, defaults, source)
        namespace = without_unused_guidance(parser.parse_args(list(argv), namespace=base), argv)
    except (ArgumentError, TypeError, ValueError, KeyError, OSError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(plain_line(error)) from error
    _check_sections(namespace, sections)
    for key, value in namespace.items():
        if value == "":
            raise UserError(f"--{key} is empty: give it a value, or leave it out")
    for key in _PATHS:
        value = namespace.get(key)
        if isinstance(value, str):
            namespace[key] = expand_home(value, f"--{key}")
    return namespace


def _check_files(argv: Sequence[str], sections: Namespace) -> None:
    """Refuse special files in place of a section, which the parser would open."""
    for word, following in zip_longest(argv, argv[1:], fillvalue=""):
        option, equals, value = word.partition("=")
        if isinstance(sections.get(option.removeprefix("--")), Namespace):
            check_loaded(value if equals else following)


def _check_sections(values: Namespace, defaults: Namespace, prefix: str = "") -> None:
    """Refuse other values in place of a section, which the parser accepts from a file."""
    for key, default in vars(defaults).items():
        if not isinstance(default, Namespace) or key not in values:
            continue
        name, value = f"{prefix}{key}", values[key]
        if not isinstance(value, Namespace):
            raise UserError(
                f"{name} must be a section of keys and values, got {_shortened(repr(value))}"
            )
        _check_sections(value, default, f"{name}.")


def _shortened(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"


def _base(parser: Parser, defaults: Mapping[str, Any], source: str) -> Namespace:
    try:
        return parser.parse_object(dict(defaults))
    except (ArgumentError, TypeError, ValueError, KeyError) as error:
        raise UserError(f"{source}: {plain_line(error)}") from error


def plain_line(error: BaseException) -> str:
    """An exception's message on one line; messages of the parser are put into plain words."""
    return plain_message(re.sub(r'Parser key "([^"]+)":', r"--\1:", one_line(error)))

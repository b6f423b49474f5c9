"""The command `convert`: write a research checkpoint as a diffusers folder."""

from __future__ import annotations

from collections.abc import Sequence

from diffguard.denoisers.formats import CheckpointOptions, load_diffusion
from diffguard.denoisers.formats.options import AdmSchedule
from diffguard.denoisers.formats.save import save_folder
from diffguard.printing import say
from diffguard.storage.paths import expand_home
from diffguard_cli.parser import Parser, parse


def build_parser() -> Parser:
    """The command line of `convert`."""
    parser = Parser(
        "Convert a research checkpoint to a diffusers folder.",
        prog="diffguard convert",
        usage="SRC DST [--KEY VALUE …]",
        config=False,
    )
    parser.add_argument(
        "src", metavar="SRC", help="file of guided-diffusion, latent diffusion, DiffOOD"
    )
    parser.add_argument("dst", metavar="DST", help="folder to write")
    parser.add_argument("--image_size", type=int, help="side of the model's images in pixels")
    parser.add_argument("--num_head_channels", type=int, help="channels per attention head")
    parser.add_argument("--num_heads", type=int, help="attention heads, if their number is fixed")
    parser.add_argument(
        "--new_attention_order", action="store_true", help="for guided-diffusion's 64×64 model"
    )
    parser.add_argument(
        "--noise_schedule", type=AdmSchedule, default=CheckpointOptions.noise_schedule
    )
    parser.add_argument("--num_classes", type=int, help="expected number of classes")
    return parser


def main(argv: Sequence[str]) -> int:
    """Convert a checkpoint.

    Args:
        argv: The command line, without the name of the program.

    Returns:
        The exit code.

    Raises:
        UserError: If the command line is wrong or the checkpoint cannot be converted.
    """
    values = parse(build_parser(), argv).as_dict()
    del values["debug"]
    src, dst = expand_home(values.pop("src"), "SRC"), expand_home(values.pop("dst"), "DST")
    parts = load_diffusion(src, CheckpointOptions(**values))
    parts.check_classes(values["num_classes"])
    save_folder(parts, dst)
    say(f"wrote {dst}")
    return 0

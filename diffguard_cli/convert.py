"""The command `convert`: write a research checkpoint as a diffusers folder."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from diffguard.denoisers.formats import CheckpointOptions, load_diffusion
from diffguard.denoisers.formats.save import save_folder
from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.storage.paths import expand_home


def main(arguments: Sequence[str] | None = None) -> int:
    """Convert a checkpoint.

    Args:
        arguments: The command line, without the name of the program; defaults to `sys.argv`.

    Returns:
        The exit code; 2 for a user's mistake, which is one line on standard error.
    """
    parser = argparse.ArgumentParser(prog="diffguard convert", description=__doc__)
    parser.add_argument("src", metavar="SRC", help="guided-diffusion, latent diffusion or DiffOOD")
    parser.add_argument("dst", metavar="DST", help="folder to write")
    parser.add_argument("--image_size", type=int, help="side of the model's images in pixels")
    parser.add_argument("--num_head_channels", type=int, help="channels per attention head")
    parser.add_argument("--num_heads", type=int, help="attention heads, if their number is fixed")
    parser.add_argument(
        "--new_attention_order", action="store_true", help="guided-diffusion's 64×64 model"
    )
    parser.add_argument("--noise_schedule", choices=("linear", "cosine"), default="linear")
    parser.add_argument("--num_classes", type=int, help="classes the model must have")
    values = vars(parser.parse_args(arguments))
    src, dst = values.pop("src"), values.pop("dst")
    try:
        src, dst = expand_home(src, "SRC"), expand_home(dst, "DST")
        parts = load_diffusion(src, CheckpointOptions(**values))
        parts.check_classes(values["num_classes"])
        save_folder(parts, dst)
    except UserError as error:
        say(f"error: {error}", file=sys.stderr)
        return 2
    say(f"wrote {dst}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

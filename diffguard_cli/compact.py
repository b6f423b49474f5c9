"""The command `compact`: write the two models of a run in bfloat16.

The weights go to safetensors files of at most 15 MiB, with the usual index beside them.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from diffguard.errors import UserError
from diffguard.printing import say
from diffguard.storage.files import create_folder
from diffguard.storage.paths import user_path
from diffguard.storage.weights import load_tensors
from diffguard_cli.parser import Parser, parse

SHARD_BYTES = 15 * 2**20
_MODELS = ("classifier", "diffusion")


def keep_models(run: Path, folder: Path, shard_bytes: int = SHARD_BYTES) -> int:
    """Write the models of a training run in bfloat16.

    `classifier.ckpt` accepts the classifier's file or the index of its parts; `diffusion.ckpt`
    accepts the folder of the diffusion model.

    Args:
        run: Folder of the run.
        folder: Folder to create.
        shard_bytes: Largest file of weights in bytes, unless a single tensor is larger.

    Returns:
        Size of all written files in bytes.

    Raises:
        UserError: If the run lacks a model or holds links, and as `create_folder`.
    """
    for name in _MODELS:
        if not (run / name).is_dir():
            raise UserError(f"{run} holds no trained {name}: expected a run of train.py")
    files = [path for name in _MODELS for path in sorted((run / name).rglob("*"))]
    if links := [path for path in (*(run / name for name in _MODELS), *files) if path.is_symlink()]:
        raise UserError(f"{links[0]} is a link: replace it by its target")
    with create_folder(folder) as temporary:
        for path in files:
            target = temporary / path.relative_to(run)
            if path.suffix == ".safetensors":
                _write_shards(path, target, shard_bytes)
            elif path.is_file():
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, target)
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _write_shards(path: Path, target: Path, shard_bytes: int) -> None:
    from huggingface_hub import save_torch_state_dict

    target.parent.mkdir(parents=True, exist_ok=True)
    save_torch_state_dict(
        {
            name: value.to(torch.bfloat16) if value.is_floating_point() else value
            for name, value in load_tensors(path).items()
        },
        target.parent,
        filename_pattern=f"{target.stem}{{suffix}}.safetensors",
        max_shard_size=shard_bytes,
    )


def build_parser() -> Parser:
    """The command line of `compact`."""
    parser = Parser(
        "Write the two models of a run in bfloat16.",
        prog="diffguard compact",
        usage="RUN FOLDER",
        config=False,
    )
    parser.add_argument("run", metavar="RUN", help="folder of a training run")
    parser.add_argument("folder", metavar="FOLDER", help="folder to create")
    return parser


def main(argv: Sequence[str]) -> int:
    """Write the models of a run.

    Args:
        argv: The command line, without the name of the program.

    Returns:
        The exit code.

    Raises:
        UserError: For a mistake in the command line or a run that lacks a model.
    """
    options = parse(build_parser(), argv)
    folder = user_path(options.folder, "FOLDER")
    size = keep_models(user_path(options.run, "RUN"), folder)
    say(f"wrote {options.folder}, {size / 1e6:.1f} MB")
    return 0

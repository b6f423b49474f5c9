"""The command `compact`: write the two models of a run in bfloat16.

The weights are written to safetensors files of at most 15 MiB and an index file.
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


def compact_models(run: Path, folder: Path, shard_bytes: int = SHARD_BYTES) -> int:
    """Write the models of a training run in bfloat16.

    `classifier.ckpt` accepts the classifier's file, or its index if there are several files;
    `diffusion.ckpt` accepts the folder of the diffusion model.

    Args:
        run: Folder of the run.
        folder: Folder to create.
        shard_bytes: Largest size of a weights file in bytes; a single tensor may exceed it.

    Returns:
        Total size of the written files in bytes.

    Raises:
        UserError: If the run lacks a model or contains links; and see `create_folder`.
    """
    for name in _MODELS:
        if not (run / name).is_dir():
            raise UserError(f"{run} has no trained {name}: expected the folder of a training run")
    files = [path for name in _MODELS for path in sorted((run / name).rglob("*"))]
    if links := [path for path in (*(run / name for name in _MODELS), *files) if path.is_symlink()]:
        raise UserError(f"{links[0]} is a link: replace it with its target")
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
        UserError: If the command line is wrong or the run lacks a model.
    """
    options = parse(build_parser(), argv)
    folder = user_path(options.folder, "FOLDER")
    size = compact_models(user_path(options.run, "RUN"), folder)
    say(f"wrote {options.folder}, {size / 1e6:.1f} MB")
    return 0

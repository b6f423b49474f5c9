"""The lists and folders of OpenOOD v1.5: `openood:BENCHMARK/…`."""

from __future__ import annotations

from pathlib import Path

from datamodules.request import Request

_CLASSIC, _LARGE = "images_classic", "images_largescale"
_SMALL_FAR = ("mnist", "svhn", "texture", "places365")
_LARGE_NEAR, _LARGE_FAR = ("ssb_hard", "ninco"), ("inaturalist", "textures", "openimage_o")
_ID_PARTS = {"train": "train", "validation": "val", "test": "test"}

# Benchmark -> folder of the images, and group -> OOD sets.
_BENCHMARKS: dict[str, tuple[str, dict[str, tuple[str, ...]]]] = {
    "mnist": (
        _CLASSIC,
        {
            "near": ("notmnist", "fashionmnist"),
            "far": ("texture", "cifar10", "tin", "places365"),
            "validation": ("notmnist",),
        },
    ),
    "cifar10": (
        _CLASSIC,
        {"near": ("cifar100", "tin"), "far": _SMALL_FAR, "validation": ("tin",)},
    ),
    "cifar100": (
        _CLASSIC,
        {"near": ("cifar10", "tin"), "far": _SMALL_FAR, "validation": ("tin",)},
    ),
    "imagenet200": (
        _LARGE,
        {"near": _LARGE_NEAR, "far": _LARGE_FAR, "validation": ("openimage_o",)},
    ),
    "imagenet": (
        _LARGE,
        {"near": _LARGE_NEAR, "far": _LARGE_FAR, "validation": ("openimage_o",)},
    ),
}


def openood_sets(benchmark: str) -> dict[str, tuple[str, ...]]:
    """The near and far OOD test sets of a benchmark, in OpenOOD's order, by group."""
    _, groups = _BENCHMARKS[benchmark]
    return {group: groups[group] for group in ("near", "far")}


def openood_paths(request: Request) -> tuple[Path, Path]:
    """The image list and the folder of images of a source.

    Args:
        request: `openood:BENCHMARK/train`, `/validation` or `/test` for the ID set;
            `openood:BENCHMARK/near/NAME`, `/far/NAME` or `/validation/NAME` for an OOD set.

    Returns:
        Both paths below `request.root`, in OpenOOD's layout.

    Raises:
        UserError: If OpenOOD v1.5 has no such benchmark or set.
    """
    benchmark, *words = request.argument.split("/")
    if benchmark not in _BENCHMARKS:
        raise request.bad(f"openood:BENCHMARK/…, BENCHMARK one of {', '.join(_BENCHMARKS)}")
    images, groups = _BENCHMARKS[benchmark]
    if len(words) == 1 and words[0] in _ID_PARTS:
        part, name = _ID_PARTS[words[0]], benchmark
    elif len(words) == 2 and words[1] in groups.get(words[0], ()):
        part, name = "val" if words[0] == "validation" else "test", words[1]
    else:
        sets = [f"{group}/{name}" for group, names in groups.items() for name in names]
        raise request.bad(f"one of {', '.join([*_ID_PARTS, *sets])} after openood:{benchmark}/")
    folder = _CLASSIC if name == "textures" else images
    return (
        request.root / "benchmark_imglist" / benchmark / f"{part}_{name}.txt",
        request.root / folder,
    )

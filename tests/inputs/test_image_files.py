"""Image files: sizes, scales, damaged metadata, and files that are not images."""

import os
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
import torch
from PIL import Image, PngImagePlugin

from diffguard.errors import UserError
from diffguard.inputs import pil_images
from diffguard.inputs.image_files import read_image


def _chunk(kind, data, crc=None):
    crc = zlib.crc32(kind + data) if crc is None else crc
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", crc)


def _png(*chunks, width=4, height=3, sample=bytes([200, 10, 30])):
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = b"".join(b"\0" + sample * width for _ in range(height))
    pixels = _chunk(b"IDAT", zlib.compress(rows))
    start = b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header)
    return start + b"".join(chunks) + pixels + _chunk(b"IEND", b"")


@pytest.mark.parametrize(
    "chunk",
    [
        _chunk(b"eXIf", b"\0\x08\0\2\1\x12\0\3"),
        _chunk(b"eXIf", b"II*\0\x08\0\0\0", crc=1),
        _chunk(b"iCCP", b"name\0\0no deflate"),
        _chunk(b"iCCP", b"name\0\7no method"),
        _chunk(b"iCCP", b"name\0\0" + zlib.compress(bytes(1 << 22)), crc=None),
        _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x:", crc=7),
        _chunk(b"tIME", b"\0", crc=3),
    ],
)
def test_png_files_with_damaged_metadata_are_read(tmp_path, chunk):
    (tmp_path / "x.png").write_bytes(_png(chunk))
    pixels = read_image(tmp_path / "x.png")
    assert pixels.shape == (3, 3, 4)
    assert pixels[:, 1, 1].tolist() == torch.tensor([200.0, 10.0, 30.0]).div(255).tolist()


def test_orientation_is_applied_beside_damaged_metadata(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    orientation = _chunk(b"eXIf", exif.tobytes().removeprefix(b"Exif\0\0"))
    (tmp_path / "x.png").write_bytes(_png(_chunk(b"tIME", b"\0", crc=3), orientation))
    assert read_image(tmp_path / "x.png").shape == (3, 4, 3)


def test_damaged_pixels_are_refused(tmp_path):
    data = bytearray(_png())
    data[-20] ^= 255
    (tmp_path / "x.png").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.png cannot be read"):
        read_image(tmp_path / "x.png")


@pytest.mark.parametrize("format", ["JPEG", "WEBP", "TIFF"])
def test_other_formats_with_damaged_metadata_are_read(tmp_path, format):
    path = tmp_path / "x.img"
    exif = Image.Exif()
    exif[0x010F] = "a maker to search for"
    Image.new("RGB", (8, 8), (255, 0, 51)).save(path, format=format, exif=exif)
    good, data = read_image(path), path.read_bytes()
    place = data.index(b"a maker")
    # Damage all bytes near the name: the directory before it with its types, counts and offsets.
    for first in range(place - 24, place, 3):
        if format != "TIFF" or first > place - 2:  # TIFF's directory has the offset of the pixels
            path.write_bytes(data[:first] + b"\xff\xff\xff" + data[first + 3 :])
            assert torch.equal(read_image(path), good)


@pytest.mark.parametrize("orientation", [1, 6])
def test_tiff_files_with_damaged_metadata_are_read(tmp_path, orientation):
    path, exif = tmp_path / "x.tif", Image.Exif()
    exif[0x010F], exif[0x0112] = "a maker to search for", orientation
    colors = np.arange(90, dtype=np.uint8).reshape(6, 5, 3)
    Image.fromarray(colors).save(path, exif=exif)
    good, data = read_image(path), path.read_bytes()
    (start,) = struct.unpack_from("<I", data, 4)
    tags = struct.unpack_from("<" + "H10x" * data[start], data, start + 2)
    place = start + 2 + 12 * tags.index(0x010F)
    # A count, and an offset, that lie beyond the end of the file.
    for damage in (struct.pack("<II", 2**32 - 1, 8), struct.pack("<II", 30, 2**32 - 9)):
        path.write_bytes(data[: place + 4] + damage + data[place + 12 :])
        assert torch.equal(read_image(path), good)
    path.write_bytes(data[: start + 30])
    with pytest.raises(UserError, match=r"x\.tif cannot be read"):
        read_image(path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            np.arange(256, dtype=np.int32),
            "signed integers, and the values of black and",
        ),
        (np.arange(9, dtype=np.float32), r"must lie in \[0, 1\], got \[0, 8\]"),
        (np.array([0, np.nan], dtype=np.float32), r"must lie in \[0, 1\], got \[nan, nan\]"),
    ],
)
def test_images_of_unknown_scale_are_refused(tmp_path, values, message):
    Image.fromarray(values[None]).save(tmp_path / "x.tif")
    with pytest.raises(UserError, match=rf"x\.tif is refused: .*{message}"):
        read_image(tmp_path / "x.tif")


def test_unsigned_32_bit_integers_are_refused(tmp_path):
    info = {339: 2}  # SampleFormat: 1 is unsigned, 2 signed
    Image.fromarray(np.arange(256, dtype=np.int32)[None]).save(tmp_path / "x.tif", tiffinfo=info)
    _with_tag(tmp_path / "x.tif", 339, 1)
    with pytest.raises(UserError, match="32-bit integers, and the value of white is unknown"):
        read_image(tmp_path / "x.tif")


def _with_tag(path, tag, value):
    """Change the value of a tag in a little-endian TIFF file."""
    data = bytearray(path.read_bytes())
    (begin,) = struct.unpack("<I", data[4:8])
    (count,) = struct.unpack("<H", data[begin : begin + 2])
    for place in range(begin + 2, begin + 2 + 12 * count, 12):
        if struct.unpack("<H", data[place : place + 2]) == (tag,):
            data[place + 8 : place + 10] = struct.pack("<H", value)
    path.write_bytes(data)


def test_white_is_zero_of_a_tiff_is_applied(tmp_path):
    path = tmp_path / "x.tif"
    Image.fromarray(np.array([[0, 4095, 65535]], dtype=np.uint16)).save(path)
    plain = read_image(path)
    _with_tag(path, 262, 0)  # WhiteIsZero
    torch.testing.assert_close(read_image(path), 1 - plain)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_signed_integers_are_refused(tmp_path, dtype):
    info = {339: 1}  # SampleFormat: 1 is unsigned, 2 signed
    Image.fromarray(np.ones((2, 2), dtype)).save(tmp_path / "x.tif", tiffinfo=info)
    read_image(tmp_path / "x.tif")
    _with_tag(tmp_path / "x.tif", 339, 2)
    with pytest.raises(UserError, match="values are signed integers"):
        read_image(tmp_path / "x.tif")


def test_too_many_pixels_are_refused_before_they_are_decoded(tmp_path):
    Image.new("1", (12000, 12000)).save(tmp_path / "large.png")
    Image.new("1", (14000, 14000)).save(tmp_path / "huge.png")
    tracemalloc.start()
    for name, count in (("large", "12000 x 12000 pixels"), ("huge", "196000000 pixels")):
        with pytest.raises(UserError, match=rf"{name}\.png is refused: .*{count}"):
            read_image(tmp_path / f"{name}.png")
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGB", "RGBA", "CMYK", "1", "I;16"])
def test_conversion_in_strips_gives_the_whole_image(tmp_path, monkeypatch, mode):
    noise = np.random.default_rng(0).integers(0, 256, (13, 7, 4), dtype=np.uint8)
    image = Image.fromarray(noise).convert("I" if mode == "I;16" else mode)
    if mode == "I;16":
        image = Image.fromarray(noise[..., 0].astype(np.uint16) * 257)
    image.save(tmp_path / "x.tif")
    whole = read_image(tmp_path / "x.tif")
    monkeypatch.setattr(pil_images, "_STRIP_PIXELS", 20)
    assert torch.equal(read_image(tmp_path / "x.tif"), whole)


@pytest.mark.parametrize("format", ["GIF", "TIFF", "WEBP", "PNG"])
def test_only_the_first_frame_is_read(tmp_path, format):
    frames = [Image.new("RGB", (8, 8), color) for color in ("white", "black", "red")]
    options = {"lossless": True} if format == "WEBP" else {}
    frames[0].save(
        tmp_path / "x.img", format=format, save_all=True, append_images=frames[1:], **options
    )
    assert read_image(tmp_path / "x.img").min() == 1.0


def test_special_files_are_not_opened(tmp_path):
    os.mkfifo(tmp_path / "x.png")
    (tmp_path / "link.png").symlink_to("/dev/zero")
    (tmp_path / "folder.png").mkdir()
    for name, kind in (("x", "a named pipe"), ("link", "a device"), ("folder", "a folder")):
        with pytest.raises(UserError, match=rf"{name}\.png cannot be read: it is {kind}"):
            read_image(tmp_path / f"{name}.png")
    with pytest.raises(UserError, match="does not exist"):
        read_image(tmp_path / "absent.png")


def test_a_large_text_chunk_is_accepted(tmp_path):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (1 << 21), zip=True)
    Image.new("RGB", (2, 2), "white").save(tmp_path / "x.png", pnginfo=info)
    assert read_image(tmp_path / "x.png").min() == 1.0

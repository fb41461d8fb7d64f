"""The pixels of every format, mode, depth and orientation, against those of OpenCV."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from recipes.faces import decode_image
from reparam_kit import InputError

ORIENTATION = 0x0112
Y, X = np.mgrid[0:40, 0:56]
PIXELS = np.stack([X * 4.5, Y * 6, (X + Y) * 2.6], -1).clip(0, 255).astype(np.uint8)
RGB = Image.fromarray(PIXELS)
GREY = RGB.convert("L")
DEEP = (Y * 1000 + X * 400 + 123).astype(np.uint16)
ALPHA = Image.fromarray((255 * ((X // 7 + Y // 5) % 3) / 2).astype(np.uint8))
RGBA = Image.merge("RGBA", (*RGB.split(), ALPHA))
INKS = Image.merge("CMYK", (*RGB.split(), ALPHA))


def encode(image: Image.Image, kind: str, **options: object) -> bytes:
    data = io.BytesIO()
    image.save(data, kind, **options)
    return data.getvalue()


def encode_deep(channels: int, suffix: str) -> bytes:
    return cv2.imencode(suffix, np.dstack([DEEP] * channels))[1].tobytes()


def by_opencv(data: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, rows: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks


CASES = {
    "png": encode(RGB, "PNG"),
    "png, grey of 1 bit": encode(GREY.convert("1"), "PNG"),
    "png, grey of 2 bits": png(8, 2, 2, 0, b"\0\x1b\xe4\0\xb1\x4e"),
    "png, grey of 4 bits": png(4, 2, 4, 0, b"\0\x01\x9f\0\xa5\x5a"),
    "png, grey of 8 bits": encode(GREY, "PNG"),
    "png, grey of 16 bits": encode(Image.fromarray(DEEP), "PNG"),
    "png, 16 bits": encode_deep(3, ".png"),
    "png, 16 bits and alpha": encode_deep(4, ".png"),
    "png, grey and alpha": encode(Image.merge("LA", (GREY, ALPHA)), "PNG"),
    "png, alpha": encode(RGBA, "PNG"),
    "png, a transparent grey": encode(GREY, "PNG", transparency=100),
    "png, a transparent colour": encode(RGB, "PNG", transparency=(0, 0, 0)),
    "png, palette": encode(RGB.quantize(200), "PNG"),
    "png, palette of 2 bits": encode(RGB.quantize(4), "PNG", bits=2),
    "png, palette and a transparent entry": encode(RGB.quantize(16), "PNG", transparency=3),
    "png, palette and alpha": encode(RGB.quantize(16), "PNG", transparency=bytes(range(0, 256, 16))),
    "png, animated": encode(RGB, "PNG", save_all=True, append_images=[GREY.convert("RGB")]),
    "jpeg": encode(RGB, "JPEG"),
    "jpeg, 4:4:4": encode(RGB, "JPEG", subsampling=0),
    "jpeg, 4:2:2": encode(RGB, "JPEG", subsampling=1),
    "jpeg, grey": encode(GREY, "JPEG"),
    "jpeg, progressive": encode(RGB, "JPEG", progressive=True),
    "jpeg, a colour profile": encode(RGB, "JPEG", icc_profile=b"not applied" * 20),
    "jpeg, cmyk": encode(INKS, "JPEG", quality=95),
    "jpeg, ycck": cv2.imencode(".jpg", PIXELS)[1].tobytes(),
    "webp": encode(RGB, "WEBP"),
    "webp, lossless": encode(RGB, "WEBP", lossless=True),
    "webp, alpha": encode(RGBA, "WEBP", lossless=True, exact=True),
    "bmp": encode(RGB, "BMP"),
    "bmp, grey": encode(GREY, "BMP"),
    "bmp, palette": encode(RGB.quantize(16), "BMP"),
    "bmp, 1 bit": encode(GREY.convert("1"), "BMP"),
    "bmp, alpha": encode(RGBA, "BMP"),
    "tiff, 16 bits": encode_deep(3, ".tiff"),
    "tiff, alpha": encode(RGBA, "TIFF"),
    "tiff, alpha, turned": encode(RGBA, "TIFF", tiffinfo={274: 6}),
    "tiff, 16 bits and alpha": encode_deep(4, ".tiff"),
    "tiff, two pages": encode(RGB, "TIFF", save_all=True, append_images=[GREY]),
}
for compression in (None, "tiff_lzw", "tiff_deflate", "packbits"):
    for mode, image in {
        "rgb": RGB,
        "grey": GREY,
        "1 bit": GREY.convert("1"),
        "16 bits": Image.fromarray(DEEP),
        "16 bits, the high byte first": Image.fromarray(DEEP.astype(">u2")),
        "palette": RGB.quantize(16),
        "cmyk": INKS,
    }.items():
        CASES[f"tiff, {mode}, {compression}"] = encode(image, "TIFF", compression=compression)


def test_empty_file() -> None:
    with pytest.raises(InputError, match=r"^x is empty: it has no bytes$"):
        decode_image(b"", "x")


@pytest.mark.parametrize("case", CASES)
def test_pixels_are_those_of_opencv(case: str) -> None:
    wanted, got = by_opencv(CASES[case]).astype(int), decode_image(CASES[case], "x")
    assert got.dtype == np.uint8
    assert got.shape == wanted.shape
    rounding = 1 if case.startswith(("jpeg", "tiff")) else 0  # libtiff rounds where libpng cuts
    assert np.abs(got - wanted).max() <= rounding


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_orientation(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encode(RGB, kind, exif=exif, **options)
    turned = {
        1: PIXELS,
        2: PIXELS[:, ::-1],
        3: PIXELS[::-1, ::-1],
        4: PIXELS[::-1],
        5: PIXELS.transpose(1, 0, 2),
        6: PIXELS[::-1].transpose(1, 0, 2),
        7: PIXELS[::-1, ::-1].transpose(1, 0, 2),
        8: PIXELS[:, ::-1].transpose(1, 0, 2),
    }[orientation]
    got = decode_image(data, "x")
    assert got.shape == turned.shape
    assert np.abs(got.astype(int) - turned).mean() < (3 if kind == "JPEG" else 1e-9)
    if kind != "WEBP":  # OpenCV obeys it there from version 5 on
        assert np.abs(got.astype(int) - by_opencv(data)).max() <= 1


def test_16_bit_grey_that_is_turned() -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = 6
    data = encode(Image.fromarray(DEEP), "PNG", exif=exif)
    assert np.array_equal(decode_image(data, "x"), by_opencv(data))


@pytest.mark.parametrize("exif", [b"Exif\0\0junk", b"Exif\0\0II*\0\xff\xff\xff\x7f", b"Exif\0\0MM"])
def test_damaged_exif_turns_nothing(exif: bytes) -> None:
    data = encode(RGB, "JPEG", exif=exif)
    assert np.array_equal(decode_image(data, "x"), decode_image(encode(RGB, "JPEG"), "x"))


def test_an_orientation_in_xmp_turns_nothing() -> None:
    data = encode(RGB, "JPEG", xmp=b'<rdf:Description tiff:Orientation="6"/>')
    assert np.array_equal(decode_image(data, "x"), by_opencv(data))


@pytest.mark.parametrize("mode", ["I", "F"])
def test_32_bit_numbers_are_refused(mode: str) -> None:
    with pytest.raises(InputError, match="x is damaged and cannot be decoded: its pixels are 32-bit"):
        decode_image(encode(GREY.convert(mode), "TIFF"), "x")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "BMP", "TIFF"])
def test_cut_short(kind: str) -> None:
    data = encode(RGB, kind)
    for size in range(0, len(data) - 8, 37):
        with pytest.raises(InputError, match=r"^x is "):
            decode_image(data[:size], "x")


@pytest.mark.parametrize(("width", "height"), [(13_000, 13_000), (50_000_001, 1), (2**31 - 1, 2**31 - 1)])
def test_bombs_are_refused_by_their_header(width: int, height: int) -> None:
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match=r"^x is larger than the 50,000,000 pixels"):
            decode_image(png(width, height, 8, 2, bytes(1000)), "x")
        assert tracemalloc.get_traced_memory()[1] < 10**6
    finally:
        tracemalloc.stop()


SMALL = RGB.crop((0, 0, 12, 12))
SEEDS = [encode(SMALL, kind) for kind in ("PNG", "JPEG", "WEBP", "BMP", "TIFF")]


@settings(deadline=None, max_examples=300)
@given(st.sampled_from(SEEDS), st.data())
def test_mutations_are_pixels_or_a_line(seed: bytes, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(seed)))
    mutated = seed[:at] + data.draw(st.binary(max_size=6)) + seed[at + data.draw(st.integers(0, 6)) :]
    try:
        pixels = decode_image(mutated, "x")
    except InputError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.ndim == 3


@settings(deadline=None, max_examples=100)
@given(st.integers(0, len(SEEDS[0]) - 1), st.integers(1, 255))
def test_a_png_that_was_changed_is_never_another_image(at: int, change: int) -> None:
    mutated = bytearray(SEEDS[0])
    mutated[at] ^= change
    try:
        pixels = decode_image(bytes(mutated), "x")
    except InputError:
        return
    assert np.array_equal(pixels, decode_image(SEEDS[0], "x"))

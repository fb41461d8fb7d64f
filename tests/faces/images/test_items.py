from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from recipes.faces import item_image, item_label
from reparam_kit import InputError

RGB = torch.randint(256, (3, 5, 7), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
GREY = RGB[:1]


def array(image: Tensor) -> np.ndarray[Any, Any]:
    return image.permute(1, 2, 0).numpy()


IMAGES: dict[str, tuple[Callable[[Tensor], Any], Tensor]] = {
    "tensor": (lambda image: image, RGB),
    "one channel": (lambda image: image, GREY),
    "flat tensor": (lambda image: image[0], GREY),
    "array": (array, RGB),
    "array of one channel": (array, GREY),
    "flat array": (lambda image: image[0].numpy(), GREY),
    "array, channels first": (lambda image: image.numpy(), RGB),
    "read-only array, reversed": (lambda image: array(image)[:, ::-1].copy()[:, ::-1], RGB),
    "PIL": (lambda image: Image.fromarray(array(image)), RGB),
    "PIL of one channel": (lambda image: Image.fromarray(image[0].numpy()), GREY),
    "PIL with transparency": (lambda image: Image.fromarray(array(image)).convert("RGBA"), RGB),
    "float": (lambda image: image.float() / 9 - 3, RGB.float() / 9 - 3),
    "double, big endian": (lambda image: (array(image) / 8).astype(">f8"), RGB.float() / 8),
    "half": (lambda image: image.half(), RGB.float()),
    "with a gradient": (lambda image: image.float().requires_grad_(), RGB.float()),
}
ITEMS: dict[str, Callable[[Any], Any]] = {
    "alone": lambda image: image,
    "pair": lambda image: (image, 4),
    "list": lambda image: [image, np.int64(4)],
    "triple": lambda image: (image, torch.tensor(4), 17),
    "alone in a tuple": lambda image: (image,),
    **{key: lambda image, key=key: {"other": 1, key: image} for key in ("image", "img", "pixel_values", "x")},
}


@pytest.mark.parametrize("item", ITEMS.values(), ids=ITEMS)
@pytest.mark.parametrize("kind", IMAGES)
def test_an_image_of_every_kind_in_an_item_of_every_shape(kind: str, item: Callable[[Any], Any]) -> None:
    make, wanted = IMAGES[kind]
    source = wanted if wanted.dtype == torch.uint8 else RGB
    found = item_image(item(make(source)), "image 0")
    assert (found.dtype, found.requires_grad) == (wanted.dtype, False)
    torch.testing.assert_close(found, wanted)


def test_a_file_and_its_bytes_are_decoded(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(array(RGB)).save(path)
    for image in (path, path.read_bytes()):
        assert torch.equal(item_image((image, 3), "image 0"), RGB)
    sample = {"__key__": "0", "png": path.read_bytes(), "cls": b"17"}  # webdataset's, not decoded
    assert torch.equal(item_image(sample, "image 0"), RGB)
    assert item_label(sample, "image 0") == 17


LABELS = {
    "number": 4,
    "numpy": np.int32(4),
    "tensor": torch.tensor(4),
    "tensor of one": torch.tensor([4], dtype=torch.uint8),
    "array": np.array([[4]]),
    "float": 4.0,
    "float tensor": torch.tensor(4.0),
}


@pytest.mark.parametrize("label", LABELS.values(), ids=LABELS)
def test_a_label_of_every_kind(label: Any) -> None:
    items = [
        (RGB, label),
        (RGB, label, 9),
        *({"image": RGB, key: label} for key in ("label", "labels", "target", "y")),
    ]
    assert [item_label(item, "image 0") for item in items] == [4] * 6


def test_without_a_label_it_is_not_known() -> None:
    assert [item_label(item, "") for item in (RGB, (RGB,), (RGB, None), {"image": RGB}, (RGB, -3))] == [
        -1
    ] * 4 + [-3]


WRONG: dict[str, tuple[Any, str]] = {
    "nothing": (None, r"image 7 is NoneType: an item of the data is an image, \(image, label\)"),
    "number": (3, "image 7 is int: an item"),
    "label first": ((4, RGB), "image 7 is int"),
    "empty": ((), "image 7 is tuple"),
    "dict without": ({"pic": RGB, "label": 1}, "image 7 is a dict of pic, label, none of them image, img"),
    "empty dict": ({}, "image 7 is a dict of no key"),
    "channels last": (RGB.permute(1, 2, 0), r"torch.uint8 \[5, 7, 3\], not \[C, H, W\]: permute\(2, 0, 1\)"),
    "four channels": (torch.zeros(4, 5, 7), r"torch.float32 \[4, 5, 7\], not \[C, H, W\]: of one image"),
    "a batch": (RGB[None], r"\[1, 3, 5, 7\], not \[C, H, W\]"),
    "a row": (torch.zeros(7), r"torch.float32 \[7\], not"),
    "no pixel": (torch.zeros(3, 0, 7), r"\[3, 0, 7\]"),
    "integers": (RGB.long(), r"torch.int64 .*: pixels of 0..255 are torch.uint8"),
    "truths": (RGB > 3, "torch.bool .*: pixels"),
    "16 bits": (array(RGB).astype(np.uint16), "torch.uint16 .*: pixels"),
    "complex": (array(RGB).astype(complex), "image 7 is an array of complex128"),
    "objects": (np.array([["a", None]], object), "image 7 is an array of object"),
    "not finite": (torch.full((3, 5, 7), torch.nan), "image 7 has numbers that are not finite"),
    "text": ("a.png", "image 7 is str: an item of the data is an image"),
    "bytes": (b"no image", "image 7 is not a JPEG"),
    "no file": (Path("nowhere.png"), "nowhere.png"),
    "PIL of floats": (
        Image.fromarray(np.zeros((4, 4), np.float32)),
        "image 7 cannot be decoded: its pixels are 32-bit",
    ),
}


@pytest.mark.parametrize(("item", "says"), WRONG.values(), ids=WRONG)
def test_what_is_no_image_is_named_in_one_line(item: Any, says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        item_image(item, "image 7")
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("label", "says"),
    [
        ("cat", "'cat'"),
        (1.5, "1.5"),
        (float("nan"), "nan"),
        (torch.eye(3)[0], r"of shape \[3\]"),
        (np.array([]), r"of shape \[0\]"),
        ({"id": 3}, "{'id': 3}"),
        (1 << 70, "1180591620717411303424"),
        (b"9" * 5000, "b'999"),
    ],
)
def test_what_is_no_label_is_named(label: Any, says: str) -> None:
    with pytest.raises(InputError, match=f"image 7 has the label {says}.*: a label is one whole number"):
        item_label((RGB, label), "image 7")


plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.binary(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3) | st.tuples(inner, inner) | st.dictionaries(st.text(max_size=3), inner)
    ),
    max_leaves=4,
)


@given(plain)
def test_whatever_else_is_an_error_of_the_family(item: Any) -> None:
    with pytest.raises(InputError):
        item_image(item, "image 7")

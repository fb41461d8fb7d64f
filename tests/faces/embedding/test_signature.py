from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import reparam_kit as rk
from recipes.faces import Embedder, input_preset
from recipes.faces.embedding.signature import EmbeddingOf, Signature, read_signature
from reparam_kit import InputError

Heads = namedtuple("Heads", "quality embedding")


@dataclass
class Output:
    embedding: torch.Tensor
    loss: None = None


E, NUMBER, FLAT, MAP, TALL = (
    torch.zeros(shape) for shape in ((4, 7), (4, 1), (4,), (4, 3, 5, 5), (4, 7, 1, 1))
)


@pytest.mark.parametrize(
    ("output", "name"),
    [
        (E, "output"),
        (TALL, "output"),
        ((NUMBER, E), "1"),
        ([MAP, TALL], "1"),
        ((FLAT, MAP, E, NUMBER), "2"),
        ({"norm": NUMBER, "feature": E}, "feature"),
        (Heads(NUMBER, E), "embedding"),
        (Output(E), "embedding"),
        ({"heads": {"quality": FLAT, "face": E}, "map": MAP}, "heads.face"),
        ((E.long(), E), "1"),  # integers are no embedding
    ],
)
def test_the_only_output_with_several_numbers_an_image_is_the_embedding(output: object, name: str) -> None:
    take = EmbeddingOf(None)
    assert take.choose(take.named(output), 4) == name
    assert take(output, 4).shape == (4, 7)


@pytest.mark.parametrize(
    ("output", "wanted", "says"),
    [
        (
            (E, TALL),
            None,
            r"several outputs that could be the embedding, 0 \[4, 7\], 1 \[4, 7, 1, 1\]: name it",
        ),
        (NUMBER, None, r"gives output \[4, 1\] for 4 images, .*: one number an image is no embedding"),
        (FLAT, None, "one number an image is no embedding"),
        (E.long(), None, "its numbers are integers"),
        (
            MAP,
            None,
            r"gives output \[4, 3, 5, 5\] for 4 images, .*: a map is pooled or flattened in the net first",
        ),
        ((NUMBER, MAP), None, "not one embedding each"),
        (torch.zeros(3, 7), None, "for 4 images, not one embedding each"),
        (None, None, "gives no tensor for 4 images"),
        ({"norm": NUMBER, "face": E}, "norm", r"gives norm \[4, 1\] for 4 images, .* no embedding"),
        ({"norm": NUMBER, "face": E}, "faec", "has no output 'faec': did you mean 'face'"),
    ],
)
def test_what_cannot_be_told_is_refused(output: object, wanted: str | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        EmbeddingOf(None, wanted)(output, 4)


def test_one_of_several_is_named() -> None:
    take = EmbeddingOf(None, "1")
    assert torch.equal(take((E, E + 1), 4), E + 1)


@pytest.fixture
def two_outputs(tmp_path: Path) -> Callable[..., Path]:
    """A file with the norm of the feature before the feature, and another feature if ``both``."""

    def make(both: bool = False, batch: int | str = "n") -> Path:
        info = helper.make_tensor_value_info
        nodes = [
            helper.make_node("Flatten", ["x"], ["f"]),
            helper.make_node("ReduceL2", ["f"], ["norm"], axes=[1], keepdims=1),
            helper.make_node("Neg", ["f"], ["g"]),
        ]
        outputs = [("norm", 1), ("f", 48), *([("g", 48)] if both else [])]
        graph = helper.make_graph(
            nodes if both else nodes[:2],
            "net",
            [info("x", TensorProto.FLOAT, [batch, 3, 4, 4])],
            [info(name, TensorProto.FLOAT, [batch, size]) for name, size in outputs],
        )
        path = tmp_path / "two.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
        return path

    return make


@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_a_file_and_the_module_of_it_call_their_outputs_alike(
    two_outputs: Callable[..., Path], batch: int | str
) -> None:
    path = two_outputs(True, batch)
    images = torch.randint(256, (5, 3, 4, 4), dtype=torch.uint8)
    raw = input_preset("raw")
    flat = images.flatten(1).float()
    for model in (path, rk.load(path)):
        with pytest.raises(InputError, match=r"several .* f \[5, 48\], g \[5, 48\]: name it"):
            Embedder(model, raw)(images)
        assert torch.equal(Embedder(model, raw, embedding="g")(images), -flat)
        with pytest.raises(InputError, match=r"norm \[5, 1\] for 5 images"):
            Embedder(model, raw, embedding="norm")(images)
    path = two_outputs(False, batch)
    for model in (path, rk.load(path)):
        assert torch.equal(Embedder(model, raw)(images), flat)


def image_file(path: Path, shape: list[Any], dtype: int = TensorProto.FLOAT, inputs: int = 1) -> Path:
    given = [helper.make_tensor_value_info(f"x{i}", dtype, shape) for i in range(inputs)]
    node = helper.make_node("Identity", ["x0"], ["y"])
    graph = helper.make_graph([node], "g", given, [helper.make_tensor_value_info("y", dtype, shape)])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), path)
    return path


def hold(path: Path) -> Signature:
    signature = read_signature(path)
    assert signature is not None
    signature.require_images("the student")
    signature.require_size("the student", (3, 112, 112), "the images are")
    return signature


@pytest.mark.parametrize(
    ("shape", "dtype", "inputs", "says"),
    [
        (
            ["n", 112, 112, 3],
            TensorProto.FLOAT,
            1,
            r"takes x0 float32 \[\?, 112, 112, 3\]; .* channels first",
        ),
        (["n", 4, 112, 112], TensorProto.FLOAT, 1, "takes x0 .*: it is for images of another kind"),
        (
            ["n", 1, 112, 112],
            TensorProto.FLOAT,
            1,
            "takes images of one channel, and the images are of 3: .*-grey",
        ),
        (["n", 3, 112], TensorProto.FLOAT, 1, r"takes x0 float32 \[\?, 3, 112\]"),
        (
            ["n", 3, 112, 112],
            TensorProto.UINT8,
            1,
            r"takes x0 uint8 .* leave the conversion from integers out",
        ),
        (["n", 3, 112, 112], TensorProto.DOUBLE, 1, "takes x0 double .* convert it to float32 first"),
        (["n", 3, 112, 112], TensorProto.FLOAT, 2, "takes x0 .*, x1 .*: export the net alone"),
        (
            ["n", 3, 160, "w"],
            TensorProto.FLOAT,
            1,
            r"takes images of 160 x any pixels .* the images are 112 x 112",
        ),
        (
            [1, 3, 160, 160],
            TensorProto.FLOAT,
            1,
            r"takes images of 160 x 160 pixels .* the images are 112 x 112",
        ),
    ],
)
def test_what_a_file_takes_is_held_against_the_images(
    tmp_path: Path, shape: list[Any], dtype: int, inputs: int, says: str
) -> None:
    with pytest.raises(InputError, match=f"the student {says}"):
        hold(image_file(tmp_path / "net.onnx", shape, dtype, inputs))


@pytest.mark.parametrize("shape", [["n", 3, 112, 112], [4, 3, "h", "w"], ["n", "c", "h", 112]])
def test_images_that_fit(tmp_path: Path, shape: list[Any]) -> None:
    signature = hold(image_file(tmp_path / "net.onnx", shape))
    assert signature.size == ((112, 112) if shape[2] == 112 else None)


def test_without_a_file_nothing_is_said(tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_bytes(b"text")
    for model in (nn.Identity(), tmp_path / "none.onnx", tmp_path / "text.onnx"):
        assert read_signature(model) is None


def test_images_of_two_sizes_are_no_set_in_whichever_batches(net: nn.Module) -> None:
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    images = [np.zeros((size, size, 3), np.uint8) for size in (8, 8, 6, 6)]
    with pytest.raises(InputError, match="align the faces first"):
        Embedder(pool, input_preset("raw"), batch_size=2).embed(images)

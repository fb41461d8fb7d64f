"""A small world of faces: people are colour patterns, their photographs are noisy."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

from recipes.faces import PairSet, write_pairs, write_records

SIZE = 16
PEOPLE = 6
PHOTOS = 4


def photograph(person: int, rng: np.random.Generator) -> bytes:
    pattern = (
        np.random.default_rng(person).integers(60, 196, (4, 4, 3)).repeat(SIZE // 4, 0).repeat(SIZE // 4, 1)
    )
    pixels = np.clip(pattern + rng.normal(0, 15, pattern.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def rec(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("data") / "train.rec"
    write_records(path, [(p, photograph(p, rng)) for p in range(PEOPLE) for _ in range(PHOTOS)], (SIZE, SIZE))
    return path


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 photographs of 10 people: two blocks of a table, and no whole number of batches of 12."""
    rng = np.random.default_rng(0)
    path = tmp_path_factory.mktemp("uneven") / "train.rec"
    write_records(path, [(i % 10, photograph(i % 10, rng)) for i in range(70)], (SIZE, SIZE))
    return path


@pytest.fixture(scope="session")
def bin_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 pairs of other people."""
    rng = np.random.default_rng(1)
    images, same = [], []
    for i in range(20):
        person = 100 + i
        other = person if i % 2 else person + 1
        images += [photograph(person, rng), photograph(other, rng)]
        same.append(person == other)
    path = tmp_path_factory.mktemp("val") / "val.bin"
    write_pairs(path, PairSet(images, np.array(same)))
    return path


class Net(nn.Module):
    """All that training treats specially: BatchNorm, PReLU, depthwise, dropout, a bias or none."""

    def __init__(self, size: int, width: int = 8) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, stride=2, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.act = nn.PReLU(width)
        self.depthwise = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mix = nn.Conv2d(width, width, 1)
        self.drop = nn.Dropout(0.1)
        self.head = nn.Linear(width * 16, size)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.norm(self.stem(x)))
        x = torch.relu(self.mix(self.depthwise(x)))
        return self.head(self.drop(nn.functional.adaptive_avg_pool2d(x, 4).flatten(1)))


@pytest.fixture
def student() -> Net:
    torch.manual_seed(1)
    return Net(8).eval()


@pytest.fixture
def teacher() -> Net:
    torch.manual_seed(2)
    return Net(12, width=16).eval()


@pytest.fixture
def twin() -> Net:
    """A teacher that gives as many numbers as the student."""
    torch.manual_seed(3)
    return Net(8, width=16).eval()


@pytest.fixture
def counted() -> Callable[[nn.Module], list[int]]:
    """Counts the images that a module is given, call by call."""

    def count(module: nn.Module) -> list[int]:
        calls: list[int] = []
        module.register_forward_hook(lambda module, args, output: calls.append(len(args[0])))
        return calls

    return count


def face_net(path: Path, size: int, seed: int) -> Path:
    """Convolution, PReLU, depthwise convolution, ReLU, Gemm: the operators of deployed face nets."""
    rng = np.random.default_rng(seed)
    shapes = {
        "c1.w": (8, 3, 3, 3), "c1.b": (8,), "slope": (8, 1, 1), "c2.w": (8, 1, 3, 3), "c2.b": (8,),
        "fc.w": (size, 512), "fc.b": (size,),
    }  # fmt: skip
    values = {name: rng.normal(0, 0.2, shape).astype(np.float32) for name, shape in shapes.items()}
    nodes = [
        helper.make_node(
            "Conv", ["x", "c1.w", "c1.b"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]
        ),
        helper.make_node("PRelu", ["a", "slope"], ["b"]),
        helper.make_node(
            "Conv", ["b", "c2.w", "c2.b"], ["c"], kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=8
        ),
        helper.make_node("Relu", ["c"], ["d"]),
        helper.make_node("Flatten", ["d"], ["e"]),
        helper.make_node("Gemm", ["e", "fc.w", "fc.b"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 16, 16])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", size])],
        [numpy_helper.from_array(value, name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def onnx_teacher(path: Path, size: int = 16, external: bool = False) -> Path:
    """A linear map of the pixels, its weight in the file or beside it."""
    weight = np.random.default_rng(0).normal(size=(3 * size * size, 6)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("Flatten", ["x"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["y"])],
        "teacher",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 6])],
        [numpy_helper.from_array(weight, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, path, save_as_external_data=external, location=f"{path.name}.data", size_threshold=0)
    return path


@pytest.fixture
def deployed(tmp_path: Path) -> tuple[Path, Path]:
    """Files of a student and a teacher."""
    return face_net(tmp_path / "student.onnx", 8, seed=0), face_net(tmp_path / "teacher.onnx", 12, seed=1)

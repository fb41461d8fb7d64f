"""Small pictures and a small net, as a module and as ONNX files."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import nn

SIZE = 8


@pytest.fixture
def pictures() -> Callable[..., list[npt.NDArray[np.uint8]]]:
    def make(count: int, size: int = SIZE, seed: int = 0) -> list[npt.NDArray[np.uint8]]:
        return list(np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8))

    return make


@pytest.fixture
def encode() -> Callable[..., bytes]:
    def make(image: npt.NDArray[np.uint8], kind: str = "PNG") -> bytes:
        data = io.BytesIO()
        Image.fromarray(image).save(data, kind)
        return data.getvalue()

    return make


@pytest.fixture
def net() -> nn.Module:
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIZE * SIZE, 5))


@pytest.fixture
def onnx_net(net: nn.Module, tmp_path: Path) -> Callable[..., Path]:
    """``onnx_net(shape, dtype)``: the net as a file with that input."""

    def make(shape: tuple[int | str, ...] = ("n", 3, SIZE, SIZE), dtype: int = TensorProto.FLOAT) -> Path:
        arrays = [p.detach().numpy().astype(helper.tensor_dtype_to_np_dtype(dtype)) for p in net.parameters()]
        graph = helper.make_graph(
            [
                helper.make_node("Flatten", ["x"], ["f"]),
                helper.make_node("Gemm", ["f", "w", "b"], ["y"], transB=1),
            ],
            "net",
            [helper.make_tensor_value_info("x", dtype, shape)],
            [helper.make_tensor_value_info("y", dtype, [shape[0], 5])],
            [numpy_helper.from_array(a, n) for a, n in zip(arrays, "wb", strict=True)],
        )
        path = tmp_path / f"net-{'-'.join(map(str, shape))}-{dtype}.onnx"
        onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
        return path

    return make


@pytest.fixture
def truth(net: nn.Module) -> Callable[..., npt.NDArray[np.float32]]:
    """What the net gives for images that the ``insightface`` preset has normalised, written out by hand."""

    def embed(images: list[npt.NDArray[np.uint8]]) -> npt.NDArray[np.float32]:
        x = (np.stack(images).transpose(0, 3, 1, 2).astype(np.float32) - 127.5) / 127.5
        with torch.no_grad():
            result: npt.NDArray[np.float32] = net(torch.from_numpy(x)).numpy()
        return result

    return embed

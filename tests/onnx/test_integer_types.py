"""Every type of integers that a file quantises to, of weights and of what passes through the net."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx_text import load, run, write
from quantized import random, runtime

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx import import_onnx, write_back
from reparam_kit.onnx.importer.values import DTYPES, as_dtype, ends, held

ENDS = {
    "INT8": (-128, 127),
    "UINT8": (0, 255),
    "INT16": (-(2**15), 2**15 - 1),
    "UINT16": (0, 2**16 - 1),
    "INT4": (-8, 7),
    "UINT4": (0, 15),
    "INT2": (-2, 1),
    "UINT2": (0, 3),
}
TYPES = [name for name in ENDS if name in TensorProto.DataType.keys()]  # noqa: SIM118  (of protobuf, no dict)
RUN = [name for name in TYPES if not name.endswith("2")]  # onnxruntime has no others
# The opset in which ONNX's own operators have all of these, and onnxruntime's, whatever the opset.
OPERATORS = {
    "": 'ir_version: 10, opset_import: ["" : 21]',
    "com.microsoft.": 'ir_version: 10, opset_import: ["" : 17, "com.microsoft" : 1]',
}


def tensor(name: str, onnx_type: str, values: np.ndarray, raw: bool = True) -> TensorProto:
    number = TensorProto.DataType.Value(onnx_type)
    proto = helper.make_tensor(name, number, values.shape, values.reshape(-1).tolist())
    return numpy_helper.from_array(numpy_helper.to_array(proto), name) if raw else proto


def add(path: Path, *tensors: TensorProto) -> None:
    model = onnx.load(path)
    model.graph.initializer.extend(tensors)
    onnx.save(model, path)


def stored(path: Path, name: str) -> np.ndarray:
    [found] = (t for t in onnx.load(path).graph.initializer if t.name == name)
    return numpy_helper.to_array(found).astype(np.int64)


@pytest.mark.parametrize("raw", [True, False], ids=["raw", "typed"])
@pytest.mark.parametrize("domain", OPERATORS, ids=["onnx", "microsoft"])
@pytest.mark.parametrize("onnx_type", TYPES)
def test_a_weight_is_trained_as_it_is_written(onnx_type: str, domain: str, raw: bool, tmp_path: Path) -> None:
    first, last = ENDS[onnx_type]
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    text = f"""net (float[N,5] x) => (float y) {{
        d = {domain}DequantizeLinear <axis = 0> (w, s, z) y = Gemm <transB = 1> (x, d)
    }}"""
    write(path, text, {"s": np.array([0.1, 0.2, 0.3], np.float32)}, OPERATORS[domain])
    old = random.integers(first, last, (3, 5), endpoint=True)  # an odd number of entries
    zero = random.integers(first, last, 3, endpoint=True)
    add(path, tensor("w", onnx_type, old, raw), tensor("z", onnx_type, zero, raw))

    model, x = import_onnx(path), torch.randn(2, 5)
    write_back(model, new)
    assert new.read_bytes() == path.read_bytes()
    [weight] = model.parameters()
    weight.data[:, 0] += torch.tensor([0.1, 0.2, 0.3])
    weight.data[1] = 1e9
    weight.data[2] = -1e9
    write_back(model, new)
    expected = old.copy()
    expected[:, 0] = np.minimum(old[:, 0] + 1, last)
    expected[1], expected[2] = last, first
    np.testing.assert_array_equal(stored(new, "w"), expected)
    torch.testing.assert_close(run(model, x)[0], run(import_onnx(new), x)[0])
    if onnx_type in RUN:
        torch.testing.assert_close(run(model, x)[0], runtime(new, x), rtol=1e-5, atol=1e-2)
    model(x).sum().backward()
    assert weight.grad is not None
    assert (weight.grad[1:] == 0).all()
    assert (weight.grad[0, 1:] != 0).all()


@pytest.mark.parametrize("domain", OPERATORS, ids=["onnx", "microsoft"])
@pytest.mark.parametrize("onnx_type", TYPES)
def test_what_passes_is_rounded_and_ends_at_both_ends(onnx_type: str, domain: str, tmp_path: Path) -> None:
    first, last = ENDS[onnx_type]
    path, middle = tmp_path / "model.onnx", (first + last) // 2
    text = f"""net (float[N,4] x) => (float[N,4] y) {{
        q = {domain}QuantizeLinear (x, s, z) y = {domain}DequantizeLinear (q, s, z)
    }}"""
    write(path, text, {"s": np.array(0.5, np.float32)}, OPERATORS[domain])
    add(path, tensor("z", onnx_type, np.array(middle)))
    model = import_onnx(path)
    x = torch.tensor([[-1e6, 0.26, -0.24, 1e6]], requires_grad=True)
    y = model(x)
    torch.testing.assert_close(y, torch.tensor([[first - middle, 1, 0, last - middle]]) * 0.5)
    if onnx_type in RUN:
        torch.testing.assert_close(y.detach(), runtime(path, x.detach()))
    y.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == [[0, 1, 1, 0]]


@pytest.mark.parametrize(
    "first_cast", ["r = Round (x) i = Cast <to = 6> (r)", "i = QuantizeLinear (x, one, nought)"]
)
@pytest.mark.parametrize("onnx_type", ["UINT16", "UINT4", "INT4"])
def test_casts_go_around_beyond_the_last(onnx_type: str, first_cast: str, tmp_path: Path) -> None:
    """Of integers, and of levels that stand for some."""
    number, (first, last) = TensorProto.DataType.Value(onnx_type), ENDS[onnx_type]
    text = f"net (float[N,4] x) => (float[N,4] y) {{ {first_cast} j = Cast <to = {number}> (i) y = Cast <to = 1> (j) }}"
    settings = {"one": np.array(1, np.float32), "nought": np.array(0, np.int16)}
    weights = {name: value for name, value in settings.items() if name in first_cast}
    model = load(tmp_path / "model.onnx", text, weights, OPERATORS[""])
    x = torch.tensor([[first, last - 1, last + 1, first - 1]], dtype=torch.float32)
    integers = x.clamp(-(2**15), 2**15 - 1) if weights else x
    assert run(model, x)[0].equal((integers - first) % (last - first + 1) + first)


def test_a_zero_point_that_is_computed(tmp_path: Path) -> None:
    text = """net (float[N,4] x, float f, uint4 g) => (float[N,4] y, float[N,4] u) {
        z = Cast <to = 4> (f) q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)
        v = QuantizeLinear (x, s, g) u = DequantizeLinear (v, s, g)
    }"""
    model = load(tmp_path / "model.onnx", text, {"s": np.array(1, np.float32)}, OPERATORS[""])
    x = torch.tensor([[-1e6, -3, 3, 1e6]])
    y, u = run(model, x, torch.tensor(2.0), torch.tensor(2, dtype=torch.uint8))
    assert y.tolist() == [[-2, -2, 3, 65533]]
    assert u.tolist() == [[-2, -2, 3, 13]]


def test_a_zero_point_of_an_unknown_type_is_refused(tmp_path: Path) -> None:
    text = """net (float[N,4] x, float f) => (float[N,4] y) {
        i = Cast <to = 4> (f) z = Add (i, i)
        q = QuantizeLinear (x, s, z) y = DequantizeLinear (q, s, z)
    }"""
    with pytest.raises(UnsupportedError, match="the type of its zero point"):
        load(tmp_path / "model.onnx", text, {"s": np.array(1, np.float32)}, OPERATORS[""])


@pytest.mark.parametrize("onnx_type", TYPES)
def test_the_ends_of_a_type(onnx_type: str) -> None:
    dtype = DTYPES[TensorProto.DataType.Value(onnx_type)]
    first, last = ends(dtype)
    assert (first, last) == ENDS[onnx_type]
    around = as_dtype(torch.tensor([first - 1, first, last, last + 1]), dtype)
    assert around.dtype is held(dtype)
    assert around.tolist() == [last, first, last, first]

"""Files of half types: trained in float32, rounded once to what is written, and judged so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_text import HEADER, SMALL, SMALL_WEIGHTS, assert_as_runtime, load, run, write
from onnxruntime.transformers.float16 import convert_float_to_float16
from torch import nn

from reparam_kit import as_written, check_import, expand, fold, save, verify
from reparam_kit.errors import InputError, VerificationError
from reparam_kit.onnx import import_onnx
from reparam_kit.onnx.importer.fake import fake_quantised


def bfloat16(model: ModelProto) -> ModelProto:
    """In bfloat16 but for its ends, by hand: converters to it are rare."""
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        tensor.CopyFrom(helper.make_tensor(tensor.name, TensorProto.BFLOAT16, values.shape, values.ravel()))
    for node in model.graph.node:
        node.input[:] = ["x16" if name == "x" else name for name in node.input]
        node.output[:] = ["y16" if name == "y" else name for name in node.output]
    model.graph.node.append(helper.make_node("Cast", ["x"], ["x16"], to=TensorProto.BFLOAT16))
    model.graph.node.append(helper.make_node("Cast", ["y16"], ["y"], to=TensorProto.FLOAT))
    return model


def weights_alone(model: ModelProto) -> ModelProto:
    """Behind a Cast each, as files are made small."""
    for tensor in model.graph.initializer:
        name, values = tensor.name, numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(values, f"{name}_half"))
        model.graph.node.insert(0, helper.make_node("Cast", [tensor.name], [name], to=TensorProto.FLOAT))
    return model


STYLES: dict[str, Callable[[ModelProto], ModelProto]] = {
    "all of it": convert_float_to_float16,
    "with Cast at the ends": lambda model: convert_float_to_float16(model, keep_io_types=True),
    "with parts in float32": lambda model: convert_float_to_float16(
        model, keep_io_types=True, op_block_list=["BatchNormalization", "GlobalAveragePool"]
    ),
    "with neighbours in float32": lambda model: convert_float_to_float16(
        model, keep_io_types=True, op_block_list=["BatchNormalization", "PRelu", "Mul", "MatMul"]
    ),
    "bfloat16": bfloat16,
    "weights alone": weights_alone,
}


def same(a: nn.Module, b: nn.Module) -> bool:
    return all(x.equal(y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("style", STYLES)
def test_a_half_file_is_trained_in_float32_and_rounded_once(tmp_path: Path, style: str) -> None:
    path, new = tmp_path / "half.onnx", tmp_path / "new.onnx"
    write(path, SMALL, SMALL_WEIGHTS)
    onnx.save(STYLES[style](onnx.load(path)), path)
    model = import_onnx(path)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    assert len(trained) == 8
    assert {parameter.dtype for parameter in trained} == {torch.float32}
    x = torch.randn(2, 3, 8, 8)
    told = check_import(model, x)
    assert told is None or style == "bfloat16"  # of which onnxruntime has no convolution
    save(fold(expand(model)), new)
    assert new.read_bytes() == path.read_bytes()

    model(x).square().sum().backward()
    with torch.no_grad():
        for parameter in trained:
            assert parameter.grad is not None
            parameter += 1e-3 * torch.randn_like(parameter)
    written = as_written(model)
    save(model, new)
    again = import_onnx(new)
    assert same(written, again)
    assert same(as_written(written), written)
    assert not same(model, again)
    assert check_import(model, x) == told
    torch.testing.assert_close(run(model, x)[0], run(written, x)[0], rtol=0.02, atol=0.02)
    if style != "bfloat16":
        assert verify(new, written).ok
        assert verify(written, new).ok
    save(written, tmp_path / "twice.onnx")
    assert (tmp_path / "twice.onnx").read_bytes() == new.read_bytes()

    trained[0].data.view(-1)[0] = 1e5 if style != "bfloat16" else 3.4e38
    with pytest.raises(
        InputError, match=r"initializer 'conv.weight(_half)?': 1 of 108 .* too large for b?float16"
    ):
        as_written(model)


def test_half_images_and_numbers_that_a_half_file_cannot_hold(tmp_path: Path) -> None:
    path = tmp_path / "half.onnx"
    text = "net (float16[N,2] x) => (float16[N,2] y) { s = Mul (x, x) m = Mul (s, w) y = Sqrt (m) }"
    model = load(path, text, {"w": np.array([1, 4], np.float16)})
    x = torch.tensor([[1.0, 2.0], [300.0, 400.0]])
    expected = torch.tensor([[1.0, 4.0], [300.0, 800.0]])  # of which the file makes an infinite square
    for images in (x, x.half(), x.bfloat16()):
        torch.testing.assert_close(run(model, images)[0], expected)


def test_activations_beyond_float16_are_the_fault_of_the_format(tmp_path: Path) -> None:
    text = """net (float16[N,3,4,4] x) => (float16[N,3,4,4] y) {
        c = Conv (x, w) f = Cast <to = 1> (c) m = Mul (f, tenth) y = Cast <to = 10> (m)
    }"""
    weights = {"w": np.eye(3, dtype=np.float16).reshape(3, 3, 1, 1), "tenth": np.array(0.1, np.float32)}
    model = load(tmp_path / "half.onnx", text, weights)
    x = torch.full((1, 3, 4, 4), 300.0)
    assert check_import(model, [x]) is None
    next(model.parameters()).data.mul_(250)
    said = r"node 'c' \(Conv\) now gives numbers up to 75,000, .* float16, of which 65,504 .* learning rate"
    with pytest.raises(VerificationError, match=said) as raised:
        check_import(model, [x])
    assert "report" not in str(raised.value)


@pytest.mark.parametrize("levels", ["uint8", "uint16"])
def test_half_numbers_that_onnxruntime_quantises_unrounded(tmp_path: Path, levels: str) -> None:
    path, scale = tmp_path / "half.onnx", 0.05 if levels == "uint8" else 0.0002
    text = """net (float16[N,8,16,16] x) => (float16[N,8,16,16] y) {
        a = Conv (x, w) c = Cast <to = 1> (a)
        q = QuantizeLinear (c, s, z) d = DequantizeLinear (q, s, z) y = Cast <to = 10> (d)
    }"""
    weights = {
        "w": np.random.default_rng(0).standard_normal((8, 8, 1, 1)).astype(np.float16),
        "s": np.array(scale, np.float32),
        "z": np.array(2**7 if levels == "uint8" else 2**15, levels),
    }
    write(path, text, weights, HEADER.replace("17", "21"))
    torch.manual_seed(0)
    model, x = import_onnx(path), torch.randn(4, 8, 16, 16)
    assert check_import(model, [x]) is None
    [fake] = [node for node in model.graph.nodes if node.target is fake_quantised]
    name, step, zero = fake.meta["levels"]
    fake.meta["levels"] = name, step, zero + (2**4 if levels == "uint8" else 2**12)  # a fault
    with pytest.raises(VerificationError, match="report this file"):
        check_import(model, [x])


def test_a_cast_to_a_half_type_rounds_and_lets_small_gradients_through(tmp_path: Path) -> None:
    text = "net (float[N,3] x) => (float[N,3] y) { h = Cast <to = 10> (x) y = Cast <to = 1> (h) }"
    model = load(tmp_path / "cast.onnx", text)
    numbers = [[1.0001, -float("inf"), 70000.0], [1e-9, -2.0, 0.0]]
    x = torch.tensor(numbers, requires_grad=True)
    assert_as_runtime(model, tmp_path / "cast.onnx", x.detach())
    (1e-9 * model(x)[:, 0]).sum().backward()
    assert x.grad is not None
    assert x.grad[:, 0].tolist() == [pytest.approx(1e-9)] * 2


NUMBERS = st.floats(-8, 8, width=32).filter(lambda value: abs(value) > 2**-8)


@settings(deadline=None, max_examples=15)
@given(
    w=arrays.arrays(np.float32, (3, 4), elements=NUMBERS),
    k=arrays.arrays(np.float32, (3, 1), elements=NUMBERS),
    new=arrays.arrays(np.float32, (3, 4), elements=NUMBERS),
    half=st.booleans(),
    operator=st.sampled_from(["Add", "Div", "Mul", "Sub"]),
)
def test_what_is_judged_is_what_the_file_gives(
    w: np.ndarray, k: np.ndarray, new: np.ndarray, half: bool, operator: str
) -> None:
    """To the bit, however the number that is written was rounded on its way through the inverse."""
    text = f"""net (float[N,4] x) => (float[N,3] y) {{
        f = Cast <to = 1> (w) m = {operator} (f, k) y = Gemm <transB = 1> (x, m)
    }}"""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        model = load(path, text, {"w": w.astype(np.float16) if half else w, "k": k})
        next(model.parameters()).data.copy_(torch.from_numpy(new))
        written = as_written(model)
        save(model, path)
        assert same(written, import_onnx(path))

"""Scales that follow the weights of a quantised file, in every form that such a file has."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import ModelProto, numpy_helper
from onnx_text import SMALL, SMALL_WEIGHTS, Weights, run, write
from quantized import CONV, conv_of, integers, random, settings_of
from torch import Tensor, fx, nn

import reparam_kit as rk
from reparam_kit.cli import main
from reparam_kit.onnx.importer.rounded import Reach, Rounded, scale_for
from reparam_kit.onnx.run import Session

HEADER = 'ir_version: 10, opset_import: ["" : 21, "com.microsoft" : 1]'


class Form(NamedTuple):
    """Nodes from x to y, where the weight w is one of 3 features or channels to 4, in ``shape``."""

    input: str
    nodes: str
    shape: tuple[int, ...]
    axis: int = 0
    output: str = "float"


IMAGE, ROWS = "float[N,3,7,7]", "float[N,3]"
X = "q = QuantizeLinear (x, xs, xz) d = DequantizeLinear (q, xs, xz)"
W = "v = DequantizeLinear <axis = AXIS> (w, ws, wz)"
FORMS = {
    "conv": Form(
        IMAGE, f"{X} {W} b1 = DequantizeLinear <axis = 0> (b, bs) y = Conv (d, v, b1)", (4, 3, 3, 3)
    ),
    "conv without a bias": Form(IMAGE, f"{X} {W} y = Conv (d, v)", (4, 3, 3, 3)),
    "conv with a bias of numbers": Form(IMAGE, f"{X} {W} y = Conv (d, v, f)", (4, 3, 3, 3)),
    "transposed": Form(
        IMAGE,
        f"{X} {W} b1 = DequantizeLinear <axis = 0> (b, bs) y = ConvTranspose (d, v, b1)",
        (3, 4, 3, 3),
        1,
    ),
    "gemm": Form(
        ROWS, f"{X} {W} b1 = DequantizeLinear <axis = 0> (b, bs) y = Gemm <transB = 1> (d, v, b1)", (4, 3)
    ),
    "matmul": Form(ROWS, f"{X} {W} y = MatMul (d, v)", (3, 4), 1),
    "in another layout": Form(ROWS, f"{X} {W} t = Transpose <perm = [1,0]> (v) y = MatMul (d, t)", (4, 3)),
    "com.microsoft": Form(
        IMAGE,
        f"{X} v = com.microsoft.DequantizeLinear <axis = AXIS> (w, ws, wz) y = Conv (d, v)",
        (4, 3, 3, 3),
    ),
    "in every pass": Form(
        IMAGE,
        "p = QuantizeLinear <axis = AXIS> (n, ws, wz) v = DequantizeLinear <axis = AXIS> (p, ws, wz) y = Conv (x, v)",
        (4, 3, 3, 3),
    ),
    "QLinearConv": Form(
        IMAGE,
        """q = QuantizeLinear (x, xs, xz) r = QLinearConv (q, xs, xz, w, ws, wz, ys, xz, b)
        y = DequantizeLinear (r, ys, xz)""",
        (4, 3, 3, 3),
    ),
    "QLinearMatMul": Form(
        ROWS,
        """q = QuantizeLinear (x, xs, xz) r = QLinearMatMul (q, xs, xz, w, ws, wz, ys, xz)
        y = DequantizeLinear (r, ys, xz)""",
        (3, 4),
        1,
    ),
    "QGemm": Form(
        ROWS,
        """q = QuantizeLinear (x, xs, xz)
        r = com.microsoft.QGemm <transB = 1> (q, xs, xz, w, ws, wz, b, ys, xz) y = DequantizeLinear (r, ys, xz)""",
        (4, 3),
    ),
    "ConvInteger": Form(
        IMAGE,
        """q, s, z = DynamicQuantizeLinear (x) i = ConvInteger (q, w, z, wz) c = Cast <to = 1> (i)
        k = Mul (s, ws) m = Mul (c, k) y = Add (m, g)""",
        (4, 3, 3, 3),
    ),
    "MatMulInteger": Form(
        ROWS,
        """q, s, z = DynamicQuantizeLinear (x) i = MatMulInteger (q, w, z, wz) c = Cast <to = 1> (i)
        k = Mul (s, ws) y = Mul (c, k)""",
        (3, 4),
        1,
    ),
    "MatMulIntegerToFloat": Form(
        ROWS,
        "q, s, z = DynamicQuantizeLinear (x) y = com.microsoft.MatMulIntegerToFloat (q, w, s, ws, z, wz, f)",
        (3, 4),
        1,
    ),
    "DynamicQuantizeMatMul": Form(
        ROWS, "y = com.microsoft.DynamicQuantizeMatMul (x, w, ws, wz, f)", (3, 4), 1
    ),
}
# Of which onnxruntime takes no scale, or no zero point, for each output.
ONE_SCALE = {"ConvInteger"}
ONE_ZERO = {"QLinearConv", "ConvInteger"}
CASES = [
    (form, per_channel, dtype)
    for form in FORMS
    for per_channel, dtype in ((False, np.int8), (form not in ONE_SCALE, np.uint8))
]


def make(path: Path, form: str, per_channel: bool, dtype: type) -> Form:
    """A file of that form."""
    made = FORMS[form]
    found = settings_of(per_channel, dtype)
    low, high = (-100, 100) if dtype is np.int8 else (30, 230)
    zero = np.asarray(found["wz"])
    zero = np.full_like(zero, 0 if dtype is np.int8 else 120) if form in ONE_ZERO else zero
    w = random.integers(low, high, made.shape).astype(dtype)
    along = [-1 if dim == made.axis else 1 for dim in range(len(made.shape))]
    numbers = (w.astype(np.float32) - zero.reshape(along) if per_channel else w.astype(np.float32) - zero) * (
        np.asarray(found["ws"]).reshape(along) if per_channel else found["ws"]
    )
    weights: Weights = {
        **found,
        "w": w,
        "wz": zero,
        "ys": np.array(0.09, np.float32),
        "f": random.standard_normal(4).astype(np.float32),
        "g": random.standard_normal((4, 1, 1)).astype(np.float32),
        "n": np.asarray(numbers, np.float32),
    }
    text = made.nodes.replace("AXIS", str(made.axis))
    used = {name: value for name, value in weights.items() if re.search(rf"[ (]{name}[,)]", text)}
    write(path, f"net ({made.input} x) => ({made.output} y) {{ {text} }}", used, HEADER)
    return made


def image(form: Form) -> Tensor:
    return 2 * torch.randn(5, *([3, 7, 7] if form.input == IMAGE else [3]))


def layer_of(model: nn.Module) -> nn.Module:
    [layer] = (module for module in model.modules() if isinstance(module, Rounded))
    return layer


def grow(model: nn.Module, times: float = 2.5) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= times
            parameter += 0.01 * parameter.abs().max() * torch.randn(parameter.shape)


def runtime(path: Path, x: Tensor) -> Tensor:
    [found] = Session(path, optimised=False)([x]).values()
    return found


@pytest.mark.parametrize(("form", "per_channel", "dtype"), CASES)
def test_what_is_trained_is_what_is_written(
    form: str, per_channel: bool, dtype: type, tmp_path: Path
) -> None:
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    made = make(path, form, per_channel, dtype)
    model, kept, x = rk.load(path, scales="weights"), rk.load(path), image(made)
    assert isinstance(model, fx.GraphModule)
    assert isinstance(kept, fx.GraphModule)
    # As it is, it is the file.
    assert run(model, x)[0].equal(run(kept, x)[0])
    count = rk.save(model, new)
    assert new.read_bytes() == path.read_bytes()
    assert count is not None
    assert (count.changed, count.clipped, count.rescaled, count.scales) == (0, 0, 0, 1)
    # A weight that grows takes its scale along, and nothing is clipped.
    for each in (model, kept):
        torch.manual_seed(0)
        grow(each)
    clipped, count = rk.count_integers(kept), rk.save(model, new)
    assert clipped is not None
    assert count is not None
    assert clipped.clipped > 0
    assert (count.clipped, count.rescaled, count.scales) == (0, 1, 1)
    before, after = integers(path), integers(new)
    ratio = after["ws"] / before["ws"]
    assert (ratio >= 1).all()
    assert (ratio > 1.2).any()
    changed = {name for name in before if before[name].tobytes() != after[name].tobytes()}
    assert changed <= {"w", "n", "ws", "b", "bs", "f", "g"}
    if "bs" in before:
        np.testing.assert_allclose(after["bs"], before["xs"] * after["ws"], rtol=1e-6)
    # Module and file agree, and the new scale is nearer to what was trained than the old one.
    found, wanted = run(model, x)[0], runtime(new, x)
    step = 0.0901 if "ys" in before else 1e-5 * float(wanted.abs().max())
    assert (found - wanted).abs().max() <= step
    assert ((found - wanted).abs() > 1e-4 * wanted.abs().max()).float().mean() < 0.02
    assert rk.check_import(model, x[:1]) is None
    errors = []
    for each in (model, kept):
        layer = layer_of(each)
        rounded = layer.on_grids(
            lambda x, s, z, lo, hi, _: ((x / s).round() + z).clamp(lo, hi).sub(z) * s, layer.scales()
        )  # type: ignore[operator]
        errors.append(float((rounded["weight"] - layer.weight).abs().max().detach()))  # type: ignore[operator]
    assert errors[0] < errors[1] / 2
    # What may differ has been named, and nothing else may.
    difference = rk.diff(path, new, scales="weights")
    assert {scale.name for scale in difference.scales} == {
        f"initializer {name!r}" for name in changed & {"ws", "bs"}
    }
    if "Integer (" not in made.nodes:  # there, by the operators, it is a factor as others are
        assert not rk.diff(path, new).same_graph


@pytest.mark.parametrize("form", ["conv", "QLinearConv", "MatMulInteger"])
def test_a_layer_with_branches_has_its_scale_by_their_sum(form: str, tmp_path: Path) -> None:
    path, new, archive = tmp_path / "model.onnx", tmp_path / "new.onnx", tmp_path / "e.pt"
    made = make(path, form, False, np.int8)
    student, x = rk.expand(rk.load(path, scales="weights"), include=["*"]), image(made)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += parameter.abs().max() * (0.5 + torch.rand(parameter.shape))
        expected = student(x)
    rk.save(student, archive)
    folded = rk.fold(rk.load(archive))  # which knows that scales follow
    count = rk.save(folded, new)
    assert count is not None
    assert count.rescaled == 1
    assert count.clipped == 0
    step = 0.0901 if form == "QLinearConv" else 0.02 * float(expected.abs().max())
    assert (runtime(new, x) - expected).abs().max() <= step
    assert (
        CliRunner()
        .invoke(main, ["fold", str(archive), "-o", str(new)])
        .stderr.endswith(", 1 of 1 scales changed\n")
    )


STAYS = {
    "a scale of two weights": (
        "v = DequantizeLinear (w, ws) u = DequantizeLinear (w2, ws) c = Conv (x, v) y = Conv (c, u)",
        "its scale is that of something else too (2)",
    ),
    "a scale of a weight and of numbers": (
        "q = QuantizeLinear (x, ws) d = DequantizeLinear (q, ws) v = DequantizeLinear (w, ws) y = Conv (d, v)",
        "its scale is that of something else too (1)",
    ),
    "a scale that is a result": (
        "v = DequantizeLinear (w, ws) c = Conv (x, v) y = Mul (c, ws)",
        "its scale is that of something else too (1)",
    ),
    "a weight of two layers": (
        "v = DequantizeLinear (w2, ws) c = Conv (x, v) y = Conv (c, v)",
        "several parts of the file use it (1)",
    ),
    "a bias with the scale of another": (
        """v = DequantizeLinear (w, ws) k = DequantizeLinear (b, bs) u = DequantizeLinear (w2, s2)
        l = DequantizeLinear (b, bs) c = Conv (x, v, k) y = Conv (c, u, l)""",
        "the scale of its bias, which would follow, is that of something else too (2)",
    ),
    "a bias of one scale beside many": (
        "v = DequantizeLinear <axis = 0> (w, s4) k = DequantizeLinear (b, bs) y = Conv (x, v, k)",
        "its scales are not one for each output (1)",
    ),
    "a bias that is computed": (
        """q = QuantizeLinear (x, s2) t = ReduceMax <keepdims = 0> (x, dims) i = Cast <to = 6> (t)
        r = QLinearConv (q, s2, zu, w, ws, z8, s2, zu, i)
        y = DequantizeLinear (r, s2)""",
        "its bias, which would follow, is computed in the graph (1)",
    ),
    "a quantised bias that is computed": (
        "v = DequantizeLinear (w, ws) i = Add (b, b) k = DequantizeLinear (i, bs) y = Conv (x, v, k)",
        "its bias, which would follow, is computed in the graph (1)",
    ),
    "blocks": (
        "v = DequantizeLinear <axis = 0, block_size = 2> (m, s24) t = Flatten (x) y = MatMul (t, v)",
        "it has a scale for each block of numbers (1)",
    ),
    "of the input's channels": (
        "v = DequantizeLinear <axis = 1> (w, s4) y = Conv (x, v)",
        "its scales are not one for each output (1)",
    ),
    "another constant": (
        "v = DequantizeLinear (w, ws) u = Mul (v, s2) y = Conv (x, u)",
        "no convolution or matrix product takes it (1)",
    ),
    "no scale at all": (
        """q, s, z = DynamicQuantizeLinear (x) i = ConvInteger (q, w, z) y = Cast <to = 1> (i)""",
        "the file has no scale for it alone (1)",
    ),
    "a slope": (
        "v = DequantizeLinear (m1, ws) y = PRelu (x, v)",
        "no convolution or matrix product takes it (1)",
    ),
}
STAYS_WEIGHTS: Weights = {
    "w": random.integers(-100, 100, (4, 4, 3, 3)).astype(np.int8),
    "w2": random.integers(-100, 100, (4, 4, 1, 1)).astype(np.int8),
    "m": random.integers(-100, 100, (4, 5)).astype(np.int8),
    "m1": random.integers(-100, 100, (4, 1, 1)).astype(np.int8),
    "ws": np.array(0.01, np.float32),
    "s2": np.array(0.02, np.float32),
    "s4": np.full(4, 0.01, np.float32),
    "s24": np.full((2, 5), 0.01, np.float32),
    "b": random.integers(-100, 100, 4).astype(np.int32),
    "bs": np.array(0.001, np.float32),
    "zu": np.array(0, np.uint8),
    "z8": np.array(0, np.int8),
    "dims": np.array([0, 2, 3]),
}
OWN = " v9 = DequantizeLinear (w9, s9) y9 = Conv (x, v9)"  # of which the scale follows


@pytest.mark.parametrize("case", STAYS)
def test_a_scale_without_a_place_of_its_own_stays(
    case: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    nodes, reason = STAYS[case]
    weights = {**STAYS_WEIGHTS, "w9": STAYS_WEIGHTS["w"], "s9": np.array(0.01, np.float32)}
    size = "3,3" if case == "a weight of two layers" else "1,1" if case == "blocks" else "8,8"

    def made(nodes: str, results: str) -> None:
        used = {name: value for name, value in weights.items() if re.search(rf"[ (]{name}[,)]", nodes)}
        write(path, f"net (float[N,4,{size}] x) => ({results}) {{ {nodes} }}", used, HEADER)

    made(nodes, "float y")
    with pytest.raises(rk.errors.InputError, match=re.escape(reason.rpartition(" (")[0])):
        rk.load(path, scales="weights")
    kept = rk.load(path)
    grow(kept, 2)
    rk.save(kept, new)
    assert rk.diff(path, new, scales="weights").same_graph
    assert not rk.diff(path, new, scales="weights").scales
    if size == "8,8":
        made(nodes + OWN, "float y, float y9")
        with caplog.at_level(logging.WARNING):
            model = rk.load(path, scales="weights")
        assert f"quantised weights stay as they are: {reason}" in caplog.text
        grow(model, 2)
        count = rk.save(model, new)
        assert count is not None
        assert (count.rescaled, count.scales) == (1, 1)
        before, after = integers(path), integers(new)
        scales = {name for name in before if "s" in name and before[name].tobytes() != after[name].tobytes()}
        assert scales == {"s9"}


def edited(path: Path, **arrays: NDArray[np.generic]) -> ModelProto:
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name], tensor.name))
    return model


def test_no_other_change_passes_for_a_new_scale(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(path, CONV, settings_of(True, np.int8))
    were = integers(path)
    ws, bs = were["ws"], were["bs"]
    good = edited(path, ws=ws * 2, bs=bs * 2)
    assert rk.diff(onnx.load(path), good, scales="weights").same_graph
    assert not rk.diff(onnx.load(path), good).same_graph
    for arrays in (
        {"xs": were["xs"] * 2},  # of numbers that pass
        {"ws": ws * 2},  # the bias has not followed
        {"bs": bs * 2},
        {"ws": ws * 2, "bs": bs * np.float32(1.9)},
        {"ws": ws * 0, "bs": bs * 0},
        {"ws": -ws, "bs": -bs},
        {"ws": ws * np.float32(np.nan), "bs": bs * np.float32(np.nan)},
        {"wz": were["wz"] + np.int8(1)},
        {"xz": were["xz"] + np.uint8(1)},
        {"ws": ws[:1], "bs": bs[:1]},
        {"ws": ws.astype(np.float64), "bs": bs.astype(np.float64)},
    ):
        assert not rk.diff(onnx.load(path), edited(path, **arrays), scales="weights").same_graph, arrays
    other = onnx.load(path)
    other.graph.node[-1].name = "renamed"
    assert not rk.diff(onnx.load(path), other, scales="weights").same_graph


def test_the_commands_take_and_say_it(tmp_path: Path) -> None:
    path, expanded, new = (str(tmp_path / name) for name in ("model.onnx", "e.safetensors", "new.onnx"))
    write(Path(path), CONV, settings_of(True, np.int8))

    def invoke(*words: str) -> tuple[int, str]:
        result = CliRunner().invoke(main, words)
        return result.exit_code, result.output

    assert invoke("inspect", path, "--scales", "weights")[0] == 0
    assert invoke("expand", path, "--scales", "weights", "-o", expanded)[0] == 0
    student = rk.load(path, weights=expanded, scales="weights")
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.2 * parameter.abs().max() * torch.rand(parameter.shape)
    rk.save(student, expanded)
    code, said = invoke("fold", path, "--weights", expanded, "--scales", "weights", "-o", new)
    assert code == 0
    assert "0 clipped to the first or last level, 1 of 1 scales changed" in said
    assert invoke("diff", path, new)[0] == 1
    code, said = invoke("diff", path, new, "--scales", "weights")
    assert code == 0
    assert "scales of weights that differ: 2\n  initializer 'ws' float32[4]" in said
    assert invoke("verify", path, new, "--retrained")[0] == 1
    assert invoke("verify", path, new, "--retrained", "--scales", "weights")[0] == 0
    assert invoke("expand", path, "--scales", "other", "-o", expanded)[0] == 2


@pytest.mark.parametrize("case", ["conv", "QLinearConv", "ConvInteger"])
def test_a_weight_that_shrinks_keeps_its_levels(case: str, tmp_path: Path) -> None:
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    make(path, case, False, np.int8)
    model = rk.load(path, scales="weights")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.25
    rk.save(model, new)
    before, after = integers(path), integers(new)
    assert np.abs(before["w"].astype(int) - after["w"]).max() <= 1
    np.testing.assert_allclose(after["ws"], before["ws"] / 4, rtol=0.01)
    with torch.no_grad():  # but there is no scale for one that vanishes
        for parameter in model.parameters():
            parameter *= 0
    rk.save(model, new)
    assert integers(new)["ws"] > 0


def test_where_there_are_no_such_scales_it_says_so(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(path, SMALL, SMALL_WEIGHTS)
    with pytest.raises(rk.errors.InputError, match="it stores no weights as integers"):
        rk.load(path, scales="weights")
    with pytest.raises(rk.errors.InputError, match=r"--scales.* nets:Plain is none"):
        rk.load("nets:Plain", scales="weights")
    with pytest.raises(rk.errors.InputError, match="did you mean 'weights'"):
        rk.load(path, scales="weight")  # type: ignore[arg-type]
    with pytest.raises(rk.errors.InputError, match="scales are those of two"):
        rk.verify(nn.Linear(2, 2), nn.Linear(2, 2), scales="weights")


def test_it_begins_at_the_numbers_of_a_float_twin(tmp_path: Path) -> None:
    """Also where the quantiser has clipped them."""
    path, twin, new = (tmp_path / name for name in ("model.onnx", "float.onnx", "new.onnx"))
    numbers = random.standard_normal((4, 3, 3, 3)).astype(np.float32)
    scale = np.float32(np.abs(numbers).max() / 120)
    weights: Weights = {
        "w": np.rint(numbers / scale).clip(-110, 110).astype(np.int8), "ws": np.array(scale),
    }  # fmt: skip
    write(
        path, "net (float[N,3,8,8] x) => (float y) { v = DequantizeLinear (w, ws) y = Conv (x, v) }", weights
    )
    write(twin, "net (float[N,3,8,8] x) => (float y) { y = Conv (x, w) }", {"w": numbers})
    model = rk.load(path, float=twin, scales="weights")
    rk.save(model, new)
    assert new.read_bytes() == path.read_bytes()


def test_numbers_that_the_file_clips_in_each_pass_do_not_widen_its_scale(tmp_path: Path) -> None:
    path, new = tmp_path / "model.onnx", tmp_path / "new.onnx"
    text = """net (float[N,3,8,8] x) => (float y) {
        q = QuantizeLinear (w, ws, wz) v = DequantizeLinear (q, ws, wz) y = Conv (x, v)
    }"""
    weights: Weights = {"w": (4, 3, 3, 3), "ws": np.array(0.005, np.float32), "wz": np.array(0, np.int8)}
    write(path, text, weights)
    model, kept, x = rk.load(path, scales="weights"), rk.load(path), torch.randn(2, 3, 8, 8)
    count = rk.count_integers(kept)
    assert count is not None
    assert count.clipped > 0
    assert model(x).equal(kept(x))
    rk.save(model, new)
    assert new.read_bytes() == path.read_bytes()


@pytest.mark.parametrize("ends", [(-128, 127), (0, 255), (-8, 7), (-32768, 32767), (0, 65535)])
@settings(max_examples=30)
@given(data=st.data())
def test_the_scale_is_right_for_any_weight(ends: tuple[int, int], data: st.DataObject) -> None:
    first, last = ends
    quarter = (last - first) // 4
    zero = data.draw(st.integers(first + quarter, last - quarter)) if first == 0 else 0
    low, high = first - zero - 0.499, last - zero + 0.499
    top = data.draw(st.integers(2, last - zero)) - 0.499
    reach = Reach(*(torch.tensor([[number]]) for number in (low, high, top)))
    scale = torch.tensor([[data.draw(st.floats(1e-6, 10))]])
    weight = torch.rand(3, 5) * (high - low) + low
    weight *= scale * data.draw(st.floats(0.01, 1000))
    new = scale_for(weight, scale, reach, torch.float32)
    at = weight.double() / new.double()
    assert (at.round() >= first - zero).all()  # nothing is clipped
    assert (at.round() <= last - zero).all()
    least = (at.max() / high).maximum(at.min() / low)
    if new > scale:
        assert least > 0.99999  # and by no wider scale than that takes
    elif new < scale:
        assert max(least, at.abs().max() / top) > 0.99999
    else:
        assert at.abs().max() > 0.99999 * top
    assert scale_for(weight, new, reach, torch.float32).equal(new)


def test_a_gradient_passes_where_a_kept_scale_stops_it(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    write(path, CONV, settings_of(True, np.int8))
    for scales, stopped in (("kept", True), ("weights", False)):
        conv = conv_of(rk.load(path, scales=scales))  # type: ignore[arg-type]
        conv.weight.data *= 2
        conv(torch.randn(2, 3, 8, 8)).square().sum().backward()
        assert conv.weight.grad is not None
        assert bool((conv.weight.grad == 0).any()) is stopped


DYNAMIC = "q, s, z = DynamicQuantizeLinear (x) i = MatMulInteger (q, w, z, wz) c = Cast <to = 1> (i) "
TAKEN = "q = QuantizeLinear (x, xs, xz) d = DequantizeLinear (q, xs, xz) v = DequantizeLinear (w, ws, wz) "
SHARED = "its bias, which would follow, is read by something else too"
ALONE = "the file has no scale for it alone"
READ_ELSEWHERE = {
    "a product of scales of two weights": (
        DYNAMIC + "j = MatMulInteger (q, w2, z, wz) e = Cast <to = 1> (j) k = Mul (s, ws) "
        "y1 = Mul (c, k) y2 = Mul (e, k) y = Add (y1, y2)",
        "", ALONE,
    ),
    "sums that are an output": (DYNAMIC + "k = Mul (s, ws) y = Mul (c, k)", ", int32[N,4] i", ALONE),
    "a product of scales that is an output": (DYNAMIC + "k = Mul (s, ws) y = Mul (c, k)", ", float k", ALONE),
    "scaled sums that are an output": (DYNAMIC + "m = Mul (c, s) y = Mul (m, ws)", ", float[N,4] m", ALONE),
    "sums that are rounded": (
        DYNAMIC.replace("Cast <to = 1> (i)", "Cast <to = 1> (h)").replace(" c =", " h = Cast <to = 3> (i) c =")
        + "k = Mul (s, ws) y = Mul (c, k)",
        "", ALONE,
    ),
    "a weight quantised in each pass": (
        "w = QuantizeLinear (n, ws2, wz) " + DYNAMIC + "k = Mul (s, ws) y = Mul (c, k)",
        "", ALONE,
    ),
    "a factor for each row": (DYNAMIC + "k = Mul (s, wr) y = Mul (c, k)", "", ALONE),
    "a bias of two convolutions": (
        TAKEN + "b1 = DequantizeLinear (b, bs) v2 = DequantizeLinear (w2, ws2, wz) "
        "y1 = Conv (d, v, b1) y2 = Conv (d, v2, b1) y = Add (y1, y2)",
        "", SHARED,
    ),
    "integers of two biases": (
        TAKEN + "b1 = DequantizeLinear (b, bs) b2 = DequantizeLinear (b, bs2) v2 = DequantizeLinear (w2, ws2, wz) "
        "y1 = Conv (d, v, b1) y2 = Conv (d, v2, b2) y = Add (y1, y2)",
        "", SHARED,
    ),
    "a bias that is an output": (TAKEN + "b1 = DequantizeLinear (b, bs) y = Conv (d, v, b1)", ", float[4] b1", SHARED),
    "a bias of QLinearConv that is dequantised too": (
        "q = QuantizeLinear (x, xs, xz) r = QLinearConv (q, xs, xz, w, ws, wz, ws2, xz, b) "
        "y1 = DequantizeLinear (r, ws2, xz) b1 = DequantizeLinear (b, bs) "
        "e = ReduceMean <keepdims = 1> (b1) y = Add (y1, e)",
        "", SHARED,
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", READ_ELSEWHERE)
def test_a_scale_stays_where_what_it_scales_is_read_elsewhere(case: str, tmp_path: Path) -> None:
    nodes, results, reason = READ_ELSEWHERE[case]
    convolution = "Conv" in nodes
    shape = (4, 4, 1, 1) if convolution else (3, 4)
    weights: Weights = {
        "w": random.integers(-100, 100, shape).astype(np.int8),
        "w2": random.integers(-100, 100, shape).astype(np.int8),
        "n": random.standard_normal(shape).astype(np.float32),
        "wz": np.array(0, np.int8),
        "wr": np.full((4, 1), 0.01, np.float32),
        "b": random.integers(-100, 100, 4).astype(np.int32),
        "xz": np.array(120, np.uint8),
        **{name: np.array(0.01, np.float32) for name in ("ws", "ws2", "xs", "bs", "bs2")},
    }
    used = {name: value for name, value in weights.items() if re.search(rf"[ (]{name}[,)]", nodes)}
    if "w = Quant" in nodes:
        del used["w"]
    sizes = ("N,4,3,3", "N,4,3,3") if convolution else ("4,3" if "wr" in nodes else "N,3", "N,4")
    path = tmp_path / "model.onnx"
    write(path, f"net (float[{sizes[0]}] x) => (float[{sizes[1]}] y{results}) {{ {nodes} }}", used, HEADER)
    with pytest.raises(rk.InputError, match=re.escape(reason)):
        rk.load(path, scales="weights")

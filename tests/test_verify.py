"""The judgement: what is called equal, what is not, and that nothing of the user's is touched on the way."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nets import NETS, Plain, build, disturb, images
from onnx import ModelProto, TensorProto, helper, parser
from onnx_models import net, raw, save, save_external, typed
from torch import Tensor, fx, nn

from reparam_kit.algebra import Branch, describe
from reparam_kit.errors import InputError
from reparam_kit.onnx import import_onnx, write_back
from reparam_kit.onnx.run import latency_ratio
from reparam_kit.onnx.weights import read_onnx
from reparam_kit.surgery import expand, fold
from reparam_kit.verification import OutputError, Report, verify
from reparam_kit.verification.quantisation import KernelRisk, compare_file_kernels


def nudged(model: nn.Module, relative: float) -> nn.Module:
    copy = deepcopy(model)
    with torch.no_grad():
        for parameter in copy.parameters():
            parameter.mul_(1 + relative * torch.randn_like(parameter).sign())
    return copy


class Returns(nn.Module):
    """A layer, and then whatever is to be made of its output."""

    def __init__(self, make: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.make = make

    def forward(self, x: Tensor) -> object:
        return self.make(self.conv(x))


# ---------------------------------------------------------------------------------------------- two modules: outputs


@pytest.mark.parametrize("kind", NETS)
def test_an_untouched_fold_is_equal(kind: type[nn.Module]) -> None:
    model = build(kind)
    report = verify(model, fold(expand(model)), images())
    assert report.ok
    assert report.structure is not None
    assert report.structure.same_graph
    assert report.outputs


@pytest.mark.parametrize("relative", [1e-5, 1e-3])
def test_slightly_other_weights_are_another_function(relative: float) -> None:
    model = build(Plain)
    other = nudged(model, relative)
    report = verify(model, other, images())
    assert not report.ok
    assert report.structure is not None
    assert report.structure.same_graph
    assert len(report.structure.payloads) == len(list(model.parameters()))
    assert verify(model, other, images(), same_function=False).ok


class Reordered(nn.Module):
    """A convolution that adds its channels up in another order, as another kernel or a fold may."""

    def __init__(self, plain: nn.Conv2d, order: Tensor) -> None:
        super().__init__()
        self.conv, self.order = plain, order

    def forward(self, x: Tensor) -> Tensor:
        return F.conv2d(x[:, self.order], self.conv.weight[:, self.order], self.conv.bias, padding=1)


@pytest.mark.parametrize(
    "tail", [[nn.Identity()], [nn.Flatten(), nn.Linear(32 * 25, 1)]], ids=["many", "one"]
)
def test_another_order_of_summation_is_the_same_function(tail: list[nn.Module]) -> None:
    """Whether the output has many numbers or one, whose error in ``a`` may be zero by chance."""
    for seed in range(15):
        torch.manual_seed(seed)
        layers = [nn.Conv2d(32, 32, 3, padding=1) for _ in range(4)]
        a = nn.Sequential(*(Reordered(layer, torch.arange(32)) for layer in layers), *tail)
        b = nn.Sequential(*(Reordered(layer, torch.randperm(32)) for layer in layers), *tail)
        (error,) = verify(a, b, torch.randn(1, 32, 5, 5)).outputs
        assert error.ok, (seed, error)
        assert error.max_abs > 0


def test_the_tolerance_is_twice_the_error_of_a() -> None:
    model = build(Plain)
    x = images(16)
    (error,) = verify(model, model, x).outputs
    truth = deepcopy(model).eval().double()(x.double())
    own = (model.eval()(x) - truth).abs().max() / truth.abs().max()
    assert error.relative == pytest.approx(own.item())
    assert error.tolerance == pytest.approx(2 * max(own.item(), 4 * torch.finfo(torch.float32).eps))


def test_a_wrong_border_is_found() -> None:
    """A bias under zero padding, pushed through a chain: right everywhere but at the border."""
    a = nn.Conv2d(3, 4, 3, padding=1)
    b = nn.Conv2d(3, 4, 3, padding=1, padding_mode="replicate")
    b.load_state_dict(a.state_dict())
    report = verify(a, b, images())
    assert not report.ok
    assert report.outputs[0].relative > 1e-2


@pytest.mark.parametrize(
    ("make", "names"),
    [
        (lambda y: y, ["output"]),
        (lambda y: (y, [y.mean(), {"mask": y > 0}]), ["output[0]", "output[1][0]", "output[1][1]['mask']"]),
        (
            lambda y: {"box": y.flatten(1), "label": y.flatten(1).argmax(1)},
            ["output['box']", "output['label']"],
        ),
        (lambda y: (y[:0], y[0, 0, 0], None), ["output[0]", "output[1]"]),
    ],
    ids=["tensor", "nested", "integers", "empty"],
)
def test_outputs_of_every_kind(make: Callable[[Tensor], object], names: list[str]) -> None:
    model = Returns(make)
    report = verify(model, deepcopy(model), images())
    assert report.ok
    assert [output.name for output in report.outputs] == names
    assert not verify(model, nudged(model, 0.5), images()).ok


@pytest.mark.parametrize(
    ("of_a", "of_b"),
    [
        (lambda y: y, lambda y: y[:, :4]),
        (lambda y: y, lambda y: (y, y)),
        (lambda y: (y, y), lambda y: y),
        (lambda y: y, lambda y: y * math.nan),
    ],
    ids=["shape", "one more", "one less", "nan"],
)
def test_outputs_that_do_not_compare(
    of_a: Callable[[Tensor], object], of_b: Callable[[Tensor], object]
) -> None:
    a, b = Returns(of_a), Returns(of_b)
    b.load_state_dict(a.state_dict())
    report = verify(a, b, images())
    assert not report.ok
    assert not report.outputs[-1].ok
    json.dumps(report.to_json(), allow_nan=False)


def test_all_zero_outputs_are_equal() -> None:
    report = verify(Returns(torch.zeros_like), Returns(torch.zeros_like), images())
    assert report.outputs == (OutputError("output", 0.0, 0.0, 1.0, report.outputs[0].tolerance),)


class Float32Inside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x + torch.ones(x.shape).mul(0.5)) @ torch.ones(17, 17)


def test_a_module_that_does_not_run_in_float64() -> None:
    model = Float32Inside()
    report = verify(model, deepcopy(model), images())
    assert report.ok
    assert "does not run in float64" in report.notes[0]
    assert not verify(model, nudged(model, 1e-4), images()).ok


def test_half_precision_is_judged_by_its_own_error() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3)).half()
    x = images().half()
    assert verify(model, deepcopy(model), x).ok
    (error,) = verify(model, nudged(model, 2e-2), x).outputs
    assert not error.ok
    assert 4e-3 <= error.tolerance < 1e-2


def test_several_inputs() -> None:
    class Sum(nn.Module):
        def forward(self, x: Tensor, index: Tensor) -> Tensor:
            return x[index] * 2

    assert verify(Sum(), Sum(), (images(), torch.tensor([1, 0]))).ok


def test_modules_and_inputs_are_left_as_they_were() -> None:
    model = build(Plain).train()
    model.stem.eval()
    calls: list[bool] = []
    model.register_forward_hook(lambda module, *_: calls.append(module.training))
    inplace = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 3, 1)).train()
    x = images()
    for module in (model, inplace):
        modes = [part.training for part in module.modules()]
        state, seen = deepcopy(module.state_dict()), x.clone()
        assert verify(module, deepcopy(module), x).ok
        assert [part.training for part in module.modules()] == modes
        assert all(value.equal(state[name]) for name, value in module.state_dict().items())
        assert x.equal(seen)
    assert calls
    assert not any(calls)


# -------------------------------------------------------------------------------------------- two modules: structure


def named_twice() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1))


class Other(nn.Sequential):
    pass


def _stride(model: nn.Module) -> nn.Module:
    model[0].stride = (2, 2)
    return model


def _wider(model: nn.Module) -> nn.Module:
    model[2] = nn.Conv2d(4, 6, 1)
    return model


def _activation(model: nn.Module) -> nn.Module:
    model[1] = nn.SiLU()
    return model


def _buffer(model: nn.Module) -> nn.Module:
    model.register_buffer("mean", torch.zeros(3))
    return model


def _order(model: nn.Module) -> nn.Module:
    model._modules = {name: model._modules[name] for name in ("0", "2", "1")}
    return model


@pytest.mark.parametrize(
    ("edit", "change"),
    [
        (lambda m: Other(*m), "class changed: torch.nn.modules.container.Sequential -> test_verify.Other"),
        (
            _stride,
            "modules[0] changed: Conv2d(3, 4, kernel_size=(3, 3), stride=(1, 1)) -> "
            "Conv2d(3, 4, kernel_size=(3, 3), stride=(2, 2))",
        ),
        (_wider, "state_dict[2.weight] changed: float32[4, 4, 1, 1] -> float32[6, 4, 1, 1]"),
        (lambda m: m.double(), "state_dict[0.weight] changed: float32[4, 3, 3, 3] -> float64[4, 3, 3, 3]"),
        (_activation, "modules[1] changed: ReLU() -> SiLU()"),
        (_buffer, "state_dict[mean] added: float32[3]"),
        (lambda m: m[:2], "state_dict[2.weight] removed: float32[4, 4, 1, 1]"),
        (_order, "modules reordered: 0, 1, 2 -> 0, 2, 1"),
        (fx.symbolic_trace, "class changed"),
    ],
)
def test_structure_of_modules(edit: Callable[[nn.Module], nn.Module], change: str) -> None:
    model = named_twice()
    report = verify(model, edit(deepcopy(model)))
    assert not report.ok
    assert report.structure is not None
    assert any(change.replace("test_verify", __name__) in str(found) for found in report.structure.changes)
    assert not verify(model, edit(deepcopy(model)), same_function=False).ok


def test_code_of_a_graph_module_is_structure() -> None:
    first, second = (fx.symbolic_trace(Returns(make)) for make in (lambda y: y + 1, lambda y: y - 1))
    report = verify(first, second)
    assert report.structure is not None
    assert [change.where for change in report.structure.changes] == ["code"]
    assert verify(first, deepcopy(first)).ok


def test_modules_without_inputs_are_compared_in_structure_only() -> None:
    report = verify(build(Plain), disturb(build(Plain)))
    assert report.ok
    assert report.outputs == ()
    assert report.notes == ("outputs not compared: give example_inputs to run the modules on",)


# --------------------------------------------------------------------------------------------------------- files


def retrained(path: Path, new: Path) -> Path:
    write_back(nudged(import_onnx(path), 0.1), new)
    return new


@pytest.mark.parametrize("batch", ["n", "2"])
def test_files_that_are_equal(tmp_path: Path, batch: str) -> None:
    a = save(net(batch=batch), tmp_path / "a.onnx")
    report = verify(a, str(a))
    assert report.ok
    assert report.outputs == (OutputError("y", 0.0, 0.0, 1.0, 1e-5),)
    shapes = "[[1, 3, 8, 8]], [[3, 3, 8, 8]]" if batch == "n" else "[[2, 3, 8, 8]]"
    assert report.notes == (
        f"run in onnxruntime, graph optimisations off and on, on random inputs of shapes {shapes}",
    )
    assert report.file_sizes == (a.stat().st_size, a.stat().st_size)
    assert report.latency_ratio is None


def test_a_retrained_file_is_the_same_graph_and_another_function(tmp_path: Path) -> None:
    a = save(net(), tmp_path / "a.onnx")
    b = retrained(a, tmp_path / "b.onnx")
    strict, loose = verify(a, b), verify(a, b, same_function=False)
    assert (strict.ok, loose.ok) == (False, True)
    assert strict.outputs == loose.outputs
    assert strict.outputs[0].relative > 1e-3
    assert loose.structure is not None
    assert len(loose.structure.payloads) == 4


def test_another_graph_is_never_ok(tmp_path: Path) -> None:
    model = net()
    a = save(model, tmp_path / "a.onnx")
    model.graph.node[2].op_type = "LeakyRelu"
    b = save(model, tmp_path / "b.onnx")
    assert not verify(a, b, same_function=False).ok
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = 4
    report = verify(a, save(model, tmp_path / "c.onnx"), same_function=False)
    assert not report.ok
    assert report.outputs == ()
    assert report.notes[0].startswith("outputs not compared: onnxruntime cannot")


def test_a_file_with_a_fixed_batch_against_a_free_one(tmp_path: Path) -> None:
    model = net()
    a = save(model, tmp_path / "a.onnx")
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    report = verify(a, save(model, tmp_path / "b.onnx"))
    assert not report.ok
    assert report.outputs == (OutputError("y", 0.0, 0.0, 1.0, 1e-5),)


@pytest.mark.parametrize(
    ("batch", "size", "shapes"),
    [("n", 4, "[[4, 3, 8, 8]], [[1, 3, 8, 8]]"), ("n", 1, "[[1, 3, 8, 8]]"), ("4", 4, "[[4, 3, 8, 8]]")],
)
def test_example_inputs_for_files(tmp_path: Path, batch: str, size: int, shapes: str) -> None:
    a = save(net(batch=batch), tmp_path / "a.onnx")
    report = verify(a, a, torch.randn(size, 3, 8, 8))
    assert report.ok
    assert report.notes[0].endswith(f"on the given inputs of shapes {shapes}")


@pytest.mark.parametrize("swap", [False, True])
def test_a_module_against_a_file(tmp_path: Path, swap: bool) -> None:
    a = save(net(), tmp_path / "a.onnx")
    model = import_onnx(a).train()
    pair = (model, a) if swap else (a, model)
    report = verify(*pair)
    assert report.ok
    assert report.structure is None
    assert report.outputs[0].cosine == pytest.approx(1)
    assert "structure not compared: one is a module, the other a file" in report.notes
    assert not verify(a, nudged(model, 1e-3)).ok
    assert report.to_json()["structure"] is None


def test_float16_files_are_judged_by_their_precision(tmp_path: Path) -> None:
    a = save(net(raw(TensorProto.FLOAT16), "float16"), tmp_path / "a.onnx")
    report = verify(a, a)
    assert report.ok
    assert report.outputs[0].tolerance == 4 * torch.finfo(torch.float16).eps


IMAGES = """
<ir_version: 8, opset_import: ["" : 17]>
net (TYPE[n, 3, height, width] x, float[n, 1] scale) => (float[n, 3] y) {
    f = Cast <to = 1> (x)
    g = GlobalMaxPool (f)
    h = Flatten (g)
    y = Mul (h, scale)
}
"""


def test_free_image_size_several_inputs_and_bytes(tmp_path: Path) -> None:
    a = save(parser.parse_model(IMAGES.replace("TYPE", "uint8")), tmp_path / "a.onnx")
    assert "[[1, 3, 64, 64], [1, 1]], [[3, 3, 64, 64], [3, 1]]" in verify(a, a).notes[0]


def test_an_input_that_noise_does_not_suit(tmp_path: Path) -> None:
    a = save(parser.parse_model(IMAGES.replace("TYPE", "int64")), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"input 'x' is a tensor\(int64\): give example_inputs"):
        verify(a, a)
    assert verify(a, a, [torch.ones(1, 3, 4, 4, dtype=torch.int64), torch.ones(1, 1)]).ok


def test_external_data_counts_as_file_size(tmp_path: Path) -> None:
    a = save_external(net(), tmp_path / "a.onnx")
    size = a.stat().st_size + (tmp_path / "weights.bin").stat().st_size
    assert verify(a, a).file_sizes == (size, size)


def _unknown_operator(model: ModelProto) -> None:
    model.graph.node[2].op_type = "Rellu"


def _missing_tensor(model: ModelProto) -> None:
    del model.graph.initializer[0]


@pytest.mark.parametrize(
    ("spoil", "inputs", "message"),
    [
        (_unknown_operator, None, "onnxruntime cannot load .*a.onnx: .*Rellu"),
        (_missing_tensor, None, "onnxruntime cannot load .*a.onnx: .*conv_w"),
        (lambda m: None, [torch.randn(1, 3, 8, 8)] * 2, "a.onnx takes 1 inputs, not 2"),
        (lambda m: None, [torch.randn(1, 5, 8, 8)], r"cannot run .* on inputs of shapes \[\[1, 5, 8, 8\]\]"),
    ],
)
def test_files_that_do_not_run(
    tmp_path: Path, spoil: Callable[[ModelProto], None], inputs: list[Tensor] | None, message: str
) -> None:
    model = net()
    spoil(model)
    a = save(model, tmp_path / "a.onnx")
    with pytest.raises(InputError, match=message) as caught:
        verify(a, a, inputs)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("bad", ["missing.onnx", "garbage.onnx"])
def test_files_that_are_not_there(tmp_path: Path, bad: str) -> None:
    (tmp_path / "garbage.onnx").write_bytes(b"\x80\x04garbage")
    a = save(net(), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=bad):
        verify(a, tmp_path / bad)


def test_onnxruntime_is_quiet(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model = net()
    model.graph.initializer.append(typed(TensorProto.FLOAT)("unused", torch.ones(1)))  # ORT warns of it
    a = save(model, tmp_path / "a.onnx")
    assert verify(a, a).ok
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------------------- latency and the report


def deep(layers: int) -> ModelProto:
    nodes = [
        helper.make_node("Conv", [f"t{i}", "w"], [f"t{i + 1}"], pads=[1, 1, 1, 1]) for i in range(layers)
    ]
    return helper.make_model(
        helper.make_graph(
            nodes,
            "deep",
            [helper.make_tensor_value_info("t0", TensorProto.FLOAT, ["n", 16, 32, 32])],
            [helper.make_tensor_value_info(f"t{layers}", TensorProto.FLOAT, ["n", 16, 32, 32])],
            [raw(TensorProto.FLOAT)("w", torch.randn(16, 16, 3, 3) / 12)],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )


def test_latency_ratio(tmp_path: Path) -> None:
    one, three = save(deep(2), tmp_path / "one.onnx"), save(deep(6), tmp_path / "three.onnx")
    assert 1.8 < latency_ratio(one, three, runs=15) < 5
    assert 1.8 < 1 / latency_ratio(three, one, runs=15) < 5
    report = verify(one, one, latency=True)
    assert report.latency_ratio is not None
    assert 0.5 < report.latency_ratio < 2


def test_latency_is_of_files(tmp_path: Path) -> None:
    a = save(net(), tmp_path / "a.onnx")
    with pytest.raises(InputError, match=r"between two \.onnx files"):
        verify(a, import_onnx(a), latency=True)


def test_text_and_json(tmp_path: Path) -> None:
    a = save(net(), tmp_path / "a.onnx")
    b = retrained(a, tmp_path / "b.onnx")
    text = str(verify(a, b)).splitlines()
    assert text[0] == "NOT equal"
    assert "same graph" in text
    assert any(line.startswith("output y: relative error") and "beyond 1.00e-05" in line for line in text)
    loose = verify(a, b, same_function=False, latency=True)
    assert str(loose).startswith("equal but for the weights\nsame graph\nweights that differ: 4")
    assert "1.00e-05" not in str(loose)
    assert "latency ratio" in str(loose)
    content = json.loads(json.dumps(loose.to_json(), allow_nan=False))
    assert content["ok"] is True
    assert content["structure"]["same_graph"] is True
    assert {"structure", "outputs", "notes", "file_sizes", "latency_ratio", "same_function"} < set(content)
    assert set(content["outputs"][0]) == {"name", "max_abs", "relative", "cosine", "tolerance"}


def test_report_is_frozen() -> None:
    report = Report(None, (), (), same_function=True)
    with pytest.raises(AttributeError):
        report.notes = ("changed",)  # type: ignore[misc]


@pytest.mark.parametrize("name", ["mobilefacenet", "teacher_y1"])
def test_real_models(tmp_path: Path, shared_faces: Path, name: str) -> None:
    original = shared_faces / "models" / f"{name}.onnx"
    model = import_onnx(original)
    assert verify(model, original).ok
    write_back(fold(expand(model)), tmp_path / "folded.onnx")
    assert verify(original, tmp_path / "folded.onnx").ok
    student = expand(model)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.01 * parameter.std(unbiased=False) * torch.randn_like(parameter))
    trained = verify(student, fold(student), torch.randn(2, 3, 112, 112))
    assert all(output.ok for output in trained.outputs), str(trained)


# ------------------------------------------------------------------------------------------------------------- INT8


def rounded_to_int8(weight: Tensor) -> Tensor:
    return torch.fake_quantize_per_tensor_affine(weight, weight.abs().max().item() / 127, 0, -127, 127)


def rows_of_transposed(weight: Tensor) -> Tensor:
    return torch.cat([group.movedim(1, 0).flatten(1) for group in weight.split(4)])


MODULES: dict[str, tuple[Callable[[], nn.Module], Callable[[Tensor], Tensor]]] = {
    "conv": (lambda: nn.Conv2d(8, 6, 3), lambda w: w.flatten(1)),
    "grouped": (lambda: nn.Conv1d(8, 6, 3, groups=2), lambda w: w.flatten(1)),
    "transposed": (lambda: nn.ConvTranspose2d(4, 6, 3), rows_of_transposed),
    "grouped transposed": (lambda: nn.ConvTranspose2d(8, 6, 3, groups=2), rows_of_transposed),
    "linear": (lambda: nn.Linear(20, 6), lambda w: w),
}
NODES: dict[str, tuple[str, tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "conv": ("Conv (x, w)", (6, 8, 3, 3), lambda w: w.flatten(1)),
    "transposed": ("ConvTranspose (x, w)", (4, 6, 3, 3), rows_of_transposed),
    "grouped transposed": ("ConvTranspose <group = 2> (x, w)", (8, 3, 3, 3), rows_of_transposed),
    "gemm": ("Gemm (x, w)", (20, 6), lambda w: w.T),
    "turned gemm": ("Gemm <transB = 1> (x, w)", (6, 20), lambda w: w),
    "matmul": ("MatMul (x, w)", (2, 20, 6), lambda w: w.movedim(-1, 0).flatten(1)),
}


def widened(weight: Tensor, rows: Callable[[Tensor], Tensor]) -> Tensor:
    """Channel 1 three times as wide, channel 2 dead, and channel 3 with its largest weight seven times as large."""
    factors = torch.ones_like(rows(weight))
    factors[1], factors[2] = 3, 0
    factors[3, rows(weight)[3].abs().argmax()] = 7
    place = rows(torch.arange(weight.numel()).reshape(weight.shape)).flatten()
    scale = torch.empty(weight.numel())
    scale[place] = factors.flatten()
    return weight * scale.reshape(weight.shape)


def assert_measured(kernel: KernelRisk, a: Tensor, b: Tensor) -> None:
    """Against the definitions, on kernels of a row for each channel."""
    assert kernel.growth == pytest.approx([1, 3, 0, 7, 1, 1], rel=1e-6)
    for i, rows in enumerate((a, b)):
        alive = rows[rows.any(1)]
        noise = alive - rounded_to_int8(alive)
        by_channel = noise.norm(dim=1) / alive.norm(dim=1)
        ranges = alive.abs().amax(1)
        assert kernel.peak[i] == pytest.approx(
            (alive.abs().max() / alive.pow(2).mean().sqrt()).item(), rel=1e-4
        )
        assert kernel.spread[i] == pytest.approx((ranges.max() / ranges.median()).item(), rel=1e-4)
        assert kernel.error[i] == pytest.approx((noise.norm() / alive.norm()).item(), rel=1e-3)
        assert kernel.channel_error[i] == pytest.approx(by_channel.pow(2).mean().sqrt().item(), rel=1e-3)
        assert kernel.weakest_snr[i] == pytest.approx(-20 * by_channel.max().log10().item(), rel=1e-3)


@pytest.mark.parametrize("kind", MODULES)
def test_int8_measures_of_a_layer(kind: str) -> None:
    make, rows = MODULES[kind]
    a = nn.Sequential(make())
    b = deepcopy(a)
    weight = a[0].weight.detach()
    b[0].weight.data = widened(weight, rows)
    found = verify(a, b).quantisation
    assert found is not None
    (kernel,) = found.kernels
    assert kernel.name == "0.weight"
    assert_measured(kernel, rows(weight), rows(b[0].weight.detach()))
    assert found.outputs == ()


@pytest.mark.parametrize("kind", NODES)
@pytest.mark.parametrize("constant", [False, True], ids=["initializer", "constant"])
def test_int8_measures_of_a_node(tmp_path: Path, kind: str, constant: bool) -> None:
    node, shape, rows = NODES[kind]
    text = f'<ir_version: 8, opset_import: ["" : 17]> net (int64[1] x) => (float[1] y) {{ y = {node} }}'
    weight = torch.randn(shape)
    files = []
    for name, value in (("a", weight), ("b", widened(weight, rows))):
        model = parser.parse_model(text)
        tensor = raw(TensorProto.FLOAT)("w", value)
        if constant:
            model.graph.node.insert(0, helper.make_node("Constant", [], ["w"], value=tensor))
        else:
            model.graph.initializer.append(tensor)
        files.append(read_onnx(save(model, tmp_path / f"{name}.onnx")))
    (kernel,) = compare_file_kernels(*files)
    assert kernel.name == f"{'constant' if constant else 'initializer'} 'w'"
    assert_measured(kernel, rows(weight), rows(widened(weight, rows)))


def test_growth_by_hand() -> None:
    a, b = nn.Linear(2, 4), nn.Linear(2, 4)
    a.weight.data = torch.tensor([[1.0, -2.0], [0.0, 0.0], [3.0, 1.0], [0.0, 0.0]])
    b.weight.data = torch.tensor([[4.0, 0.0], [1.0, 1.0], [3.0, -1.0], [0.0, 0.0]])
    report = verify(a, b)
    assert report.quantisation is not None
    (kernel,) = report.quantisation.kernels
    assert kernel.name == "weight"
    assert kernel.growth == (2, math.inf, 1, 1)
    content = json.loads(json.dumps(report.to_json(), allow_nan=False))["quantisation"]
    assert content["kernels"][0]["growth"] == [2, None, 1, 1]


def outlier(weight: Tensor) -> None:
    weight[1, 0, 0, 0] = 30 * weight.abs().max()


def wide_channel(weight: Tensor) -> None:
    """So wide that it hides the others in the error of the whole tensor."""
    weight[1] *= 1000


@pytest.mark.parametrize(
    ("edit", "flagged"),
    [
        (outlier, True),
        (wide_channel, True),
        (lambda w: None, False),
        (lambda w: w.mul_(10), False),
        (lambda w: w.copy_(w.flip(0)), False),
        (lambda w: w.add_(0.02 * torch.randn_like(w) * w.std()), False),
        (lambda w: w.zero_(), False),
    ],
    ids=["outlier", "wide channel", "unchanged", "scaled", "permuted", "trained", "zero"],
)
def test_a_kernel_that_int8_cannot_hold_is_flagged(edit: Callable[[Tensor], object], flagged: bool) -> None:
    a = nn.Sequential(nn.Conv2d(3, 16, 3), nn.ReLU(), nn.Conv2d(16, 16, 3))
    b = deepcopy(a)
    with torch.no_grad():
        edit(b[2].weight)
    report = verify(a, b, images(), same_function=False)
    assert report.ok
    assert ("warning: INT8" in str(report)) is flagged
    assert report.to_json()["quantisation"]["at_risk"] == (["2.weight"] if flagged else [])
    assert "  0.weight: INT8 error" not in str(report)


def test_a_repvgg_block_with_a_large_identity_grows_and_is_flagged() -> None:
    a = nn.Sequential(*(nn.Conv2d(8, 8, 3, padding=1) for _ in range(5)))
    student = expand(a, "repvgg", "batch")
    with torch.no_grad():
        for branch in (part for part in student.modules() if isinstance(part, Branch)):
            if describe(branch.chain) == "identity":
                branch.norms[0].weight.fill_(0.5)
                branch.norms[0].running_var.copy_(torch.logspace(0, -5, 8))  # from one channel to the next
    report = verify(a, fold(student), same_function=False)
    found = report.quantisation
    assert found is not None
    assert len(found.at_risk) == 5
    for kernel in found.kernels:
        assert max(kernel.growth) > 500
        assert kernel.weakest_snr[1] < 5 < 35 < kernel.weakest_snr[0]
    lines = str(report).splitlines()
    assert sum("range of a channel up to" in line for line in lines) == 3
    assert any(line.startswith("warning: INT8") and "in 5 of 5 kernels" in line for line in lines)


def test_outputs_with_int8_weights_are_those_of_a_quantised_copy() -> None:
    a = build(Plain).eval()
    b = nudged(a, 0.3).eval()
    x = images(4)
    before = deepcopy(b.state_dict())
    found = verify(a, b, x).quantisation
    assert found is not None
    (output,) = found.outputs
    for i, model in enumerate((a, b)):
        copy = deepcopy(model)
        for part in copy.modules():
            if isinstance(part, nn.Conv2d | nn.Linear):
                part.weight.data = rounded_to_int8(part.weight.data)
        with torch.no_grad():
            expected, got = model(x), copy(x)
        assert output.error[i] == pytest.approx(
            ((got - expected).abs().max() / expected.abs().max()).item(), rel=1e-3
        )
        assert output.cosine[i] == pytest.approx(F.cosine_similarity(got, expected).min().item())
    assert all(value.equal(before[name]) for name, value in b.state_dict().items())


@pytest.mark.parametrize("store", ["raw", "constant", "external", "float16"])
def test_int8_of_files(tmp_path: Path, store: str) -> None:
    half = (raw(TensorProto.FLOAT16), "float16") if store == "float16" else ()
    model = net(*half, constants=("conv_w", "fc_w") if store == "constant" else ())
    write = save_external if store == "external" else save
    a = write(model, tmp_path / "a.onnx")
    module = import_onnx(a)
    with torch.no_grad():
        outlier(next(parameter for parameter in module.parameters() if parameter.dim() == 4))
    write_back(module, b := tmp_path / "b.onnx")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for inputs in (None, torch.randn(2, 3, 8, 8, dtype=torch.float16 if half else torch.float32)):
        report = verify(a, b, inputs, same_function=False)
        assert report.ok
        found = report.quantisation
        assert found is not None
        assert [kernel.name.split()[1] for kernel in found.kernels] == ["'conv_w'", "'fc_w'"]
        assert [kernel.name.split()[1] for kernel in found.at_risk] == ["'conv_w'"]
        (output,) = found.outputs
        assert 0 < output.error[0] < output.error[1]
        assert output.cosine[1] < output.cosine[0] < 1
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_int8_of_a_module_and_the_file_it_came_from_agree(tmp_path: Path) -> None:
    a = save(net(), tmp_path / "a.onnx")
    b = retrained(a, tmp_path / "b.onnx")
    x = torch.randn(2, 3, 8, 8)
    of_files = verify(a, b, x).quantisation
    of_modules = verify(import_onnx(a), import_onnx(b), x).quantisation
    assert of_files is not None
    assert of_modules is not None
    for kernel, other in zip(of_files.kernels, of_modules.kernels, strict=True):
        assert (kernel.growth, kernel.error) == (other.growth, other.error)
    assert of_files.outputs[0].cosine == pytest.approx(of_modules.outputs[0].cosine, abs=1e-5)


def test_no_int8_of_a_module_against_a_file_or_of_kernels_that_do_not_correspond(tmp_path: Path) -> None:
    a = save(net(), tmp_path / "a.onnx")
    report = verify(a, import_onnx(a))
    assert report.quantisation is None
    assert report.to_json()["quantisation"] is None
    found = verify(nn.Sequential(nn.Conv2d(3, 4, 3)), nn.Sequential(nn.Conv2d(3, 5, 3))).quantisation
    assert found is not None
    assert found.kernels == ()
    assert found.lines() == []

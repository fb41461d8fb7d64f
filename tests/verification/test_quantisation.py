"""What INT8 would cost: kernels measured against a naive reference, and quantised copies that are run."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from nets import Plain, build, images, nudged
from onnx import TensorProto, helper, parser
from onnx_models import net, raw, retrained, save, save_external
from torch import Tensor, nn

from reparam_kit.algebra import Branch, describe
from reparam_kit.onnx import import_onnx, write_back
from reparam_kit.onnx.weights import read_onnx
from reparam_kit.surgery import expand, fold
from reparam_kit.verification import verify
from reparam_kit.verification.quantisation import KernelRisk, compare_file_kernels


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

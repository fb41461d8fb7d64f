"""An imported model is compared with its file, and the first node at which they part is named."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_text import SMALL, SMALL_WEIGHTS, Weights, load
from torch import Tensor, fx, nn

from reparam_kit import InputError, VerificationError, check_import, expand, fold
from reparam_kit.onnx.importer.fake import LEVELS

ACROSS = """net (float[1,3,8,8] x) => (float y) { c = Conv (x, w) m = ReduceMean <keepdims = 0> (c) d = Sub (c, m)
    y = Transpose <perm = [1,0,2,3]> (d) }"""
QUANTISED = """net (float[N,3,8,8] x) => (float y) { q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z)
    y = Conv (d, w) }"""
MASKED = """net (float[N,3,8,8] x) => (float[N,4,6,6] y) { c = Conv (x, w) a = Add (c, mask) p = Softmax <axis = 3> (a)
    y = Sqrt (p) }"""
WEIGHTS: Weights = {
    "mask": np.float32([0, 0, 0, 0, 0, -np.inf]),
    "w": (4, 3, 3, 3),
    "s": np.array(0.05, np.float32),
    "z": np.array(128, np.uint8),
}


def model_of(path: Path, text: str) -> nn.Module:
    return load(path, text, SMALL_WEIGHTS if text is SMALL else WEIGHTS)


@pytest.mark.parametrize(
    "text", [SMALL, ACROSS, QUANTISED, MASKED], ids=["small", "across", "quantised", "masked"]
)
def test_an_import_is_as_its_file_trained_or_not(text: str, tmp_path: Path) -> None:
    model, x = model_of(tmp_path / "model.onnx", text), torch.randn(3, 3, 8, 8)
    assert check_import(model, x) is None
    student = expand(model)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter += 0.01 * torch.randn_like(parameter)
    assert check_import(fold(student), x) is None
    with pytest.raises(InputError, match="still has expanded"):
        check_import(student, x)


def spoil(model: nn.Module, name: str, by: Callable[[Tensor], Tensor]) -> None:
    """Let the node that stands for the file's value ``name`` give something else."""
    assert isinstance(model, fx.GraphModule)
    wrong = next(
        node for node in model.graph.nodes if name in (node.meta.get("value"), *node.meta.get(LEVELS, ())[:1])
    )
    with model.graph.inserting_after(wrong):
        other = model.graph.call_function(by, (wrong,))
    wrong.replace_all_uses_with(other, lambda user: user is not other)
    other.meta |= {key: wrong.meta.pop(key) for key in ("value", LEVELS) if key in wrong.meta}
    model.recompile()


def every_hundredth(x: Tensor) -> Tensor:
    return (torch.arange(x.numel()) % 100 == 0).reshape(x.shape)


# Faults so small, or of so few entries, that the outputs of the whole net hardly show them.
SPOILT: dict[str, tuple[str, str, Callable[[Tensor], Tensor]]] = {
    "slope": (SMALL, "'p' (PRelu)", lambda x: x * 1.0002),
    "last": (SMALL, "'y' (Gemm)", lambda x: x + 1e-4 * x.abs().max()),
    "across": (ACROSS, "'d' (Sub)", lambda x: x * 1.0002),
    "level": (QUANTISED, "'q' (QuantizeLinear)", lambda x: x + every_hundredth(x)),
    "scale": (QUANTISED, "'d' (DequantizeLinear)", lambda x: x * 1.0002),
    "behind": (QUANTISED, "'y' (Conv)", lambda x: x * 1.0002),
    "masked": (MASKED, "'p' (Softmax)", lambda x: x * 1.0002),
}


@pytest.mark.parametrize("case", SPOILT)
def test_the_first_node_that_differs_is_named(case: str, tmp_path: Path) -> None:
    text, name, by = SPOILT[case]
    model = model_of(tmp_path / "model.onnx", text)
    spoil(model, name[1], by)
    with pytest.raises(VerificationError, match="first at node") as caught:
        check_import(model, torch.randn(2, 3, 8, 8))
    assert name in str(caught.value)


MIXING = {
    "norm": "c = Conv (x, w) f = Flatten (c) n = ReduceL2 (f) y = Div (f, n)",
    "softmax": "c = Conv (x, w) f = Flatten (c) n = Softmax <axis = 0> (f) y = Relu (n)",
    "one of them": 'f = Conv (x, w) n = Slice (f, "0,", "1,", "0,") y = Relu (n)',
    "quantised": "c = Conv (x, w) q = QuantizeLinear (c, s, z) f = DequantizeLinear (q, s, z) n = ReduceMean (f) "
    "y = Sub (f, n)",
}


@pytest.mark.parametrize("batch", ["N", "1", "2"])
@pytest.mark.parametrize("case", MIXING)
def test_a_file_that_mixes_its_images_is_told_of(case: str, batch: str, tmp_path: Path) -> None:
    """Only where it leaves the batch free: one that is fixed is treated image by image."""
    axes: Weights = {number: np.array([int(number[0])]) for number in MIXING[case].split('"')[1::2]}
    text = f"net (float[{batch},3,8,8] x) => (float y) {{ {MIXING[case]} }}"
    model = load(tmp_path / "model.onnx", text, {**WEIGHTS, **axes})
    note = check_import(model, torch.randn(3, 3, 8, 8))
    if batch == "N":
        assert note is not None
        assert "the file itself gives an image another result among others" in note
        assert "node 'n'" in note
    else:
        assert note is None


def test_what_cannot_be_compared(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not loaded from an ONNX file"):
        check_import(nn.Conv2d(3, 4, 3), torch.randn(1, 3, 8, 8))
    model = model_of(tmp_path / "model.onnx", ACROSS)
    assert "not compared" in str(check_import(model, torch.randn(2, 3, 4, 4)))

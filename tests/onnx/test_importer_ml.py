"""What skl2onnx puts around a network, against onnxruntime, and a classifier of it through expansion and back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx_models import without_payloads
from onnx_text import Weights, assert_as_runtime, load

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx import diff, write_back
from reparam_kit.surgery import expand, fold

HEADER = 'ir_version: 8, opset_import: ["" : 18, "ai.onnx.ml" : 1]'

CASES: dict[str, tuple[str, str, Weights, torch.Tensor]] = {
    "a scale for each feature": (
        "float[N,3]",
        "y = ai.onnx.ml.Scaler <offset = [0.5, -1.0, 2.0], scale = [2.0, 0.25, 3.0]> (x)",
        {},
        torch.randn(4, 3),
    ),
    "a scale for all": (
        "float[N,3]",
        "y = ai.onnx.ml.Scaler <offset = [0.5], scale = [2.0]> (x)",
        {},
        torch.randn(4, 3),
    ),
    "a scale of integers": (
        "int64[N,3]",
        "y = ai.onnx.ml.Scaler <offset = [1.0, 2.0, 3.0], scale = [0.5, 0.25, 2.0]> (x)",
        {},
        torch.arange(12).reshape(4, 3),
    ),
    "labels of classes": (
        "float[N,3]",
        "i = ArgMax <axis = 1> (x) l = ai.onnx.ml.ArrayFeatureExtractor (labels, i) y = Cast <to = 1> (l)",
        {"labels": np.array([10, 20, 30])},
        torch.randn(4, 3),
    ),
    "several labels": (
        "float[N,3]",
        "y = ai.onnx.ml.Binarizer <threshold = 0.25> (x)",
        {},
        torch.tensor([[0.25, 0.5, -1.0], [1.0, 0.0, 0.3]]),
    ),
    "columns of a matrix": (
        "float[N,5]",
        "y = ai.onnx.ml.ArrayFeatureExtractor (x, columns)",
        {"columns": np.array([[4, 0, 0]])},
        torch.randn(4, 5),
    ),
}


@pytest.mark.parametrize(("info", "nodes", "weights", "x"), CASES.values(), ids=CASES)
def test_operator(info: str, nodes: str, weights: Weights, x: torch.Tensor, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = load(path, f"net ({info} x) => (float y) {{ {nodes} }}", weights, HEADER)
    assert_as_runtime(model, path, x)
    assert_as_runtime(model, path, x[:1])


def test_dictionaries_are_refused(tmp_path: Path) -> None:
    nodes = "p = Softmax (x) y = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1, 2]> (p)"
    with pytest.raises(UnsupportedError, match=r'node .*\(ZipMap\): .*; .* options={"zipmap": False}'):
        load(tmp_path / "m.onnx", f"net (float[N,3] x) => (y) {{ {nodes} }}", {}, HEADER)


def test_a_classifier_is_retrained_in_its_file(tmp_path: Path) -> None:
    path, new = tmp_path / "m.onnx", tmp_path / "new.onnx"
    model = load(
        path,
        """net (float[N,6] X) => (int64[N] label, float[N,3] probabilities) {
            s = ai.onnx.ml.Scaler <offset = [1.0, 0.0, 0.0, 0.0, 0.0, 2.0], scale = [1.0, 1.0, 2.0, 1.0, 1.0, 0.5]> (X)
            m0 = MatMul (s, coefficient) a0 = Add (m0, intercepts) r = Relu (a0)
            m1 = MatMul (r, coefficient1) a1 = Add (m1, intercepts1)
            probabilities = Softmax <axis = 1> (a1)
            i = ArgMax <axis = 1> (probabilities)
            f = ai.onnx.ml.ArrayFeatureExtractor (classes, i)
            label = Reshape (f, shape)
        }""",
        {
            "coefficient": (6, 8),
            "intercepts": (1, 8),
            "coefficient1": (8, 3),
            "intercepts1": (1, 3),
            "classes": np.array([3, 5, 9]),
            "shape": np.array([-1]),
        },
        HEADER,
    )
    x = torch.randn(32, 6)
    assert_as_runtime(model, path, x)
    write_back(model, new)
    assert new.read_bytes() == path.read_bytes()

    student = expand(model, "2 * conv(k)", include=["*"])
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    folded = fold(student)
    write_back(folded, new)
    changed = {change.name for change in diff(path, new).payloads}
    assert changed == {"initializer 'coefficient'", "initializer 'coefficient1'"}
    assert without_payloads(new) == without_payloads(path)
    assert_as_runtime(folded, new, x)

"""Recurrent layers behind convolutions: values and gradients, images of a batch apart, weights trained and written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx_models import save

import reparam_kit as rk

GATES = {"GRU": 3, "LSTM": 4, "RNN": 1}
HIDDEN = 5
RNG = np.random.default_rng(0)
FLOAT = TensorProto.FLOAT


def weight(name: str, *shape: int) -> TensorProto:
    return numpy_helper.from_array(RNG.standard_normal(shape).astype(np.float32) / 2, name)


def crnn(
    kind: str,
    direction: str = "bidirectional",
    batch: str | int = "n",
    given: str = "w r b",
    **attributes: object,
) -> ModelProto:
    """What reads text: a convolution, its columns as steps, a recurrent layer, and a product for each step."""
    directions = 2 if direction == "bidirectional" else 1
    rows = GATES[kind] * HIDDEN
    stored = [
        weight("k", 6, 3, 8, 3), weight("w", directions, rows, 6), weight("r", directions, rows, HIDDEN),
        weight("b", directions, 2 * rows), weight("h", directions, 1, HIDDEN), weight("c", directions, 1, HIDDEN),
        weight("m", HIDDEN, 4),
        numpy_helper.from_array(np.array([2], np.int64), "two"),
        numpy_helper.from_array(np.array([5], np.int32), "steps"),
    ]  # fmt: skip
    node = helper.make_node
    nodes = [
        node("Conv", ["x", "k"], ["f"]),
        node("Squeeze", ["f", "two"], ["s"]),
        node("Transpose", ["s"], ["t"], perm=[2, 0, 1]),
        node(kind, ["t", *given.replace("_", "").split(" ")], ["y", "last"], hidden_size=HIDDEN, direction=direction,
             **attributes),
        node("MatMul", ["y", "m"], ["z"]),
    ]  # fmt: skip
    info = helper.make_tensor_value_info
    outputs = [info("z", FLOAT, None), info("last", FLOAT, None)]
    graph = helper.make_graph(nodes, "crnn", [info("x", FLOAT, [batch, 3, 8, 9])], outputs, stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


FORMS: dict[str, tuple[str, dict[str, object]]] = {
    "LSTM": ("LSTM", {}),
    "LSTM, forward, one image": ("LSTM", {"direction": "forward", "batch": 1}),
    "LSTM, backward": ("LSTM", {"direction": "reverse"}),
    "LSTM that starts somewhere": ("LSTM", {"given": "w r b _ h c", "batch": 1}),
    "LSTM without biases": ("LSTM", {"given": "w r"}),
    "LSTM whose gates are coupled": ("LSTM", {"input_forget": 1}),
    "GRU": ("GRU", {"linear_before_reset": 1}),
    "GRU that resets first": ("GRU", {}),
    "GRU that resets first, one image": ("GRU", {"batch": 1}),
    "GRU of few steps": ("GRU", {"given": "w r b steps", "batch": 1}),
    "RNN": ("RNN", {}),
    "RNN, forward": ("RNN", {"direction": "forward"}),
    "RNN of other activations": ("RNN", {"activations": ["Relu", "Sigmoid"]}),
    "LSTM of other activations": (
        "LSTM",
        {"direction": "forward", "activations": ["Sigmoid", "Softsign", "Tanh"]},
    ),
}


@pytest.mark.parametrize("name", FORMS)
def test_as_in_the_file_trained_and_written_back(tmp_path: Path, name: str) -> None:
    kind, form = FORMS[name]
    path = save(crnn(kind, **form), tmp_path / "a.onnx")  # type: ignore[arg-type]
    model = rk.load(path)
    x = torch.randn(3, 3, 8, 9)
    assert rk.check_import(model, x) is None
    rk.save(rk.fold(rk.expand(model)), tmp_path / "same.onnx")
    assert (tmp_path / "same.onnx").read_bytes() == path.read_bytes()
    student = rk.expand(model).train()
    rate = torch.optim.SGD([p for p in student.parameters() if p.requires_grad], lr=0.1)
    sum(y.square().mean() for y in student(x)).backward()  # type: ignore[union-attr]
    assert all(
        p.grad is not None and p.grad.isfinite().all() for p in student.parameters() if p.requires_grad
    )
    rate.step()
    trained = rk.fold(student.eval())
    assert rk.check_import(trained, x) is None  # what is written has the new numbers
    rk.save(trained, tmp_path / "new.onnx")
    moved = {p.name.split("'")[1] for p in rk.diff(path, tmp_path / "new.onnx").payloads}
    assert moved >= {"k", "w", "r", "m"} | ({"b"} if " b" in str(form.get("given", " b")) else set())


@pytest.mark.parametrize(
    ("kind", "attributes", "says"),
    [
        ("LSTM", {"given": "w r b _ h c p"}, r"peepholes \(input 7\)"),
        ("LSTM", {"clip": 3.0}, "clip is not supported"),
        (
            "LSTM",
            {"activations": ["Sigmoid", "Affine", "Tanh"] * 2},
            "the activation Affine is not supported; these are",
        ),
        ("GRU", {"activations": ["Sigmoid"]}, "1 activations are given, and 4 needed"),
        ("GRU", {"direction": "sideways"}, "direction is 'sideways', not one of forward"),
        (
            "RNN",
            {"given": "w w b"},
            r"input 2 has the shape \[2, 5, 6\], which is not that of 2 x 5 hidden units",
        ),
    ],
)
def test_what_is_refused(tmp_path: Path, kind: str, attributes: dict[str, object], says: str) -> None:
    model = crnn(kind, **attributes)  # type: ignore[arg-type]
    model.graph.initializer.append(weight("p", 2, 3 * HIDDEN))
    with pytest.raises(rk.ReparamError, match=says):
        rk.load(save(model, tmp_path / "a.onnx"))

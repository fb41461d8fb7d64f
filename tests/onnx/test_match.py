"""Two graphs as expressions: what may differ, what may not, and which weight is which."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import numpy_helper, parser

from reparam_kit.errors import InputError
from reparam_kit.onnx.match import match
from reparam_kit.onnx.weights import OnnxFile

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 4] x, float[n, 4] y) => (float[n, 2] z, float[n, 4] s)
<float[4, 4] w = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
 float[4] b = {1, 2, 3, 4}, int64[2] to = {-1, 2}, float top = {6}>
{
    h = Gemm <alpha = 1.0, transB = 1> (x, w, b)
    k = Clip (h, , top)
    r = LeakyRelu (k)
    s = Sub (r, y)
    z = Reshape (s, to)
}
"""


IF = """one = Constant <value = bool {1}> ()
    r = If (one) <then_branch = one () => (float[n, 4] t) { t = LeakyRelu (k) },
                  else_branch = other () => (float[n, 4] e) { e = Relu (k) }>"""


def of(text: str) -> OnnxFile:
    return OnnxFile(parser.parse_model(text), {})


SAME = {
    "itself": NET,
    "names": NET.replace("h = ", "hidden = ")
    .replace("(h,", "(hidden,")
    .replace(" w", " weight")
    .replace("x,", "a,"),
    "numbers of weights": NET.replace("14, 15}", "14, -15}").replace("{1, 2, 3, 4}", "{0, 0, 0, 0}"),
    "defaults": NET.replace("alpha = 1.0, ", "").replace("LeakyRelu (k)", "LeakyRelu <alpha = 0.01> (k)"),
    "a constant for an initializer": NET.replace(", int64[2] to = {-1, 2}", "").replace(
        "h = Gemm", "to = Constant <value = int64[2] {-1, 2}> ()\n    h = Gemm"
    ),
    "order": NET.replace("    z = Reshape (s, to)\n", "")
    .replace("h = Gemm", "extra = Neg (y)\n    h = Gemm")
    .replace("s = Sub (r, y)", "s = Sub (r, y)\n    unused = Neg (s)\n    z = Reshape (s, to)"),
    "an identity of a weight": NET.replace(
        "h = Gemm", "v = Identity (w)\n    u = Identity (v)\n    h = Gemm"
    ).replace("(x, w, b)", "(x, u, b)"),
    "another name of a free dimension": NET.replace("[n,", "[batch,"),
    "domain": NET.replace('"" : 17', '"ai.onnx" : 17'),
}


@pytest.mark.parametrize("text", SAME.values(), ids=SAME)
def test_the_same_expression(text: str) -> None:
    other = of(text)
    found = match(of(NET), other)
    assert found.differences == ()
    assert sorted(map(str, found.weights)) == ["initializer 'b'", "initializer 'w'"]
    for stored, tensor in found.weights.items():
        name = "weight" if stored.name == "w" and "weight" in text else stored.name
        (expected,) = (t for t in other.model.graph.initializer if t.name == name)
        assert np.array_equal(numpy_helper.to_array(tensor), numpy_helper.to_array(expected))
    assert match(other, of(NET)).differences == ()


DIFFERENT = {
    "operator": (NET.replace("LeakyRelu", "Elu"), "node 'r' changed: LeakyRelu -> Elu"),
    "attribute": (
        NET.replace("LeakyRelu (k)", "LeakyRelu <alpha = 0.2> (k)"),
        "alpha not given -> alpha = 0.2",
    ),
    "wiring": (
        NET.replace("Sub (r, y)", "Sub (y, r)"),
        "value 'y' changed: input 1 -> computed by LeakyRelu",
    ),
    "another input": (NET.replace("Sub (r, y)", "Sub (r, x)"), "value 'y' changed: input 1 -> input 0"),
    "one input less": (NET.replace("(x, w, b)", "(x, w)"), "value 'b' changed: a stored tensor -> not given"),
    "shape of a weight": (
        NET.replace("float[4] b = {1, 2, 3, 4}", "float[1] b = {1}"),
        "initializer 'b' changed: float[4] -> float[1]",
    ),
    "numbers that are no weight": (
        NET.replace("{-1, 2}", "{2, -1}"),
        "initializer 'to' changed: [-1, 2] -> [2, -1]",
    ),
    "a fixed dimension": (
        NET.replace("[n, 4] x", "[1, 4] x"),
        "input 'x' changed: float[n, 4] -> float[1, 4]",
    ),
    "dtype of an input": (
        NET.replace("float[n, 4] y", "double[n, 4] y"),
        "input 'y' changed: float[n, 4] -> double[n, 4]",
    ),
    "opset": (NET.replace("17", "16"), "opset changed: 17 -> 16"),
    "outputs": (NET.replace(", float[n, 4] s)", ")"), "number of outputs changed: 2 -> 1"),
    "order of outputs": (
        NET.replace("(float[n, 2] z, float[n, 4] s)", "(float[n, 4] s, float[n, 2] z)"),
        "node 'z' changed: Reshape -> Sub",
    ),
    "inputs": (
        NET.replace("float[n, 4] x, ", "float[n, 4] x, float[n] extra, "),
        "number of inputs changed: 2 -> 3",
    ),
    "a sub-graph": (NET.replace("r = LeakyRelu (k)", IF), "node 'r' changed: LeakyRelu -> If"),
    "another output of a node": (
        NET.replace("s = Sub (r, y)", "s, t = Split <axis = 0> (r)"),
        "node 's' changed: Sub -> Split",
    ),
}


@pytest.mark.parametrize(("text", "difference"), DIFFERENT.values(), ids=DIFFERENT)
def test_another_expression(text: str, difference: str) -> None:
    assert any(difference in str(change) for change in match(of(NET), of(text)).differences)
    assert match(of(text), of(NET)).differences


def test_the_difference_is_where_the_graphs_part_and_nothing_before_it() -> None:
    (found,) = match(
        of(NET), of(NET.replace("Gemm <alpha = 1.0, transB = 1> (x, w, b)", "MatMul (x, w)"))
    ).differences
    assert str(found) == "node 'h' changed: Gemm -> MatMul"


def test_one_stored_tensor_for_two_that_have_parted() -> None:
    shared = NET.replace("s = Sub (r, y)", "q = Add (r, b)\n    s = Sub (q, y)")
    apart = shared.replace("Add (r, b)", "Add (r, c)").replace(
        "float[4] b", "float[4] c = {1, 2, 3, 4}, float[4] b"
    )
    assert match(of(shared), of(apart)).differences == ()
    (found,) = match(of(shared), of(apart.replace("c = {1", "c = {7"))).differences
    assert (
        str(found) == "initializer 'b' changed: one tensor for two places -> two tensors with other numbers"
    )


@pytest.mark.parametrize(("by", "differences"), [(2, 0), (3, 1)])
def test_an_operator_that_onnx_does_not_define_is_compared_as_written(by: int, differences: int) -> None:
    text = NET.replace('"" : 17', '"" : 17, "own" : 1').replace("LeakyRelu (k)", "own.Magic <by = 2> (k)")
    assert len(match(of(text), of(text.replace("by = 2", f"by = {by}"))).differences) == differences


def test_a_value_from_nowhere() -> None:
    model = onnx.ModelProto()
    model.CopyFrom(of(NET).model)
    model.graph.node[0].input[0] = "nobody"
    with pytest.raises(InputError, match="nothing in it computes 'nobody'"):
        match(OnnxFile(model, {}), OnnxFile(model, {}))


def test_sub_graphs_are_never_taken_for_equal() -> None:
    net = of(NET.replace("r = LeakyRelu (k)", IF))
    (found,) = match(net, net).differences
    assert str(found) == "node 'r' (If) changed: a sub-graph -> a sub-graph, and they are not compared"


def test_a_graph_that_bites_its_tail() -> None:
    circular = of(NET.replace("k = Clip (h, , top)", "k = Identity (r)"))
    assert match(of(NET), circular).differences
    assert match(circular, circular).differences == ()

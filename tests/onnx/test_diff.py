"""Every difference between two files is found, named, and sorted into structure and weights."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper, parser
from onnx_models import Edit, edited, net, raw, save, save_external, tensor, typed

from reparam_kit.onnx import diff
from reparam_kit.onnx.changes import Change, measure


def node(model: ModelProto, name: str) -> NodeProto:
    return next(node for node in model.graph.node if node.name == name)


def restore(model: ModelProto, name: str, values: torch.Tensor, data_type: int = TensorProto.FLOAT) -> None:
    tensor(model, name).CopyFrom(raw(data_type)(name, values))


def values(model: ModelProto, name: str) -> torch.Tensor:
    return torch.from_numpy(numpy_helper.to_array(tensor(model, name)).copy())


def rename_output(model: ModelProto) -> None:
    node(model, "Relu_2").output[0] = node(model, "GlobalAveragePool_3").input[0] = "active"


def swap_nodes(model: ModelProto) -> None:
    first, second = model.graph.node[0], model.graph.node[1]
    copy = NodeProto()
    copy.CopyFrom(first)
    first.CopyFrom(second)
    second.CopyFrom(copy)


CASES: dict[str, tuple[Edit, list[tuple[str, str, str | None, str | None]]]] = {
    "opset": (
        lambda m: setattr(m.opset_import[0], "version", 18),
        [("changed", "opset_import[].version", "17", "18")],
    ),
    "an empty text": (
        lambda m: m.graph.node[1].ClearField("domain"),
        [("removed", "graph.node[Conv_1].domain", "''", None)],
    ),
    "ir version": (lambda m: setattr(m, "ir_version", 9), [("changed", "ir_version", "8", "9")]),
    "producer": (lambda m: m.ClearField("producer_name"), [("removed", "producer_name", "maker", None)]),
    "metadata": (
        lambda m: setattr(m.metadata_props[1], "value", "BGR"),
        [("changed", "metadata_props[input].value", "RGB", "BGR")],
    ),
    "doc string of a node": (
        lambda m: setattr(m.graph.node[1], "doc_string", "note"),
        [("added", "graph.node[Conv_1].doc_string", None, "note")],
    ),
    "input shape": (
        lambda m: setattr(m.graph.input[0].type.tensor_type.shape.dim[2], "dim_value", 16),
        [("changed", "graph.input[x].type.tensor_type.shape.dim[2].dim_value", "8", "16")],
    ),
    "input type": (
        lambda m: setattr(m.graph.input[0].type.tensor_type, "elem_type", TensorProto.FLOAT16),
        [("changed", "graph.input[x].type.tensor_type.elem_type", "FLOAT", "FLOAT16")],
    ),
    "operator": (
        lambda m: setattr(node(m, "Relu_2"), "op_type", "Elu"),
        [("changed", "graph.node[Relu_2].op_type", "Relu", "Elu")],
    ),
    "node name": (
        lambda m: setattr(node(m, "Relu_2"), "name", "act"),
        [("changed", "graph.node[Relu_2].name", "Relu_2", "act")],
    ),
    "wiring": (
        rename_output,
        [
            ("changed", "graph.node[Relu_2].output", "['kept']", "['active']"),
            ("changed", "graph.node[GlobalAveragePool_3].input", "['kept']", "['active']"),
        ],
    ),
    "attribute": (
        lambda m: node(m, "Conv_1").attribute[0].ints.__setitem__(0, 2),
        [("changed", "graph.node[Conv_1].attribute[pads].ints", "[1, 1, 1, 1]", "[2, 1, 1, 1]")],
    ),
    "new attribute": (
        lambda m: node(m, "Conv_1").attribute.append(helper.make_attribute("group", 1)),
        [("added", "graph.node[Conv_1].attribute[group]", None, 'name: "group" i: 1 type: INT')],
    ),
    "new node": (
        lambda m: m.graph.node.append(helper.make_node("Relu", ["y"], ["z"], name="last")),
        [("added", "graph.node[last]", None, "Relu(y) -> z")],
    ),
    "lost node": (
        lambda m: m.graph.node.remove(node(m, "Relu_2")),
        [("removed", "graph.node[Relu_2]", "Relu(wide) -> kept", None)],
    ),
    "order of nodes": (
        swap_nodes,
        [
            (
                "reordered",
                "graph.node",
                "Constant_0, Conv_1, Relu_2, GlobalAveragePool_3, Reshape_4, Gemm_5",
                "Conv_1, Constant_0, Relu_2, GlobalAveragePool_3, Reshape_4, Gemm_5",
            )
        ],
    ),
    "order of initializers": (
        lambda m: m.graph.initializer.append(m.graph.initializer.pop(0)),
        [("reordered", "graph.initializer", "conv_w, conv_b, fc_w, fc_b", "conv_b, fc_w, fc_b, conv_w")],
    ),
    "name of an initializer": (
        lambda m: setattr(tensor(m, "fc_b"), "name", "bias"),
        [
            ("removed", "graph.initializer[fc_b]", 'dims: 5 data_type: 1 name: "fc_b" raw_data: ""', None),
            ("added", "graph.initializer[bias]", None, 'dims: 5 data_type: 1 name: "bias" raw_data: ""'),
        ],
    ),
    "shape of an initializer": (
        lambda m: restore(m, "conv_b", torch.zeros(2, 2)),
        [("changed", "graph.initializer[conv_b].dims", "[4]", "[2, 2]")],
    ),
    "dtype of an initializer": (
        lambda m: restore(m, "conv_b", values(m, "conv_b"), TensorProto.FLOAT16),
        [("changed", "graph.initializer[conv_b].data_type", "FLOAT", "FLOAT16")],
    ),
    "storage of an initializer": (
        lambda m: tensor(m, "conv_b").CopyFrom(typed(TensorProto.FLOAT)("conv_b", values(m, "conv_b"))),
        [("removed", "graph.initializer[conv_b].raw_data", "the numbers of a weight", None)],
    ),
    "integer constant": (
        lambda m: (
            m.graph.node[0].attribute[0].t.CopyFrom(helper.make_tensor("", TensorProto.INT64, [2], [-1, 2]))
        ),
        [("changed", "graph.node[Constant_0].attribute[value].t.int64_data", "[-1, 4]", "[-1, 2]")],
    ),
}


# What else differs between two exports of one net than what they compute.
RENAMED = {
    "ir version", "producer", "metadata", "doc string of a node", "an empty text", "node name", "wiring",
    "order of nodes", "order of initializers", "storage of an initializer", "new attribute", "new node",
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_structure(case: str) -> None:
    edit, expected = CASES[case]
    before = net()
    after = edited(before, edit)
    found = diff(before, after)
    assert not found.same_graph
    assert found.changes == tuple(Change(*fields) for fields in expected)  # type: ignore[arg-type]
    assert found.payloads == ()
    assert len(diff(after, before).changes) == len(expected)
    assert found.renamed == (case in RENAMED)
    alike = "; operator by operator, both compute their outputs alike" if found.renamed else ""
    head = f"different graphs, changes: {len(expected)}{alike}"
    assert str(found).startswith(f"{head}\n  {found.changes[0]}")


@pytest.mark.parametrize("constants", [(), ("conv_w", "conv_b")], ids=["initializers", "constants"])
def test_weights(constants: tuple[str, ...]) -> None:
    before = net(constants=constants)

    def train(model: ModelProto) -> None:
        tensors = [
            *model.graph.initializer,
            *(n.attribute[0].t for n in model.graph.node if n.op_type == "Constant"),
        ]
        for t in tensors:
            if t.name in ("conv_w", "fc_b"):
                t.raw_data = (2 * numpy_helper.to_array(t)).tobytes()

    found = diff(before, edited(before, train))
    kind = "constant" if constants else "initializer"
    assert found.same_graph
    assert {(p.name, p.dtype, p.shape) for p in found.payloads} == {
        (f"{kind} 'conv_w'", "float32", (4, 3, 3, 3)),
        ("initializer 'fc_b'", "float32", (5,)),
    }
    assert {(p.relative_l2, p.max_ulp) for p in found.payloads} == {(1.0, 2**23)}
    assert str(found).splitlines()[:2] == ["same graph", "weights that differ: 2"]


@pytest.mark.parametrize("data_type", [TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE])
def test_distance_of_other_dtypes(data_type: int) -> None:
    dtype = {10: "float16", 16: "bfloat16", 11: "double"}[data_type]
    before = net(raw(data_type), dtype)
    after = edited(before, lambda m: restore(m, "conv_b", torch.zeros(4), data_type))
    (found,) = diff(after, before).payloads
    assert (found.dtype, found.max_ulp, found.relative_l2) == (
        dtype.replace("double", "float64"),
        None,
        float("inf"),
    )
    assert (
        json.loads(json.dumps(diff(after, before).to_json(), allow_nan=False))["payloads"][0]["relative_l2"]
        is None
    )


@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=8))
def test_ulps_count_the_steps_between_floats(numbers: list[float]) -> None:
    a = np.array(numbers, np.float32)
    up = a
    for steps in range(1, 4):
        with np.errstate(
            over="ignore"
        ):  # past the largest float32 there is only infinity, which is not compared
            up = np.nextafter(up, np.float32(np.inf))
        if np.isfinite(up).all():
            # The way through -0 and +0, which are one number, counts as one step, as nextafter does.
            assert measure("a", "float32", a, up).max_ulp == steps
    assert measure("a", "float32", a, -a).max_ulp == 2 * measure("a", "float32", np.abs(a), 0 * a).max_ulp  # type: ignore[operator]


SETTINGS = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3] x) => (float[n, 3] y)
<float low = {0.0}, float high = {6.0}, float factor = {2.0}> {
    a = Clip (x, low, high)
    y = Mul (a, factor)
}
"""


@pytest.mark.parametrize(("name", "same_graph"), [("low", False), ("high", False), ("factor", True)])
def test_what_an_operator_takes_as_a_setting_is_structure(name: str, same_graph: bool) -> None:
    before = parser.parse_model(SETTINGS)
    after = edited(before, lambda m: tensor(m, name).float_data.__setitem__(0, 3.0))
    found = diff(before, after)
    assert found.same_graph is same_graph
    assert [p.name for p in found.payloads] == ([f"initializer {name!r}"] if same_graph else [])


WRITTEN = """<ir_version: 8, opset_import: ["" : 17]> net (float[n, 2] x) => (float[n, 2] y) {
    c = Constant <value_floats = [1.0, 2.0]> () p = Mul (x, c) y = Pad <mode = "edge"> (p, c)
}"""


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ("2.0]", "3.0]", "graph.node[c].attribute[value_floats].floats changed: [1.0, 2.0] -> [1.0, 3.0]"),
        ("edge", "wrap", "graph.node[y].attribute[mode].s changed: edge -> wrap"),
    ],
)
def test_what_is_written_out_in_a_node_is_structure(old: str, new: str, change: str) -> None:
    found = diff(parser.parse_model(WRITTEN), parser.parse_model(WRITTEN.replace(old, new)))
    assert found.payloads == ()
    assert [str(change) for change in found.changes] == [change]


BODIES = """
<ir_version: 10, opset_import: ["" : 17, "own" : 1]>
net (float[3] x, bool c) => (float[3] y) {
    f = own.scale (x)
    y = If (c) <
        then_branch = yes () => (float[3] t) { w = Constant <value = float[3] {1.0, 2.0, 3.0}> ()  t = Add (f, w) },
        else_branch = no () => (float[3] e) { e = Neg (f) }
    >
}
<domain: "own", opset_import: ["" : 17]>
scale (x) => (y) { k = Constant <value = float[1] {2.0}> ()  y = Mul (x, k) }
"""


def branch(model: ModelProto, name: str) -> onnx.GraphProto:
    (node,) = (node for node in model.graph.node if node.op_type == "If")
    return next(attribute.g for attribute in node.attribute if attribute.name == name)


@pytest.mark.parametrize(
    ("edit", "change", "payload"),
    [
        (
            lambda m: setattr(branch(m, "else_branch").node[0], "op_type", "Abs"),
            "graph.node[y].attribute[else_branch].g.node[e].op_type",
            None,
        ),
        (
            lambda m: setattr(m.functions[0].node[1], "op_type", "Div"),
            "functions[own.scale.].node[y].op_type",
            None,
        ),
        (
            lambda m: branch(m, "then_branch").node[0].attribute[0].t.float_data.__setitem__(0, 5.0),
            None,
            "constant 'w' in then_branch of If ''",
        ),
        (
            lambda m: m.functions[0].node[0].attribute[0].t.float_data.__setitem__(0, 5.0),
            None,
            "constant 'k' in function 'scale'",
        ),
    ],
    ids=["sub-graph", "function", "weight in a sub-graph", "weight in a function"],
)
def test_bodies(edit: Edit, change: str | None, payload: str | None) -> None:
    before = parser.parse_model(BODIES)
    found = diff(before, edited(before, edit))
    assert [c.where for c in found.changes] == ([change] if change else [])
    assert [p.name for p in found.payloads] == ([payload] if payload else [])


TWINS = """
<ir_version: 10, opset_import: ["" : 17]>
net (float[3] x, bool c) => (float[3] y, float[3] z) {
    y = If (c) <
        then_branch = a () => (float[3] t) { w = Constant <value = float[3] {1.0, 2.0, 3.0}> ()  t = Add (x, w) },
        else_branch = b () => (float[3] e) { e = Neg (x) }
    >
    z = If (c) <
        then_branch = a () => (float[3] t) { w = Constant <value = float[3] {4.0, 5.0, 6.0}> ()  t = Add (x, w) },
        else_branch = b () => (float[3] e) { e = Neg (x) }
    >
}
"""


def test_tensors_that_are_called_alike_are_told_apart() -> None:
    before = parser.parse_model(TWINS)
    found = diff(before, parser.parse_model(TWINS.replace("3.0}", "7.0}").replace("6.0}", "8.0}")))
    assert found.same_graph
    assert [(p.name, p.max_abs) for p in found.payloads] == [
        ("constant 'w' in then_branch of If ''", 4.0),
        ("constant 'w' in then_branch of If ''", 2.0),
    ]


def test_external_data(tmp_path: Path) -> None:
    model = net()
    model.graph.initializer.append(numpy_helper.from_array(np.array([1, 2]), "table"))
    inside = save(model, tmp_path / "inside.onnx")
    a, b = (save_external(edited(model, lambda _: None), tmp_path / f"{n}.onnx", f"{n}.bin") for n in "ab")
    assert diff(a, b).same_graph
    assert {c.where.rpartition(".")[2] for c in diff(inside, a).changes} >= {
        "data_location",
        "external_data[location]",
    }

    data = np.fromfile(tmp_path / "b.bin", np.float32)
    data[0] += 1
    data.tofile(tmp_path / "b.bin")
    assert diff(a, b).same_graph
    assert [p.name for p in diff(a, b).payloads] == ["initializer 'conv_w'"]

    stored = onnx.load(b, load_external_data=False).graph.initializer[-1]
    offset = next(int(entry.value) for entry in stored.external_data if entry.key == "offset")
    content = bytearray((tmp_path / "b.bin").read_bytes())
    content[offset] = 7
    (tmp_path / "b.bin").write_bytes(content)
    assert diff(a, b).changes == (Change("changed", "graph.initializer[table].raw_data", "[1, 2]", "[7, 2]"),)


def test_long_values_are_cut_to_where_they_part() -> None:
    long = list(range(100))
    before = edited(net(), lambda m: node(m, "Conv_1").attribute.append(helper.make_attribute("long", long)))
    after = edited(before, lambda m: node(m, "Conv_1").attribute[-1].ints.__setitem__(50, 999))
    (change,) = diff(before, after).changes
    assert change.before is not None
    assert change.after is not None
    assert "50, 51" in change.before
    assert "999, 51" in change.after
    assert max(map(len, (change.before, change.after))) < 110


def test_a_field_of_a_newer_format() -> None:
    after = ModelProto.FromString(net().SerializeToString() + b"\xf8\x3f\x01")  # field 1023, unknown, = 1
    before = edited(after, lambda m: m.DiscardUnknownFields())
    assert [change.where for change in diff(before, after).changes] == [
        "a field that the installed onnx does not know"
    ]


def test_real_models(shared_faces: Path) -> None:
    a, b = (shared_faces / "models" / name for name in ("mobilefacenet.onnx", "mobilefacenet_batch1.onnx"))
    found = diff(a, b)
    assert "opset_import[].version changed: 12 -> 18" in str(found)
    assert found.payloads == ()
    assert diff(a, a).same_graph

"""Whatever the names in a file are, they stay names: the module computes what the file does, and writes it back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper

import reparam_kit as rk

WORDS = r"""
0 1x input.1 x-y self cls torch None True def lambda class import print list inf nan device operator getattr
x² ä 日本 x' x" x\ x{y} {0} %s *args **kw a,b forward __init__ __class__ _x x.y.z weight model graph
meta training call_super_init T_destination _parameters _modules add relu conv2d fx_pytree unnamed . / //
"""
NAMES = [
    *WORDS.split(),
    "\ufb01",  # Python reads it as fi, and the next as def
    "\U0001d41d\U0001d41e\U0001d41f",
    "x y",
    "x\u202ey",
    "x\ny",
    "x\0y",
    "x\x1b[31my",
    "(a):",
    "[red]x[/]",
    "<script>alert(1)</script>",
    "{{ 7*7 }}",
    "x):\n import os;os.system('touch PWNED')\n#",
    "x=__import__('os').system('touch PWNED')",
    '"+__import__("os").system("touch PWNED")+"',
    "a" * 5000,
    ".".join("a" * 2000),
    "/".join("a" * 2000),
]


def net(**names: str) -> ModelProto:
    name = {
        "x": "x",
        "z": "z",
        "y": "y",
        "w": "w",
        "conv": "conv",
        "inner": "inner",
        "slope": "slope",
    } | names
    rng = np.random.default_rng(0)
    stored = [
        numpy_helper.from_array(rng.normal(0, 0.2, (4, 3, 3, 3)).astype(np.float32), name["w"]),
        numpy_helper.from_array(rng.normal(0, 0.2, (4, 1, 1)).astype(np.float32), name["slope"]),
    ]
    nodes = [
        helper.make_node("Conv", [name["x"], name["w"]], [name["inner"]], name=name["conv"]),
        helper.make_node("Mul", [name["inner"], name["slope"]], ["scaled"]),
        helper.make_node("Add", ["scaled", name["z"]], [name["y"]]),
    ]
    sizes = {"x": ["n", 3, 8, 8], "z": ["n", 4, 6, 6], "y": ["n", 4, 6, 6]}
    x, z, y = (helper.make_tensor_value_info(name[key], TensorProto.FLOAT, sizes[key]) for key in "xzy")
    graph = helper.make_graph(nodes, "g", [x, z], [y], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


ROLES = ("x", "z", "y", "slope", "w", "conv", "inner")
WAYS = {
    "as they are": lambda names: names,
    "of layers": lambda names: names | {"conv": f"/{names['conv']}/Conv", "w": f"{names['w']}.weight"},
}


@pytest.mark.parametrize("way", WAYS)
def test_names_are_data(way: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each name in each role, seven in a file; every third file, and so each name, by way of a student that is kept."""
    monkeypatch.chdir(tmp_path)
    x, z = torch.randn(2, 3, 8, 8), torch.randn(2, 4, 6, 6)
    for first in range(len(NAMES)):
        names = {role: NAMES[(first + i) % len(NAMES)] for i, role in enumerate(ROLES)}
        path = tmp_path / "a.onnx"
        path.write_bytes(net(**WAYS[way](names)).SerializeToString())
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        fed = [value.name for value in session.get_inputs()]
        expected = session.run(None, dict(zip(fed, (x.numpy(), z.numpy()), strict=True)))[0]
        model = rk.load(path)
        np.testing.assert_allclose(model(x, z).detach(), expected, atol=1e-5, err_msg=repr(names))
        if way == "as they are" and (first % 3 == 0 or len(names["w"]) > 1000):  # long ones as layers too
            rk.save(rk.expand(model), tmp_path / "b.pt")
            model = rk.fold(rk.load(tmp_path / "b.pt"))
        rk.save(model, tmp_path / "b.onnx")
        assert (tmp_path / "b.onnx").read_bytes() == path.read_bytes(), names
    assert {path.name for path in tmp_path.iterdir()} <= {"a.onnx", "b.onnx", "b.pt"}


def test_a_name_that_nothing_computes_is_told_in_one_line(tmp_path: Path) -> None:
    for name in NAMES:
        model = net()
        model.graph.node[2].input[0] = f"{name} nowhere"
        (tmp_path / "a.onnx").write_bytes(model.SerializeToString())
        with pytest.raises(rk.InputError, match="nothing before it computes") as raised:
            rk.load(tmp_path / "a.onnx")
        assert rk.printable(raised.value) == str(raised.value)
        assert len(str(raised.value)) < 2000


def test_names_that_are_no_text_are_refused(tmp_path: Path) -> None:
    payload = net(w="weight").SerializeToString()
    (tmp_path / "a.onnx").write_bytes(payload.replace(b"weight", b"\xff\xfeight"))
    with pytest.raises(rk.InputError, match=r"not an ONNX model|not UTF-8"):
        rk.load(tmp_path / "a.onnx")


def test_many_equal_names_take_no_time(tmp_path: Path) -> None:
    """A file of a few hundred kB: trying every number for every name anew took the square of their number."""
    from reparam_kit.onnx.importer.naming import Names

    names = Names()
    assert len({names.unique("relu") for _ in range(30_000)}) == 30_000

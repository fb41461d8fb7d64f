"""What an import builds: names, parameters, where they came from, and which of them learn."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from time import process_time

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from onnx_text import SMALL, SMALL_WEIGHTS, Weights, assert_as_runtime, load, run, write
from torch import fx, nn

from reparam_kit.errors import InputError
from reparam_kit.onnx.importer import import_onnx
from reparam_kit.onnx.importer.order import in_order
from reparam_kit.onnx.keys import TensorKey
from reparam_kit.onnx.provenance import Permuted, Source


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


NAMES = {
    "of its weight": ("net_1", "stem.0.weight", "stem.0"),
    "of its scope": ("/block/conv/Conv", "onnx::Conv_7", "block.conv"),
    "of its scope, numbered": ("/block/Conv_2", "w", "block"),
    "of its node": ("Conv_0", "w", "Conv_0"),
    "with other characters": ("res/a:b c/Conv", "w", "res.a_b_c"),
    "of an attribute": ("/type/forward/Conv", "w", "type_.forward_"),
}


@pytest.mark.parametrize(("node", "weight", "expected"), NAMES.values(), ids=NAMES)
def test_a_layer_has_the_name(node: str, weight: str, expected: str, path: Path) -> None:
    text = f'net (float[N,3,8,8] x) => (float[N,4,6,6] y) {{ ["{node}"] y = Conv (x, "{weight}") }}'
    model = load(path, text, {weight: (4, 3, 3, 3)})
    assert isinstance(model.get_submodule(expected), nn.Conv2d)
    assert list(model.state_dict()) == [f"{expected}.weight"]


def test_names_are_unique_and_none_is_inside_another(path: Path) -> None:
    nodes = "".join(
        f'["{n}"] v{i + 1} = Relu (v{i}) '
        for i, n in enumerate(["/a/Relu", "/a/0/Relu", "/a/Relu", "/a_0/Relu"])
    )
    model = load(path, f"net (float[N,3] v0) => (float[N,3] v4) {{ {nodes} }}")
    names = [name for name, module in model.named_modules() if isinstance(module, nn.ReLU)]
    assert names == ["a", "a_0", "a_1", "a_0_1"]


def test_input_names_become_identifiers(path: Path) -> None:
    model = load(
        path,
        'net (float[N,3] "input.1", float[N,3] "class") => (float[N,3] y) { y = Add ("input.1", class) }',
    )
    assert [node.target for node in model.graph.nodes if node.op == "placeholder"] == ["input_1", "class_"]
    assert_as_runtime(model, path, torch.randn(2, 3), torch.randn(2, 3))


def test_a_net_of_every_kind_of_weight(path: Path) -> None:
    model = load(path, SMALL, SMALL_WEIGHTS)
    assert_as_runtime(model, path, torch.randn(3, 3, 8, 8))
    assert not any(module.training for module in model.modules())

    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    provenance, state = model.meta["onnx"], model.state_dict()
    assert provenance.path == path
    assert provenance.payload == path.read_bytes()
    assert {source.key.name for source in provenance.tensors.values()} == set(stored)
    for name, source in provenance.tensors.items():
        back = source.to_onnx(state[name])
        assert back.shape == stored[source.key.name].shape
        assert back.tobytes() == stored[source.key.name].tobytes()

    trained = {provenance.tensors[name].key.name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(stored) - {"mean", "var", "gain"}
    model.train()(torch.randn(3, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


ALL = {"conv.weight", "conv.bias", "scale", "shift", "slope", "matrix", "fc.weight", "fc.bias"}
CHOSEN = {
    "all": (None, None, ALL),
    "by name in the file": (["slope"], None, {"slope"}),
    "by name in the model": (["b.*", "conv.*"], ["*.bias"], {"conv.weight", "scale"}),
    "all but": (None, ["conv.*", "fc.*"], {"scale", "shift", "slope", "matrix"}),
}


@pytest.mark.parametrize(("include", "exclude", "expected"), CHOSEN.values(), ids=CHOSEN)
def test_what_is_trained_can_be_chosen(
    include: list[str] | None, exclude: list[str] | None, expected: set[str], path: Path
) -> None:
    write(path, SMALL, SMALL_WEIGHTS)
    model = import_onnx(path, include=include, exclude=exclude)
    sources = model.meta["onnx"].tensors
    assert {sources[name].key.name for name, p in model.named_parameters() if p.requires_grad} == expected


def test_a_choice_that_matches_nothing(path: Path) -> None:
    write(path, SMALL, SMALL_WEIGHTS)
    with pytest.raises(InputError, match="exclude='slop' matches no trainable tensor; did you mean 'slope'"):
        import_onnx(path, exclude=["slop"])


def test_copies_keep_their_provenance(path: Path) -> None:
    model = load(path, SMALL, SMALL_WEIGHTS)
    copy = deepcopy(model)
    x = torch.randn(2, 3, 8, 8)
    assert copy.meta["onnx"] == model.meta["onnx"]
    assert run(copy, x)[0].equal(run(model, x)[0])
    traced = fx.symbolic_trace(model)
    assert run(traced, x)[0].equal(run(model, x)[0])


def test_importing_draws_no_random_numbers(path: Path) -> None:
    write(path, SMALL, SMALL_WEIGHTS)
    before = torch.get_rng_state()
    import_onnx(path)
    assert torch.get_rng_state().equal(before)


def test_the_dtype_of_a_double_file_is_kept(path: Path) -> None:
    text = "net (float[N,3,8,8] x) => (float[N,4,6,6] y) { y = Conv (x, w) }"
    model = load(path, text, {"w": np.ones((4, 3, 3, 3))})
    assert model.state_dict()["y.weight"].dtype == torch.float64


def test_dropout_works_in_training_only(path: Path) -> None:
    model = load(
        path,
        "net (float[N,9] x) => (float[N,9] y) { y = Dropout (x, ratio) }",
        {"ratio": np.array(0.5, np.float32)},
    )
    x = torch.ones(4, 9)
    assert run(model, x)[0].equal(x)
    assert set(run(model.train(), x)[0].unique().tolist()) == {0.0, 2.0}


# One tensor of the file in several places.

TWICE = "net (float[N,4,8,8] x) => (float[N,4,4,4] y) { a = Conv (x, w) y = Conv (a, v) }"


def test_a_shared_weight_is_one_parameter(path: Path) -> None:
    model = load(path, TWICE.replace("(a, v)", "(a, w)"), {"w": (4, 4, 3, 3)})
    first, second = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert first.weight is second.weight
    assert first.weight.requires_grad
    assert {name: source.key.name for name, source in model.meta["onnx"].tensors.items()} == {
        "a.weight": "w",
        "y.weight": "w",
    }
    copied = [m for m in deepcopy(model).modules() if isinstance(m, nn.Conv2d)]
    assert copied[0].weight is copied[1].weight


def test_a_weight_behind_identity_is_the_same(path: Path) -> None:
    text = TWICE.replace("{", "{ v = Identity (w)")
    model = load(path, text, {"w": (4, 4, 3, 3)})
    first, second = (m for m in model.modules() if isinstance(m, nn.Conv2d))
    assert first.weight is second.weight


REARRANGED = {
    "transposed": "v = Transpose <perm = [1,0]> (w) a = Identity (v) y = MatMul (x, a)",
    "transposed twice": "v = Transpose (w) u = Transpose (v) y = MatMul (x, u)",
    "reshaped": "v = Reshape (w, shape) y = Conv (x, v)",
    "unsqueezed": "a = Unsqueeze (w, axes) v = Flatten (w) b = Unsqueeze (v, axes) y = Conv (x, b)",
    "measured": "v = Transpose (w) s = Shape (w) t = Gather (s, zero) y = MatMul (x, v)",
}


@pytest.mark.parametrize("nodes", REARRANGED.values(), ids=REARRANGED)
def test_a_weight_in_another_order_is_still_one(nodes: str, path: Path) -> None:
    conv = "Conv" in nodes
    shape, result = ("2,4,4,4", "2,4,4,4") if conv else ("2,4", "2,4")
    weights: Weights = {
        "w": (4, 4),
        "shape": np.array([4, 4, 1, 1]),
        "axes": np.array([-2, -1]),
        "zero": np.array(0),
    }
    model = load(path, f"net (float[{shape}] x) => (float[{result}] y) {{ {nodes} }}", weights)
    assert_as_runtime(model, path, torch.randn(*map(int, shape.split(","))))
    [(name, parameter)] = model.named_parameters()
    assert parameter.requires_grad
    source = model.meta["onnx"].tensors[name]
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    assert source.key.name == "w"
    np.testing.assert_array_equal(source.to_onnx(parameter), stored["w"])


FROZEN = {
    "also added": "a = Conv (x, w) y = Add (a, w)",
    "also in another layout": "a = Gemm (x, w) y = Gemm <transB = 1> (a, w)",
    "also in a computed weight": "v = Mul (w, w) a = MatMul (x, w) y = MatMul (a, v)",
    "computed only": "v = Sin (w) y = MatMul (x, v)",
}


@pytest.mark.parametrize("nodes", FROZEN.values(), ids=FROZEN)
def test_a_weight_that_could_not_be_written_is_not_trained(nodes: str, path: Path) -> None:
    conv = "Conv" in nodes
    shape = "4,4,1,1" if conv else "4,4"
    model = load(
        path,
        f"net (float[{shape}] x) => (float[{shape}] y) {{ {nodes} }}",
        {"w": (4, 4, 1, 1) if conv else (4, 4)},
    )
    assert_as_runtime(model, path, torch.randn(4, 4, 1, 1) if conv else torch.randn(4, 4))
    assert list(model.parameters())
    assert not any(p.requires_grad for p in model.parameters())


def test_initializers_that_are_also_inputs(path: Path) -> None:
    text = (
        "net (float[N,4,8,8] x, float[4,4,3,3] w, float[2] unused) => (float[N,4,6,6] y) { y = Conv (x, w) }"
    )
    model = load(path, text, {"w": (4, 4, 3, 3), "unused": (2,)}, 'ir_version: 3, opset_import: ["" : 8]')
    assert [node.name for node in model.graph.nodes if node.op == "placeholder"] == ["x"]
    assert_as_runtime(model, path, torch.randn(2, 4, 8, 8))


def test_weights_in_constant_nodes(path: Path) -> None:
    text = """net (float[N,2] x) => (float[N,2] y) {
        w = Constant <value = float[2,2] {1.0, 2.0, 3.0, 4.0}> ()
        s = Constant <value_floats = [2.0, 3.0]> ()
        a = MatMul (x, w)
        y = PRelu (a, s)
    }"""
    model = load(path, text)
    assert_as_runtime(model, path, torch.randn(3, 2))
    assert model.meta["onnx"].tensors == {
        "a.weight": Source(TensorKey("constant", "w"), (2, 2), (Permuted((1, 0)),))
    }
    assert {name for name, p in model.named_parameters() if p.requires_grad} == {"a.weight"}


def test_external_data(path: Path) -> None:
    write(path, SMALL, SMALL_WEIGHTS)
    plain = import_onnx(path)
    onnx.save(onnx.load(path), path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    model = import_onnx(path)
    x = torch.randn(2, 3, 8, 8)
    assert run(model, x)[0].equal(run(plain, x)[0])
    assert model.meta["onnx"].external == {"weights.bin": (path.parent / "weights.bin").read_bytes()}


def test_functions_of_the_file_are_inlined(path: Path) -> None:
    text = """net (float[N,3] x) => (float[N,3] y) { y = own.scaled (x, w) }
        <opset_import: ["" : 17], domain: "own">
        scaled (a, b) => (c) { k = Constant <value = float {2.0}> () d = Mul (b, k) c = Mul (a, d) }"""
    model = load(path, text, {"w": (3,)}, 'ir_version: 8, opset_import: ["" : 17, "own" : 1]')
    assert_as_runtime(model, path, torch.randn(2, 3))
    assert [source.key.name for source in model.meta["onnx"].tensors.values()] == ["w"]


def test_nodes_that_are_not_in_order(path: Path) -> None:
    text = "net (float[N,4] x) => (float[N,4] y) { y = Neg (b) b = Add (a, a) a = Relu (x) }"
    model = load(path, text)
    assert_as_runtime(model, path, torch.randn(3, 4))
    with pytest.raises(InputError, match=r"node 'y' .*: nothing before it computes 'b'"):
        load(path, text.replace("Relu (x)", "Relu (y)"))


def test_a_long_chain_in_reverse_is_put_in_order_at_once() -> None:
    """Going through what is left for each node again would take some 20 s."""
    length = 8000
    steps = [onnx.helper.make_node("Neg", [f"v{i}"], [f"v{i + 1}"]) for i in range(length)]
    begin = process_time()
    ordered = list(in_order(reversed(steps), ["v0"]))
    assert process_time() - begin < 5
    assert [node.output[0] for node in ordered] == [node.output[0] for node in steps]


def test_several_outputs(path: Path) -> None:
    model = load(
        path,
        "net (float[N,4] x) => (float[N,4] a, float[N,4] x2, float[2] w) { a = Relu (x) x2 = Identity (x) }",
        {"w": (2,)},
    )
    assert [tuple(t.shape) for t in run(model, torch.randn(3, 4))] == [(3, 4), (3, 4), (2,)]

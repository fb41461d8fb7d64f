"""What an import builds: names, parameters and where they came from, any batch, and clear refusals."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper, parser
from torch import Tensor, fx, nn

from reparam_kit.errors import InputError, UnsupportedError
from reparam_kit.onnx.importer import Op, Value, import_onnx, operator
from reparam_kit.onnx.importer.registry import _TABLE
from reparam_kit.onnx.provenance import Source

HEADER = 'ir_version: 8, opset_import: ["" : 17]'
Weights = Mapping[str, "tuple[int, ...] | np.ndarray"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


def write(path: Path, text: str, weights: Weights | None = None, header: str = HEADER) -> None:
    """A file from ONNX's text form, and initializers: arrays, or shapes of random float32."""
    model = parser.parse_model(f"<{header}> {text}")
    random = np.random.default_rng(0)
    for name, value in (weights or {}).items():
        array = value if isinstance(value, np.ndarray) else random.standard_normal(value).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    path.write_bytes(model.SerializeToString())


def load(path: Path, text: str, weights: Weights | None = None, header: str = HEADER) -> fx.GraphModule:
    write(path, text, weights, header)
    return import_onnx(path)


def run(model: fx.GraphModule, *inputs: Tensor) -> tuple[Tensor, ...]:
    with torch.no_grad():
        result = model(*inputs)
    return result if isinstance(result, tuple) else (result,)


def assert_as_runtime(model: fx.GraphModule, path: Path, *inputs: Tensor) -> None:
    session = onnxruntime.InferenceSession(path)
    feed = dict(zip((info.name for info in session.get_inputs()), (x.numpy() for x in inputs), strict=True))
    for result, expected in zip(run(model, *inputs), session.run(None, feed), strict=True):
        torch.testing.assert_close(result, torch.from_numpy(expected), rtol=1e-5, atol=1e-5)


def assert_any_batch(model: fx.GraphModule, path: Path, *shape: int) -> None:
    """The file has a fixed batch of 1; several rows must give what it gives for each."""
    x = torch.randn(3, *shape)
    for i in range(3):
        assert_as_runtime(model, path, x[i : i + 1])
    rows = torch.cat([run(model, row)[0] for row in x.split(1)])
    torch.testing.assert_close(run(model, x)[0], rows, rtol=1e-5, atol=1e-5)


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


SMALL = """net (float[N,3,8,8] x) => (float[N,5] y) {
    c = Conv <pads = [1,1,1,1]> (x, "conv.weight", "conv.bias")
    b = BatchNormalization (c, scale, shift, mean, var)
    p = PRelu (b, slope)
    s = Mul (p, gain)
    g = GlobalAveragePool (s)
    f = Flatten (g)
    m = MatMul (f, matrix)
    y = Gemm (m, "fc.weight", "fc.bias")
}"""
SMALL_WEIGHTS: Weights = {
    "conv.weight": (4, 3, 3, 3),
    "conv.bias": (4,),
    "scale": (4,),
    "shift": (4,),
    "mean": (4,),
    "var": np.full(4, 2, np.float32),
    "slope": (4, 1, 1),
    "gain": (1, 4, 1, 1),
    "matrix": (4, 6),
    "fc.weight": (6, 5),
    "fc.bias": (1, 5),
}


def test_a_net_of_every_kind_of_weight(path: Path) -> None:
    model = load(path, SMALL, SMALL_WEIGHTS)
    assert_as_runtime(model, path, torch.randn(3, 3, 8, 8))
    assert not any(module.training for module in model.modules())

    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(path).graph.initializer}
    provenance, state = model.meta["onnx"], model.state_dict()
    assert provenance.path == path
    assert provenance.payload == path.read_bytes()
    assert {source.name for source in provenance.tensors.values()} == set(stored)
    for name, source in provenance.tensors.items():
        back = source.to_onnx(state[name])
        assert back.shape == stored[source.name].shape
        assert back.tobytes() == stored[source.name].tobytes()

    trained = {provenance.tensors[name].name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == set(stored) - {"mean", "var", "gain"}
    model.train()(torch.randn(3, 3, 8, 8)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


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


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_the_dtype_of_the_file_is_kept(dtype: type, path: Path) -> None:
    model = load(
        path,
        "net (float[N,3,8,8] x) => (float[N,4,6,6] y) { y = Conv (x, w) }",
        {"w": np.ones((4, 3, 3, 3), dtype)},
    )
    assert model.state_dict()["y.weight"].numpy().dtype == dtype


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
    assert {name: source.name for name, source in model.meta["onnx"].tensors.items()} == {
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
    assert source.name == "w"
    np.testing.assert_array_equal(source.to_onnx(parameter), stored["w"])


FROZEN = {
    "also added": "a = Conv (x, w) y = Add (a, w)",
    "also in another layout": "a = Gemm (x, w) y = Gemm <transB = 1> (a, w)",
    "also in a computed weight": "v = Mul (w, w) a = MatMul (x, w) y = MatMul (a, v)",
    "computed only": "v = Neg (w) y = MatMul (x, v)",
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
    assert model.meta["onnx"].tensors == {"a.weight": Source("w", "constant", (1, 0), (2, 2))}
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
    assert model.meta["onnx"].tensors == {}


# Shapes and batches.

DYNAMIC = {
    "flatten": """s = Shape (x) n = Gather <axis = 0> (s, zero) n1 = Unsqueeze (n, axes0)
        t = Concat <axis = 0> (n1, rest) y = Reshape (x, t)""",
    "arithmetic": """s = Shape (x) n = Slice (s, axes0, one1) c = Slice (s, one1, two1) h = Div (c, two1)
        t = Concat <axis = 0> (n, two1, h, rest) y = Reshape (x, t)""",
    "expand": "s = Shape (x) y = Expand (row, s)",
    "resize": """s = Shape (x) n = Slice (s, axes0, two1) w = Slice (s, two1, four1) v = Mul (w, two1)
        t = Concat <axis = 0> (n, v) y = Resize <mode = "linear"> (x, , , t)""",
    "filled": "s = Shape (x) o = ConstantOfShape <value = float[1] {2.0}> (s) y = Mul (x, o)",
    "counted": "s = Shape (x) n = Gather (s, three) r = Range (zero, n, one) f = Cast <to = 1> (r) y = Add (x, f)",
    "split": "a, b = Split <axis = 1> (x, halves) y = Concat <axis = 1> (b, a)",
    "sequence": """q = SplitToSequence <axis = 1> (x, halves) b = SequenceAt (q, one)
        r = SplitToSequence <axis = 2> (b, one) c = SequenceAt (r, zero) y = Add (b, c)""",
}
INTEGERS: Weights = {
    "zero": np.array(0),
    "one": np.array(1),
    "three": np.array(3),
    "axes0": np.array([0]),
    "one1": np.array([1]),
    "two1": np.array([2]),
    "four1": np.array([4]),
    "rest": np.array([-1]),
    "halves": np.array([1, 3]),
    "row": np.arange(6, dtype=np.float32),
}


@pytest.mark.parametrize("nodes", DYNAMIC.values(), ids=DYNAMIC)
def test_shape_arithmetic(nodes: str, path: Path) -> None:
    text = f"net (float[N,4,H,W] x) => (float y) {{ {nodes} }}"
    model = load(path, text, INTEGERS)
    for batch, height in ((1, 5), (3, 4)):
        assert_as_runtime(model, path, torch.randn(batch, 4, height, 6))
    x = torch.randn(2, 4, 5, 6)
    assert_as_runtime(fx.symbolic_trace(model), path, x)
    # A device without values: fails where a shape is computed on it, or where a CPU tensor meets one of the model's.
    assert model.to("meta")(x.to("meta")).shape == run(load(path, text, INTEGERS), x)[0].shape


FIXED = {
    "flatten": 'y = Reshape (x, "1,-1")',
    "channel shuffle": """a = Reshape (x, "1,2,2,4,6") b = Transpose <perm = [0,2,1,3,4]> (a)
        y = Reshape (b, "1,4,4,6")""",
    "copied dimension": 'y = Reshape (x, "1,0,24")',
    "after a pool": 'p = GlobalAveragePool (x) y = Reshape (p, "1,4")',
    "resize to a size": 'a = Resize <mode = "nearest"> (x, , , "1,4,8,12") y = Relu (a)',
}


@pytest.mark.parametrize("nodes", FIXED.values(), ids=FIXED)
def test_a_fixed_batch_is_freed(nodes: str, path: Path) -> None:
    shapes = {part: np.array(part.split(","), np.int64) for part in nodes.split('"')[1::2] if "," in part}
    model = load(path, f"net (float[1,4,4,6] x) => (float y) {{ {nodes} }}", shapes)
    assert_any_batch(model, path, 4, 4, 6)


def test_a_leading_1_that_is_not_the_batch_stays(path: Path) -> None:
    text = "net (float[1,4] x) => (float[1,2,2] y) { m = ReduceMean <axes = [0]> (x) y = Reshape (m, shape) }"
    model = load(path, text, {"shape": np.array([1, 2, 2])})
    assert_as_runtime(model, path, torch.randn(1, 4))
    assert run(model, torch.randn(3, 4))[0].shape == (1, 2, 2)


def test_allowzero_of_a_freed_reshape(path: Path) -> None:
    text = "net (float[1,4,2] x) => (float[1,8] y) { y = Reshape <allowzero = 1> (x, shape) }"
    assert_any_batch(load(path, text, {"shape": np.array([1, 8])}), path, 4, 2)


def test_several_outputs(path: Path) -> None:
    model = load(
        path,
        "net (float[N,4] x) => (float[N,4] a, float[N,4] x2, float[2] w) { a = Relu (x) x2 = Identity (x) }",
        {"w": (2,)},
    )
    assert [tuple(t.shape) for t in run(model, torch.randn(3, 4))] == [(3, 4), (3, 4), (2,)]


# Refusals.


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("y = own.Magic (x)", ["Magic", "'own'", "opset 3", "node 'y'", "export the model without it"]),
        (
            'y = Einsum <equation = "ij->ji"> (x)',
            ["Einsum", "'ai.onnx'", "opset 17", "reparam_kit.onnx.importer.operator"],
        ),
        (
            'y = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (x, , s)',
            ["tf_crop_and_resize"],
        ),
        ("y = Relu <alpha = 2.0> (x)", ["attribute alpha = 2.0", "not supported"]),
        ("y = Relu (x, s)", ["input 1 ('s')", "not supported"]),
        ("y = Conv (x, x)", ["input 1 ('x')", "computed at run time"]),
        ("y, i = MaxPool <kernel_shape = [2]> (x) z = Identity (i)", ["its output 'i'"]),
    ],
)
def test_what_is_not_supported_is_refused(nodes: str, words: list[str], path: Path) -> None:
    write(
        path,
        f"net (float[N,4,4] x) => (float y) {{ {nodes} }}",
        {"s": (4,)},
        'ir_version: 8, opset_import: ["" : 17, "own" : 3]',
    )
    with pytest.raises(UnsupportedError) as caught:
        import_onnx(path)
    assert str(caught.value).startswith(f"{path}: node ")
    assert all(word in str(caught.value) for word in words), caught.value


@pytest.mark.parametrize(("opset", "fits"), [(6, False), (7, True), (28, True), (29, False)])
def test_opsets(opset: int, fits: bool, path: Path) -> None:
    write(
        path,
        "net (float[N,4] x) => (float[N,4] y) { y = Relu (x) }",
        header=f'ir_version: 8, opset_import: ["" : {opset}]',
    )
    if fits:
        import_onnx(path)
    else:
        with pytest.raises(UnsupportedError, match=f"opset {opset} is not one of 7 to 28"):
            import_onnx(path)


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("y = Relu (nowhere)", "nothing before it computes 'nowhere'"),
        ("y = Conv (x, w)", "malformed"),
        ("y = Concat (x)", "attribute axis is missing"),
    ],
)
def test_a_file_that_contradicts_itself(nodes: str, words: str, path: Path) -> None:
    write(path, f"net (float[N,4,4] x) => (float y) {{ {nodes} }}", {"w": (2,)})
    with pytest.raises(InputError, match=words):
        import_onnx(path)


def test_files_that_are_no_models(path: Path) -> None:
    with pytest.raises(InputError, match=path.name):
        import_onnx(path)
    write(path, SMALL, SMALL_WEIGHTS)
    whole = path.read_bytes()
    for payload in (b"", b"not a model", whole[: len(whole) // 2]):
        path.write_bytes(payload)
        with pytest.raises(InputError, match=path.name):
            import_onnx(path)


@pytest.fixture
def registry() -> Iterator[None]:
    before = {key: list(entries) for key, entries in _TABLE.items()}
    yield
    _TABLE.clear()
    _TABLE.update(before)


@pytest.mark.usefixtures("registry")
def test_an_operator_can_be_added(path: Path) -> None:
    @operator("Scaled", domain="own")
    def scaled(op: Op) -> Value:
        return op.call(torch.mul, op[0], op.attr("by"))

    text = "net (float[N,4] x) => (float[N,4] y) { y = own.Scaled <by = 3.0> (x) }"
    model = load(path, text, header='ir_version: 8, opset_import: ["" : 17, "own" : 1]')
    assert run(model, torch.ones(2, 4))[0].equal(torch.full((2, 4), 3.0))

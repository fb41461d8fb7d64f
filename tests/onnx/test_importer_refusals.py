"""Files that cannot be imported get one line that says why; and an operator that is missing can be added."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto
from onnx_text import SMALL, SMALL_WEIGHTS, Weights, load, run, write

from reparam_kit.errors import InputError, UnsupportedError
from reparam_kit.onnx.importer import Op, Value, import_onnx, operator
from reparam_kit.onnx.importer.registry import _TABLE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.onnx"


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("y = own.Magic (x)", ["Magic", "'own'", "opset 3", "node 'y'", "export the model without it"]),
        (
            'y = Einsum <equation = "ij->ji"> (x)',
            ["Einsum", "'ai.onnx'", "opset 17", "reparam_kit.onnx.importer.operator"],
        ),
        ('y = Resize <mode = "area"> (x, , s)', ["mode = 'area'", "not supported"]),
        ("y = Relu <alpha = 2.0> (x)", ["attribute alpha = 2.0", "not supported"]),
        ("y = Relu (x, s)", ["input 1 ('s')", "not supported"]),
        ("y = Conv (x, s)", ["a weight", "of fewer than three dimensions"]),
        ("y, i = MaxPool <kernel_shape = [2]> (x) z = Identity (i)", ["its output 'i'"]),
        (
            "y = com.microsoft.DynamicQuantizeLSTM <hidden_size = 1> (x, s, s, , , , , , s, s, s, s)",
            ["LSTM of integers", "op_types_to_quantize without LSTM"],
        ),
    ],
)
def test_what_is_not_supported_is_refused(nodes: str, words: list[str], path: Path) -> None:
    write(
        path,
        f"net (float[N,4,4] x) => (float y) {{ {nodes} }}",
        {"s": (4,)},
        'ir_version: 8, opset_import: ["" : 17, "own" : 3, "com.microsoft" : 1]',
    )
    with pytest.raises(UnsupportedError) as caught:
        import_onnx(path)
    assert str(caught.value).startswith(f"{path}: node ")
    assert all(word in str(caught.value) for word in words), caught.value


# Of a layer's settings and sizes: the input's sizes, the nodes, the opset, and what the refusal says.
SETTINGS = {
    "four spatial dimensions": ("[N,4,2,2,2,2]", "y = Conv (x, w4)", 17, "a convolution over 4 dimensions"),
    "four, transposed": ("[N,4,2,2,2,2]", "y = ConvTranspose (x, w4)", 17, "convolution over 4 dimensions"),
    "kernel of another size": (
        "[N,4,8,8]", "y = Conv <kernel_shape = [5,5]> (x, w2)", 17, r"\(5, 5\) is not that of its weight, \(3, 3\)"),
    "padding of a free size": (
        "[N,4,H,W]", "y = ConvTranspose <output_shape = [8,8]> (x, w2)", 17, r"sizes of input 0 \('x'\) are not fixed"),
    "type of an unknown shape": (
        "[]", "a = Abs (x) y = CastLike (x, a)", 17, r"type of input 1 \('a'\) is not known"),
    "batch norm of a vector": (
        "[4]", "y = BatchNormalization (x, s, s, s, s)", 17, "a batch norm of 1 dimensions"),
    "batch norm of each entry": (
        "[N,4,2]", "y = BatchNormalization <spatial = 0> (x, s, s, s, s)", 8, "spatial = 0"),
    "instance norm of a matrix": (
        "[N,4]", "y = InstanceNormalization (x, s, s)", 17, "an instance norm of 2 dimensions"),
    "layer norm with a scale of another shape": (
        "[N,4,4]", "y = LayerNormalization <axis = 1> (x, s)", 17, r"a scale of shape \[4\], not that"),
    "layer norm in another type": (
        "[N,4,4]", "y = LayerNormalization <stash_type = 10> (x, s)", 17, "stash_type other than 1"),
    "response norm of an even size": ("[N,4,4]", "y = LRN <size = 4> (x)", 17, "an even size"),
    "padding of another kind": ("[N,4,4]", 'y = Pad <mode = "mirror"> (x, none)', 17, "mode = 'mirror'"),
    "more of the batch": ("[N,4,4]", "y = Resize (x, , twice)", 17, "resizing the batch"),
    "more of what is first": (
        "[N,4,4]", "t = Transpose <perm = [1,0,2]> (x) y = Resize (t, , , eight)", 17, "resizing the batch"),
    "a part of the batch": (
        "[N,4,4]", 'y = Resize <coordinate_transformation_mode = "tf_crop_and_resize"> (x, half, once)', 17,
        "cropping the batch"),
}  # fmt: skip
SETTING_WEIGHTS: Weights = {
    "s": (4,),
    "w2": (4, 4, 3, 3),
    "w4": (4, 4, 1, 1, 1, 1),
    "none": np.zeros(6, np.int64),
    "once": np.ones(3, np.float32),
    "twice": np.array([2, 1, 1], np.float32),
    "eight": np.array([8, 1, 4]),
    "half": np.array([0.5, 0, 0, 1, 1, 1], np.float32),
}


@pytest.mark.parametrize("case", SETTINGS)
def test_what_a_layer_cannot_have_is_refused(case: str, path: Path) -> None:
    sizes, nodes, opset, words = SETTINGS[case]
    header = f'ir_version: 8, opset_import: ["" : {opset}]'
    write(path, f"net (float{sizes} x) => (float y) {{ {nodes} }}", SETTING_WEIGHTS, header)
    with pytest.raises(UnsupportedError, match=words) as caught:
        import_onnx(path)
    assert str(caught.value).startswith(f"{path}: node 'y' (")


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


CONTRADICTED: Weights = {"w": (2,), "m": (2, 4), "tiny": np.array([1, 0.1], np.float32)}


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ("y = Relu (nowhere)", "nothing before it computes 'nowhere'"),
        ("y = Relu ()", "input 0 is missing"),
        ("y = Transpose <perm = [0, 5, 1]> (w)", "malformed"),
        ("y = Concat (x)", "attribute axis is missing"),
        ("y = Resize (m, , tiny)", r"a Resize of \[2, 4\] leaves nothing"),
    ],
)
def test_a_file_that_contradicts_itself(nodes: str, words: str, path: Path) -> None:
    write(path, f"net (float[N,4,4] x) => (float y) {{ {nodes} }}", CONTRADICTED)
    with pytest.raises(InputError, match=words):
        import_onnx(path)


DAMAGE: dict[str, tuple[Callable[[ModelProto], object], str]] = {
    "a node without an operator": (
        lambda model: model.graph.node[0].ClearField("op_type"), "a node without an operator"),
    "a node without an output": (lambda model: model.graph.node[0].ClearField("output"), "without an output"),
    "no outputs": (lambda model: model.graph.ClearField("output"), "its graph has no outputs"),
    "two of one name": (
        lambda model: model.graph.initializer.append(model.graph.initializer[0]), "are called 'conv.weight'"),
    "a sparse weight": (lambda model: model.graph.sparse_initializer.add(), "export the model with dense weights"),
}  # fmt: skip


@pytest.mark.parametrize("case", DAMAGE)
def test_a_graph_that_cannot_be_followed(case: str, path: Path) -> None:
    damage, words = DAMAGE[case]
    write(path, SMALL, SMALL_WEIGHTS)
    model = onnx.load(path)
    damage(model)
    path.write_bytes(model.SerializeToString())
    with pytest.raises((InputError, UnsupportedError), match=words):
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


@pytest.mark.parametrize("seed", range(8))
def test_damaged_bytes_give_one_line(seed: int, path: Path) -> None:
    write(path, SMALL, SMALL_WEIGHTS)
    whole, random, lines = path.read_bytes(), Random(seed), []
    for _ in range(40):
        damaged = bytearray(whole)
        start = random.randrange(len(damaged))
        damaged[start : start + random.randrange(4)] = random.randbytes(random.randrange(4))
        path.write_bytes(damaged)
        try:
            import_onnx(path)
        except (InputError, UnsupportedError) as error:
            lines.append(str(error))
    assert len(lines) > 10
    assert not any("\n" in line for line in lines)


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

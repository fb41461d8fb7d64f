"""Files that cannot be imported get one line that says why; and an operator that is missing can be added."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
import torch
from onnx_text import SMALL, SMALL_WEIGHTS, load, run, write

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
        ("y = Relu ()", "input 0 is missing"),
        ("y = Transpose <perm = [0, 5, 1]> (w)", "malformed"),
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

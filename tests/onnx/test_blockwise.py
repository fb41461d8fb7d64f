"""Matrix products whose weights are packed, a few bits each, as ``MatMulNBitsQuantizer`` of onnxruntime writes them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx_text import run, write
from quantized import random, runtime

from reparam_kit import count_integers, expand, fold, load, save
from reparam_kit.errors import InputError, UnsupportedError
from reparam_kit.onnx import import_onnx

packer = pytest.importorskip(
    "onnxruntime.quantization.matmul_nbits_quantizer", reason="before onnxruntime 1.22 under another name"
)


def quantised(folder: Path, columns: int = 45, **settings: Any) -> tuple[Path, Path]:
    """The file, and the float one that it was made from."""
    numbers = {"w": random.standard_normal((columns, 6)).astype(np.float32), "v": (6, 4)}
    text = (
        f"net (float[N,{columns}] x) => (float[N,4] y) {{ a = MatMul (x, w) r = Relu (a) y = MatMul (r, v) }}"
    )
    write(folder / "float.onnx", text, numbers, 'ir_version: 10, opset_import: ["" : 21]')
    made = packer.MatMulNBitsQuantizer(str(folder / "float.onnx"), **settings)
    made.process()
    onnx.save(made.model.model, folder / "model.onnx")
    return folder / "model.onnx", folder / "float.onnx"


@pytest.mark.parametrize("columns", [45, 64])
@pytest.mark.parametrize("is_symmetric", [True, False])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_packed_levels_are_a_weight(bits: int, is_symmetric: bool, columns: int, tmp_path: Path) -> None:
    path, twin = quantised(tmp_path, columns, bits=bits, block_size=16, is_symmetric=is_symmetric)
    new, x = tmp_path / "new.onnx", torch.randn(3, columns)
    model = load(path, float=twin)
    torch.testing.assert_close(run(model, x)[0], runtime(path, x), rtol=1e-4, atol=1e-4)
    student = expand(model, include=["*"])
    save(fold(student), new)
    assert new.read_bytes() == path.read_bytes()
    student.train()(x).square().sum().backward()
    for parameter in student.parameters():
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        parameter.data -= 0.1 * parameter.abs().max() * parameter.grad.sign()
    result = fold(student).eval()
    save(result, new)
    torch.testing.assert_close(run(result, x)[0], runtime(new, x), rtol=1e-4, atol=1e-4)
    count = count_integers(result)
    assert count is not None
    assert count.total == columns * 6 + 24
    assert count.changed > 20


def test_what_is_not_such_levels_is_refused(tmp_path: Path) -> None:
    path, _ = quantised(tmp_path, block_size=16)
    whole = onnx.load(path)
    whole.graph.node[0].input[3] = "w_scales"
    onnx.save(whole, path)
    with pytest.raises(UnsupportedError, match=r"zero points \(input 3\) that are no stored integers"):
        import_onnx(path)
    for tensor in whole.graph.initializer:
        if tensor.name == "w_Q4":
            tensor.dims[:] = [6, 8, 3]
    onnx.save(whole, path)
    with pytest.raises(
        InputError, match=r"shape \[6, 8, 3\], not \[6, 3, 8\]: 6 rows of 45 levels of 4 bits, in blocks"
    ):
        import_onnx(path)

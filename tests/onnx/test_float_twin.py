"""A quantised file that starts at the numbers of the float net that it was made from."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from click.testing import CliRunner
from onnx import numpy_helper
from onnx_text import SMALL, SMALL_WEIGHTS, Weights, load, write
from quantized import integers, random, runtime

from reparam_kit import expand, fold, save
from reparam_kit import load as load_model
from reparam_kit.cli import main
from reparam_kit.errors import InputError
from reparam_kit.onnx import import_onnx

FLOAT = """net (float[N,3,8,8] x) => (float y) {
    c = Conv (x, w, b) p = GlobalAveragePool (c) f = Flatten (p) y = Gemm <transB = 1> (f, m)
}"""
# With the names of no quantiser, and a matrix in the layout of MatMul.
QUANTISED = """net (float[N,3,8,8] x) => (float y) {
    v = DequantizeLinear <axis = 0> (q1, s1, z1) k = DequantizeLinear <axis = 0> (q2, s2)
    c = Conv (x, v, k) p = GlobalAveragePool (c) f = Flatten (p)
    n = DequantizeLinear (q3, s3, z3) y = MatMul (f, n)
}"""


def files(folder: Path) -> tuple[Path, Path, dict[str, np.ndarray]]:
    """The quantised file, the float one, and the numbers of that."""
    numbers = {
        "w": random.standard_normal((4, 3, 3, 3)).astype(np.float32),
        "b": random.standard_normal(4).astype(np.float32),
        "m": random.standard_normal((5, 4)).astype(np.float32),
    }
    scale = (np.abs(numbers["w"]).max((1, 2, 3)) / 130).astype(np.float32)  # some are beyond the last level
    matrix = np.float32(np.ptp(numbers["m"]) / 255)
    zero = np.rint(-numbers["m"].min() / matrix)
    weights: Weights = {
        "q1": np.rint(numbers["w"] / scale.reshape(-1, 1, 1, 1)).clip(-128, 127).astype(np.int8),
        "s1": scale,
        "z1": np.zeros(4, np.int8),
        "q2": np.rint(numbers["b"] / (scale * 1e-4)).astype(np.int32),
        "s2": (scale * 1e-4).astype(np.float32),
        "q3": (np.rint(numbers["m"].T / matrix) + zero).clip(0, 255).astype(np.uint8),
        "s3": np.array(matrix),
        "z3": np.array(zero, np.uint8),
    }
    write(folder / "float.onnx", FLOAT, numbers)
    write(folder / "quantised.onnx", QUANTISED, weights)
    return folder / "quantised.onnx", folder / "float.onnx", numbers


def test_weights_start_at_the_numbers_of_the_twin(tmp_path: Path) -> None:
    path, twin, numbers = files(tmp_path)
    model, x = load_model(path, float=twin), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert model(x).equal(load_model(path)(x))
        torch.testing.assert_close(model(x), runtime(path, x), rtol=1e-5, atol=1e-5)
    tensors = {model.meta["onnx"].tensors[name].key.name: p for name, p in model.named_parameters()}
    scale = integers(path)["s1"]
    inside = np.abs(numbers["w"] / scale.reshape(-1, 1, 1, 1)) < 127
    assert not inside.all()
    np.testing.assert_array_equal(tensors["q1"].detach().numpy()[inside], numbers["w"][inside])
    np.testing.assert_array_equal(tensors["q3"].detach().numpy(), numbers["m"])
    model(x).square().sum().backward()
    assert all((p.grad != 0).all() for p in model.parameters() if p.grad is not None)
    save(fold(expand(model)), tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == path.read_bytes()


def test_the_twin_may_have_what_the_quantiser_fused(tmp_path: Path) -> None:
    """Such as BatchNorms, which quantisers are given a file without."""
    path, twin, numbers = files(tmp_path)
    factor, shift = random.uniform(0.5, 2, 4).astype(np.float32), random.standard_normal(4).astype(np.float32)
    apart = {
        **numbers,
        "w": numbers["w"] / factor.reshape(-1, 1, 1, 1),
        "b": (numbers["b"] - shift) / factor,
        "factor": factor,
        "shift": shift,
        "mean": np.zeros(4, np.float32),
        "var": np.full(4, 1 - 1e-5, np.float32),
    }
    norm = "v = Conv (x, w, b) c = BatchNormalization (v, factor, shift, mean, var)"
    write(twin, FLOAT.replace("c = Conv (x, w, b)", norm), apart)
    model = load_model(path, float=twin)
    tensors = {model.meta["onnx"].tensors[name].key.name: p for name, p in model.named_parameters()}
    scale = integers(path)["s1"].reshape(-1, 1, 1, 1)
    inside = np.abs(numbers["w"] / scale) < 127
    found = tensors["q1"].detach().numpy()
    np.testing.assert_allclose(found[inside], numbers["w"][inside], rtol=1e-5)
    assert not np.isin(tensors["q2"].detach(), integers(path)["q2"] * integers(path)["s2"]).all()


def test_a_number_that_the_quantiser_rounded_otherwise_starts_at_the_edge(tmp_path: Path) -> None:
    """As quantisers do that correct a bias, or learn how to round."""
    path, twin, _ = files(tmp_path)
    changed = onnx.load(path)
    [tensor] = (t for t in changed.graph.initializer if t.name == "q1")
    levels = numpy_helper.to_array(tensor).copy()
    levels[0, 0] = (levels[0, 0].astype(int) + 1).clip(-128, 127)
    tensor.raw_data = levels.tobytes()
    onnx.save(changed, path)
    model, x = load_model(path, float=twin), torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        assert model(x).equal(load_model(path)(x))
    save(model, tmp_path / "new.onnx")
    assert (tmp_path / "new.onnx").read_bytes() == path.read_bytes()


def test_what_is_no_twin_is_refused(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path, twin, numbers = files(tmp_path)
    write(tmp_path / "other.onnx", FLOAT, {name: value[::-1].copy() for name, value in numbers.items()})
    with pytest.raises(InputError, match=r"was not quantised from .*other\.onnx: none of its 3 weights"):
        load_model(path, float=tmp_path / "other.onnx")
    with pytest.raises(InputError, match="stores no weights as integers"):
        load_model(twin, float=twin)
    with pytest.raises(InputError, match=r"missing\.onnx"):
        load_model(path, float=tmp_path / "missing.onnx")
    with pytest.raises(InputError, match="--float"):
        load_model("nets:Plain", float=twin)
    with caplog.at_level(logging.WARNING):
        write(tmp_path / "part.onnx", FLOAT, numbers | {"m": numbers["m"][::-1].copy()})
        import_onnx(path, float=tmp_path / "part.onnx")
    assert "has no weight that rounds to initializer 'q3': they start" in caplog.text


def test_an_expanded_file_remembers_where_it_starts(tmp_path: Path) -> None:
    path, twin, _ = files(tmp_path)
    expanded, new = tmp_path / "e.pt", tmp_path / "new.onnx"
    result = CliRunner().invoke(main, ["expand", str(path), "--float", str(twin), "-o", str(expanded)])
    assert result.exit_code == 0, result.stderr
    started = load_model(path, float=twin).state_dict()
    for name, tensor in fold(load_model(expanded)).state_dict().items():
        assert tensor.equal(started[name])
    assert CliRunner().invoke(main, ["fold", str(expanded), "-o", str(new)]).exit_code == 0
    assert new.read_bytes() == path.read_bytes()
    load(tmp_path / "plain.onnx", SMALL, SMALL_WEIGHTS)
    words = ["expand", str(tmp_path / "plain.onnx"), "--float", str(twin), "-o", str(expanded)]
    assert CliRunner().invoke(main, words).exit_code == 2
    assert integers(path)["q1"].dtype == np.int8

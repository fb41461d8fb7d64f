"""The user's own inputs for an ONNX file."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from onnx import parser
from onnx_models import save

from reparam_kit.errors import InputError
from reparam_kit.onnx.run import read_inputs

NET = """
<ir_version: 8, opset_import: ["" : 17]>
net (float[n, 3] image, int64[n] index) => (float[n, 3] y) { y = Gather (image, index) }
"""


def npy(array: np.ndarray) -> bytes:
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def write_header(path: Path, shape: tuple[int, ...]) -> None:
    """An archive with an array of that shape, and no numbers."""
    header = io.BytesIO()
    np.lib.format.write_array_header_1_0(header, {"descr": "<f4", "fortran_order": False, "shape": shape})
    with ZipFile(path, "w") as archive:
        archive.writestr("image.npy", header.getvalue())


def test_arrays_go_to_the_inputs_of_their_names(tmp_path: Path) -> None:
    model, path = save(parser.parse_model(NET), tmp_path / "net.onnx"), tmp_path / "inputs.npz"
    image = np.random.default_rng(0).normal(size=(2, 3)).astype(np.float32)
    np.savez(path, index=np.array([1, 0]), image=image, label=np.zeros(2))
    first, second = read_inputs(path, model)
    assert first.equal(torch.from_numpy(image))
    assert second.equal(torch.tensor([1, 0]))


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda path: np.savez(path, imgae=np.zeros(3), index=np.zeros(2)),
            "no array 'image', .* mean 'imgae'",
        ),
        (lambda path: np.savez(path, image=np.array([{}])), "not a .npz file of numbers: Object arrays"),
        (lambda path: np.savez(path, image=np.array(["a"])), "not a .npz file of numbers: can't convert"),
        (lambda path: np.savez(path), "holds no arrays with names"),
        (lambda path: path.write_bytes(npy(np.zeros(3))), "holds no arrays with names"),
        (lambda path: path.write_bytes(b"PK\x03\x04 and no more"), "not a .npz file of numbers"),
        (lambda path: path.write_bytes(b""), "not a .npz file of numbers"),
        (lambda path: np.savez_compressed(path, image=np.zeros(2**28, np.uint8)), "it would unpack to 268,"),
        (lambda path: write_header(path, (2**50,)), "not a .npz file of numbers: Unable to allocate"),
        (lambda path: write_header(path, (2**62, 2**62)), "not a .npz file of numbers"),
        (lambda path: None, "no such file"),
    ],
)
def test_what_is_no_such_file(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    model, path = save(parser.parse_model(NET), tmp_path / "net.onnx"), tmp_path / "inputs.npz"
    write(path)
    with pytest.raises(InputError, match=message) as caught:
        read_inputs(path, model)
    assert "\n" not in str(caught.value)

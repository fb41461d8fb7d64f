"""Deployed face nets: same output as onnxruntime at any batch, and everything that can learn does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import numpy_helper
from torch import Tensor, fx, nn

from recipes.faces import decode_image, read_pairs
from reparam_kit import check_import
from reparam_kit.onnx.importer import import_onnx

# Name -> trainable parameters, convolutions, PReLUs.
MODELS = {
    "mobilefacenet": (989_952, 51, 0),
    "mobilefacenet_batch1": (989_952, 51, 0),
    "teacher_y1": (993_600, 49, 33),
    "teacher_mbf512": (3_397_248, 49, 34),
}


@pytest.fixture(scope="module", params=MODELS)
def path(request: pytest.FixtureRequest, shared_faces: Path) -> Path:
    return shared_faces / "models" / f"{request.param}.onnx"


@pytest.fixture(scope="module")
def model(path: Path) -> fx.GraphModule:
    return import_onnx(path)


def reference(path: Path, x: Tensor) -> np.ndarray:
    """onnxruntime's result, one row at a time, which a file with a fixed batch of 1 asks for."""
    session = onnxruntime.InferenceSession(path)
    name = session.get_inputs()[0].name
    return np.concatenate([session.run(None, {name: row.numpy()})[0] for row in x.split(1)])


@pytest.mark.parametrize("batch", [1, 3])
def test_same_output(path: Path, model: fx.GraphModule, batch: int) -> None:
    x = torch.randn(batch, 3, 112, 112)
    with torch.no_grad():
        result = model(x).numpy()
    expected = reference(path, x)
    assert np.abs(result - expected).max() < 1e-5 * np.abs(expected).max()


def test_what_is_trained(path: Path, model: fx.GraphModule) -> None:
    trainable, convs, prelus = MODELS[path.stem]
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == trainable
    assert sum(isinstance(m, nn.Conv2d) for m in model.modules()) == convs
    slopes = [m.weight for m in model.modules() if isinstance(m, nn.PReLU)]
    assert len(slopes) == prelus
    model.train()
    model(torch.randn(2, 3, 112, 112)).square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().max() > 0 for p in model.parameters())
    model.zero_grad()
    model.eval()


def test_every_tensor_goes_back(path: Path) -> None:
    model = import_onnx(path)
    proto = onnx.load(path)
    stored = {f"initializer {t.name}": t for t in proto.graph.initializer}
    stored |= {
        f"constant {n.output[0]}": n.attribute[0].t for n in proto.graph.node if n.op_type == "Constant"
    }
    state, provenance = model.state_dict(), model.meta["onnx"]
    assert provenance.payload == path.read_bytes()
    assert {name for name in state if not name.endswith("num_batches_tracked")} == set(provenance.tensors)
    for name, source in provenance.tensors.items():
        expected = numpy_helper.to_array(stored[f"{source.key.kind} {source.key.name}"])
        result = source.to_onnx(state[name])
        assert result.shape == expected.shape
        assert result.tobytes() == expected.tobytes()


@pytest.fixture(scope="module")
def faces(shared_faces: Path) -> Tensor:
    """The first pair of images, RGB in -1..1."""
    images = read_pairs(shared_faces / "lfw_dev.bin").images[:2]
    pixels = [torch.from_numpy(decode_image(data, "an image").copy()).movedim(-1, 0) for data in images]
    return (torch.stack(pixels) - 127.5) / 127.5


def test_every_node_is_as_in_the_file_on_real_images(model: fx.GraphModule, faces: Tensor) -> None:
    assert check_import(model, faces) is None

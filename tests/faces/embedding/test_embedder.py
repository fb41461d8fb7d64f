from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

from recipes.faces import Embedder, FaceRecords, input_preset, write_records
from reparam_kit import InputError

PRESET = input_preset("insightface")


def test_module_and_files_agree_with_the_definition(net, onnx_net, truth, pictures) -> None:
    images = pictures(7)
    models = [
        net,
        onnx_net(),
        str(onnx_net(("n", 3, "h", "w"))),
        onnx_net((1, 3, 8, 8)),
        onnx_net((4, 3, 8, 8)),
    ]
    for model in models:
        embeddings = Embedder(model, PRESET, batch_size=3).embed(images)
        assert embeddings.dtype == np.float32
        np.testing.assert_allclose(embeddings, truth(images), atol=1e-5)


def test_half_precision_file(onnx_net, truth, pictures) -> None:
    embeddings = Embedder(onnx_net(dtype=TensorProto.FLOAT16), PRESET).embed(pictures(3))
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, truth(pictures(3)), atol=2e-2)


@pytest.mark.parametrize("fixed", [False, True])
def test_flip_adds_the_mirrored_image(fixed: bool, net, onnx_net, truth, pictures) -> None:
    images = pictures(5)
    model = onnx_net((1, 3, 8, 8)) if fixed else net
    wanted = truth(images) + truth([image[:, ::-1] for image in images])
    np.testing.assert_allclose(Embedder(model, PRESET, 2).embed(images, flip=True), wanted, atol=1e-5)
    assert not np.allclose(wanted, 2 * truth(images), atol=1e-2)


def test_sources_of_images(tmp_path: Path, net, truth, pictures, encode) -> None:
    images = pictures(3)
    write_records(tmp_path / "a.rec", [(i, encode(image)) for i, image in enumerate(images)])
    read_only = [image.copy() for image in images]
    for image in read_only:
        image.setflags(write=False)
    sources = [
        iter(images),
        read_only,
        [image[:, ::-1].copy()[:, ::-1] for image in images],
        [torch.from_numpy(image).permute(2, 0, 1) for image in images],
        FaceRecords(tmp_path / "a.rec"),
    ]
    for source in sources:
        np.testing.assert_allclose(Embedder(net, PRESET).embed(source), truth(images), atol=1e-5)


def test_call_embeds_a_batch(net, truth, pictures) -> None:
    batch = torch.from_numpy(np.stack(pictures(3)).transpose(0, 3, 1, 2))
    np.testing.assert_allclose(Embedder(net, PRESET)(batch).numpy(), truth(pictures(3)), atol=1e-5)


@pytest.mark.parametrize("fails", [False, True])
def test_modes_are_restored(fails: bool, pictures) -> None:
    class Probe(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            if fails:
                raise RuntimeError("probe")
            return x.flatten(1)

    model = nn.Sequential(nn.BatchNorm2d(3), Probe(), nn.Dropout())
    model.train()
    model[0].eval()
    if fails:
        with pytest.raises(InputError, match=r"fails on images.*probe"):
            Embedder(model, PRESET).embed(pictures(2))
    else:
        Embedder(model, PRESET).embed(pictures(2))
    assert [m.training for m in model.modules()] == [True, False, True, True]
    assert model[0].num_batches_tracked == 0


def test_module_runs_in_its_own_dtype_and_may_return_several(truth, net, pictures) -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net.double()

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.net(x)
            return y[:, :, None, None], x

    images = pictures(2)
    embeddings = Embedder(Several(), PRESET).embed(images)
    net.float()
    assert embeddings.dtype == np.float32
    np.testing.assert_allclose(embeddings, truth(images), atol=1e-5)


def test_wrong_size_names_both(onnx_net, pictures) -> None:
    with pytest.raises(
        InputError, match=r"takes images of 8 x 8 pixels \(height x width\), and these are 6 x 6"
    ):
        Embedder(onnx_net(), PRESET).embed(pictures(1, 6))


def test_file_that_fails_on_the_images(onnx_net, pictures) -> None:
    with pytest.raises(InputError, match=r"fails on images \[1, 3, 6, 6\]"):
        Embedder(onnx_net(("n", 3, "h", "w")), PRESET).embed(pictures(1, 6))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda images: [], "no image to embed"),
        (lambda images: [images[0], images[1][:4]], r"sizes \[\(3, 4, 8\), \(3, 8, 8\)\]"),
        (lambda images: [images[0], images[1].astype(np.float32)], "uint8 and of floating point"),
        (
            lambda images: [images[0][..., :1]],
            r"takes images of 3 channels, and these are of 1: repeat the channel",
        ),
        (lambda images: [images[0][..., :2]], r"image 0 is torch.uint8 \[2, 8, 8\]"),
        (lambda images: [("a text",)], "image 0 is str: an item of the data"),
    ],
    ids=["none", "sizes", "kinds", "grey", "two channels", "text"],
)
def test_unusable_images(make, message: str, onnx_net, pictures) -> None:
    with pytest.raises(InputError, match=message):
        Embedder(onnx_net(), PRESET).embed(make(pictures(2)))


def test_output_that_is_not_an_embedding_each(pictures) -> None:
    with pytest.raises(InputError, match="for 2 images, not one embedding each"):
        Embedder(nn.Flatten(0), PRESET).embed(pictures(2))


def _file(path: Path, *inputs: onnx.ValueInfoProto) -> Path:
    nodes = [helper.make_node("Identity", [inputs[0].name], ["y"])]
    output = helper.make_tensor_value_info("y", inputs[0].type.tensor_type.elem_type, None)
    graph = helper.make_graph(nodes, "g", list(inputs), [output])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


def test_unusable_files(tmp_path: Path) -> None:
    info = helper.make_tensor_value_info
    (tmp_path / "junk.onnx").write_bytes(b"junk")
    four = [1, 3, 8, 8]
    cases = {
        "no.onnx: no such file": tmp_path / "no.onnx",
        "is not an ONNX model": tmp_path / "junk.onnx",
        "takes x int64": _file(tmp_path / "i.onnx", info("x", TensorProto.INT64, four)),
        "takes x float32 \\[1, 3\\]; a face": _file(
            tmp_path / "r.onnx", info("x", TensorProto.FLOAT, [1, 3])
        ),
        "takes x .*, z ": _file(
            tmp_path / "t.onnx", info("x", TensorProto.FLOAT, four), info("z", TensorProto.FLOAT, four)
        ),
    }
    for message, path in cases.items():
        with pytest.raises(InputError, match=message) as caught:
            Embedder(path, PRESET)
        assert "\n" not in str(caught.value)


def test_no_progress_where_standard_error_is_no_terminal(
    net, pictures, capfd: pytest.CaptureFixture[str]
) -> None:
    Embedder(net, PRESET, progress=True).embed(pictures(2))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("progress", [False, True])
def test_progress_is_shown_where_it_is_asked_for(
    net, pictures, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, progress: bool
) -> None:
    monkeypatch.setattr("recipes.progress.live", lambda: True)  # as in a terminal
    Embedder(net, PRESET, progress=progress).embed(pictures(2))
    out, err = capfd.readouterr()
    assert (out, "embedding" in err) == ("", progress)

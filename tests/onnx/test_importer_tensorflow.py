"""What tf2onnx writes that other exporters do not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from onnx_text import assert_as_runtime, load, run

from reparam_kit.sites import inspect
from reparam_kit.surgery import expand, fold


@pytest.mark.parametrize("image", [(8, 9), (7, 8)], ids=str)
def test_a_pool_that_same_pads_is_no_convolution(image: tuple[int, int], tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    model = load(
        path,
        """net (float[N,3,H,W] x) => (float y) {
            c = Conv <auto_pad = "SAME_UPPER"> (x, w)
            y = AveragePool <kernel_shape = [3,3], strides = [2,2], auto_pad = "SAME_UPPER"> (c)
        }""",
        {"w": (4, 3, 3, 3)},
    )
    assert [(site.kind, site.reason) for site in inspect(model)] == [("Conv2d", None)]
    assert_as_runtime(model, path, torch.randn(2, 3, *image))


NORMALIZED = """net (float[N,6] image, {inputs}) => (float y) {{
    s = Sub (image, {mean})
    y = MatMul (s, w)
}}"""


def test_last_inputs_that_nothing_reads_may_be_left_out(tmp_path: Path) -> None:
    """What a Normalization layer was given is folded into the graph, and stays an input of it."""
    path = tmp_path / "m.onnx"
    text = NORMALIZED.format(inputs="float[1,6] mean, float[1,6] deviation", mean="constant")
    model = load(path, text, {"constant": (1, 6), "w": (6, 5)})
    x = torch.randn(3, 6)
    assert_as_runtime(model, path, x, torch.randn(1, 6), torch.randn(1, 6))
    for net in (model, fold(expand(model, "2 * conv(k)", include=["*"]))):
        torch.testing.assert_close(run(net, x), run(model, x, torch.randn(1, 6), torch.randn(1, 6)))


def test_an_input_before_one_that_is_read_is_required(tmp_path: Path) -> None:
    text = NORMALIZED.format(inputs="float[1,6] deviation, float[1,6] mean", mean="mean")
    model = load(tmp_path / "m.onnx", text, {"w": (6, 5)})
    x, mean = torch.randn(3, 6), torch.randn(1, 6)
    assert_as_runtime(model, tmp_path / "m.onnx", x, torch.randn(1, 6), mean)
    with pytest.raises(TypeError, match="missing 1 required positional argument: 'mean'"):
        model(x, mean)

"""Detectors with known answers: they find a face of five coloured dots, in the outputs of YuNet or of SCRFD."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper, parser
from PIL import Image

from recipes.faces.images.align import TEMPLATE

DOTS = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 0], [0, 255, 255]], np.uint8)
STRIDES = (8, 16, 32)
_OF_DOT = np.array([[1, -1, -1], [-1, 1, -1], [-1, -1, 1], [1, 1, -2], [-2, 1, 1]], np.float32)
_FAINT = np.array([-128, -128, -128, -306, -306], np.float32)

_DOTS = """
    mask0 = Conv (image, colours, faint)
    mask = Relu (mask0)
    shape = Shape (image)
    rows = Gather <axis = 0> (shape, two)
    columns = Gather <axis = 0> (shape, three)
    down = Range (zero, rows, one)
    right = Range (zero, columns, one)
    y0 = Cast <to = 1> (down)
    x = Cast <to = 1> (right)
    y = Unsqueeze (y0, ones)
    mass0 = ReduceSum <keepdims = 0> (mask, plane)
    mass = Max (mass0, least)
    maskx = Mul (mask, x)
    masky = Mul (mask, y)
    sumx = ReduceSum <keepdims = 0> (maskx, plane)
    sumy = ReduceSum <keepdims = 0> (masky, plane)
    px0 = Div (sumx, mass)
    py0 = Div (sumy, mass)
    px = Reshape (px0, five)
    py = Reshape (py0, five)
    points = Concat <axis = 1> (px, py)
    faintest = ReduceMin <keepdims = 0> (mass)
    there = Greater (faintest, least)
    score = Cast <to = 1> (there)
    nose = Slice (points, two_, three_)
    low = ReduceMin <axes = [0], keepdims = 1> (points)
    high = ReduceMax <axes = [0], keepdims = 1> (points)
"""
_LEVEL = """
    rows_S = Div (rows, stride_S)
    columns_S = Div (columns, stride_S)
    cells_S = Mul (rows_S, columns_S)
    each_S = Range (zero, cells_S, one)
    row_S = Div (each_S, columns_S)
    column_S = Mod (each_S, columns_S)
    row1_S = Unsqueeze (row_S, ones)
    column1_S = Unsqueeze (column_S, ones)
    cell0_S = Concat <axis = 1> (column1_S, row1_S)
    cell1_S = Cast <to = 1> (cell0_S)
    cell_S = ANCHORS
    fstride_S = Cast <to = 1> (stride_S)
    noses_S = Div (nose, fstride_S)
    from_S = Sub (noses_S, cell_S)
    floor_S = Floor (from_S)
    far0_S = Abs (floor_S)
    far_S = ReduceSum <keepdims = 1> (far0_S, ones)
    near_S = Less (far_S, half)
    near1_S = Cast <to = 1> (near_S)
    sure_S = Mul (near1_S, score)
    points_S = Div (points, fstride_S)
    cells1_S = Unsqueeze (cell_S, ones)
    kps0_S = Sub (points_S, cells1_S)
    kps1_S = Reshape (kps0_S, ten)
    low_S = Div (low, fstride_S)
    high_S = Div (high, fstride_S)
"""
_YUNET = """
    sum_S = Add (low_S, high_S)
    centre_S = Mul (sum_S, half)
    offset_S = Sub (centre_S, cell_S)
    size0_S = Sub (high_S, low_S)
    size1_S = Max (size0_S, small)
    size2_S = Log (size1_S)
    zeros_S = Sub (cell_S, cell_S)
    size_S = Add (size2_S, zeros_S)
    bbox1_S = Concat <axis = 1> (offset_S, size_S)
"""
_SCRFD = """
    left_S = Sub (cell_S, low_S)
    right_S = Sub (high_S, cell_S)
    bbox1_S = Concat <axis = 1> (left_S, right_S)
"""


def write_detector(
    path: Path, form: str = "yunet", size: int | None = None, batch: bool = True, named: bool = True
) -> Path:
    """Write a detector that finds :func:`marked_photo`.

    Args:
        form: "yunet" or "scrfd", with two anchors a cell.
        size: height and width that it fixes, if any.
        batch: whether its outputs have an axis of the batch.
        named: whether its outputs have their usual names, or only numbers, in another order.
    """
    yunet = form == "yunet"
    heads = {"cls": "sure", "obj": "sure", "bbox": "bbox1", "kps": "kps1"} if yunet else {
        "score": "sure", "bbox": "bbox1", "kps": "kps1"
    }  # fmt: skip
    lines, outputs = [_DOTS], []
    for stride in STRIDES:
        anchors = f"Identity (cell1_{stride})" if yunet else f"Reshape (twice_{stride}, pair)"
        level = _LEVEL + (_YUNET if yunet else _SCRFD)
        if not yunet:
            twice = "twice_S = Concat <axis = 1> (cell1_S, cell1_S)"
            level = level.replace("cell_S = ANCHORS", f"{twice}\n    cell_S = ANCHORS")
        lines.append(level.replace("ANCHORS", anchors).replace("_S", f"_{stride}"))
    for head, value in heads.items():
        for stride in STRIDES:
            name = f"{head}_{stride}" if named else f"out{len(outputs)}"
            reshaped = f"Unsqueeze ({value}_{stride}, first)" if batch else f"Identity ({value}_{stride})"
            lines.append(f"    {name} = {reshaped}\n")
            columns = {"bbox": 4, "kps": 10}.get(head, 1)
            outputs.append(f"float[{'1, ' if batch else ''}n{stride}, {columns}] {name}")
    if not named:
        outputs.reverse()
    side = ("height", "width") if size is None else (size, size)
    model = parser.parse_model(
        f'<ir_version: 8, opset_import: ["" : 17]> detector (float[1, 3, {side[0]}, {side[1]}] image) => '
        f"({', '.join(outputs)}) {{{''.join(lines)}}}"
    )
    colours = _OF_DOT[:, ::-1] if yunet else _OF_DOT * 128
    constants: dict[str, npt.NDArray[np.generic]] = {
        "colours": colours.astype(np.float32)[..., None, None],
        "faint": _FAINT if yunet else _FAINT + _OF_DOT.sum(1) * np.float32(127.5),
        "zero": np.int64(0), "one": np.int64(1), "two": np.int64(2), "three": np.int64(3),
        "ones": np.int64([1]), "first": np.int64([0]), "plane": np.int64([2, 3]), "two_": np.int64([2]),
        "three_": np.int64([3]), "five": np.int64([5, 1]), "ten": np.int64([-1, 10]), "pair": np.int64([-1, 2]),
        "least": np.float32(1), "half": np.float32(0.5), "small": np.float32(1e-3),
        **{f"stride_{stride}": np.int64(stride) for stride in STRIDES},
    }  # fmt: skip
    used = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(
        numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items() if name in used
    )
    onnx.save(model, path)
    return path


def marked_photo(
    points: npt.NDArray[np.floating], height: int = 480, width: int = 640, radius: float = 6
) -> npt.NDArray[np.uint8]:
    """Draw a photo, RGB ``[height, width, 3]``, whose face is five dots at ``points`` ``[5, 2]``."""
    y, x = np.mgrid[:height, :width]
    photo = np.zeros((height, width, 3), np.uint8)
    for (px, py), colour in zip(points, DOTS, strict=True):
        photo[np.hypot(x - px, y - py) <= radius] = colour
    return photo


def drawn_portrait(scale: float = 1.2) -> bytes:
    """Return a PNG file of a small photo with a face."""
    file = io.BytesIO()
    Image.fromarray(marked_photo((TEMPLATE - 55.5) * scale + [120, 90], 180, 240)).save(file, "PNG")
    return file.getvalue()


def dots_of(image: npt.NDArray[np.uint8]) -> npt.NDArray[np.float64]:
    """Return where the five dots of an image ``[H, W, 3]`` are, ``[5, 2]``."""
    y, x = np.mgrid[: image.shape[0], : image.shape[1]]
    found = []
    for weights, faint in zip(_OF_DOT, _FAINT, strict=True):
        mask = (image @ weights + faint).clip(0)
        found.append([(mask * x).sum() / mask.sum(), (mask * y).sum() / mask.sum()])
    return np.array(found)

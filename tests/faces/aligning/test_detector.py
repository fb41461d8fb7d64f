"""A detector of known answers finds its face in every form, size and place; others are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from marked import dots_of, marked_photo, write_detector
from onnx import helper

from recipes.faces import Detections, Detector, align
from recipes.faces.aligning.detections import distinct
from recipes.faces.aligning.forms import SCRFD, YuNet, decode, tell_form
from recipes.faces.images.align import TEMPLATE
from reparam_kit import InputError

FORMS = [YuNet(), SCRFD()]


def face(side: float, angle: float, x: float, y: float) -> np.ndarray:
    """Five points of a face whose crop has this side, turned, with its middle at x and y."""
    a = np.deg2rad(angle)
    turn = np.array([[np.cos(a), -np.sin(a)], [np.sin(a), np.cos(a)]])
    return (TEMPLATE - 55.5) * (side / 112) @ turn.T + [x, y]


@pytest.mark.parametrize("form", ["yunet", "scrfd"])
@pytest.mark.parametrize("size", [None, 256])
@pytest.mark.parametrize("usual", [True, False], ids=["named", "numbered and without a batch"])
def test_face_is_found_and_aligned_in_every_form(
    tmp_path: Path, form: str, size: int | None, usual: bool
) -> None:
    points = face(200, 25, 300, 250)
    photo = marked_photo(points, radius=7)
    detector = Detector(write_detector(tmp_path / "d.onnx", form, size, batch=usual, named=usual))
    found = detector(photo)
    assert len(found) == 1
    np.testing.assert_allclose(found.boxes[0], [*points.min(0), *points.max(0)], atol=3)
    crop = align(photo, detector.refine(photo, found.points[0]), "photo")
    np.testing.assert_allclose(dots_of(crop), TEMPLATE, atol=0.3)


def test_small_face_in_a_large_photo_is_found_in_a_closer_look(tmp_path: Path) -> None:
    """Of 900 pixels in 128, the dots of a face of 90 are gone; in tiles of the photo enlarged they are not."""
    points = face(90, 0, 700, 330)
    photo = marked_photo(points, 500, 900, radius=2.5)
    detector = Detector(write_detector(tmp_path / "d.onnx", size=128))
    found = detector(photo)
    assert len(found) == 1
    np.testing.assert_allclose(detector.refine(photo, found.points[0]), points, atol=1)


@pytest.mark.parametrize("form", FORMS, ids=["yunet", "scrfd"])
@pytest.mark.parametrize("anchors", [1, 2])
def test_decoding_is_that_of_the_published_loops(form: YuNet | SCRFD, anchors: int) -> None:
    """As OpenCV's and InsightFace's code says it, cell by cell."""
    rng = np.random.default_rng(0)
    height, width, rows = 64, 96, []
    outputs: dict[int, list[np.ndarray]] = {1: [], 4: [], 10: []}
    for stride in (8, 16, 32):
        for y in range(height // stride):
            for x in range(width // stride):
                for _ in range(anchors):
                    scores, box, kps = rng.random(form.scores), rng.normal(size=4), rng.normal(size=10)
                    for columns, value in ((4, box), (10, kps)):
                        outputs[columns].append(value)
                    outputs[1].append(scores)
                    points = [((kps[2 * n] + x) * stride, (kps[2 * n + 1] + y) * stride) for n in range(5)]
                    if isinstance(form, YuNet):
                        cx, cy = (x + box[0]) * stride, (y + box[1]) * stride
                        w, h = np.exp(box[2]) * stride, np.exp(box[3]) * stride
                        row = (
                            np.sqrt(scores[0] * scores[1]),
                            [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2],
                        )
                    else:
                        left, top, right, bottom = box * stride
                        cx, cy = x * stride, y * stride
                        row = (scores[0], [cx - left, cy - top, cx + right, cy + bottom])
                    if row[0] >= 0.5:
                        rows.append((*row, points))
    ends = np.cumsum([anchors * height * width // stride**2 for stride in (8, 16, 32)])[:-1]
    scores = [np.split(column[:, None], ends) for column in np.array(outputs[1]).T]
    heads = [*scores, *(np.split(np.array(outputs[columns]), ends) for columns in (4, 10))]
    given = [part[None].astype(np.float32) for head in heads for part in head]
    assert type(tell_form(given, "d.onnx")) is type(form)
    found = decode(form, given, (height, width), 0.5, "d.onnx")
    np.testing.assert_allclose(found.scores, [row[0] for row in rows], rtol=1e-5)
    np.testing.assert_allclose(found.boxes, [row[1] for row in rows], rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(found.points, [row[2] for row in rows], rtol=1e-4, atol=1e-3)


def test_of_boxes_that_share_most_the_surest_stays() -> None:
    boxes = np.float32([[0, 0, 10, 10], [1, 0, 11, 10], [5, 5, 15, 15], [40, 40, 44, 44]])
    found = Detections(np.float32([0.7, 0.9, 0.8, 0.6]), boxes, np.zeros((4, 5, 2), np.float32))
    np.testing.assert_array_equal(distinct(found).boxes, boxes[[1, 2, 3]])
    assert len(distinct(found.take(np.zeros(4, bool)))) == 0


def test_photo_without_a_face_and_one_of_a_pixel(tmp_path: Path) -> None:
    detector = Detector(write_detector(tmp_path / "d.onnx"))
    assert len(detector(np.zeros((300, 200, 3), np.uint8))) == 0
    assert len(detector(np.zeros((1, 1, 3), np.uint8))) == 0
    assert len(detector(np.zeros((1, 900, 3), np.uint8))) == 0


def write_net(path: Path, taken: list[int | str], given: list[list[int]], kind: int = 1) -> Path:
    """Write a net that gives zeros of the shapes ``given``."""
    zeros = [helper.make_node("ConstantOfShape", [f"s{i}"], [f"o{i}"]) for i in range(len(given))]
    shapes = [helper.make_tensor(f"s{i}", 7, [len(shape)], shape) for i, shape in enumerate(given)]
    graph = helper.make_graph(
        zeros,
        "net",
        [helper.make_tensor_value_info("image", kind, taken)],
        [helper.make_tensor_value_info(f"o{i}", 1, shape) for i, shape in enumerate(given)],
        shapes,
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


CELLS = (6400, 1600, 400)


@pytest.mark.parametrize(
    ("taken", "given", "said"),
    [
        (
            [1, 3, 640, 640],
            [[1, 128]],
            r"outputs \[1, 128\], which are of no detector that is known: .*YuNet",
        ),
        ([1, 3, 640, 640], [[n, k] for k in (1, 4) for n in CELLS], "boxes and no landmarks"),
        ([1, 3, 640, 640], [[99, k] for k in (1, 1, 4, 10)], r"99 anchors for 80 x 80 cells"),
        ([1, 1, 640, 640], [[1]], r"takes image tensor\(float\) \[1, 1, 640, 640\]: a detector takes one"),
        ([8, 3, 640, 640], [[1]], r"\[8, 3, 640, 640\]: a detector takes one image"),
        ([1, 3, 640, "w"], [[1]], "height and width are to be both fixed or both free"),
        ([1, 3], [[1]], "a detector takes one image"),
    ],
)
def test_what_is_no_detector_is_refused(
    tmp_path: Path, taken: list[int | str], given: list[list[int]], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        Detector(write_net(tmp_path / "d.onnx", taken, given))


def test_crop_of_a_large_face_is_smooth() -> None:
    """A pattern of single pixels becomes its mean, and no pattern of its own."""
    photo = np.zeros((1200, 1200, 3), np.uint8)
    photo[::2, ::2] = photo[1::2, 1::2] = 255
    crop = align(photo, face(900, 0, 600, 600).astype(np.float32), "photo")
    assert np.ptp(crop) <= 64
    assert abs(crop.mean() - 127.5) < 8


def test_margin_shows_more_around_the_same_face() -> None:
    points = face(150, 10, 200, 200).astype(np.float32)
    photo = marked_photo(points, 400, 400)
    wide = align(photo, points, "photo", size=224, margin=0.5)
    assert wide.shape == (224, 224, 3)
    np.testing.assert_allclose(dots_of(wide), TEMPLATE + 56, atol=0.3)
    narrow = align(photo, points, "photo", size=56)
    np.testing.assert_allclose(dots_of(narrow), (TEMPLATE + 0.5) / 2 - 0.5, atol=0.3)

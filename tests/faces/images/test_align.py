from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipes.faces.images.align import TEMPLATE, align, similarity_transform
from reparam_kit import InputError


@given(st.floats(-3, 3), st.floats(0.1, 5), st.floats(-50, 50), st.floats(-50, 50))
def test_transform_undoes_turn_scale_and_shift(angle: float, scale: float, x: float, y: float) -> None:
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points = scale * TEMPLATE @ turn.T + [x, y]
    found = similarity_transform(points, TEMPLATE)
    np.testing.assert_allclose(points @ found[:, :2].T + found[:, 2], TEMPLATE, atol=1e-6)


def test_transform_never_mirrors() -> None:
    mirrored = TEMPLATE * [-1, 1]
    found = similarity_transform(mirrored, TEMPLATE)
    assert np.linalg.det(found[:, :2]) > 0


def test_transform_is_least_squares() -> None:
    points = TEMPLATE + np.random.default_rng(0).normal(0, 5, TEMPLATE.shape)

    def error(transform: np.ndarray) -> float:
        return float(((points @ transform[:, :2].T + transform[:, 2] - TEMPLATE) ** 2).sum())

    found = similarity_transform(points, TEMPLATE)
    a, b = found[0, 0], found[1, 0]
    for da, db, dx, dy in np.eye(4) * 1e-3:
        for sign in (1, -1):
            moved = np.array([[a + sign * da, -b - sign * db], [b + sign * db, a + sign * da]])
            nearby = np.column_stack([moved, found[:, 2] + sign * np.array([dx, dy])])
            assert error(found) < error(nearby)


def test_aligned_image_comes_back_as_it_is() -> None:
    image = np.random.default_rng(0).integers(0, 256, (112, 112, 3), np.uint8)
    assert np.abs(align(image, TEMPLATE, "x").astype(int) - image).max() <= 1


def test_landmarks_land_on_the_template() -> None:
    image = np.zeros((300, 400, 3), np.uint8)
    points = np.round(TEMPLATE * 2 + [100, 20])
    for x, y in points.astype(int):
        image[y - 3 : y + 4, x - 3 : x + 4] = 255
    crop = align(image, points, "x")
    assert crop.shape == (112, 112, 3)
    for x, y in TEMPLATE.round().astype(int):
        assert crop[y, x].min() > 200
    assert crop.mean() < 20


@pytest.mark.parametrize("points", [np.full((5, 2), 7.0), np.full((5, 2), np.nan)])
def test_points_that_are_no_face(points: np.ndarray) -> None:
    with pytest.raises(InputError, match=r"a\.jpg: the landmarks .* are not five points of a face"):
        align(np.zeros((9, 9, 3), np.uint8), points, "a.jpg")

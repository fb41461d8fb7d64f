"""Whether faces lie where a net expects them: moved a little, would it tell people apart better?

A face net spreads different people evenly over its sphere, and gathers what it does not see as a face in one corner. So
the similarity of different images is lowest where the faces lie as in its training, and rises some
pixels beside. That takes no labels, and a few dozen images show it to within a pixel: their faces are moved together,
and the lowest place is found as that of a parabola. ``benchmarks/alignment.py`` measures it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.faces.embedding.embedder import Embedder
from recipes.faces.images.items import Items, item_image, item_label

IMAGES = 48  # looked at
_FEWEST = 16  # images that say something
_SMALLEST_IMAGE = 96  # pixels; the places of smaller crops, and of others than squares, are no template's
_STEPS = np.array([8 / 112, 8 / 112, 0.15])  # of a trial, to the right, down, and in size, as shares
_CLOSE = np.array([2.5 / 112, 0.08])  # what is no error: landmarks of two detectors differ by as much
_FAR = np.array([3 / 112, 0.08])
_ROUNDS = 4
_FLOOR = 0.02  # similarities below it are all alike
_LEVEL = 0.1  # of that logarithm, so much lower is no lower place
_STRANGERS = 0.3  # a similarity that images of different people have not
_SURE = 1.5  # standard errors

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Placement:
    """Where the faces of a set lie, as one net sees it.

    Attributes:
        right, down: how many pixels too far they lie to the right and down; negative: to the left and up.
        scale: how many times too large they are.
        similarity: mean cosine similarity of different images as they are, and were they moved back.
        images: how many were looked at.
        aligned: whether that is no more than the landmarks of two detectors differ by, or than chance.
    """

    right: float
    down: float
    scale: float
    similarity: tuple[float, float]
    images: int
    aligned: bool

    def __str__(self) -> str:
        """Say it in one line, to stand behind the name of the set."""
        if self.aligned:
            return (
                f"the faces lie where the net expects them ({self.right:+.1f} pixels to the right, "
                f"{self.down:+.1f} down, {self.scale:.2f} times as large; {self.images} images)"
            )
        now, then = self.similarity
        return (
            f"the faces are {', '.join(self._said())} for the net: were they moved back, the similarity of different "
            f"ones would fall from {now:.3f} to {then:.3f} ({self.images} images). Align them as those that it was "
            "trained on (reparam-kit faces align)"
        )

    def _said(self) -> list[str]:
        """Say what is wrong, the pixels and the size."""
        said = [
            f"{abs(by):.0f} pixels too {more if by > 0 else less}"
            for by, more, less in ((self.right, "far right", "far left"), (self.down, "low", "high"))
            if abs(by) >= 1
        ]
        if abs(math.log(self.scale)) >= _FAR[1]:
            said.append(f"{abs(self.scale - 1):.0%} too {'large' if self.scale > 1 else 'small'}")
        return said


def find_placement(embedder: Embedder, images: Items, count: int = IMAGES) -> Placement | None:
    """Find out where the faces of ``images`` lie; None where that cannot be known.

    It takes seven looks at ``count`` images where they are aligned, and up to four times as many where they are not.

    Args:
        embedder: the net.
        images: items as :func:`recipes.faces.item_image` takes them. Pairs of one label are left out.
        count: number of images to look at, evenly spread.

    Returns:
        None where there are fewer than 16 images, they are no squares of at least 96 pixels, or are all of few people.

    Raises:
        InputError: an image cannot be read, or the net fails.

    >>> print(find_placement(Embedder("deployed.onnx", input_preset("raw")), read_faces("people.rec")))
    None
    """
    chosen = np.unique(np.linspace(0, max(0, len(images) - 1), count).round().astype(int))
    if len(chosen) < _FEWEST:
        return None
    items = [images[int(index)] for index in chosen]
    stack = [item_image(item, f"image {index}") for item, index in zip(items, chosen, strict=True)]
    shape = stack[0].shape
    if shape[1] != shape[2] or shape[1] < _SMALLEST_IMAGE or {image.shape for image in stack} != {shape}:
        return None
    labels = np.array([item_label(item, "an image") for item in items])
    different = (labels[:, None] != labels) | (labels < 0)
    np.fill_diagonal(different, val=False)
    look = _Look(embedder, torch.stack(stack), different)
    if not look.different.any():
        return None
    place, minimal = _lowest(look.crowding)
    return look.told(place, minimal)


class _Look:
    """Looks at images moved to the right and down, by shares of their size, and in size, by its logarithm."""

    def __init__(self, embedder: Embedder, images: Tensor, different: npt.NDArray[np.bool_]) -> None:
        self.embedder, self.images, self.different = embedder, images, different
        self._known: dict[tuple[float, ...], Floats] = {}

    def similarities(self, place: Floats) -> Floats:
        """Return the cosine similarity of all images, moved to ``place``, ``[N, N]``."""
        key = tuple(place.round(6))
        if key not in self._known:
            embeddings = self.embedder(moved(self.images, *place)).double()
            rows = F.normalize(embeddings.flatten(1)).numpy()
            self._known[key] = rows @ rows.T
        return self._known[key]

    def crowding(self, place: Floats) -> float:
        """Return a logarithm of how alike different images are: of the median, so that a few of one person are no
        matter.
        """
        alike = float(np.median(self.similarities(place)[self.different]))
        return math.log(max(alike, 0.0) + _FLOOR)

    def told(self, place: Floats, minimal: bool) -> Placement | None:
        """Return what the faces' moving to ``place`` says of where they are."""
        now, then = self.similarities(np.zeros(3)), self.similarities(place)
        if not np.isfinite(then).all() or np.median(then[self.different]) > _STRANGERS:
            return None
        gain = np.array(
            [(now[i][row] - then[i][row]).mean() for i, row in enumerate(self.different) if row.any()]
        )
        sure = gain.mean() > _SURE * 2 * gain.std(ddof=1) / math.sqrt(len(gain))
        far = _beyond(place, _FAR)
        right, down = -place[:2] * self.images.shape[-1]
        return Placement(
            float(right), float(down), math.exp(-place[2]),
            (float(now[self.different].mean()), float(then[self.different].mean())),
            len(self.images), not (far and sure and minimal),
        )  # fmt: skip


def moved(images: Tensor, right: float, down: float, size: float) -> Tensor:
    """Return images ``[N, C, H, W]`` moved by shares of their size, and ``exp(size)`` times as large; their borders go
    on.
    """
    if right == down == size == 0:
        return images
    shrink = math.exp(-size)
    rows = [[shrink, 0, -2 * right * shrink], [0, shrink, -2 * down * shrink]]
    theta = torch.tensor(rows, dtype=torch.float32)
    grid = F.affine_grid(theta.expand(len(images), 2, 3), list(images.shape), align_corners=False)
    found = F.grid_sample(images.float(), grid, padding_mode="border", align_corners=False)
    return found if images.is_floating_point() else found.round().clamp(0, 255).to(images.dtype)


def _beyond(place: Floats, bounds: Floats) -> bool:
    return bool(np.hypot(*place[:2]) >= bounds[0] or abs(place[2]) >= bounds[1])


def _lowest(height: Callable[[Floats], float]) -> tuple[Floats, bool]:
    """Return the lowest place near none, and whether it is one: nothing that is tried around it is lower."""
    place, minimal = np.zeros(3), False
    for _ in range(_ROUNDS):
        here = height(place)
        ways = np.diag(_STEPS)
        sides = [(height(place - way), height(place + way)) for way in ways]
        minimal = all(min(side) > here - _LEVEL for side in sides)
        move = np.array([_towards(low, here, high) for low, high in sides]) * _STEPS
        place = place + move
        if not _beyond(move, _CLOSE):
            break
    return place, minimal


def _towards(low: float, here: float, high: float) -> float:
    """Return where the parabola through three heights one step apart is lowest, at most one step away."""
    bend = low - 2 * here + high
    if bend > 0:
        return float(np.clip((low - high) / (2 * bend), -1, 1))
    return 0.0 if low == high or here >= max(low, high) else float(np.sign(low - high))

"""Random changes of training faces: mirror, small affine moves, crop, colour, low resolution, occlusion.

Written in torch, because a training run has to give the same images again after it was killed, on one process or two:
what happens to an image may depend on a seed alone. torchvision, kornia and albumentations draw from global state
(torchvision one draw for a whole batch), and cost more than these few lines: torchvision is bound to one version of
torch, kornia 0.9 needs python 3.11 and changes float images only, albumentations brings OpenCV and is no longer
maintained, and its successor is under the AGPL.

The crop, colour and low-resolution changes are those of AdaFace (M. Kim, A. K. Jain, X. Liu, CVPR 2022, section 4.1 and
its code), with its probabilities; the occlusion is Random Erasing (Z. Zhong et al., AAAI 2020). They leave the face
where it is, because a net is trained on aligned faces; the affine moves are as far as detectors differ about it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate

from reparam_kit import InputError

_GREY = (0.299, 0.587, 0.114)  # ITU-R BT.601

# How far an image is moved at most: a share of its side, degrees, and a share of its size.
_SHIFT, _TURN, _SCALE = 0.025, 5.0, 0.06


@dataclass(frozen=True)
class Augmentation:
    """How often each change is made to an image. They are drawn one by one, so that several may meet.

    Attributes:
        flip: mirrored.
        affine: shifted by up to 2.5 % of its sides, turned by up to 5 degrees and scaled by up to 6 %.
        crop: all but a rectangle of 20 to 100 % of the area is black.
        colour: brightness, contrast and saturation, each times 0.5 to 1.5.
        low_resolution: scaled down to 20 to 100 % of its side and up again.
        occlusion: a rectangle of 2 to 33 % of the area has noise in it.

    Raises:
        InputError: a value is not a probability.

    >>> image = torch.zeros(3, 112, 112, dtype=torch.uint8)
    >>> changed = Augmentation(occlusion=1.0)(image, seed=7)
    >>> changed.shape, bool(changed.any()), bool(image.any())
    (torch.Size([3, 112, 112]), True, False)
    """

    flip: float = 0.5
    affine: float = 0.0
    crop: float = 0.2
    colour: float = 0.2
    low_resolution: float = 0.2
    occlusion: float = 0.1

    def __post_init__(self) -> None:
        for field in fields(self):
            if not 0 <= getattr(self, field.name) <= 1:
                raise InputError(f"{field.name}={getattr(self, field.name)} is not a probability, 0 to 1")

    def __call__(self, image: Tensor, seed: int) -> Tensor:
        """Return the changed image ``[C, H, W]`` of one that is left as it is. The same seed gives the same image.

        Args:
            image: uint8, RGB or of one channel, on any device; of floating point, which is already normalised,
                ``flip``, ``affine`` and ``low_resolution`` make sense.
            seed: what decides; for training, a number that epoch and image give.
        """
        random = _Random(seed)
        changes = (
            (self.flip, _flip),
            (self.affine, _affine),
            (self.crop, _crop),
            (self.colour, _colour),
            (self.low_resolution, _low_resolution),
            (self.occlusion, _occlusion),
        )
        for probability, change in changes:
            if random.uniform() < probability:
                image = change(image, random)
        return image

    def batch(self, images: Tensor, seeds: Iterable[int]) -> Tensor:
        """Return each image of a batch ``[N, C, H, W]`` with its own seed."""
        return torch.stack([self(image, seed) for image, seed in zip(images, seeds, strict=True)])


class _Random:
    """Numbers from a seed, drawn on the CPU, so that every device gets the same."""

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(seed)

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        return low + (high - low) * float(torch.rand((), generator=self.generator, dtype=torch.float64))

    def rectangle(self, image: Tensor, low: float, high: float) -> tuple[slice, slice]:
        """Rows and columns of a rectangle inside, of that share of the area and between 3:4 and 4:3."""
        height, width = image.shape[1:]
        area, aspect = self.uniform(low, high), math.exp(self.uniform(math.log(3 / 4), math.log(4 / 3)))
        return self._span(height, math.sqrt(area * aspect)), self._span(width, math.sqrt(area / aspect))

    def _span(self, length: int, share: float) -> slice:
        size = min(length, max(1, round(length * share)))
        start = math.floor(self.uniform() * (length - size + 1))
        return slice(start, start + size)


def _flip(image: Tensor, random: _Random) -> Tensor:
    return image.flip(-1)


def _affine(image: Tensor, random: _Random) -> Tensor:
    turn = math.radians(random.uniform(-_TURN, _TURN))
    scale = 1 + random.uniform(-_SCALE, _SCALE)
    across, down = (2 * random.uniform(-_SHIFT, _SHIFT) for _ in range(2))  # an image is two units wide
    height, width = image.shape[1:]
    cosine, sine = scale * math.cos(turn), scale * math.sin(turn)
    rows = [[cosine, -sine * height / width, across], [sine * width / height, cosine, down]]
    onto = affine_grid(torch.tensor([rows], device=image.device), [1, *image.shape], align_corners=False)
    moved = grid_sample(image[None].float(), onto, padding_mode="border", align_corners=False)[0]
    return _pixels(moved) if image.dtype == torch.uint8 else moved


def _crop(image: Tensor, random: _Random) -> Tensor:
    rows, columns = random.rectangle(image, 0.2, 1.0)
    kept = torch.zeros_like(image)
    kept[:, rows, columns] = image[:, rows, columns]
    return kept


def _colour(image: Tensor, random: _Random) -> Tensor:
    brightness, contrast, saturation = (random.uniform(0.5, 1.5) for _ in range(3))
    bright = (image.float() * brightness).clamp(0, 255)
    grey = _luminance(bright).mean()
    contrasted = (grey + (bright - grey) * contrast).clamp(0, 255)
    luminance = _luminance(contrasted)
    return _pixels(luminance + (contrasted - luminance) * saturation)


def _luminance(image: Tensor) -> Tensor:
    if len(image) == 1:
        return image[0]
    return (image * image.new_tensor(_GREY).view(3, 1, 1)).sum(0)


def _low_resolution(image: Tensor, random: _Random) -> Tensor:
    height, width = image.shape[1:]
    side = random.uniform(0.2, 1.0)
    small = interpolate(
        image[None].float(),
        (max(1, round(height * side)), max(1, round(width * side))),
        mode="bilinear",
        antialias=True,
    )
    blurred = interpolate(small, (height, width), mode="bilinear")[0]
    return _pixels(blurred) if image.dtype == torch.uint8 else blurred


def _occlusion(image: Tensor, random: _Random) -> Tensor:
    rows, columns = random.rectangle(image, 0.02, 0.33)
    shape = image[:, rows, columns].shape
    occluded = image.clone()
    occluded[:, rows, columns] = torch.randint(256, shape, generator=random.generator, dtype=torch.uint8).to(
        image.device
    )
    return occluded


def _pixels(image: Tensor) -> Tensor:
    return image.round().clamp(0, 255).to(torch.uint8)

"""Student, teachers, training and validation images, held against each other before anything runs."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

from recipes.faces import PairSet, decode_image, input_preset
from recipes.faces.embedding.signature import read_signature
from recipes.tsmr.progress import LOGGER
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError, check_import


def require_fit(model: nn.Module, views: Views, pairs: PairSet | None) -> None:
    """Raise InputError where the student's file takes other images than there are, or the sets differ in size.

    Teachers are not asked: where a file fixes another size, the images are scaled for it.
    """
    training = tuple(views.shape)
    judged = None if pairs is None else tuple(first_images(pairs, 1).shape[1:])
    signature = read_signature(model)
    if signature is not None:
        signature.require_images("the student")
        signature.require_size("the student", training, "the training images are")
        if judged is not None:
            signature.require_size("the student", judged, "the validation images are")
    if judged is not None and judged != training:
        raise InputError(
            f"the training images are {training[1]} x {training[2]} pixels (height x width) and the validation images "
            f"{judged[1]} x {judged[2]}: align the faces of both alike"
        )


def warn_of_import(model: nn.Module, views: Views, preset: str) -> None:
    """Hold a student that came from ONNX against its file on a few of the images, or warn of why that cannot be.

    Raises VerificationError where the two differ by more than rounding.
    """
    if isinstance(model, fx.GraphModule) and "onnx" in model.meta:
        note = check_import(model, input_preset(preset)(first_images(views, 3)))
        if note is not None:
            LOGGER.warning(note)


def first_images(source: PairSet | Views, count: int) -> Tensor:
    """The first images of a set, at most ``count``: uint8 ``[N, 3, H, W]``."""
    if isinstance(source, Views):
        return torch.stack([source[i, False][0] for i in range(min(count, len(source)))])
    decoded = [decode_image(data, f"validation image {i}") for i, data in enumerate(source.images[:count])]
    return torch.stack([torch.from_numpy(image.copy()).movedim(-1, 0) for image in decoded])

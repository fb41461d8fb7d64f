"""What ``verify --calibration`` names: arrays, or images that an installed package reads.

Such a package has an entry point in the group ``reparam_kit.images``: a function of the path, of the input that the net
expects, and of how many images are wanted at most. It returns them as the net takes them, float32 ``[N, C, H, W]``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparam_kit.errors import InputError
from reparam_kit.points import entry_points, load_point

if TYPE_CHECKING:
    from torch import Tensor

GROUP = "reparam_kit.images"
_MOST = 256


def read_calibration(path: str | None, preset: str | None, model: str) -> list[Tensor] | None:
    """Return a tensor for each input of ``model``, or None where no path is given.

    Raises:
        InputError: they cannot be read, or ``preset`` is missing, or given where it says nothing.
    """
    if path is None or path.endswith(".npz"):
        if preset is not None:
            raise InputError(
                "--input says what A expects of the images of --calibration; a .npz holds inputs"
            )
        if path is None:
            return None
        from reparam_kit.onnx.run import read_inputs

        return read_inputs(path, model)
    if preset is None:
        raise InputError(
            f"--input is required with --calibration {path}: what {model} expects of images, such as imagenet"
        )
    return [_read_images(path, preset)]


def _read_images(path: str, preset: str) -> Tensor:
    """Ask every package that reads images, and tell what the first one says where none can."""
    refused = []
    for point in entry_points(GROUP):
        try:
            read = load_point(point)
        except InputError as error:
            refused.append(f"{point.value} cannot be loaded: {error}; write {path} as a .npz of inputs")
            continue
        try:
            images: Tensor = read(path, preset, _MOST)
            return images
        except InputError as error:
            refused.append(str(error))
    raise InputError(
        (refused or [f"nothing that is installed reads images; write {path} as a .npz of inputs"])[0]
    )

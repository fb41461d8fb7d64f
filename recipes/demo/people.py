"""Who is drawn and how the picture is taken: two tables of parameter ranges.

A person is a row of ``IDENTITY`` (shape, colour, texture); a picture of a person is a row of ``VARIATION`` (pose,
expression, light, blur, surroundings). Lengths are in units where the picture is -1..1 on both axes, x to the
right and y down; angles are in radians, colours and mixing weights 0..1.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

Params = dict[str, npt.NDArray[np.float32]]

TEXTURE_WAVES = 5
MOLES = 2

IDENTITY: dict[str, tuple[float, float]] = {
    "head_width": (0.50, 0.64),
    "head_height": (0.70, 0.84),
    "jaw": (0.02, 0.26),  # how much narrower the face is at the chin than at the brow
    "cheeks": (-0.06, 0.12),  # how much narrower it is at both ends than in the middle
    "ears": (0.07, 0.13),
    "skin": (0.0, 1.0),  # along the palette
    "skin_warmth": (-0.03, 0.03),
    "blush": (0.0, 0.28),
    "eye_gap": (0.21, 0.30),
    "eye_height": (-0.10, 0.04),
    "eye_width": (0.12, 0.18),
    "eye_open": (0.55, 0.95),  # relative to the width
    "eye_slant": (-0.22, 0.22),
    "iris": (0.0, 1.0),  # along the palette
    "brow_height": (0.11, 0.19),  # above the eye
    "brow_width": (0.12, 0.19),
    "brow_thickness": (0.018, 0.048),
    "brow_slant": (-0.30, 0.30),
    "brow_arch": (0.0, 1.6),
    "nose_length": (0.20, 0.34),
    "nose_width": (0.05, 0.115),
    "nose_bridge": (0.02, 0.045),
    "mouth_height": (0.15, 0.23),  # below the nose
    "mouth_width": (0.15, 0.26),
    "upper_lip": (0.018, 0.05),
    "lower_lip": (0.028, 0.07),
    "lip_red": (0.1, 0.7),
    "hair": (0.0, 1.0),  # along the palette
    "hair_line": (-0.56, -0.34),
    "hair_temple": (-0.5, 0.7),  # positive: the hair comes down at the temples
    "texture": (0.03, 0.10),
    **{f"texture_{axis}{i}": (-5.0, 5.0) for i in range(TEXTURE_WAVES) for axis in "xy"},
    **{f"texture_phase{i}": (0.0, 6.28) for i in range(TEXTURE_WAVES)},
    **{f"mole_{axis}{i}": (-0.75, 0.75) for i in range(MOLES) for axis in "xy"},
    **{f"mole{i}": (-0.8, 0.8) for i in range(MOLES)},
}

VARIATION: dict[str, tuple[float, float]] = {
    "shift_x": (-0.07, 0.07),
    "shift_y": (-0.06, 0.06),
    "scale": (0.93, 1.09),
    "roll": (-0.16, 0.16),
    "yaw": (-0.55, 0.55),
    "pitch": (-0.16, 0.16),
    "smile": (-0.45, 1.0),
    "mouth_open": (-0.08, 0.09),  # negative: closed
    "gaze": (-0.3, 0.3),
    "lids": (0.75, 1.1),
    "brow_raise": (-0.02, 0.035),
    "hair_parting": (-0.35, 0.35),
    "hair_fringe": (0.0, 0.06),
    "hair_volume": (0.03, 0.17),
    "hair_length": (-0.8, 1.1),  # how far down it falls behind the head; negative: not at all
    "beard": (-1.1, 0.75),  # density; negative: none
    "moustache": (-1.4, 0.85),
    "glasses": (-1.6, 1.0),  # negative: none
    "glasses_size": (0.15, 0.20),
    "light_x": (-0.9, 0.9),
    "light_y": (-0.9, 0.3),
    "light_contrast": (0.15, 0.75),
    "gain": (0.62, 1.22),
    "warmth": (-0.13, 0.13),
    "blur": (-0.4, 0.8),  # negative: sharp
    "noise": (0.0, 0.028),
    "veil": (-3.0, 1.0),  # something in front of the picture; negative: nothing
    "veil_x": (-1.0, 1.0),
    "veil_y": (-0.6, 1.0),
    "backdrop_slope": (-0.3, 0.3),
    **{f"backdrop{c}": (0.3, 0.8) for c in "rgb"},
    **{f"clothes{c}": (0.1, 0.7) for c in "rgb"},
}


def sample(table: Mapping[str, tuple[float, float]], count: int, rng: np.random.Generator) -> Params:
    """Draw ``count`` rows of a table uniformly: one float32 array of shape ``(count,)`` for each name."""
    return {name: rng.uniform(low, high, count).astype(np.float32) for name, (low, high) in table.items()}


def take(params: Params, rows: npt.NDArray[np.int64] | slice) -> Params:
    """Select rows of a table of parameters, in the order of ``rows``."""
    return {name: values[rows] for name, values in params.items()}

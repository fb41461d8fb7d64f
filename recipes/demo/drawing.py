"""Parametric faces, so that the demo has people to recognise and none of them is real.

Every layer is an implicit curve with a soft edge one pixel wide, evaluated on the pixel grid of a block of faces
at once and painted back to front. Two coordinate systems are in use: ``x, y`` of the upright head, for its outline
and what surrounds it, and ``fx, fy`` on its surface, for the features that move over it as the head turns.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from recipes.demo.people import MOLES, TEXTURE_WAVES, Params, take

Array = npt.NDArray[np.float32]

SIZE = 48
_BLOCK = 32  # faces painted at once: few enough for the planes to stay in the processor's cache

_SKIN = np.array(
    [[0.98, 0.85, 0.76], [0.94, 0.75, 0.61], [0.82, 0.61, 0.45], [0.62, 0.43, 0.30], [0.43, 0.29, 0.21]],
    np.float32,
)
_HAIR = np.array(
    [
        [0.10, 0.08, 0.09],
        [0.25, 0.15, 0.10],
        [0.46, 0.27, 0.14],
        [0.68, 0.33, 0.14],
        [0.87, 0.70, 0.39],
        [0.78, 0.77, 0.76],
    ],
    np.float32,
)
_IRIS = np.array([[0.20, 0.12, 0.07], [0.45, 0.30, 0.12], [0.25, 0.45, 0.28], [0.28, 0.50, 0.72]], np.float32)


def draw(
    identity: Params, variation: Params, rng: np.random.Generator, size: int = SIZE
) -> npt.NDArray[np.uint8]:
    """Draw one picture for each row.

    Args:
        identity: rows of ``people.IDENTITY``, each name an array of shape ``(n,)``.
        variation: rows of ``people.VARIATION``, of the same ``n``.
        rng: source of the pixel noise.
        size: height and width in pixels.

    Returns:
        RGB pictures, uint8, shape ``(n, size, size, 3)``.
    """
    count = len(identity["head_width"])
    out = np.empty((count, size, size, 3), np.uint8)
    for start in range(0, count, _BLOCK):
        rows = slice(start, start + _BLOCK)
        canvas = _Portrait(take(identity | variation, rows), size).paint()
        canvas += variation["noise"][rows, None, None, None] * rng.standard_normal(canvas.shape, np.float32)
        out[rows] = np.rint(canvas.clip(0, 1) * 255).astype(np.uint8).transpose(0, 2, 3, 1)
    return out


class _Portrait:
    """A block of faces being painted. Planes are float32 ``(n, size, size)``, colours ``(n, 3, 1, 1)``."""

    def __init__(self, params: Params, size: int) -> None:
        self.p = p = {name: values[:, None, None] for name, values in params.items()}
        self.size = size
        grid = np.linspace(-1, 1, size, dtype=np.float32)
        px, py = (
            (grid[None, None, :] - p["shift_x"]) / p["scale"],
            (grid[None, :, None] - p["shift_y"]) / p["scale"],
        )
        cos, sin = np.cos(p["roll"]), np.sin(p["roll"])
        self.x, self.y = cos * px + sin * py, cos * py - sin * px

        v = self.y / p["head_height"]
        half_width = p["head_width"] * (1 - p["jaw"] * v - p["cheeks"] * v * v).clip(0.2)
        u = self.x / half_width
        radius = np.sqrt(u * u + v * v)
        self.head = (radius - 1) * p["head_width"]
        self.normal = np.stack([u, v]) / radius.clip(1)
        # The face is on a cylinder about the neck: a turn by yaw moves a point at angle a to a + yaw.
        self.fx = p["head_width"] * np.sin(np.arcsin(u.clip(-1, 1)) - p["yaw"])
        self.fy = self.y - p["pitch"] * np.sqrt((1 - v * v).clip(0))

        self.skin = _along(_SKIN, params["skin"])
        self.skin[:, 0] += p["skin_warmth"]
        self.skin[:, 2] -= p["skin_warmth"]
        self.hair = _along(_HAIR, params["hair"])
        wave = np.cos(19 * self.fx + 9 * self.y * self.fx) + 0.6 * np.cos(43 * self.fx - 4 * self.y)
        self.strands = 1 + 0.07 * wave[:, None]
        self.nose_tip = p["eye_height"] + p["nose_length"]
        self.canvas = np.empty((len(v), 3, size, size), np.float32)

    def paint(self) -> Array:
        self._backdrop()
        self._skin()
        self._eyes()
        self._mouth_and_beard()
        self._nose()
        self._hair_and_glasses()
        return self._photograph()

    def _lay(self, colour: Array | np.float32, distance: Array, opacity: Array | float = 1.0) -> None:
        """Lay a colour over everything within a curve: ``distance`` is negative inside."""
        cover = opacity * (0.5 - distance * (self.size / 2)).clip(0, 1)
        self.canvas += cover[:, None] * (colour - self.canvas)

    def _mark(self, colour: Array | np.float32, distance: Array, opacity: Array | float = 1.0) -> None:
        """Lay a colour over a part of the face: nothing of it shows beyond the outline of the head."""
        self._lay(colour, np.maximum(distance, self.head), opacity)

    def _backdrop(self) -> None:
        p, x, y = self.p, self.x, self.y
        slope = 1 + p["backdrop_slope"] * (x + y)
        for channel, name in enumerate("rgb"):
            self.canvas[:, channel] = p[f"backdrop{name}"] * slope
        clothes = np.stack([p[f"clothes{name}"] for name in "rgb"], 1)
        fall = np.maximum(p["hair_length"], -0.1)
        reach = p["head_width"] + p["hair_volume"]
        locks = np.maximum(np.abs(x) - reach * (1 + 0.12 * y.clip(0)), y - fall)
        self._lay(
            0.75 * self.hair * self.strands,
            np.maximum(locks, -0.1 - y),
            np.float32(1) * (p["hair_length"] > 0),
        )
        self._lay(0.8 * self.skin, np.maximum(np.abs(x) - 0.58 * p["head_width"], 0.3 - y))
        self._lay(clothes, _ellipse(x, y - 1.32, 0.95, 0.42))
        for side in (-1, 1):
            ear_x = side * (p["head_width"] + 0.2 * p["ears"]) - 0.1 * p["yaw"]
            self._lay(0.86 * self.skin, _ellipse(x - ear_x, self.fy - 0.04, p["ears"], 1.8 * p["ears"]))

    def _skin(self) -> None:
        p = self.p
        tone = np.zeros_like(self.fx)
        for i in range(TEXTURE_WAVES):
            tone += np.cos(
                p[f"texture_x{i}"] * self.fx + p[f"texture_y{i}"] * self.fy + p[f"texture_phase{i}"]
            )
        colour = self.skin * (1 + p["texture"] / TEXTURE_WAVES**0.5 * tone)[:, None]
        cheek = p["blush"] * np.exp(-(((np.abs(self.fx) - 0.30) / 0.14) ** 2) - ((self.fy - 0.2) / 0.13) ** 2)
        colour[:, 1:] *= 1 - cheek[:, None]
        self._lay(colour, self.head)
        for i in range(MOLES):
            spot = _ellipse(
                self.fx - 0.5 * p[f"mole_x{i}"], self.fy - 0.6 * p[f"mole_y{i}"] - 0.1, 0.03, 0.03
            )
            self._mark(0.45 * self.skin, spot, p[f"mole{i}"].clip(0, 0.8))

    def _eyes(self) -> None:
        p = self.p
        side = np.sign(self.fx)
        ex = np.abs(self.fx) - p["eye_gap"]
        ey = self.fy - p["eye_height"] + p["eye_slant"] * ex
        span = 1 - (ex / p["eye_width"]) ** 2
        lid = p["eye_width"] * p["eye_open"] * p["lids"]
        ball = np.maximum(-0.62 * lid * span - ey, ey - 0.48 * lid * span)
        self._mark(0.78 * self.skin, _ellipse(ex, ey, 1.25 * p["eye_width"], 1.1 * lid), 0.6)
        self._mark(_colour([0.96, 0.96, 0.94]), ball)
        gaze = ex - side * p["gaze"] * p["eye_width"]
        iris = 0.5 * p["eye_width"]
        self._mark(_along(_IRIS, p["iris"][:, 0, 0]), np.maximum(ball, _ellipse(gaze, ey, iris, iris)))
        self._mark(np.float32(0.03), np.maximum(ball, _ellipse(gaze, ey, 0.5 * iris, 0.5 * iris)))
        glint = _ellipse(gaze - 0.3 * side * iris, ey + 0.35 * iris, 0.3 * iris, 0.3 * iris)
        self._mark(np.float32(1), np.maximum(ball, glint), 0.8)
        lash = np.maximum(np.abs(ey + 0.62 * lid * span) - 0.014, np.abs(ex) - p["eye_width"])
        self._mark(0.25 * self.skin, lash, 0.9)

        stroke = ex / p["brow_width"]
        rise = p["brow_height"] + p["brow_raise"] - p["brow_slant"] * ex - p["brow_arch"] * ex * ex
        thickness = p["brow_thickness"] * (1 - 0.45 * stroke)
        brow = np.maximum(
            np.abs(self.fy - p["eye_height"] + rise) - thickness, (np.abs(stroke) - 1) * p["brow_width"]
        )
        self._mark(0.7 * self.hair, brow, 0.9)

    def _mouth_and_beard(self) -> None:
        p = self.p
        width: Array = np.asarray(p["mouth_width"] * (1 + 0.15 * p["smile"]), np.float32)
        t = self.fx / width
        span = (1 - t * t).clip(0)
        my = self.fy - self.nose_tip - p["mouth_height"] + 0.055 * p["smile"] * (t * t - 0.4)
        stubble = np.float32(1) * self.hair * self.strands
        jaw = np.maximum(self.head, self.nose_tip + 0.16 - self.fy - 0.5 * self.fx**2)
        chin = np.maximum(jaw, -_ellipse(self.fx, my, np.float32(1.1) * width, 0.09))
        self._mark(stubble, chin, p["beard"].clip(0, 0.85))
        whiskers = np.maximum(
            my + p["upper_lip"] * span, self.nose_tip + 0.045 + 0.25 * np.abs(self.fx) - self.fy
        )
        self._mark(
            stubble, np.maximum(whiskers, np.abs(self.fx) - 1.05 * width), p["moustache"].clip(0, 0.85)
        )

        opening = p["mouth_open"].clip(0) * span
        bow = 1 - 0.45 * np.exp(-((t / 0.22) ** 2))
        corners = np.abs(self.fx) - width
        upper = np.maximum(np.maximum(-my - p["upper_lip"] * span * bow, my), corners)
        lower = np.maximum(np.maximum(-my, my - opening - p["lower_lip"] * span), corners)
        lips = self.skin * _colour([0.92, 0.62, 0.62])
        lips += p["lip_red"][:, None] * (_colour([0.72, 0.22, 0.26]) - lips)
        self._mark(0.9 * lips, upper)
        self._mark(lips, lower)
        gap = np.maximum(np.maximum(0.01 - my, my - opening), corners)
        self._mark(_colour([0.22, 0.06, 0.06]), gap)
        self._mark(np.float32(0.93), np.maximum(gap, my - 0.55 * opening), 0.9)
        self._mark(0.35 * lips, np.maximum(np.abs(my) - 0.011, corners))

    def _nose(self) -> None:
        p = self.p
        down = ((self.fy - p["eye_height"]) / p["nose_length"]).clip(0, 1)
        # The nose stands out of the cylinder, so a turn carries its tip further than the skin around it.
        nx = self.fx - 0.16 * np.sin(p["yaw"]) * down
        ny = self.fy - self.nose_tip
        width = p["nose_bridge"] + (p["nose_width"] - p["nose_bridge"]) * down**3
        ridge = np.exp(-((nx / width) ** 2)) * down * (1 - (ny / 0.06).clip(0, 1))
        lit = ridge * (0.35 * p["light_x"] * nx / width + 0.12)
        self.canvas *= (1 + p["light_contrast"].clip(0.35) * 1.6 * lit)[:, None]
        under = _ellipse(nx, ny - 0.02, p["nose_width"] * 1.15, 0.045)
        self._mark(0.72 * self.skin, np.maximum(under, -ny), 0.75)
        nostril = _ellipse(np.abs(nx) - 0.52 * p["nose_width"], ny - 0.008, 0.36 * p["nose_width"], 0.022)
        self._mark(0.28 * self.skin, nostril, 0.85)

    def _hair_and_glasses(self) -> None:
        p = self.p
        crown = _ellipse(
            self.x, self.y, p["head_width"] + p["hair_volume"], p["head_height"] + p["hair_volume"]
        )
        line = p["hair_line"] + p["hair_parting"] * self.fx + p["hair_temple"] * self.fx**2
        line = line + p["hair_fringe"] * np.cos(14 * self.fx + 20 * p["hair_parting"])
        sides = np.maximum(-self.head, self.y + 0.05)
        self._lay(self.hair * self.strands, np.maximum(crown, np.minimum(self.fy - line, sides)))

        ex, ey = np.abs(self.fx) - p["eye_gap"], self.fy - p["eye_height"] - 0.01
        rim = np.abs(_ellipse(ex, ey, p["glasses_size"], 0.8 * p["glasses_size"])) - 0.017
        bridge = np.maximum(np.abs(ey + 0.03) - 0.015, -(ex + p["glasses_size"]))
        bridge = np.maximum(bridge, np.abs(self.fx) - p["eye_gap"])
        self._mark(0.05 + 0.2 * self.skin, np.minimum(rim, bridge), np.float32(0.9) * (p["glasses"] > 0))

    def _photograph(self) -> Array:
        """Light, something in the way, lens and white balance."""
        p, canvas = self.p, self.canvas
        u, v = self.normal
        facing = np.sqrt((1 - 0.85 * (u * u + v * v)).clip(0))
        lambert = (p["light_x"] * u + p["light_y"] * v + facing) / np.sqrt(
            p["light_x"] ** 2 + p["light_y"] ** 2 + 1
        )
        canvas *= (p["gain"] * (1 - p["light_contrast"] + p["light_contrast"] * 1.35 * lambert.clip(0)))[
            :, None
        ]
        canvas[:, 0] *= 1 + p["warmth"]
        canvas[:, 2] *= 1 - p["warmth"]
        veil = _ellipse(self.x - p["veil_x"], self.y - p["veil_y"], 0.36, 0.3)
        tint = np.stack([p[f"clothes{name}"] for name in "brg"], 1)
        self._lay(tint, veil, np.float32(1) * (p["veil"] > 0))
        soft = canvas.copy()
        for _ in range(3):
            soft[:, :, 1:-1] = (soft[:, :, :-2] + 2 * soft[:, :, 1:-1] + soft[:, :, 2:]) / 4
            soft[..., 1:-1] = (soft[..., :-2] + 2 * soft[..., 1:-1] + soft[..., 2:]) / 4
        blurred: Array = canvas + p["blur"].clip(0)[:, None] * (soft - canvas)
        return blurred


def _ellipse(x: Array, y: Array, rx: Array | float, ry: Array | float) -> Array:
    """Distance to an ellipse about the origin, negative inside; first order, which a soft edge does not notice."""
    return (np.sqrt((x / rx) ** 2 + (y / ry) ** 2) - 1) * np.minimum(rx, ry)


def _along(palette: Array, position: Array) -> Array:
    """Colours ``(n, 3, 1, 1)`` at positions 0..1 along a palette."""
    at = position * (len(palette) - 1)
    low = np.minimum(at.astype(np.int64), len(palette) - 2)
    mixed = palette[low] + (at - low)[:, None] * (palette[low + 1] - palette[low])
    colours: Array = mixed.astype(np.float32)[:, :, None, None]
    return colours


def _colour(rgb: list[float]) -> Array:
    """Return one colour for all faces, ``(1, 3, 1, 1)``."""
    return np.array(rgb, np.float32)[None, :, None, None]

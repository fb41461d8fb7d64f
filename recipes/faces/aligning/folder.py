"""A folder of photos made a set of aligned crops, and a list of the photos that gave none."""

from __future__ import annotations

import csv
import io
import os
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt
from PIL import Image

from recipes.faces.aligning.detections import Detections
from recipes.faces.aligning.detector import Detector
from recipes.faces.images.align import SIZE, align
from recipes.faces.images.decoding import decode_image
from recipes.faces.records import write_records
from recipes.faces.sets.datasets import read_faces
from recipes.faces.sets.faces import Faces
from recipes.progress import watching
from reparam_kit import InputError, atomic_file, require_writable

Taken: TypeAlias = Literal["largest", "all", "one"]

_QUALITY = 95  # of JPEG
_LARGEST_CROP = 1024
_WIDEST = 1.0


@dataclass(frozen=True)
class Skipped:
    """A photo that gave no crop.

    Attributes:
        photo: its path, or what else names it.
        kind: in two words why.
        reason: why.
    """

    photo: str
    kind: str
    reason: str


@dataclass(frozen=True)
class Aligned:
    """What :func:`align_faces` made of a set of photos.

    Attributes:
        output: the file of the crops.
        list: the file that names the photos that gave none.
        photos: how many were looked at.
        crops: how many faces were written.
        people: of how many people it is known that they are theirs.
        skipped: the photos that gave none.
    """

    output: Path
    list: Path
    photos: int
    crops: int
    people: int
    skipped: tuple[Skipped, ...]

    @property
    def kinds(self) -> dict[str, int]:
        """How many photos were skipped for which kind of reason, the commonest first."""
        return dict(Counter(one.kind for one in self.skipped).most_common())

    def to_json(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "output": str(self.output),
            "list": str(self.list),
            "photos": self.photos,
            "crops": self.crops,
            "people": self.people,
            "skipped": [asdict(one) for one in self.skipped],
        }


class _NoCropError(Exception):
    """Why a photo gives no crop: the kind, and the reason."""


def align_faces(
    photos: str | os.PathLike[str],
    output: str | os.PathLike[str],
    detector: Detector | str | os.PathLike[str],
    *,
    size: int = SIZE,
    margin: float = 0.0,
    faces: Taken = "largest",
    progress: bool = False,
) -> Aligned:
    """Find the faces of photos, and write their aligned crops as a ``.rec`` file that ``tsmr`` and ``evaluate`` take.

    Each face is turned, scaled and shifted so that its eyes, nose and mouth lie where InsightFace's crops of 112 x 112
    pixels have them. Photos that give no crop are listed beside it, in ``OUTPUT.skipped.csv``. Nothing is written
    before all photos are done.

    Args:
        photos: a folder of people (``person/photo.jpg``), whose crops are labelled, or of photos alone; or what else
            :func:`recipes.faces.read_faces` opens.
        output: the ``.rec`` file.
        detector: an ONNX file of YuNet or SCRFD, or one that is open already, see :class:`Detector`.
        size: height and width of the crops.
        margin: what they show besides at each side, as a share of the usual crop; for training with crops at random.
        faces: "largest": of each photo the largest face. "one": photos with several are skipped. "all": each face,
            without labels, since the folder says whose photo it is, and not whose faces are on it.
        progress: show on stderr how many photos are done.

    Raises:
        InputError: the detector or the photos cannot be read, no photo shows a face, or the crops cannot be written.

    >>> made = align_faces("portraits", "crops.rec", "detector.onnx")
    >>> made.crops, made.people, made.kinds
    (2, 2, {'too small': 1})
    """
    output = Path(output)
    listed = output.with_suffix(".skipped.csv")
    _require_choices(output, size, margin, faces)
    for path in (output, listed):
        require_writable(path)
    found = detector if isinstance(detector, Detector) else Detector(detector)
    known = read_faces(photos)
    records: list[tuple[int, bytes]] = []
    skipped: list[Skipped] = []
    with watching(progress).task("aligning", len(known)) as task:
        for index in range(len(known)):
            try:
                records += _crops(known, index, found, size, margin, faces)
            except _NoCropError as error:
                skipped.append(Skipped(known.where(index), *error.args))
            task.advance(1)
    made = Aligned(
        output, listed, len(known), len(records), len({who for who, _ in records if who >= 0}), tuple(skipped)
    )
    if not records:
        why = ", ".join(f"{count} {kind}" for kind, count in made.kinds.items())
        raise InputError(
            f"none of the {len(known)} photos of {os.fspath(photos)} gives a crop ({why}); of the first: "
            f"{skipped[0].reason}"
        )
    write_records(output, records, image_size=(size, size))
    _write_list(listed, skipped)
    return made


def _require_choices(output: Path, size: int, margin: float, faces: str) -> None:
    if output.suffix != ".rec":
        raise InputError(f"{output}: the name of a record file ends in .rec")
    if not 16 <= size <= _LARGEST_CROP:
        raise InputError(f"size={size} of a crop is no number of pixels from 16 to {_LARGEST_CROP}")
    if not 0 <= margin <= _WIDEST:
        raise InputError(f"margin={margin} is no share of a crop from 0 to {_WIDEST:g}")
    if faces not in get_args(Taken):
        raise InputError(f"faces={faces!r}: choose one of {', '.join(get_args(Taken))}")


def _crops(
    photos: Faces, index: int, detector: Detector, size: int, margin: float, faces: Taken
) -> list[tuple[int, bytes]]:
    """Return label and encoded crop of each face that is taken of one photo."""
    where = photos.where(index)
    try:
        data, label = photos.encoded(index)
        photo = decode_image(data, where)
    except InputError as error:
        raise _NoCropError("unreadable", str(error)) from error
    whose = -1 if faces == "all" else label
    try:
        found = _taken(detector(photo, every=faces == "all"), detector, faces)
        exact = [detector.refine(photo, points) for points in found.points]
        return [(whose, _encoded(align(photo, points, where, size, margin))) for points in exact]
    except InputError as error:
        raise _NoCropError("not detected", str(error)) from error


def _taken(found: Detections, detector: Detector, faces: Taken) -> Detections:
    """Return the faces that are large enough and wanted, of ``found``, the largest first."""
    if not len(found):
        raise _NoCropError("no face", f"no face of a score of {detector.threshold:g} or more")
    large = found.take(found.sides >= detector.smallest)
    if not len(large):
        raise _NoCropError(
            "too small",
            f"the largest face is {found.sides[0]:.0f} pixels long, less than {detector.smallest:g}",
        )
    if faces == "one" and len(large) > 1:
        raise _NoCropError("several faces", f"{len(large)} faces, of which one was to be taken")
    return large if faces == "all" else large.take(np.arange(1))


def _encoded(crop: npt.NDArray[np.uint8]) -> bytes:
    file = io.BytesIO()
    Image.fromarray(crop).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _write_list(path: Path, skipped: list[Skipped]) -> None:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["photo", "kind", "reason"])
    writer.writerows([one.photo, one.kind, one.reason] for one in skipped)
    with atomic_file(path) as file:
        file.write(text.getvalue().encode("utf-8", "surrogateescape"))

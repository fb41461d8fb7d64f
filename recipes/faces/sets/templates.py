"""Verification of templates: sets of images of one person, videos among them, that are compared as one.

- YTF (L. Wolf, T. Hassner, I. Maoz, "Face Recognition in Unconstrained Videos with Matched Background Similarity", CVPR
  2011), ``splits.txt``: a header, then lines ``split, pair, person/video, person/video, 0/1``: 5,000 pairs of videos in
  ten folds. A video is the mean embedding of its first 100 frames.
- IJB-B and IJB-C (Whitelam et al., CVPR Workshops 2017; Maze et al., ICB 2018) as InsightFace distributes their lists:
  ``*_face_tid_mid.txt`` with lines ``image template media``, ``*_template_pair_label.txt`` with lines ``template
  template 0/1``, and ``*_name_5pts_score.txt`` with lines ``image x1 y1 .. x5 y5 score``. The images of one media (a
  video, or one picture) are averaged, the media of a template summed, and the sum is scaled to unit length. A net's
  embeddings go in as they are, not normalised: the length of one says how good the image is (InsightFace's N1 mode).
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from recipes.faces.embedding.embedder import Embedder
from recipes.faces.images.align import align
from recipes.faces.images.decoding import SUFFIXES, decode_image
from recipes.faces.sets.text import iterate_lines, read_lines, whole
from reparam_kit import InputError, read_file

_FRAMES = 100
_CHUNK = 1 << 14  # pairs scored at once: 64 MiB of 512 float32 each side

Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TemplateSet:
    """T templates, the M images that they are made of, and N pairs of templates.

    Attributes:
        files: the M images.
        template: the template ``0 .. T - 1`` of each image, int64 ``[M]``.
        media: the media of each image, any whole number, int64 ``[M]``. Within a template the images of one media are
            averaged.
        weights: what each embedding is multiplied by, float32 ``[M]``; None: one.
        points: landmarks by which each image is aligned (see :func:`recipes.faces.images.align.align`), float32
            ``[M, 5, 2]``; None: the images are aligned crops.
        first, second: the templates of each pair, int64 ``[N]``.
        same: bool ``[N]``.
        folds: the number of each pair's fold, int64 ``[N]``, where the set's makers say which is which.

    >>> one = np.arange(2)
    >>> same = np.array([False])
    >>> templates = TemplateSet(
    ...     [Path("a.png"), Path("b.png")], template=one, media=one, weights=None, points=None,
    ...     first=one[:1], second=one[1:], same=same, folds=None,
    ... )
    >>> len(templates)
    1
    """

    files: list[Path]
    template: Ints
    media: Ints
    weights: npt.NDArray[np.float32] | None
    points: npt.NDArray[np.float32] | None
    first: Ints
    second: Ints
    same: npt.NDArray[np.bool_]
    folds: Ints | None

    def __len__(self) -> int:
        return len(self.same)


def is_template_set(path: str | os.PathLike[str]) -> bool:
    """Return whether ``path`` is a list in YTF's format or the folder of an IJB set."""
    path = Path(path)
    if path.is_dir():
        return _ijb_meta(path) is not None
    try:
        first = next(iterate_lines(path, ","), None)
    except InputError:  # not text, or not there: what reads it next says so
        return False
    return first is not None and len(first.words) >= 5


def read_templates(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    detector_score: bool = False,
) -> TemplateSet:
    """Read YTF's or an IJB set's lists. The images are not read.

    Args:
        path: ``splits.txt`` of YTF; or the folder of an IJB set, which holds the lists itself or in ``meta``.
        images: folder of aligned crops: ``person/video/*.jpg`` for YTF, the names in the list for IJB. None: for YTF
            ``aligned_images_DB`` beside the list; for IJB the set's ``loose_crop``, aligned by the landmarks.
        detector_score: multiply each embedding of an IJB image by the detector's score (InsightFace's D1 mode).

    Raises:
        InputError: a list is missing or malformed (the message names the line), or a video has no frame.

    >>> for number in (1, 2):
    ...     video = Path(f"aligned_images_DB/anna/{number}")
    ...     video.mkdir(parents=True)
    ...     _ = (video / "1.jpg").write_bytes(Path("photos/anna/0.png").read_bytes())
    >>> _ = Path("splits.txt").write_text("split, pair, first, second, same\\n1, 1, anna/1, anna/2, 1\\n")
    >>> len(read_templates("splits.txt"))
    1
    """
    path = Path(path)
    folder = None if images is None else Path(images)
    if not path.is_dir():
        if detector_score:
            raise InputError(f"{path} has no detector scores: leave out detector_score")
        return _read_ytf(path, folder or path.parent / "aligned_images_DB")
    meta = _ijb_meta(path)
    if meta is None:
        raise InputError(
            f"{path} is no folder of an IJB set: it has no *_face_tid_mid.txt, itself or in meta"
        )
    return _read_ijb(meta, path / "loose_crop", folder, detector_score)


def _read_ytf(path: Path, images: Path) -> TemplateSet:
    _header, *lines = read_lines(path, ",")
    if not lines:
        raise InputError(f"{path} has a header and no pair")
    videos: dict[str, int] = {}
    pairs = []
    for line in lines:
        if len(line.words) < 5 or line.words[4] not in ("0", "1"):
            raise InputError(f"{line.where} is not `split, pair, person/video, person/video, 0/1`")
        split, _, one, two, truth = line.words[:5]
        numbers = [videos.setdefault(video, len(videos)) for video in (one, two)]
        pairs.append((*numbers, truth == "1", whole(split, line)))
    first, second, same, folds = (np.array(column) for column in zip(*pairs, strict=True))
    frames = [_frames(images / video) for video in videos]
    template = np.repeat(np.arange(len(frames)), [len(files) for files in frames])
    return TemplateSet(
        files=[file for files in frames for file in files],
        template=template,
        media=template,
        weights=None,
        points=None,
        first=first,
        second=second,
        same=same,
        folds=folds,
    )


def _frames(video: Path) -> list[Path]:
    """Return the first frames by their numbers: frame 10 does not come before frame 9."""
    files = [file for file in video.glob("*") if file.suffix.lower() in SUFFIXES]
    if not files:
        raise InputError(f"the video {video} has no frame: name the folder of person/video/*.jpg")
    return sorted(files, key=lambda file: ([int(n) for n in re.findall(r"\d+", file.stem)], file.name))[
        :_FRAMES
    ]


def _ijb_meta(path: Path) -> Path | None:
    found = (folder for folder in (path, path / "meta") if any(folder.glob("*_face_tid_mid.txt")))
    return next(found, None)


def _ijb_list(meta: Path, kind: str) -> Path:
    found = sorted(meta.glob(f"*_{kind}.txt"))
    if len(found) != 1:
        raise InputError(f"{meta} has {len(found)} lists *_{kind}.txt, where one is needed")
    return found[0]


def _read_ijb(meta: Path, crops: Path, images: Path | None, detector_score: bool) -> TemplateSet:
    rows = read_lines(_ijb_list(meta, "face_tid_mid"))
    for row in rows:
        if len(row.words) != 3:
            raise InputError(f"{row.where} is not `image template media`")
    names = [row.words[0] for row in rows]
    known, template = np.unique([whole(row.words[1], row) for row in rows], return_inverse=True)
    points = weights = None
    if images is None or detector_score:
        table = _landmarks(_ijb_list(meta, "name_5pts_score"), names)
        points = table[:, :10].reshape(-1, 5, 2) if images is None else None
        weights = table[:, 10] if detector_score else None
    first, second, same = _template_pairs(_ijb_list(meta, "template_pair_label"), known)
    return TemplateSet(
        files=[(images or crops) / name for name in names],
        template=template,
        media=np.array([whole(row.words[2], row) for row in rows]),
        weights=weights,
        points=points,
        first=first,
        second=second,
        same=same,
        folds=None,
    )


def _landmarks(path: Path, names: list[str]) -> npt.NDArray[np.float32]:
    """Read x1 y1 .. x5 y5 score of each image, float32 ``[M, 11]``."""
    lines = read_lines(path)
    if len(lines) != len(names):
        raise InputError(f"{path} has {len(lines)} lines for {len(names)} images")
    table = np.empty((len(lines), 11), np.float32)
    for row, line, name in zip(table, lines, names, strict=True):
        if len(line.words) != 12 or line.words[0] != name:
            raise InputError(f"{line.where} is not `{name} x1 y1 .. x5 y5 score`")
        try:
            row[:] = [float(word) for word in line.words[1:]]
        except ValueError as error:
            raise InputError(f"{line.where}: {error}") from error
    return table


def _template_pairs(path: Path, known: Ints) -> tuple[Ints, Ints, npt.NDArray[np.bool_]]:
    # IJB-C has 15.7 million lines: read by numpy, not line by line.
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # numpy only warns of an empty file
            table = np.loadtxt(path, np.int64, ndmin=2)
    except (OSError, ValueError, UserWarning) as error:
        raise InputError(f"{path} does not hold lines of `template template 0/1`: {error}") from error
    if table.shape[1:] != (3,) or not np.isin(table[:, 2], (0, 1)).all():
        raise InputError(f"{path} does not hold lines of `template template 0/1`")
    pairs = np.minimum(np.searchsorted(known, table[:, :2]), len(known) - 1)
    strange = np.flatnonzero((known[pairs] != table[:, :2]).any(1))
    if len(strange):
        row = table[strange[0], :2].tolist()
        raise InputError(
            f"{path}: pair {strange[0] + 1} names the templates {row}, not all of which have images"
        )
    return pairs[:, 0], pairs[:, 1], table[:, 2] == 1


def pool_templates(embedder: Embedder, templates: TemplateSet, flip: bool = False) -> npt.NDArray[np.float32]:
    """Return the unit embedding of each template, float32 ``[T, D]``, whatever the D of the net.

    One batch of images and the T sums are all that is held. A template is the sum over its media of their mean, and so
    the sum of its embeddings, each divided by the number of images of its media.

    Raises:
        InputError: an image cannot be read or decoded, or a template's sum is zero or not finite.
    """
    groups = np.stack([templates.template, templates.media])
    _, group, counts = np.unique(groups, axis=1, return_inverse=True, return_counts=True)
    share = 1 / counts[group.ravel()]
    if templates.weights is not None:
        share = share * templates.weights
    at = 0
    sums = np.zeros((int(templates.template.max()) + 1, 1))
    for batch in embedder.batches(Crops(templates), flip):
        rows = batch.double().numpy()
        if at == 0:
            sums = np.zeros((len(sums), rows.shape[1]))
        part = slice(at, at + len(rows))
        np.add.at(sums, templates.template[part], rows * share[part, None])
        at += len(rows)
    norms = np.linalg.norm(sums, axis=1, keepdims=True)
    bad = np.flatnonzero(~np.isfinite(norms) | (norms == 0))
    if len(bad):
        example = templates.files[int(np.flatnonzero(templates.template == bad[0])[0])]
        raise InputError(
            f"the embedding of {len(bad)} of {len(norms)} templates is zero or not finite, among them that of {example}"
        )
    unit: npt.NDArray[np.float32] = (sums / norms).astype(np.float32)
    return unit


class Crops:
    """The images of a set, read, decoded and aligned as they are asked for."""

    def __init__(self, templates: TemplateSet) -> None:
        self._templates = templates

    def __len__(self) -> int:
        return len(self._templates.files)

    def __iter__(self) -> Iterator[npt.NDArray[np.uint8]]:
        points = self._templates.points
        for i, file in enumerate(self._templates.files):
            image = decode_image(read_file(file, "an image"), str(file))
            yield image if points is None else align(image, points[i], str(file))


def score_templates(pooled: npt.NDArray[np.float32], templates: TemplateSet) -> npt.NDArray[np.float64]:
    """Return the cosine similarity of each pair of templates, float64 ``[N]``, a chunk of pairs at a time."""
    scores = np.empty(len(templates))
    for start in range(0, len(scores), _CHUNK):
        part = slice(start, start + _CHUNK)
        np.einsum("nd,nd->n", pooled[templates.first[part]], pooled[templates.second[part]], out=scores[part])
    return scores

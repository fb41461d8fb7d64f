"""What a run and its files belong to: the images, the nets, and the labels, each as a number over all of it.

A set of images is known by every image's bytes in their order, and not by where it lies: a copy is the same set, and
other bytes under the same names, sizes and times are another. Reading millions of files takes minutes, so the number is
kept in a folder, for as long as name, size, times and inode of every file stay as they were. The time of the last
change of the inode is among them, which no program can set, unlike that of the content.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from recipes.faces import FaceFiles, FaceParts, FaceRecords, Faces, FaceShards
from recipes.progress import Progress
from recipes.tsmr.targets.description import described
from recipes.tsmr.targets.views import Images, Part, Views
from reparam_kit import InputError, atomic_file, fingerprint, onnx_fingerprint

_BATCH = 256  # images whose numbers a worker sends at once
_LONG = 1.0  # seconds that are worth a file
_SETTLED = 2.0  # seconds, after which a change of a file shows in its times on any file system


def model_identity(model: str | Path | nn.Module) -> str:
    """Return the sha256 of an ONNX file and the files in which it keeps tensors; or of a module's weights,
    settings and code.

    Raises:
        InputError: a file cannot be read.
    """
    return fingerprint(described(model)) if isinstance(model, nn.Module) else onnx_fingerprint(model)


def data_identity(
    images: Images, folder: Path | None = None, *, workers: int = 0, progress: Progress | None = None
) -> str:
    """Return the sha256 of all images in their order: of face data as they are stored, of any other dataset
    their pixels.

    Labels are not part of it, because a teacher does not see them.

    Args:
        images: the set.
        folder: where the number is kept for the next time, if the reading was long; made if needed.
        workers: processes that read.
        progress: is told how far the reading is.

    Raises:
        InputError: an image cannot be read, or ``folder`` cannot be written to.
    """
    if isinstance(images, Part):
        whole = data_identity(images.images, folder, workers=workers, progress=progress)
        return fingerprint([whole, images.chosen])
    stamp = None if folder is None else _Stamp.of(images)
    if folder is None or stamp is None:
        return _read_all(images, workers, progress)
    path = folder / f"images-{stamp.digest[:16]}.txt"
    known = _read_kept(path, stamp)
    if known is not None:
        return known
    start = time.monotonic()
    identity = _read_all(images, workers, progress)
    if stamp.settled and time.monotonic() - start > _LONG:
        made_folder(folder)
        path.unlink(missing_ok=True)  # it may be a link to something else, which is not ours to replace
        with atomic_file(path) as file:
            file.write(f"{identity} {fingerprint([stamp.digest, identity])}\n".encode())
    return identity


def made_folder(folder: Path) -> Path:
    """Return ``folder``, which is made where it is not there; InputError where that is not possible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be made: {error.strerror}") from error
    return folder


def _read_kept(path: Path, stamp: _Stamp) -> str | None:
    try:
        identity, checksum = path.read_bytes().decode().split()
    except (OSError, ValueError):  # not there, or not two words of text
        return None
    return identity if checksum == fingerprint([stamp.digest, identity]) else None


def _read_all(images: Images, workers: int, progress: Progress | None) -> str:
    progress = progress or Progress(silent=True)
    digests = _Digests(images)
    digest = hashlib.sha256(repr(digests.shape).encode())
    with progress.task("identity of the images", len(digests)) as task:
        for batch in DataLoader(digests, _BATCH, num_workers=workers, generator=torch.Generator()):
            digest.update("".join(batch).encode())
            task.advance(len(batch))
    return digest.hexdigest()


class _Digests(Dataset[str]):
    """A fingerprint of each image."""

    def __init__(self, images: Images) -> None:
        self._images = images
        self._views = Views(images)
        self.shape = tuple(self._views.shape)  # to which images of face data are decoded

    def __len__(self) -> int:
        return len(self._views)

    def __getitem__(self, index: int) -> str:
        if isinstance(self._images, Faces):
            return fingerprint(self._images.encoded(index)[0])
        return fingerprint(self._views[index, False][0])


@dataclass(frozen=True)
class _Stamp:
    """What changes with any file of a set: a digest, and whether the files have been left alone for a while."""

    digest: str
    settled: bool

    @classmethod
    def of(cls, images: Images) -> _Stamp | None:
        """None where the files are not known, or one is not there."""
        digest, last = hashlib.sha256(type(images).__qualname__.encode()), 0.0
        now = time.time()
        try:
            for path in _files(images):
                s = path.stat()
                times = (s.st_mtime_ns, s.st_ctime_ns)
                digest.update(f"{path}\0{s.st_ino} {s.st_size} {times}\n".encode("utf-8", "surrogateescape"))
                last = max(last, s.st_mtime, s.st_ctime)
        except OSError:
            return None
        if not last:
            return None
        digest.update(repr(tuple(Views(images).shape)).encode())
        return cls(digest.hexdigest(), last + _SETTLED < now)


def _files(images: Images) -> Iterator[Path]:
    if isinstance(images, FaceFiles):
        yield from (Path(images.where(index)) for index in range(len(images)))
        return
    if isinstance(images, FaceShards):
        yield from images.paths
        return
    parts = images.parts if isinstance(images, FaceParts) else [images]
    for part in parts:
        if isinstance(part, FaceRecords):
            path = part.records.path
            yield path
            index = path.with_suffix(".idx")
            if index.is_file():
                yield index

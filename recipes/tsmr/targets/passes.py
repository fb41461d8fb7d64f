"""The embeddings of a net that is not trained: computed once for every image in some views, kept on disk, and
checked before use.

A teacher does not change, nor does the student as it was deployed, so their answers are a table. It is read
as a memory map: a set of millions of images needs no more memory than one of thousands, and every later run
with the same net, input and images starts at once.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from itertools import chain, islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from rich.filesize import decimal

from recipes.faces import Embedder
from recipes.progress import Pass, Progress
from recipes.tsmr.distributed import ALONE, Processes
from recipes.tsmr.targets.description import described
from recipes.tsmr.targets.identity import made_folder
from recipes.tsmr.targets.showing import Showing, Shown
from recipes.tsmr.targets.table import BLOCK, TableFile
from recipes.tsmr.targets.task import EMBEDDINGS, Task
from reparam_kit import InputError, __version__, fingerprint

_CHECKED = 8  # rows of a table that are computed again before it is used
_ALIKE = 0.045  # between two computations of a row, over its length: float16 costs 5e-4, TF32 and other batches 5e-3
_LONG = 60.0  # seconds of a pass whose plan is told


@dataclass(frozen=True)
class Net:
    """A net that is asked about images: what runs it, its identity, what it gives, and what messages call it."""

    embed: Embedder
    identity: str
    kind: Task = EMBEDDINGS
    who: str = "teacher"


def embedding_tables(
    nets: Sequence[Net],
    showing: Showing,
    data: str,
    folder: Path,
    *,
    workers: int,
    progress: Progress,
    processes: Processes = ALONE,
) -> list[npt.NDArray[np.float16]]:
    """Unit embeddings, logits or flattened maps of all images in the views ``showing.columns`` by each net: memory
    maps, float16 ``[N, V, D]``.

    Such a map is a ``.npy`` file in ``folder`` (made if needed) whose name comes from N, the views, the embedder, and
    the identity of the net. Of one that is there, blocks that match their checksums, which are over the identity of the
    ``data`` too, are used, if some of their rows are what the net gives now; all others are computed, each process some
    of them. An interrupted pass leaves what it has computed, to any number of processes.

    Raises:
        InputError: the net cannot take these images, or gives an embedding that is not finite, zero, or
            the same for every image; or the folder has no room, or cannot be written to.
    """
    processes.told(lambda: made_folder(folder))
    passes = [_TablePass(net, showing, data, folder, workers, progress, processes) for net in nets]
    processes.told(lambda: _require_room(folder, passes))
    return [each.run() for each in passes]


class _TablePass:
    """The computation of the table of one net: what is missing of it, on how much room, and its rows in the end."""

    def __init__(
        self,
        net: Net,
        showing: Showing,
        data: str,
        folder: Path,
        workers: int,
        progress: Progress,
        processes: Processes,
    ) -> None:
        self.who = net.who
        self._net = net
        self._showing = showing
        self._workers = workers
        self._progress = progress
        self._processes = processes
        preset = described(net.embed.preset)
        shape = tuple(showing.views.shape)
        asked = [__version__, net.identity, shape, preset, net.embed.embedding, net.kind.word, *showing.told]
        images, views = len(showing), len(showing.columns)
        # Not by the data: images that were exchanged have their rows computed into the file of those that are gone.
        path = folder / f"{net.who.replace(' ', '-')}-{fingerprint([*asked, images])[:16]}.npy"
        self._table = TableFile(path, fingerprint([*asked, data]), images, views)
        self._missing, self._table.size = processes.told(self._look)

    @property
    def bytes(self) -> int:
        """The room that is needed for what is missing."""
        return self._table.bytes_of(len(self._missing))

    def run(self) -> npt.NDArray[np.float16]:
        """Compute what is missing, this process its share; returns all rows."""
        if self._missing:
            total = sum(len(self._table.numbers(block)) for block in self._missing)
            with self._progress.task(self.who, total) as task:
                blocks = self._share()
                first = self._processes.together(lambda: list(islice(blocks, 1)))  # before there is a file
                if len(self._missing) == self._table.blocks:
                    self._processes.told(lambda: self._table.create(self._table.size))
                self._processes.together(lambda: self._write(chain(first, blocks), task, total))
        return self._table.rows()

    def _look(self) -> tuple[list[int], int]:
        """Return the blocks that are missing, and the size of an embedding."""
        table = self._table
        sound = table.sound()
        there = np.flatnonzero(np.repeat(sound, BLOCK)[: table.images])
        # Other rows each time.
        index = np.random.default_rng().choice(there, min(len(there), _CHECKED), replace=False)
        (few,) = self._showing.stored(sorted(index.tolist()) or [0], _CHECKED, workers=0)
        now = self._embeddings(few)
        if len(there) and not _agree(table.rows()[few[0].number.numpy()], now):
            self._progress.say(
                f"{table.path}: its rows are not what the {self.who} gives, all are computed anew"
            )
            sound[:] = False
        elif table.path.exists() and not sound.all():
            self._progress.say(
                f"{table.path}: {np.count_nonzero(sound)} of its {len(sound)} blocks are there and sound, "
                "the others are computed"
            )
        return np.flatnonzero(~sound).tolist(), now.shape[2]

    def _embeddings(self, views: Sequence[Shown]) -> npt.NDArray[np.float32]:
        """Those of N images in V views: ``[N, V, D]``."""
        ask, keep = self._net.embed, self._net.kind.teacher
        rows = [keep(ask(shown.images), shown.number, self.who) for shown in views]
        return torch.stack(rows, dim=1).flatten(2).numpy()

    def _share(self) -> Iterator[tuple[int, npt.NDArray[np.float32]]]:
        """Yield the number of each block that is this process's, and its embeddings."""
        blocks = self._missing[self._processes.rank :: self._processes.count]
        index = [at for block in blocks for at in self._table.numbers(block)]
        for block, views in zip(blocks, self._showing.stored(index, BLOCK, self._workers), strict=True):
            rows = self._embeddings(views)
            if block == blocks[0]:
                refuse_constant(rows[:, 0], self.who, self._net.kind)
            yield block, rows

    def _write(self, blocks: Iterable[tuple[int, npt.NDArray[np.float32]]], task: Pass, total: int) -> None:
        """Put each block on disk as soon as it is there; when a second one is, tell what ``total`` images come to."""
        count = self._processes.count
        start = time.perf_counter()
        for number, (block, rows) in enumerate(blocks):
            if number == 1:
                self._tell_plan(total, count * BLOCK / (time.perf_counter() - start))
            self._table.write(block, rows)
            task.advance(min(count * len(rows), total - task.done))

    def _tell_plan(self, total: int, rate: float) -> None:
        """Tell what a pass comes to at ``rate`` images a second, if it is long."""
        if total < _LONG * rate:
            return
        folder = self._table.path.parent
        many = f" on {self._processes.count} processes" if self._processes.count > 1 else ""
        self._progress.say(
            f"{self.who}: {total} images in {self._table.views} views, {decimal(self.bytes)} in {folder} "
            f"({decimal(shutil.disk_usage(folder).free)} free), about {timedelta(seconds=round(total / rate))} at "
            f"{rate:.0f} images/s{many}; interrupted, it goes on from there"
        )


def _require_room(folder: Path, passes: Sequence[_TablePass]) -> None:
    """Raise InputError where the disk has no room for what the passes write."""
    needed, free = sum(each.bytes for each in passes), shutil.disk_usage(folder).free
    if needed > free:
        who = " and ".join(dict.fromkeys(each.who for each in passes if each.bytes))
        raise InputError(
            f"the embeddings by {who} need {decimal(needed)} in {folder}, which has {decimal(free)} free: "
            "make room, name another folder (--work; cache), or let the teacher run live (--views live)"
        )


def _agree(then: npt.NDArray[np.float16], now: npt.NDArray[np.float32]) -> bool:
    if now.shape != then.shape:
        return False
    apart, length = (np.linalg.norm(rows, axis=2) for rows in (now - then, now))
    return bool((apart <= _ALIKE * length).all())


def refuse_constant(embeddings: npt.NDArray[np.float32], who: str, kind: Task) -> None:
    """Raise InputError where ``embeddings`` ``[N, D]``, logits or maps of different images are all the same."""
    spread = np.abs(embeddings - embeddings[:1]).max()
    if len(embeddings) > 1 and spread <= 1e-3 * np.abs(embeddings).max():
        raise InputError(
            f"the {who} gives the same {kind.word} for each of {len(embeddings)} training images: "
            f"check the {who} and its input preset"
        )

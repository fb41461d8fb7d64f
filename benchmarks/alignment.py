"""Measures the check of alignment on real faces: what it says of aligned ones, and of the same ones moved.

    python -m benchmarks.alignment ../shared/faces > benchmarks/results/alignment.md

Takes the folder of the measuring data, and runs for minutes on one core.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from recipes.faces import Embedder, find_placement, input_preset, item_image, read_faces, read_set
from recipes.faces.aligning.placement import moved

NETS = {"mobilefacenet": "imagenet", "teacher_y1": "raw", "teacher_mbf512": "insightface"}
SETS = ("people_dev.rec", "pool.rec", "impostors_dev.rec", "train.rec", "lfw_dev.bin", "cfp_fp_dev.bin")
STILL = (0.0, 0.0, 1.0)
FEW = [(4.0, 0.0, 1.0), (0.0, -8.0, 1.0), (0.0, 0.0, 0.9)]
MOVES = [
    *((float(x), 0.0, 1.0) for x in (-8, -4, 4, 8)), *((0.0, float(y), 1.0) for y in (-8, -4, 4, 8)), (0.0, 0.0, 0.9),
    (0.0, 0.0, 1.1), (0.0, 0.0, 1.15),
]  # fmt: skip


def images_of(path: Path, count: int, seed: int) -> list[torch.Tensor]:
    """Return ``count`` images of a set, drawn at random."""
    images = read_set(path).images if path.suffix == ".bin" else read_faces(path)  # type: ignore[union-attr]
    generator = torch.Generator().manual_seed(seed)
    return [
        item_image(images[i], "an image")
        for i in torch.randperm(len(images), generator=generator)[:count].tolist()
    ]


def shown(
    path: Path, net: Path, preset: str, move: tuple[float, float, float], seed: int = 0, count: int = 48
) -> str:
    """Return one row: what is said of one set, moved."""
    right, down, scale = move
    images = torch.stack(images_of(path, count, seed))
    images = moved(images, right / 112, down / 112, math.log(scale))
    begun = time.perf_counter()
    found = find_placement(Embedder(net, input_preset(preset)), list(images))
    seconds = time.perf_counter() - begun
    assert found is not None
    said = "aligned" if found.aligned else "**not aligned**"
    where = f"{found.right:+.1f}, {found.down:+.1f}, {found.scale:.2f}"
    return (
        f"| {net.stem} | {path.stem} | {count} | {right:+.0f}, {down:+.0f}, {scale:g} | {where} | "
        f"{found.similarity[0]:.3f}, {found.similarity[1]:.3f} | {said} | {seconds:.1f} |"
    )


def rows(folder: Path) -> Iterator[str]:
    """Yield the rows of the table, aligned sets first; all of the first net, and some of the others."""
    for name, preset in NETS.items():
        net, first = folder / "models" / f"{name}.onnx", name == next(iter(NETS))
        for kind in SETS if first else SETS[1:4]:
            yield shown(folder / kind, net, preset, STILL)
        for seed in (1, 2, 3) if first else (1,):
            yield shown(folder / "pool.rec", net, preset, STILL, seed, 20)
        for kind in SETS[:2] if first else SETS[1:2]:
            for move in MOVES if first else FEW:
                yield shown(folder / kind, net, preset, move)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print("# What the check of alignment says of faces, moved by pixels to the right and down, and scaled\n")
    print("`python -m benchmarks.alignment`; similarity of different faces as they are, and moved back.\n")
    print("| net | set | images | moved by | found | similarity | said | seconds |")
    print("|---|---|---|---|---|---|---|---|")
    for row in rows(Path(sys.argv[1])):
        print(row, flush=True)

"""The files that the examples in pages and docstrings name."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from marked import drawn_portrait, write_detector
from onnx_text import write
from wrong_files import picture

from recipes.faces import PairSet, write_pairs, write_records
from recipes.faces.judging.judge import JUDGES
from recipes.tsmr.stages import LOSSES
from recipes.tsmr.training.logs import LOGGERS
from reparam_kit.algebra import FACTORS
from reparam_kit.onnx.importer import registry

FACE_NET = """net (float[N,3,H,W] x) => (float[N,16] y) {
    a = Conv <strides = [2,2], pads = [1,1,1,1]> (x, "stem.weight", "stem.bias")
    b = PRelu (a, "stem.slope")
    c = Conv <group = 8, pads = [1,1,1,1]> (b, "depthwise.weight", "depthwise.bias")
    d = Relu (c)
    e = GlobalAveragePool (d)
    f = Flatten (e)
    y = Gemm <transB = 1> (f, "head.weight", "head.bias")
}"""
WEIGHTS = {
    "stem.weight": (8, 3, 3, 3), "stem.bias": (8,), "stem.slope": (8, 1, 1),
    "depthwise.weight": (8, 1, 3, 3), "depthwise.bias": (8,), "head.weight": (16, 8), "head.bias": (16,),
}  # fmt: skip


def lay(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Work in ``folder``, with the files that pages and docstrings name; what they register is forgotten afterwards."""
    for name, content in _files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    monkeypatch.chdir(folder)
    for known in (FACTORS, JUDGES, LOGGERS, LOSSES):
        monkeypatch.setattr(known, "_known", {thing: known[thing] for thing in known})
    monkeypatch.setattr(registry, "_TABLE", registry._TABLE.copy())
    return folder


@cache
def _files() -> dict[str, bytes]:
    with TemporaryDirectory() as name:
        folder = Path(name)
        write(folder / "deployed.onnx", FACE_NET, WEIGHTS)
        write(folder / "better.onnx", FACE_NET, {**WEIGHTS, "head.bias": np.full(16, 0.1, np.float32)})
        write(folder / "teacher.onnx", FACE_NET, {**WEIGHTS, "stem.bias": np.ones(8, np.float32)})
        write_detector(folder / "detector.onnx", size=128)
        people = [(person, picture(10 * person + i, 16)) for person in range(4) for i in range(4)]
        others = [(-1, picture(1000 + i, 16)) for i in range(12)]
        for name, records in {
            "train": people,
            "people": people,
            "impostors": others,
            "others": others,
        }.items():
            write_records(folder / f"{name}.rec", records, (16, 16))
        (folder / "run.yaml").write_text(
            "{student: deployed.onnx, teacher: teacher.onnx, data: train.rec, output: better.onnx}"
        )
        images = [picture(i // 2 if i % 4 < 2 else i, 16) for i in range(40)]
        write_pairs(folder / "lfw.bin", PairSet(images, np.arange(20) % 2 == 0))
        files = {str(path.relative_to(folder)): path.read_bytes() for path in folder.iterdir()}
    files |= {f"portraits/{person}/0.png": drawn_portrait() for person in ("anna", "ben")}
    files["portraits/ben/1.png"] = drawn_portrait(scale=0.5)
    for number, place in enumerate(("photos", "photos", "query", "gallery")):
        for person in ("anna", "ben", "carla"):
            files[f"{place}/{person}/{number}.png"] = picture(sum(map(ord, person)), 16)
    return files

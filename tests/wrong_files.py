"""A folder of models, weights, faces and pairs, a few of them good and most of them wrong in one way each."""

from __future__ import annotations

import gzip
import json
import os
import pickle
import re
import shutil
import tarfile
from io import BytesIO
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile

import numpy as np
import onnx
import torch
from nets import Plain, build
from onnx import TensorProto, helper, numpy_helper
from onnx_text import SMALL, SMALL_WEIGHTS, write
from PIL import Image

import reparam_kit as rk
from recipes.faces import PairSet, write_pairs, write_records

TINY = {"w": (4, 3, 3, 3)}
FACTORIES = """
from torch import nn
def net(): return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
def number(): return 3
def linear(): return nn.Sequential(nn.Linear(4, 4))
"""


class Bomb:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("ran"),))


def conv(attributes: str = "", node: str = "") -> str:
    return f"net (float[N,3,8,8] x) => (float[N,4,A,B] y) {{ {node or f'y = Conv{attributes} (x, w)'} }}"


def picture(seed: int, size: int = 8) -> bytes:
    data = BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), np.uint8)
    Image.fromarray(pixels).save(data, "PNG")
    return data.getvalue()


def assert_one_line(text: str, says: str) -> None:
    assert len(text.splitlines()) == 1, text
    assert re.search(says, text), text
    assert "Traceback" not in text


def write_all(folder: Path) -> None:
    torch.manual_seed(0)
    write_models(folder)
    write_faces(folder)


def write_models(w: Path) -> None:
    write(w / "net.onnx", SMALL, SMALL_WEIGHTS)
    write(w / "tiny.onnx", conv(), TINY)
    write(w / "other.onnx", SMALL.replace("pads = [1,1,1,1]", "pads = [0,0,0,0]"), SMALL_WEIGHTS)
    whole = (w / "net.onnx").read_bytes()
    (w / "empty.onnx").write_bytes(b"")
    (w / "truncated.onnx").write_bytes(whole[: len(whole) // 2])
    (w / "text.onnx").write_text("this is no model")
    (w / "folder.onnx").mkdir()
    write(w / "operator.onnx", conv(node="y = Frobnicate (x, w)"), TINY)
    write(w / "attribute.onnx", conv(' <auto_pad = "SAME_DIAGONAL">'), TINY)
    write(w / "old.onnx", conv(), TINY, 'ir_version: 3, opset_import: ["" : 5]')
    write(w / "new.onnx", conv(), TINY, 'ir_version: 8, opset_import: ["" : 99]')
    write(w / "undefined.onnx", conv(node="y = Conv (x, nowhere)"))
    write(w / "shapes.onnx", conv(), {"w": (4, 5, 3, 3)})
    write(w / "relu.onnx", "net (float[N,3] x) => (float[N,3] y) { y = Relu (x) }")
    nan = {**SMALL_WEIGHTS, "conv.weight": np.full((4, 3, 3, 3), np.nan, np.float32)}
    write(w / "nan.onnx", SMALL, nan)
    for name, location in (("lost", "lost.data"), ("escape", "../secret.data")):
        model = onnx.load(w / "tiny.onnx")
        tensor = model.graph.initializer[0]
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value=location)
        (w / f"{name}.onnx").write_bytes(model.SerializeToString())
    short = onnx.load(w / "tiny.onnx")
    short.graph.initializer[0].raw_data = short.graph.initializer[0].raw_data[:-4]
    (w / "short.onnx").write_bytes(short.SerializeToString())

    net = build(Plain)
    torch.save(net.state_dict(), w / "state.pt")
    torch.save({"model": net.state_dict(), "ema": net.state_dict(), "epoch": 3}, w / "two.pt")
    torch.save(Bomb(), w / "bomb.pt")
    (w / "empty.pt").write_bytes(b"")
    (w / "text.pt").write_text("this is no model")
    (w / "truncated.pt").write_bytes((w / "state.pt").read_bytes()[:2000])
    rk.save(rk.expand(rk.load(w / "net.onnx")), w / "student.pt")
    with ZipFile(w / "bomb_zip.pt", "w", ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", bytes(1 << 20))
    os.mkfifo(w / "pipe.pt")
    rk.save(net, w / "plain.safetensors")
    (w / "truncated.safetensors").write_bytes((w / "plain.safetensors").read_bytes()[:100])
    (w / "factories.py").write_text(FACTORIES)
    np.savez(w / "name.npz", image=np.zeros((1, 3, 8, 8), np.float32))
    np.savez(w / "shape.npz", x=np.zeros((1, 3, 7, 9), np.float32))
    (w / "text.npz").write_text("this is no archive")


def face_net(path: Path, size: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values = {
        "w": rng.normal(0, 0.2, (4, 3, 3, 3)),
        "fc": rng.normal(0, 0.2, (size, 256)),
        "b": np.zeros(size),
    }
    nodes = [
        helper.make_node("Conv", ["x", "w"], ["c"], pads=[1, 1, 1, 1]),
        helper.make_node("Flatten", ["c"], ["f"]),
        helper.make_node("Gemm", ["f", "fc", "b"], ["y"], transB=1),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", size])],
        [numpy_helper.from_array(value.astype(np.float32), name) for name, value in values.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)


def write_shards(w: Path) -> None:
    (w / "shards").mkdir()
    for number in range(2):
        with tarfile.open(w / f"shards/s-{number}.tar", "w") as tar:
            for i in range(4):
                for name, data in ((f"{i}.png", picture(4 * number + i)), (f"{i}.cls", b"%d" % number)):
                    info = tarfile.TarInfo(name)
                    info.size = len(data)
                    tar.addfile(info, BytesIO(data))
    whole = (w / "shards/s-0.tar").read_bytes()
    (w / "cut.tar").write_bytes(whole[:1000])
    (w / "packed.tar.gz").write_bytes(gzip.compress(whole))
    (w / "text.tar").write_text("this is no tar file " * 40)


def write_faces(w: Path) -> None:
    face_net(w / "face.onnx", 4, seed=0)
    face_net(w / "teacher.onnx", 6, seed=1)
    nan = onnx.load(w / "teacher.onnx")
    weight = nan.graph.initializer[1]
    weight.CopyFrom(numpy_helper.from_array(np.full((6, 256), np.nan, np.float32), "fc"))
    onnx.save(nan, w / "nan_teacher.onnx")
    records = [(person, picture(10 * person + i)) for person in range(3) for i in range(4)]
    write_records(w / "faces.rec", records, (8, 8))
    write_records(w / "alone.rec", [(0, picture(i)) for i in range(8)], (8, 8))
    write_records(w / "sizes.rec", [(i % 2, picture(i, 8 + 8 * (i == 5))) for i in range(8)], (8, 8))
    write_records(w / "broken.rec", [(i % 2, picture(i)[: 60 if i == 3 else None]) for i in range(8)], (8, 8))
    shutil.copy(w / "faces.rec", w / "truncated.rec")
    shutil.copy(w / "faces.idx", w / "truncated.idx")
    (w / "truncated.rec").write_bytes((w / "faces.rec").read_bytes()[:-100])
    (w / "empty.rec").write_bytes(b"")
    (w / "text.rec").write_text("this is no record file, but it is long enough to look at")
    write_shards(w)
    (w / "nobody").mkdir()
    (w / "nobody" / "notes.txt").write_text("no pictures here")
    (w / "list.txt").write_text("picture.png\n")
    (w / "missing.txt").write_text("nowhere.png someone\n")

    images = [picture(i // 2 if i % 4 < 2 else i) for i in range(16)]
    same = np.arange(8) % 2 == 0
    write_pairs(w / "pairs.bin", PairSet(images, same))
    write_pairs(w / "genuine.bin", PairSet(images, np.ones(8, np.bool_)))
    write_pairs(w / "large.bin", PairSet([picture(i, 16) for i in range(16)], same))
    write_pairs(w / "sizes.bin", PairSet([picture(i, 16 if i == 1 else 8) for i in range(16)], same))
    (w / "empty.bin").write_bytes(b"")
    (w / "truncated.bin").write_bytes((w / "pairs.bin").read_bytes()[:300])
    (w / "bomb.bin").write_bytes(pickle.dumps((Bomb(), [True])))
    (w / "number.bin").write_bytes(pickle.dumps(3))
    (w / "odd.bin").write_bytes(pickle.dumps((images[:3], [True, False])))
    (w / "none.bin").write_bytes(pickle.dumps(([], [])))
    (w / "picture.bin").write_bytes(pickle.dumps(([b"no picture"] * 16, same.tolist())))
    (w / "pairs.txt").write_text("one.png two.png perhaps\n")
    (w / "text.json").write_text("{not json")
    (w / "name.json").write_text(json.dumps({"bloc": "dbb"}))
    (w / "version.json").write_text(json.dumps({"version": 99}))

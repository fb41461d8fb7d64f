"""Damages every format that is read, in many ways, and counts what comes of it: one line, the right result, or else.

    python -m benchmarks.mutations [--count 300] [--format onnx ...] [--seed 0]

Each damaged file is read in a process of its own, made by fork, with a time limit. What is wrong is another result
in silence, an error that is no ``ReparamError``, a signal, a hang, or more than 1 GiB beyond the whole file's peak.
A format without a checksum cannot tell other content from damage: there the result may be another (``other``), of an
ONNX file one that onnxruntime computes too.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import pickle
import resource
import signal
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

import reparam_kit as rk
from recipes.faces import Embedder, input_preset, read_faces, read_pairs, write_pairs, write_records
from recipes.faces.sets.pairs import PairSet
from recipes.progress import Progress
from recipes.tsmr import TSMRConfig
from recipes.tsmr.run import plain
from recipes.tsmr.settings import as_yaml
from recipes.tsmr.targets.passes import Net, embedding_tables
from recipes.tsmr.targets.showing import Showing
from recipes.tsmr.targets.views import Views
from recipes.tsmr.told import Told
from recipes.tsmr.training.checkpoint import read_checkpoint, write_checkpoint

_SECONDS = 30
_ROOM = 1 << 20  # KiB
_NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)


class Mismatch(Exception):
    """The result is one that another program does not get from the same file."""


def net() -> nn.Module:
    """A small net, always the same."""
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.Flatten()
    return nn.Sequential(*layers).eval()


def _images(seed: int = 1) -> Tensor:
    return torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def _picture(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def _run_onnx(path: Path) -> object:
    model = rk.load(path)
    rk.save(model, path.with_name("again.onnx"))
    try:
        session = rk.open_session(path, optimised=False)
        theirs = session.run(None, {session.get_inputs()[0].name: _images().numpy()})[0]
    except rk.ReparamError:
        return "onnxruntime does not load it"
    except Exception:  # onnxruntime's errors share no class
        return "onnxruntime does not run it"
    ours = model(_images()).detach().numpy()
    if not np.allclose(ours, theirs, 1e-3, 1e-4, equal_nan=True):
        raise Mismatch(f"{np.abs(ours - theirs).max():.3g} from onnxruntime")
    return ours


def _state(model: nn.Module) -> object:
    return [(name, tensor.numpy()) for name, tensor in model.state_dict().items()]


def _rows(path: Path) -> object:
    return [(image.numpy(), label) for image, label, _ in read_faces(path)]


def _pairs(path: Path) -> object:
    pairs = read_pairs(path)
    return [np.asarray(pairs.same), *(pairs.images[i] for i in range(2 * len(pairs)))]


@dataclass(frozen=True)
class Format:
    """How a file is made (in a folder, as ``name``) and what is read of it; ``sealed``: it has a checksum."""

    name: str
    make: Callable[[Path], object]
    read: Callable[[Path], object]
    sealed: bool = False


def _make_onnx(path: Path) -> None:
    rk.export_onnx(net(), path, example_inputs=_images())


def _make_expanded(path: Path) -> None:
    _make_onnx(path.with_name("a.onnx"))
    rk.save(rk.expand(rk.load(path.with_name("a.onnx"))), path)


def _make_list(path: Path) -> None:
    for i in range(6):
        path.with_name(f"{i}.png").write_bytes(_picture(i))
    path.write_text("".join(f"{i}.png {i // 2}\n" for i in range(6)))


def _table(folder: Path) -> bytes:
    """The rows of 130 images, in three blocks, as a run has them that finds a table in ``folder``."""
    views = Views(read_faces(folder / "images.rec"))
    embed = Embedder(net(), input_preset("insightface"))
    progress = Progress(silent=True)
    nets, showing = [Net(embed, "net")], Showing(views, flip=True)
    (rows,) = embedding_tables(nets, showing, "noise", folder, workers=0, progress=progress)
    return rows.tobytes()


def _make_table(path: Path) -> None:
    write_records(path.with_name("images.rec"), [(0, _picture(i)) for i in range(130)], (8, 8))
    _table(path.parent)
    next(path.parent.glob("teacher-*.npy")).rename(path)


def _read_table(path: Path) -> bytes:
    _table(path.parent)  # for its name
    next(path.parent.glob("teacher-*.npy")).write_bytes(path.read_bytes())
    return _table(path.parent)


FORMATS = {
    "onnx": Format("m.onnx", _make_onnx, _run_onnx),
    "expanded": Format("m.pt", _make_expanded, lambda path: _state(rk.fold(rk.load(path))), sealed=True),
    "safetensors": Format(
        "m.safetensors",
        lambda path: rk.save(rk.expand(net()), path),
        lambda path: _state(rk.load("benchmarks.mutations:net", weights=path)),
        sealed=True,
    ),
    "rec": Format(
        "m.rec",
        lambda path: write_records(path, [(i // 2, _picture(i)) for i in range(6)], (8, 8)),
        _rows,
    ),
    "bin": Format(
        "m.bin",
        lambda path: write_pairs(path, PairSet([_picture(i) for i in range(8)], np.array([True, False] * 2))),
        _pairs,
    ),
    "list": Format("m.txt", _make_list, _rows),
    "json": Format(
        "m.json",
        lambda path: path.write_text(json.dumps(TSMRConfig().to_json(), indent=2)),
        lambda path: repr(Told(path).config()),
    ),
    "yaml": Format(
        "m.yaml",
        lambda path: path.write_text(as_yaml(plain(TSMRConfig().to_json()))),
        lambda path: repr(Told(path).config()),
    ),
    "checkpoint": Format(
        "m.ckpt",
        lambda path: write_checkpoint(path, {"lr": 0.1}, {"student": net().state_dict(), "epoch": 3}),
        lambda path: pickle.dumps(
            [(name, t.numpy()) for name, t in (read_checkpoint(path, {"lr": 0.1}) or {})["student"].items()]
        ),
        sealed=True,
    ),
    "table": Format("m.npy", _make_table, _read_table, sealed=True),
}


def mutate(whole: bytes, random: Random) -> bytes:
    """``whole`` with one to three faults of the kinds that disks, transfers, editors and attackers make."""
    content = bytearray(whole)
    for _ in range(random.choice((1, 1, 2, 3))):
        at, length = random.randrange(len(content) + 1), random.choice((1, 2, 4, 8, 64, 512))
        kind = random.randrange(7)
        if kind == 0 and at < len(content):
            content[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            del content[at:]
        elif kind == 2:
            del content[at : at + length]
        elif kind == 3:
            content[at:at] = content[at : at + length] * random.choice((1, 2, 50))
        elif kind == 4:
            other = random.randrange(len(content) + 1)
            content[at : at + length] = content[other : other + length]
        elif kind == 5:
            size = random.choice((1, 2, 4, 8))
            number = random.choice(_NUMBERS) % 256**size
            content[at : at + size] = number.to_bytes(size, random.choice(("little", "big")))
        else:
            content[at : at + length] = bytes(length)
    return bytes(content)


def _digest(value: Any) -> str:
    return sha256(pickle.dumps(value)).hexdigest()


def attempt(format: Format, path: Path) -> tuple[str, str, int]:
    """What reading ``path`` comes to in a child: a word, what it says, and its peak of memory in KiB."""
    receive, send = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(_SECONDS)
        try:
            outcome = "read", _digest(format.read(path))
        except rk.ReparamError as error:
            outcome = "refused", str(error)
        except Mismatch as error:
            outcome = "MISMATCH", str(error)
        except BaseException as error:  # whatever it is, it is what is looked for
            outcome = "FAULT", f"{type(error).__name__}: {rk.first_line(Exception(error))}"
        os.write(send, json.dumps(outcome).encode()[:60_000])
        os._exit(0)
    os.close(send)
    with os.fdopen(receive, "rb") as file:
        said = file.read()
    _, status, usage = os.wait4(child, 0)
    word, text = json.loads(said) if said else ("SIGNAL", str(os.waitstatus_to_exitcode(status)))
    return word, text, usage.ru_maxrss


def sweep(name: str, count: int, seed: int = 0) -> tuple[Counter[str], list[str]]:
    """How often each outcome came of ``count`` damaged files of a format; and what is wrong, a line each."""
    format, outcomes, wrong = FORMATS[name], Counter[str](), []
    with TemporaryDirectory() as folder:
        path = Path(folder) / format.name
        format.make(path)
        whole = path.read_bytes()
        word, right, least = attempt(format, path)
        if word != "read":
            raise RuntimeError(f"the whole {name} is not read: {right}")
        for number in range(count):
            path.write_bytes(mutate(whole, Random(f"{name} {seed} {number}")))
            word, text, most = attempt(format, path)
            if word == "read":
                word = "right" if text == right else "OTHER" if format.sealed else "other"
            outcomes[word] += 1
            if word.isupper():
                wrong.append(f"{name} {seed} {number}: {word}: {text}")
            if word == "refused" and rk.printable(text) != text:
                wrong.append(f"{name} {seed} {number}: more than a line: {text!r}")
            if most > least + _ROOM:
                wrong.append(f"{name} {seed} {number}: {most >> 10} MiB, the whole file takes {least >> 10}")
    return outcomes, wrong


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--format", action="append", choices=FORMATS)
    parser.add_argument("--seed", type=int, default=0)
    choices = parser.parse_args()
    torch.set_num_threads(1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    print(
        "| format | files | one line | the right result | other content | wrong |\n|---|---|---|---|---|---|"
    )
    found = []
    for name in choices.format or FORMATS:
        outcomes, wrong = sweep(name, choices.count, choices.seed)
        counts = (outcomes[word] for word in ("refused", "right", "other"))
        print(f"| {name} | {choices.count} | {' | '.join(map(str, counts))} | {len(wrong)} |", flush=True)
        found += wrong
    print(*found, sep="\n", file=sys.stderr)
    raise SystemExit(bool(found))


if __name__ == "__main__":
    main()

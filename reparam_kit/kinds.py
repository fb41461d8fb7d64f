"""What kind of file a name leads to, told by its first bytes, by the names in its archive, or by its own name; and, of
those that are not read here, the way to one that is.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatch
from io import BytesIO
from pathlib import Path
from typing import BinaryIO
from zipfile import BadZipFile, ZipFile

from reparam_kit.errors import InputError

_READ = 512  # bytes of a file that are looked at
_MADE_OF = "start from the .onnx that it was made of, and convert what is written here in the same way"
_TO_ONNX = "python -m tf2onnx.convert"


@dataclass(frozen=True)
class Kind:
    """A kind of file: what a message ``says`` of one, and what tells it.

    ``marks`` are bytes that it has at a place, ``entries`` patterns of which its archive holds one, ``suffixes`` those
    of its name, which count where no content tells.
    """

    says: str
    marks: Sequence[tuple[int, bytes]] = ()
    entries: Sequence[str] = ()
    suffixes: Sequence[str] = ()


TORCH = Kind(
    "is what torch.save writes, not an ONNX model: export it (reparam-kit export), or name the net as "
    "package.module:factory with this file as its weights",
    marks=[(0, b"\x80")],
    entries=["*/data.pkl", "data.pkl"],
)
TENSORS = Kind(
    "holds weights and no net: name the net, a .onnx or package.module:factory, and this file as its weights "
    "(--weights)",
    marks=[(8, b'{"')],
    suffixes=[".safetensors"],
)
ONNX = Kind(
    "is, by its name, an ONNX model, which is loaded by itself and not as the weights of another net",
    suffixes=[".onnx"],
)
# The first that fits counts.
KINDS = (
    Kind(
        "is a pointer of Git LFS, not the file itself: fetch that with git lfs pull",
        marks=[(0, b"version https://git-lfs")],
    ),
    Kind(
        "is a web page, not the file that was to be downloaded",
        marks=[(0, b"<!doctype html"), (0, b"<html")],
    ),
    Kind(
        "is a TorchScript program, which would be run in part to read it: where you trust it, write "
        "torch.onnx.export(torch.jit.load(FILE), (inputs,), 'model.onnx', dynamo=False) and go on with that, or save "
        "its state_dict() and name the net as package.module:factory with it",
        entries=["*/constants.pkl", "*/bytecode.pkl"],
    ),
    Kind(
        "is compiled by AOTInductor for one kind of machine: start from the net that it was made of",
        entries=["*data/aotinductor/*"],
    ),
    Kind(
        "is a program of torch.export, which may hold pickles that run code when they are read: where you trust it, "
        "write torch.onnx.export(torch.export.load(FILE), (), 'model.onnx') and go on with that, or save its "
        "state_dict and name the net as package.module:factory with it",
        entries=["*/archive_format", "archive_format", "serialized_exported_program.json"],
    ),
    Kind(
        "is a torch.package, which carries code: where you trust it, save the state_dict() of what "
        "torch.package.PackageImporter loads, and name the net as package.module:factory with it",
        entries=["*/.data/extern_modules"],
    ),
    TORCH,
    Kind(
        "is a Keras model: write keras.models.load_model(FILE).export('model.onnx', format='onnx') and go on with "
        "that",
        entries=["model.weights.h5"],
        suffixes=[".keras"],
    ),
    Kind(
        "holds numpy arrays and no net: save them as a state_dict (.safetensors, .pt) and name the net as "
        "package.module:factory with it",
        marks=[(0, b"\x93NUMPY")],
        entries=["*.npy"],
    ),
    Kind(
        "is an HDF5 file, as Keras writes: where it holds a whole model, write "
        "keras.models.load_model(FILE).export('model.onnx', format='onnx') and go on with that",
        marks=[(0, b"\x89HDF\r\n\x1a\n")],
        suffixes=[".h5", ".hdf5"],
    ),
    Kind(
        f"is a TFLite model: write {_TO_ONNX} --tflite FILE --output model.onnx and go on with that",
        marks=[(4, b"TFL3")],
        suffixes=[".tflite"],
    ),
    Kind(f"is an .ort of onnxruntime: {_MADE_OF}", marks=[(4, b"ORTM")], suffixes=[".ort"]),
    Kind(f"is an ExecuTorch program: {_MADE_OF}", marks=[(4, b"ET1")], suffixes=[".pte"]),
    Kind("is a GGUF file, which holds the weights of a language model and no CNN", marks=[(0, b"GGUF")]),
    Kind(f"is an ncnn model: {_MADE_OF}", marks=[(0, b"7767517")], suffixes=[".param"]),
    TENSORS,
    Kind(
        "is compressed: unpack it first",
        marks=[(0, b"\x1f\x8b"), (0, b"BZh"), (0, b"\xfd7zXZ"), (0, b"7z\xbc\xaf"), (0, b"\x28\xb5\x2f\xfd")],
    ),
    Kind("is a tar archive: unpack it first", marks=[(257, b"ustar")]),
    Kind("is an archive of something else than a model of torch: unpack it first", entries=["*"]),
    Kind(f"is, by its name, an OpenVINO model: {_MADE_OF}", suffixes=[".xml"]),
    Kind(
        f"is, by its name, a TensorRT engine, compiled for one kind of GPU: {_MADE_OF}",
        suffixes=[".engine", ".plan", ".trt"],
    ),
    Kind(f"is, by its name, a Core ML model: {_MADE_OF}", suffixes=[".mlmodel"]),
    Kind(f"is, by its name, an MNN model: {_MADE_OF}", suffixes=[".mnn"]),
    Kind(f"is, by its name, an RKNN model: {_MADE_OF}", suffixes=[".rknn"]),
    Kind(
        f"is, by its name, a TensorFlow graph: write {_TO_ONNX} --graphdef FILE --inputs NAMES --outputs NAMES "
        "--output model.onnx and go on with that",
        suffixes=[".pb"],
    ),
    Kind(
        "is, by its name, a Paddle model: convert it with paddle2onnx and go on with that",
        suffixes=[".pdmodel", ".pdiparams"],
    ),
    ONNX,
    Kind(
        "is Python code: name the function in it that returns the net, as module:function",
        suffixes=[".py"],
    ),
)
_FOLDERS = {
    "saved_model.pb": f"is a SavedModel of TensorFlow: write {_TO_ONNX} --saved-model FOLDER --output model.onnx and "
    "go on with that",
    "Manifest.json": f"is a Core ML model: {_MADE_OF}",
}


def kind_of(name: str | Path, content: BinaryIO | bytes) -> Kind | None:
    """Return what kind of file ``content``, called ``name``, is; None where nothing tells.

    >>> print(kind_of("net.tflite", b"....TFL3").says)
    is a TFLite model: write python -m tf2onnx.convert --tflite FILE --output model.onnx and go on with that
    """
    file = BytesIO(content) if isinstance(content, bytes) else content
    start = file.read(_READ)
    entries = _entries(file) if start.startswith(b"PK\x03\x04") else []
    told = (kind for kind in KINDS if _marked(kind, start) or _holds(kind, entries))
    named = (kind for kind in KINDS if Path(name).suffix.lower() in kind.suffixes)
    return next(told, None) or next(named, None)


def refuse_others(path: Path, wanted: Kind) -> None:
    """Refuse a file of another kind than ``wanted``, if it is of one that is known.

    Raises:
        InputError: it is, or it cannot be read. The message says of what kind it is, and the way out.
    """
    try:
        with path.open("rb") as file:
            kind = kind_of(path, file)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if kind not in (None, wanted):
        raise InputError(f"{path} {kind.says}")


def folder_says(path: Path) -> str | None:
    """Return what to say of a folder that is a model of a kind not read here; None of any other."""
    return next((says for entry, says in _FOLDERS.items() if (path / entry).exists()), None)


def _marked(kind: Kind, start: bytes) -> bool:
    return any(start[place : place + len(mark)].lower() == mark.lower() for place, mark in kind.marks)


def _holds(kind: Kind, entries: Sequence[str]) -> bool:
    return any(fnmatch(entry, pattern) for pattern in kind.entries for entry in entries)


def _entries(content: BinaryIO) -> list[str]:
    """Return the names in an archive; none where it is damaged, which what reads it has to say."""
    try:
        return ZipFile(content).namelist()
    except (BadZipFile, EOFError, NotImplementedError, OSError, RuntimeError, ValueError):
        return []

"""Face data and protocols: records to train on, verification sets to judge with, and the judging itself.

- ``FaceRecords(path)``: dataset of ``(image uint8 [3, H, W] RGB, label, index)``
- ``RecordFile(path)``, ``write_records(path, records)``: InsightFace RecordIO, read lazily and written
- ``decode_image(data, where)``: JPEG or PNG bytes to uint8 ``[H, W, 3]`` RGB
- ``read_pairs(path)``, ``write_pairs(path, pairs)``, ``PairSet``: verification sets (``.bin``), safely
- ``input_preset(name)``, ``InputPreset``: from RGB 0..255 to what a net was trained on
- ``Embedder(model, preset)``: images to embeddings float32 ``[N, D]``
- ``evaluate(model, pairs, input=...)``, ``Evaluation``: a model's figures on a verification set
- ``similarity``, ``kfold_accuracy``, ``roc``, ``tar_at_far``: the protocols, in numpy

Names are imported on first use, so that the command line starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Embedder": "recipes.faces.embed",
    "Evaluation": "recipes.faces.evaluation",
    "FaceRecords": "recipes.faces.images",
    "InputPreset": "recipes.faces.inputs",
    "PairSet": "recipes.faces.pairs",
    "Record": "recipes.faces.records",
    "RecordFile": "recipes.faces.records",
    "decode_image": "recipes.faces.images",
    "evaluate": "recipes.faces.evaluation",
    "input_preset": "recipes.faces.inputs",
    "kfold_accuracy": "recipes.faces.protocols",
    "read_pairs": "recipes.faces.pairs",
    "roc": "recipes.faces.protocols",
    "similarity": "recipes.faces.protocols",
    "tar_at_far": "recipes.faces.protocols",
    "write_pairs": "recipes.faces.pairs",
    "write_records": "recipes.faces.records",
}

__all__ = [
    "Embedder",
    "Evaluation",
    "FaceRecords",
    "InputPreset",
    "PairSet",
    "Record",
    "RecordFile",
    "decode_image",
    "evaluate",
    "input_preset",
    "kfold_accuracy",
    "read_pairs",
    "roc",
    "similarity",
    "tar_at_far",
    "write_pairs",
    "write_records",
]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module 'recipes.faces' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)


if TYPE_CHECKING:
    from recipes.faces.embed import Embedder
    from recipes.faces.evaluation import Evaluation, evaluate
    from recipes.faces.images import FaceRecords, decode_image
    from recipes.faces.inputs import InputPreset, input_preset
    from recipes.faces.pairs import PairSet, read_pairs, write_pairs
    from recipes.faces.protocols import kfold_accuracy, roc, similarity, tar_at_far
    from recipes.faces.records import Record, RecordFile, write_records

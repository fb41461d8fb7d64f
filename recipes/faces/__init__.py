"""Face data and protocols: images to train on, verification sets to judge with, and the judging itself.

- ``read_faces(path)``: training images of any kind as ``(image uint8 [3, H, W] RGB, label, index)``: a ``Faces``, which
  is a ``FaceRecords``, ``FaceParts`` or ``FaceFiles``
- ``Augmentation``: random changes of one image, decided by a seed
- ``RecordFile(path)``, ``write_records(path, records)``: InsightFace RecordIO, read lazily and written
- ``decode_image(data, where)``: JPEG or PNG bytes to uint8 ``[H, W, 3]`` RGB
- ``read_pairs(path)``, ``write_pairs(path, pairs)``, ``PairSet``: pairs of images (``.bin``, lists, CFP)
- ``read_templates(path)``, ``TemplateSet``: pairs of videos and templates (YTF, IJB-B, IJB-C)
- ``read_set(path)``: either of them
- ``input_preset(name)``, ``InputPreset``: from RGB 0..255 to what a net was trained on
- ``Embedder(model, preset)``: images to embeddings float32 ``[N, D]``
- ``evaluate(model, pairs, input=...)``, ``Evaluation``: a model's figures on a verification set
- ``compare_inputs(model, pairs)``: the figures under every input preset, the best first
- ``cross_evaluate(enrolled, probe, pairs)``: whether a new model recognises whom the old one enrolled
- ``draw_roc(evaluations)``, ``save_roc(path, evaluations)``: ROC curves (needs the extra ``report``)
- ``similarity``, ``kfold_accuracy``, ``roc``, ``tar_at_far``, ``d_prime``: the protocols, in numpy

Names are imported on first use, so that the command line starts quickly.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

_HOME = {
    "Augmentation": "recipes.faces.augment",
    "Embedder": "recipes.faces.embed",
    "Evaluation": "recipes.faces.evaluation",
    "FaceFiles": "recipes.faces.datasets",
    "FaceParts": "recipes.faces.datasets",
    "FaceRecords": "recipes.faces.datasets",
    "Faces": "recipes.faces.datasets",
    "InputPreset": "recipes.faces.inputs",
    "PairSet": "recipes.faces.pairs",
    "Record": "recipes.faces.records",
    "RecordFile": "recipes.faces.records",
    "TemplateSet": "recipes.faces.templates",
    "compare_inputs": "recipes.faces.comparison",
    "cross_evaluate": "recipes.faces.comparison",
    "d_prime": "recipes.faces.protocols",
    "decode_image": "recipes.faces.images",
    "draw_roc": "recipes.faces.plot",
    "evaluate": "recipes.faces.evaluation",
    "input_preset": "recipes.faces.inputs",
    "kfold_accuracy": "recipes.faces.protocols",
    "read_faces": "recipes.faces.datasets",
    "read_pairs": "recipes.faces.pairs",
    "read_set": "recipes.faces.evaluation",
    "read_templates": "recipes.faces.templates",
    "roc": "recipes.faces.protocols",
    "save_roc": "recipes.faces.plot",
    "similarity": "recipes.faces.protocols",
    "tar_at_far": "recipes.faces.protocols",
    "write_pairs": "recipes.faces.pairs",
    "write_records": "recipes.faces.records",
}

__all__ = [
    "Augmentation",
    "Embedder",
    "Evaluation",
    "FaceFiles",
    "FaceParts",
    "FaceRecords",
    "Faces",
    "InputPreset",
    "PairSet",
    "Record",
    "RecordFile",
    "TemplateSet",
    "compare_inputs",
    "cross_evaluate",
    "d_prime",
    "decode_image",
    "draw_roc",
    "evaluate",
    "input_preset",
    "kfold_accuracy",
    "read_faces",
    "read_pairs",
    "read_set",
    "read_templates",
    "roc",
    "save_roc",
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
    from recipes.faces.augment import Augmentation
    from recipes.faces.comparison import compare_inputs, cross_evaluate
    from recipes.faces.datasets import FaceFiles, FaceParts, FaceRecords, Faces, read_faces
    from recipes.faces.embed import Embedder
    from recipes.faces.evaluation import Evaluation, evaluate, read_set
    from recipes.faces.images import decode_image
    from recipes.faces.inputs import InputPreset, input_preset
    from recipes.faces.pairs import PairSet, read_pairs, write_pairs
    from recipes.faces.plot import draw_roc, save_roc
    from recipes.faces.protocols import d_prime, kfold_accuracy, roc, similarity, tar_at_far
    from recipes.faces.records import Record, RecordFile, write_records
    from recipes.faces.templates import TemplateSet, read_templates

"""Face data and protocols: images to train on, verification sets to judge with, and the judging itself.

- ``read_faces(path)``: training images of any kind as ``(image uint8 [3, H, W] RGB, label, index)``: a ``Faces``, which
  is a ``FaceRecords``, ``FaceParts``, ``FaceFiles`` or ``FaceShards``
- ``Augmentation``: random changes of one image, decided by a seed
- ``RecordFile(path)``, ``write_records(path, records)``: InsightFace RecordIO, read lazily and written
- ``decode_image(data, where)``: an encoded image to uint8 ``[H, W, 3]`` RGB
- ``align_faces(photos, output, detector)``: photos to aligned crops; ``Detector(path)`` finds the faces
- ``find_placement(embedder, images)``: whether faces lie where a net expects them
- ``read_pairs(path)``, ``write_pairs(path, pairs)``, ``PairSet``: pairs of images (``.bin``, lists, CFP)
- ``read_templates(path)``, ``TemplateSet``: pairs of videos and templates (YTF, IJB-B, IJB-C)
- ``read_set(path)``: either of them
- ``input_preset(name)``, ``InputPreset``: from RGB 0..255 to what a net was trained on
- ``Embedder(model, preset)``: images to embeddings float32 ``[N, D]``
- ``item_image(item, where)``, ``item_label(item, where)``: image and label of whatever item a dataset gives
- ``Judge``, ``Verdict``, ``Figure``, ``Comparison``: from a model and data to figures, and two models compared
- ``PairsJudge``, ``ClassesJudge``, ``RetrievalJudge``: the judges there are; ``read_judge(path)`` finds one
- ``evaluate(model, pairs, input=...)``, ``Evaluation``: a model's figures on a verification set
- ``judge_models(candidates, judges)``, ``Candidate``, ``Judgements``: several models by several judges, compared
- ``find_input(model, judge)``, ``FoundInput``: the figures under every input preset, and which one a model wants
- ``cross_evaluate(enrolled, probe, pairs)``: whether a new model recognises whom the old one enrolled
- ``figures_table``, ``comparison_table``: verdicts and comparisons for a terminal
- ``draw_roc(evaluations)``, ``save_roc(path, evaluations)``: ROC curves (needs the extra ``report``)
- ``similarity``, ``kfold_accuracy``, ``roc``, ``tar_at_far``, ``d_prime``: the protocols, in numpy

Names are imported on first use, so that the command line starts quickly.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from reparam_kit import lazily

if TYPE_CHECKING:
    from recipes.faces.aligning.detections import Detections as Detections
    from recipes.faces.aligning.detector import Detector as Detector
    from recipes.faces.aligning.folder import Aligned as Aligned
    from recipes.faces.aligning.folder import align_faces as align_faces
    from recipes.faces.aligning.placement import Placement as Placement
    from recipes.faces.aligning.placement import find_placement as find_placement
    from recipes.faces.embedding.embedder import Embedder as Embedder
    from recipes.faces.embedding.inputs import InputPreset as InputPreset
    from recipes.faces.embedding.inputs import input_preset as input_preset
    from recipes.faces.images.align import align as align
    from recipes.faces.images.augment import Augmentation as Augmentation
    from recipes.faces.images.decoding import decode_image as decode_image
    from recipes.faces.images.items import item_image as item_image
    from recipes.faces.images.items import item_label as item_label
    from recipes.faces.judging.agreement import AgreementJudge as AgreementJudge
    from recipes.faces.judging.classes import ClassesJudge as ClassesJudge
    from recipes.faces.judging.comparison import cross_evaluate as cross_evaluate
    from recipes.faces.judging.evaluation import Evaluation as Evaluation
    from recipes.faces.judging.judge import Judge as Judge
    from recipes.faces.judging.pairs import PairsJudge as PairsJudge
    from recipes.faces.judging.pairs import evaluate as evaluate
    from recipes.faces.judging.pairs import read_set as read_set
    from recipes.faces.judging.people import PeopleJudge as PeopleJudge
    from recipes.faces.judging.people import PeopleVerdict as PeopleVerdict
    from recipes.faces.judging.plot import draw_roc as draw_roc
    from recipes.faces.judging.plot import save_roc as save_roc
    from recipes.faces.judging.protocols import d_prime as d_prime
    from recipes.faces.judging.protocols import kfold_accuracy as kfold_accuracy
    from recipes.faces.judging.protocols import roc as roc
    from recipes.faces.judging.protocols import similarity as similarity
    from recipes.faces.judging.protocols import tar_at_far as tar_at_far
    from recipes.faces.judging.reading import read_judge as read_judge
    from recipes.faces.judging.reading import read_judges as read_judges
    from recipes.faces.judging.retrieval import RetrievalJudge as RetrievalJudge
    from recipes.faces.judging.several import Candidate as Candidate
    from recipes.faces.judging.several import Judgements as Judgements
    from recipes.faces.judging.several import judge_models as judge_models
    from recipes.faces.judging.table import comparison_table as comparison_table
    from recipes.faces.judging.table import figures_table as figures_table
    from recipes.faces.judging.verdict import Comparison as Comparison
    from recipes.faces.judging.verdict import Figure as Figure
    from recipes.faces.judging.verdict import Verdict as Verdict
    from recipes.faces.judging.wanted import FoundInput as FoundInput
    from recipes.faces.judging.wanted import find_input as find_input
    from recipes.faces.records import Record as Record
    from recipes.faces.records import RecordFile as RecordFile
    from recipes.faces.records import write_records as write_records
    from recipes.faces.sets.datasets import FaceFiles as FaceFiles
    from recipes.faces.sets.datasets import FaceParts as FaceParts
    from recipes.faces.sets.datasets import FaceRecords as FaceRecords
    from recipes.faces.sets.datasets import read_faces as read_faces
    from recipes.faces.sets.faces import Faces as Faces
    from recipes.faces.sets.pairs import PairSet as PairSet
    from recipes.faces.sets.pairs import read_pairs as read_pairs
    from recipes.faces.sets.pairs import write_pairs as write_pairs
    from recipes.faces.sets.shards import FaceShards as FaceShards
    from recipes.faces.sets.templates import TemplateSet as TemplateSet
    from recipes.faces.sets.templates import read_templates as read_templates
else:
    __getattr__, __dir__, __all__ = lazily(__name__)

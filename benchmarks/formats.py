"""The forms in which quantisers, half converters and a runtime write a face net, and what holds of each.

    python -m benchmarks.formats [--model NAME ...] [--form NAME ...] [--keep FOLDER] [--record FILE]

Makes each form of the deployed nets in ``faces/models``, calibrated on faces of ``pool.rec``, and tries on faces of
``people_dev.rec`` what ``benchmarks.file_trials`` lists. ``--record`` writes the table as Markdown, form by form; of
all nets and forms it is ``benchmarks/results/formats.md``. ``--keep`` leaves the files there. Exit status 1 if anything
fails. The measuring data is looked for beside the project (``../shared/faces``, or ``REPARAM_SHARED``).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from onnx import ModelProto, TensorProto, helper, numpy_helper
from onnx.version_converter import convert_version
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize,
    quantize_dynamic,
    quantize_static,
)
from onnxruntime.quantization.execution_providers.qnn import get_qnn_qdq_config
from onnxruntime.transformers.float16 import convert_float_to_float16

from benchmarks.file_trials import COLUMNS, Trial, table, try_file
from recipes.faces import input_preset, read_faces

RESULTS = Path(__file__).parent / "results" / "formats.md"
FACES = Path(os.environ.get("REPARAM_SHARED", Path(__file__).parents[2] / "shared")) / "faces"
INPUTS = {
    "mobilefacenet": "imagenet",
    "mobilefacenet_batch1": "imagenet",
    "teacher_y1": "raw",
    "teacher_mbf512": "insightface",
}
_CALIBRATED, _TRIED = 16, 4
Floats = npt.NDArray[np.float32]


class Images(CalibrationDataReader):
    """Gives a quantiser of onnxruntime the images that it is to see, one at a time."""

    def __init__(self, name: str, images: Floats) -> None:
        self._feeds = iter([{name: image[None]} for image in images])

    def get_next(self) -> dict[str, Any] | None:
        return next(self._feeds, None)


def static(**settings: Any) -> Callable[[Path, Path, CalibrationDataReader], None]:
    """Return what makes an INT8 file by calibration; uint8 activations and int8 weights unless told otherwise.

    Before opset 13 no scales by channel can be written.
    """

    def make(source: Path, target: Path, images: CalibrationDataReader) -> None:
        newer = convert_version(onnx.load(source), 17)
        quantize_static(newer, target, images, **{"activation_type": QuantType.QUInt8, **settings})

    return make


def dynamic(source: Path, target: Path, images: CalibrationDataReader) -> None:
    """Write integer weights; activations are quantised as they come."""
    quantize_dynamic(source, target, weight_type=QuantType.QUInt8)


def qnn(source: Path, target: Path, images: CalibrationDataReader) -> None:
    """Write what Qualcomm's configuration asks for: uint16 activations and uint8 weights."""
    config = get_qnn_qdq_config(
        source, images, activation_type=QuantType.QUInt16, weight_type=QuantType.QUInt8
    )
    quantize(source, target, config)


def half(**settings: Any) -> Callable[[Path, Path, CalibrationDataReader], None]:
    """Return what converts a net to float16 as onnxruntime's converter does."""

    def make(source: Path, target: Path, images: CalibrationDataReader) -> None:
        onnx.save(convert_float_to_float16(onnx.load(source), **settings), target)

    return make


def stored_in_half(source: Path, target: Path, images: CalibrationDataReader) -> None:
    """Keep the weights in float16, each behind a Cast, and compute in float32."""
    model = onnx.load(source)
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and len(tensor.dims) > 1:
            numbers = numpy_helper.to_array(tensor).astype(np.float16)
            casts.append(
                helper.make_node("Cast", [f"{tensor.name}_half"], [tensor.name], to=TensorProto.FLOAT)
            )
            tensor.CopyFrom(numpy_helper.from_array(numbers, f"{tensor.name}_half"))
    _put_first(model, casts)
    onnx.save(model, target)


def optimised(level: str) -> Callable[[Path, Path, CalibrationDataReader], None]:
    """Return what writes the file as onnxruntime has it after its optimisations."""

    def make(source: Path, target: Path, images: CalibrationDataReader) -> None:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, f"ORT_ENABLE_{level}")
        options.optimized_model_filepath = str(target)
        options.log_severity_level = 4
        onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])

    return make


def _put_first(model: ModelProto, nodes: list[onnx.NodeProto]) -> None:
    rest = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *rest])


_PAIRS = {"AddQDQPairToWeight": True, "ActivationSymmetric": True}
FORMS = {
    "Q/DQ per tensor": static(),
    "Q/DQ per channel": static(per_channel=True),
    "Q/DQ uint8 weights": static(weight_type=QuantType.QUInt8),
    "Q/DQ pairs on weights": static(activation_type=QuantType.QInt8, per_channel=True, extra_options=_PAIRS),
    "Q/DQ com.microsoft": static(extra_options={"UseQDQContribOps": True}),
    "Q/DQ int4 weights": static(weight_type=QuantType.QInt4, per_channel=True),
    "Q/DQ 16-bit activations": qnn,
    "QOperator per tensor": static(quant_format=QuantFormat.QOperator),
    "QOperator per channel": static(
        quant_format=QuantFormat.QOperator, activation_type=QuantType.QInt8, per_channel=True
    ),
    "dynamic": dynamic,
    "float16": half(),
    "float16, float32 at the ends": half(keep_io_types=True),
    "float16, PRelu in float32": half(op_block_list=["PRelu"]),
    "float16 behind Cast": stored_in_half,
    "optimised, basic": optimised("BASIC"),
    "optimised, extended": optimised("EXTENDED"),
}


def faces(file: str, preset: str, count: int) -> Floats:
    """Return ``count`` images ``[N, 3, 112, 112]``, spread over the file, as the net takes them."""
    images = read_faces(FACES / file)
    chosen = [images[index][0] for index in range(0, len(images), len(images) // count)[:count]]
    prepared: Floats = input_preset(preset)(torch.stack(chosen)).numpy()
    return prepared


def trials(model: str, forms: list[str], folder: Path) -> Iterator[Trial]:
    """Make the forms of one net in ``folder`` and try each."""
    source = FACES / "models" / f"{model}.onnx"
    name = onnx.load(source).graph.input[0].name
    seen = faces("pool.rec", INPUTS[model], _CALIBRATED)
    tried = torch.from_numpy(faces("people_dev.rec", INPUTS[model], _TRIED))
    for form in forms:
        target = folder / f"{model}-{form.replace('/', '').replace(' ', '-').replace(',', '')}.onnx"
        FORMS[form](source, target, Images(name, seen))
        half_input = onnx.load(target).graph.input[0].type.tensor_type.elem_type == TensorProto.FLOAT16
        yield try_file(f"{model}, {form}", target, [tried.half() if half_input else tried])


@click.command()
@click.option("--model", "models", multiple=True, type=click.Choice(list(INPUTS)), help="Only these nets.")
@click.option("--form", "forms", multiple=True, type=click.Choice(list(FORMS)), help="Only these forms.")
@click.option(
    "--keep", type=click.Path(file_okay=False, path_type=Path), help="Leave the files in this folder."
)
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the table there.")
def main(models: tuple[str, ...], forms: tuple[str, ...], keep: Path | None, record: Path | None) -> None:
    """Make the forms of the nets and try each."""
    found: list[Trial] = []
    if not models and not forms:
        record = record or RESULTS
    with TemporaryDirectory() as temporary:
        folder = keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for model in models or INPUTS:
            for trial in trials(model, list(forms or FORMS), folder):
                found.append(trial)
                click.echo(f"{trial.file}: {trial.failures or 'all'}", err=True)
                if record is not None:
                    record.write_text(page(found, models, forms))
    click.echo(page(found, models, forms))
    if any(trial.failures for trial in found):
        raise SystemExit(1)


def page(found: Sequence[Trial], models: Sequence[str], forms: Sequence[str]) -> str:
    """Return the table, and what went wrong."""
    options = [*(f"--model {name}" for name in models), *(f'--form "{name}"' for name in forms)]
    good = sum(not trial.failures for trial in found)
    lines = [
        "# Quantised, half and fused forms of the face nets",
        "",
        f"Made by `{' '.join(['python -m benchmarks.formats', *options])}`, which says how each is made "
        f"(onnxruntime {onnxruntime.__version__}, torch {torch.__version__}); `benchmarks.file_trials` says what "
        f"{', '.join(COLUMNS)} mean. Of {good} of {len(found)} files all holds.",
        "",
        *table(found),
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()

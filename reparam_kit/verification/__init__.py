"""Whether two models are the same graph, and whether they compute the same function.

The two questions are asked apart, because a retrained model answers yes to the first and no to the second.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from reparam_kit.errors import InputError, NothingToDoError
from reparam_kit.inputs import Inputs, arguments
from reparam_kit.onnx.diff import compare
from reparam_kit.onnx.run import latency_ratio
from reparam_kit.onnx.weights import OnnxFile, read_onnx
from reparam_kit.surgery import fold
from reparam_kit.verification.outputs import Model, compare_file_outputs, compare_module_outputs
from reparam_kit.verification.quantisation import (
    OutputRisk,
    Quantisation,
    compare_file_kernels,
    compare_module_kernels,
)
from reparam_kit.verification.report import OutputError, Report
from reparam_kit.verification.simulation import quantised_file_outputs, quantised_module_outputs
from reparam_kit.verification.structure import compare_modules

__all__ = ["OutputError", "Report", "verify"]


def verify(
    a: Model,
    b: Model,
    example_inputs: Inputs | None = None,
    *,
    same_function: bool = True,
    latency: bool = False,
) -> Report:
    """Compare ``b`` with ``a``; each is an ``nn.Module`` or the path of a ``.onnx`` file.

    Structure is always judged. Two files must be equal in everything but the numbers of their weights (see
    :func:`reparam_kit.diff`); two modules in class, state_dict (names, shapes, dtypes) and leaf modules.

    Outputs are judged if ``same_function``, and reported in any case. Modules run on the CPU as copies in eval mode,
    whatever mode and device they are on; files run in onnxruntime on the CPU. The largest error of an output in units
    of its largest value must not exceed: of two modules, twice the error that ``a`` itself has against its float64
    run (at least 4 machine epsilons); where a file takes part, 1e-5 (for a lower precision, 4 machine epsilons).

    What INT8 weights would cost each of two modules or two files is simulated and reported too
    (:class:`~reparam_kit.verification.quantisation.Quantisation`), without being judged.

    Args:
        a: the model to compare with. An expanded module has the structure of what it folds to.
        b: the model that is judged.
        example_inputs: the inputs to run on. Without them two modules are not run, and a file is run on standard
            normal noise in the shape of its inputs (bytes for uint8).
        same_function: False for a model that was retrained on purpose.
        latency: also measure how long ``b`` takes compared with ``a``. Both must be files.

    Raises:
        InputError: a file or a module cannot be read or run, or ``latency`` is asked of a module.

    >>> report = verify("deployed.onnx", "better.onnx", same_function=False)
    >>> report.ok, len(report.structure.payloads)
    (True, 1)
    """
    inputs = None if example_inputs is None else [x.detach().cpu() for x in arguments(example_inputs)]
    outputs: tuple[OutputError, ...] = ()
    moved: tuple[OutputRisk, ...] = ()

    if isinstance(a, nn.Module) or isinstance(b, nn.Module):
        if latency:
            raise InputError("latency is compared between two .onnx files; export the module first")
        if not (isinstance(a, nn.Module) and isinstance(b, nn.Module)):
            outputs, note = compare_file_outputs(a, b, inputs)
            notes = (note, "structure not compared: one is a module, the other a file")
            return Report(None, outputs, notes, same_function)
        note = "outputs not compared: give example_inputs to run the modules on"
        deployed = _folded(a)
        if inputs is not None:
            outputs, note = compare_module_outputs(a, b, inputs)
            moved = quantised_module_outputs(deployed, b, inputs)
        quantisation = Quantisation(compare_module_kernels(deployed, b), moved)
        structure = compare_modules(deployed, b)
        return Report(structure, outputs, (note,), same_function, quantisation=quantisation)

    files = read_onnx(a), read_onnx(b)
    structure = compare(*files)
    try:
        outputs, note = compare_file_outputs(a, b, inputs)
        moved = quantised_file_outputs(a, b, files, inputs)
    except InputError as error:
        if structure.same_graph:
            raise
        note = f"outputs not compared: {error}"
    sizes = _size(a, files[0]), _size(b, files[1])
    ratio = latency_ratio(a, b) if latency else None
    quantisation = Quantisation(compare_file_kernels(*files), moved)
    return Report(structure, outputs, (note,), same_function, sizes, ratio, quantisation)


def _folded(model: nn.Module) -> nn.Module:
    try:
        return fold(model)
    except NothingToDoError:
        return model


def _size(path: str | Path, file: OnnxFile) -> int:
    return Path(path).stat().st_size + sum(map(len, file.external.values()))

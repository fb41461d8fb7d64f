"""Whether two models are the same graph, and whether they compute the same function.

The two questions are asked apart, because a retrained model answers yes to the first and no to the second.
"""

from __future__ import annotations

from torch import nn

from reparam_kit.errors import InputError, NothingToDoError
from reparam_kit.inputs import Inputs, arguments
from reparam_kit.onnx.noise import Shapes
from reparam_kit.onnx.scales import Scales
from reparam_kit.surgery import fold
from reparam_kit.verification.files import compare_files, opened, run_files
from reparam_kit.verification.outputs import Model, compare_module_outputs
from reparam_kit.verification.quantisation import OutputRisk, Quantisation, compare_module_kernels
from reparam_kit.verification.report import OutputError, Report
from reparam_kit.verification.simulation import quantised_module_outputs
from reparam_kit.verification.structure import compare_modules

__all__ = ["OutputError", "Report", "verify"]


def verify(
    a: Model,
    b: Model,
    example_inputs: Inputs | None = None,
    *,
    same_function: bool = True,
    latency: bool = False,
    shapes: Shapes | None = None,
    calibration: Inputs | None = None,
    scales: Scales = "kept",
) -> Report:
    """Compare ``b`` with ``a``; each is an ``nn.Module`` or the path of a ``.onnx`` file.

    Structure is always judged. Two files must be equal in everything but the numbers of their weights (see
    :func:`reparam_kit.diff`); two modules in class, state_dict (names, shapes, dtypes) and leaf modules.

    Outputs are judged if ``same_function``, and reported in any case. Modules run on the CPU as copies in eval mode,
    whatever mode and device they are on; files run in onnxruntime on the CPU. The largest error of an output in units
    of its largest value must not exceed: of two modules, twice the error that ``a`` itself has against its float64
    run (at least 4 machine epsilons); where a file takes part, 1e-5 (for a lower precision, 4 machine epsilons).
    Two files that onnxruntime cannot run are judged by graph and weights alone, and a note says so: those of the same
    function then have the same weights.

    What INT8 weights would cost each of two modules or two files is simulated and reported too
    (:class:`~reparam_kit.verification.quantisation.Quantisation`), without being judged. With ``calibration`` it is
    also found out: onnxruntime's quantiser makes INT8 copies of both files, and they are run.

    Args:
        a: the model to compare with. An expanded module has the structure of what it folds to.
        b: the model that is judged.
        example_inputs: the inputs to run on. Without them two modules are not run, and a file is run on noise in the
            shape of its inputs: standard normal, bytes as in pictures, integers as far up as they may go. Sizes that a
            file leaves open are found by its weights and by trying.
        same_function: False for a model that was retrained on purpose.
        latency: also measure how long both take, run in turn. Both must be files.
        shapes: of inputs of a file by their names, for the noise: those that could not be found.
        calibration: images as the net takes them, ``[N, ...]``, a hundred or more, or a tensor for each input. Every
            other one sets the ranges of the INT8 copies of two files, and the copies are run on the rest.
        scales: "weights" where those of quantised weights may differ too, as in :func:`reparam_kit.diff`.

    Raises:
        InputError: a file or a module cannot be read, or not be run on ``example_inputs`` or at ``shapes``; or
            ``latency``, ``shapes`` or ``calibration`` are asked of modules.

    >>> report = verify("deployed.onnx", "better.onnx", same_function=False)
    >>> report.ok, len(report.structure.payloads)
    (True, 1)
    """
    inputs = None if example_inputs is None else [x.detach().cpu() for x in arguments(example_inputs)]
    if shapes and inputs is not None:
        raise InputError("shapes are of noise, and example_inputs are given: give one of them")
    if not isinstance(a, nn.Module) and not isinstance(b, nn.Module):
        seen = None if calibration is None else [x.detach().cpu() for x in arguments(calibration)]
        return compare_files(
            a, b, inputs, shapes,
            same_function=same_function, latency=latency, calibration=seen, scales=scales,
        )  # fmt: skip
    if scales != "kept":
        raise InputError("scales are those of two quantised .onnx files")
    if calibration is not None:
        raise InputError("calibration is for onnxruntime's quantiser, which takes two .onnx files")
    if latency:
        raise InputError("latency is compared between two .onnx files; export the module first")
    if not (isinstance(a, nn.Module) and isinstance(b, nn.Module)):
        ran = run_files(opened(a, b), inputs, shapes)
        notes = (ran.note, "structure not compared: one is a module, the other a file")
        return Report(None, ran.outputs, notes, same_function)
    if shapes:
        raise InputError("shapes are of the inputs of files; give example_inputs to run modules on")
    note = "outputs not compared: give example_inputs to run the modules on"
    deployed = _folded(a)
    outputs: tuple[OutputError, ...] = ()
    moved: tuple[OutputRisk, ...] = ()
    if inputs is not None:
        outputs, note = compare_module_outputs(a, b, inputs)
        moved = quantised_module_outputs(deployed, b, inputs)
    quantisation = Quantisation(compare_module_kernels(deployed, b), moved)
    return Report(compare_modules(deployed, b), outputs, (note,), same_function, quantisation=quantisation)


def _folded(model: nn.Module) -> nn.Module:
    try:
        return fold(model)
    except NothingToDoError:
        return model

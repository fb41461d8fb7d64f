"""Every operator against the node cases that ONNX ships, with inputs at run time and with all of them known."""

from __future__ import annotations

import pkgutil
import re
import warnings
from importlib import import_module

import numpy as np
import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.case.test_case import TestCase

from reparam_kit.errors import UnsupportedError
from reparam_kit.onnx.importer.backend import Backend
from reparam_kit.onnx.importer.registry import _TABLE
from reparam_kit.onnx.importer.values import DTYPES, to_tensor

OF_RUNTIMES = {"SimplifiedLayerNormalization"}  # which onnxruntime puts into ONNX's own domain
OPERATORS = {op_type for domain, op_type in _TABLE if domain == ""} - OF_RUNTIMES
SEQUENCES = {"SequenceAt", "SplitToSequence"}  # their cases give and take sequences, which no model here does
MODULES = {info.name.replace("_", ""): info.name for info in pkgutil.iter_modules(node_cases.__path__)}
# The modules of these operators' cases, by every name that a version of onnx gave them.
RENAMED = {
    "batchnormalization": ("batchnorm",),
    "greaterorequal": ("greaterequal",),
    "instancenormalization": ("instancenorm",),
    "lessorequal": ("lessequal",),
    "range": ("rangeop",),
}

# Cases that must be refused, and what the refusal says.
REFUSED = {
    r"test_batchnorm_\w+_training_mode": "training_mode = 1",
    r"test_training_dropout_\w+|test_training_dropout": "a dropout that is on in inference",
    r"test_not_\dd": "opset 1 is not one of",
    r"test_lstm_with_peepholes": "peepholes",
}

# Cases whose result torch cannot or should not give.
SKIPPED = {
    r"test_reduce_(max|min)_empty_set(_bool)?": "torch has no maximum of nothing",
    r"test_resize_downsample_scales_(linear|cubic)_align_corners": (
        "ONNX aligns with the result's size before it is rounded down, onnxruntime and torch with the rounded size"
    ),
}

if tuple(map(int, onnx.__version__.split(".")[:2])) < (1, 21):
    SKIPPED["test_l2normalization_axis_0"] = "onnx took a row of zeros for NaN, not 0"

# Their other outputs (mask, indices) are for training.
FIRST_OUTPUT_ONLY = ("Dropout", "MaxPool")


def cases_of(op_type: str) -> list[TestCase]:
    """The operator's cases, also those in which it is expanded to simpler ones, of types that are read at all."""
    key = op_type.lower()
    module = next(MODULES[name] for name in (key, *RENAMED.get(key, ())) if name in MODULES)
    before = len(node_cases._NodeTestCases)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some reference results are infinite on purpose
        import_module(f"{node_cases.__name__}.{module}")
    return [case for case in node_cases._NodeTestCases[before:] if is_readable(case.model)]


def is_readable(model: ModelProto) -> bool:
    types = {info.type.tensor_type.elem_type for info in (*model.graph.input, *model.graph.output)}
    return types <= DTYPES.keys() and {node.op_type for node in model.graph.node} <= OPERATORS


def listed(table: dict[str, str], name: str) -> str | None:
    return next((text for pattern, text in table.items() if re.fullmatch(pattern, name)), None)


def run(case: TestCase, run_time_inputs: int) -> None:
    """Import the case with its first inputs computed at run time and the others known, and compare the result."""
    model = ModelProto()
    model.CopyFrom(case.model)
    graph = model.graph
    tensors, expected = ([as_proto(value) for value in values] for values in case.data_sets[0])
    for info, tensor in list(zip(graph.input, tensors, strict=True))[run_time_inputs:]:
        tensor.name = info.name
        graph.initializer.append(tensor)
    del graph.input[run_time_inputs:]
    if graph.node[0].op_type in FIRST_OUTPUT_ONLY:
        del graph.output[1:]
    results = Backend.prepare(model).run(list(map(numpy_helper.to_array, tensors[:run_time_inputs])))
    for result, tensor in zip(results, expected[: len(graph.output)], strict=True):
        found, wanted = (
            to_tensor(array, tensor.data_type) for array in (result, numpy_helper.to_array(tensor))
        )
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-6, equal_nan=True)


def as_proto(value: np.ndarray | TensorProto) -> TensorProto:
    return value if isinstance(value, TensorProto) else numpy_helper.from_array(np.asarray(value))


@pytest.mark.filterwarnings("ignore")  # of the reference's own arithmetic
@pytest.mark.parametrize("op_type", sorted(OPERATORS - SEQUENCES))
def test_operator(op_type: str) -> None:
    failures = []
    cases = cases_of(op_type)
    assert cases
    for case in cases:
        refusal = listed(REFUSED, case.name)
        if listed(SKIPPED, case.name):
            continue
        if refusal:
            with pytest.raises(UnsupportedError, match=refusal):
                run(case, 1)
            continue
        for run_time_inputs in (len(case.model.graph.input), 0):
            try:
                try:
                    run(case, run_time_inputs)
                except UnsupportedError as error:  # a setting that has to be known
                    if "computed at run time" not in str(error):
                        raise
                    run(case, 1)
            except Exception as error:
                failures.append(f"{case.name}: {type(error).__name__}: {error}")
    assert not failures, "\n".join(failures)


def test_devices() -> None:
    assert Backend.supports_device("CPU")
    assert Backend.supports_device("CUDA:0") == torch.cuda.is_available()
    assert not Backend.supports_device("TPU")

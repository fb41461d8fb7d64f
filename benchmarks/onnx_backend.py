"""The node tests that ship with ONNX, through the importer and through onnx2torch in the same run.

    python -m benchmarks.onnx_backend

writes ``benchmarks/results/onnx_backend.md``. A case counts as passed when every output has the dtype, the shape and
the numbers that the case asks for (rtol 1e-3, atol 1e-6), in one of these forms: as it is; with all inputs but the
first stored as initializers, as a deployed file has its weights; and both again declared as opset 16, the newest that
onnx2torch reads, where ONNX's checker accepts that. Cases of a type that torch has no arithmetic for (strings, 8-bit
and 4-bit floats, wide unsigned integers) are left out.
"""

from __future__ import annotations

import contextlib
import io
import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, numpy_helper
from onnx.backend.test.case import node as node_cases
from onnx.backend.test.case.test_case import TestCase

import reparam_kit as rk
from reparam_kit.errors import first_line
from reparam_kit.onnx.importer.backend import Backend
from reparam_kit.onnx.importer.values import DTYPES

try:
    import onnx2torch
except ImportError:
    onnx2torch = None

RESULT = Path(__file__).parent / "results" / "onnx_backend.md"

# What graphs of CNN inference are made of.
# fmt: off
OPERATORS = {
    "Conv", "ConvTranspose", "Gemm", "MatMul", "BatchNormalization", "GroupNormalization",
    "InstanceNormalization", "LayerNormalization", "LpNormalization", "Dropout",
    "Clip", "Elu", "Gelu", "HardSigmoid", "HardSwish", "LeakyRelu", "Mish", "PRelu", "Relu", "Selu",
    "Sigmoid", "Softmax", "Tanh",
    "Add", "Div", "Exp", "Max", "Min", "Mul", "Pow", "Sqrt", "Sub",
    "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "MaxPool", "ReduceL2", "ReduceMax",
    "ReduceMean", "ReduceSum",
    "Cast", "Concat", "Constant", "ConstantOfShape", "DepthToSpace", "DequantizeLinear", "Expand",
    "Flatten", "Gather", "Identity", "Pad", "QuantizeLinear", "Reshape", "Resize", "Shape", "Slice",
    "SpaceToDepth", "Split", "Squeeze", "Transpose", "Unsqueeze", "Upsample",
}
# fmt: on

Arrays = Sequence[NDArray[Any]]
Runner = Callable[[ModelProto, Arrays], Arrays]


def by_importer(model: ModelProto, inputs: Arrays) -> Arrays:
    """What the importer makes of the model."""
    return Backend.prepare(model).run(inputs)


def by_onnx2torch(model: ModelProto, inputs: Arrays) -> Arrays:
    """What onnx2torch makes of it."""
    converted = onnx2torch.convert(model).eval()
    with torch.no_grad():
        result = converted(*map(torch.from_numpy, inputs))
    return [tensor.numpy() for tensor in (result if isinstance(result, (list, tuple)) else [result])]


def cases() -> dict[str, list[TestCase]]:
    """Operator -> its cases, also those in which it is written out as simpler ones."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some reference results are infinite on purpose
        collected = node_cases.collect_testcases()
    operator_of = {
        case.name: case.model.graph.node[0].op_type for case in collected if "_expanded" not in case.name
    }
    found = defaultdict(list)
    for case in collected:
        operator = operator_of.get(case.name.partition("_expanded")[0])
        graph = case.model.graph
        types = {info.type.tensor_type.elem_type for info in (*graph.input, *graph.output)}
        if operator in OPERATORS and types <= DTYPES.keys():
            found[operator].append(case)
    return dict(sorted(found.items()))


def failure(run: Runner, case: TestCase) -> str | None:
    """Why the case does not pass as it is, where it does not pass in any form either; else ``None``."""
    inputs, expected = ([_array(value) for value in values] for values in case.data_sets[0])
    reasons = []
    for model in filter(None, (case.model, _in_opset_16(case.model))):
        for count in {len(inputs), min(1, len(inputs))}:
            try:
                results = run(_with_stored(model, inputs[count:]), inputs[:count])
            except Exception as error:  # onnx2torch raises errors of many kinds
                reasons.append(first_line(error))
                continue
            if len(results) == len(expected) and all(map(_is_close, results, expected)):
                return None
            reasons.append("the result differs")
    return reasons[0]


def _in_opset_16(model: ModelProto) -> ModelProto | None:
    older = ModelProto()
    older.CopyFrom(model)
    del older.opset_import[:]
    older.opset_import.append(onnx.helper.make_opsetid("", 16))
    older.ir_version = 8
    try:
        onnx.checker.check_model(older, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError):
        return None
    return older


def _with_stored(model: ModelProto, values: Arrays) -> ModelProto:
    """The model with ``values`` as initializers in the place of its last inputs."""
    stored = ModelProto()
    stored.CopyFrom(model)
    first = len(model.graph.input) - len(values)
    names = [info.name for info in model.graph.input[first:]]
    stored.graph.initializer.extend(map(numpy_helper.from_array, values, names))
    del stored.graph.input[first:]
    return stored


def _is_close(result: NDArray[Any], expected: NDArray[Any]) -> bool:
    if (result.dtype, result.shape) != (expected.dtype, expected.shape):
        return False
    wide, right = result.astype(np.float64), expected.astype(np.float64)
    return np.allclose(wide, right, rtol=1e-3, atol=1e-6, equal_nan=True)


def _array(value: Any) -> NDArray[Any]:
    return numpy_helper.to_array(value) if isinstance(value, TensorProto) else np.asarray(value)


def main() -> None:
    """Run every case through both and write the table."""
    runners = {"reparam-kit": by_importer, **({"onnx2torch": by_onnx2torch} if onnx2torch else {})}
    table = cases()
    failures: dict[str, dict[str, str]] = {name: {} for name in runners}
    warnings.simplefilter("ignore")
    for name, run in runners.items():
        for case in (case for group in table.values() for case in group):
            with contextlib.redirect_stderr(io.StringIO()):  # where torch prints the graph that failed
                if reason := failure(run, case):
                    failures[name][case.name] = reason
    total = sum(map(len, table.values()))
    lines = [
        "# ONNX node tests",
        "",
        "`python -m benchmarks.onnx_backend`",
        "",
        f"onnx {onnx.__version__}, torch {torch.__version__}, reparam-kit {rk.__version__}, onnx2torch "
        + (version("onnx2torch") if onnx2torch else "not installed"),
        "",
        "Cases of `onnx.backend.test` passed, by operator, of the types that torch has. A case passes when dtype,",
        "shape and numbers of all outputs are right, with all inputs given at run time or with all but the first",
        "stored in the file, in the case's own opset or in 16, the newest that onnx2torch reads.",
        "",
        "| operator | cases | reparam-kit | onnx2torch |",
        "|---|---|---|---|",
    ]
    for operator, group in table.items():
        passed = [
            str(sum(case.name not in failures[name] for case in group))
            if name in runners
            else "not installed"
            for name in ("reparam-kit", "onnx2torch")
        ]
        lines.append(f"| {operator} | {len(group)} | {' | '.join(passed)} |")
    shares = [
        f"{total - len(failures[name])} ({100 - 100 * len(failures[name]) / total:.1f} %)"
        if name in runners
        else "not installed"
        for name in ("reparam-kit", "onnx2torch")
    ]
    lines += [f"| **all** | {total} | {' | '.join(shares)} |", "", "## What reparam-kit does not pass", ""]
    lines += [f"- `{case}`: {reason}" for case, reason in sorted(failures["reparam-kit"].items())]
    RESULT.parent.mkdir(exist_ok=True)
    with rk.atomic_file(RESULT) as file:
        file.write(("\n".join(lines) + "\n").encode())
    print("\n".join(lines))


if __name__ == "__main__":
    main()

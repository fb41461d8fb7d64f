"""Shapes of every value, and freeing a batch size that the exporter has fixed.

A net exported for a batch of 1 mostly computes any batch, except where it reshapes to a constant ``[1, ...]``. Such a
``Reshape`` is made to copy the leading dimension of its input, where shape inference proves that this is the batch:
the fixed dimension of the graph inputs is given a name, and the name has come through to the ``Reshape``.
"""

from __future__ import annotations

from onnx import ModelProto, NodeProto, TypeProto, ValueInfoProto, helper, shape_inference

from reparam_kit.errors import InputError, first_line
from reparam_kit.onnx.weights import decode

_BATCH = "batch of any size"


def free_batch(model: ModelProto) -> tuple[ModelProto, dict[str, TypeProto.Tensor]]:
    """A copy of ``model`` that takes any batch, and the type of each value in it, with its shape as far as it is fixed.

    Raises :class:`InputError` where shape inference finds a contradiction.
    """
    free = ModelProto()
    free.CopyFrom(model)
    _keep_ranks_only(free)
    fixed = _name_batch(free)
    while True:
        try:
            inferred = shape_inference.infer_shapes(free, data_prop=True)
        except (shape_inference.InferenceError, RuntimeError, ValueError) as error:
            raise InputError(f"its shapes contradict each other: {first_line(error)}") from error
        infos = (*inferred.graph.input, *inferred.graph.value_info, *inferred.graph.output)
        batched = {info.name for info in infos if _leads_with_batch(info)}
        if fixed is None or not _follow_batch(free, fixed, batched):
            return free, {info.name: info.type.tensor_type for info in infos}


def _keep_ranks_only(model: ModelProto) -> None:
    """Leave of all declared sizes but those of the inputs only how many there are: they repeat the fixed batch.

    The number of dimensions helps inference on where it does not know an operator, and so does that of a convolution,
    which its weight tells.
    """
    for info in (*model.graph.value_info, *model.graph.output):
        for dim in info.type.tensor_type.shape.dim:
            dim.Clear()
    declared = {info.name for info in (*model.graph.value_info, *model.graph.output)}
    weights = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        weight = weights.get(node.input[1]) if len(node.input) > 1 else None
        if (
            node.op_type in ("Conv", "ConvTranspose")
            and weight is not None
            and node.output[0] not in declared
        ):
            unknown = [None] * len(weight.dims)
            info = helper.make_tensor_value_info(node.output[0], weight.data_type, unknown)
            model.graph.value_info.append(info)


def _name_batch(model: ModelProto) -> int | None:
    """Name the fixed leading dimension of the graph inputs, and return its size."""
    constants = {tensor.name for tensor in model.graph.initializer}
    leading = [
        info.type.tensor_type.shape.dim[0]
        for info in model.graph.input
        if info.name not in constants and len(info.type.tensor_type.shape.dim) > 1
    ]
    if not leading or not leading[0].HasField("dim_value"):
        return None
    size: int = leading[0].dim_value
    for dim in leading:
        if dim.dim_value == size:
            dim.dim_param = _BATCH
    return size


def _follow_batch(model: ModelProto, size: int, batched: set[str]) -> bool:
    """Let each ``Reshape`` of a batched value to a constant ``[size, ...]`` copy the batch. Whether there was one."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant":
            constants.update((node.output[0], a.t) for a in node.attribute if a.name == "value")
    found = False
    for node in model.graph.node:
        shape = constants.get(node.input[1]) if len(node.input) > 1 else None
        if node.op_type == "Reshape" and node.input[0] in batched and shape is not None:
            target = decode(shape).tolist()
            if target[:1] == [size] and _zero_copies(node, target):
                name = f"{node.input[1]} of {node.output[0]}, any batch"
                model.graph.initializer.append(helper.make_tensor(name, 7, [len(target)], [0, *target[1:]]))
                node.input[1] = name
                del node.attribute[:]
                found = True
    return found


def _zero_copies(node: NodeProto, target: list[int]) -> bool:
    """Whether a 0 in ``target`` means, or may be made to mean, the input's dimension there."""
    return 0 not in target or not any(a.name == "allowzero" and a.i for a in node.attribute)


def _leads_with_batch(info: ValueInfoProto) -> bool:
    dims = info.type.tensor_type.shape.dim
    return len(dims) > 0 and dims[0].dim_param == _BATCH

"""One ONNX node as its importer sees it: attributes, inputs, and ways to add layers and calls to the model."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from onnx import AttributeProto, GraphProto, NodeProto, TensorProto, defs, helper, numpy_helper
from torch import Tensor, fx, nn

from reparam_kit.errors import InputError, UnsupportedError
from reparam_kit.onnx.importer.builder import Builder
from reparam_kit.onnx.importer.example import example
from reparam_kit.onnx.importer.levels import integers, stand_for
from reparam_kit.onnx.importer.naming import layer_name
from reparam_kit.onnx.importer.surroundings import Surroundings
from reparam_kit.onnx.importer.values import Constant, Value, as_dtype, dtype_of, file_dtype, to_tensor
from reparam_kit.onnx.keys import TensorKey

# Operators whose layers can have weights that are stored as integers.
_ROUNDING = {"Conv", "ConvTranspose", "Gemm", "MatMul"}


_NEWEST = defs.onnx_opset_version()


class UnknownError(UnsupportedError):
    """Something about a value that the example input at hand does not show."""


class Op:
    """A node being imported.

    ``op[0]`` is its first input, and an optional one that is absent is ``None``. Every attribute and every input has
    to be asked for: :meth:`check_all_read` refuses a node of which the importer has left a part unread.
    """

    def __init__(
        self,
        node: NodeProto,
        domain: str,
        opset: int,
        inputs: list[Value | None],
        builder: Builder,
        graph: Surroundings | None = None,
    ) -> None:
        self._graph = graph
        self.type, self.domain, self.opset = node.op_type, domain, opset
        self.name = place_of(node)
        self.outputs = len(node.output)
        self._node = node
        self._inputs = inputs
        self._builder = builder
        self._attributes = {a.name: _attribute(a) for a in node.attribute}
        self._types = {a.name: AttributeProto.AttributeType.Name(a.type) for a in node.attribute}
        # Of an operator that onnxruntime puts into files of an earlier opset than has it: the newest definition.
        schema = find_schema(node.op_type, domain, opset) or find_schema(node.op_type, domain, _NEWEST)
        self._definition = schema.attributes if schema else {}
        needed = schema.min_input if schema else 0
        for i in range(needed):
            # Exporters leave out inputs in the middle that some definitions require, such as the roi of a Resize.
            if i >= len(inputs) or (inputs[i] is None and i in (0, needed - 1)):
                raise InputError(f"input {i} is missing")
        self._unread: set[str | int] = {i for i, value in enumerate(inputs) if value is not None}
        self._unread.update(self._attributes)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitem__(self, index: int) -> Value:
        """Input ``index``, which the operator requires."""
        value = self.get(index)
        if value is None:
            raise InputError(f"input {index} is missing")
        return value

    def __iter__(self) -> Iterator[Value]:
        return (self[i] for i in range(len(self)))

    def get(self, index: int) -> Value | None:
        """Input ``index``, or ``None`` where the node leaves it out."""
        self._unread.discard(index)
        return self._inputs[index] if index < len(self) else None

    def attr(self, name: str) -> Any:
        """Return an attribute as ``int``, ``float``, ``str``, ``Tensor`` or a tuple of them.

        Where the node does not give it: the default of the operator's definition, or ``None``.
        """
        self._unread.discard(name)
        known = self._definition.get(name)
        if name in self._attributes:
            if known is not None and f"{known.type}" != f"AttrType.{self._types[name]}":
                raise InputError(f"attribute {name} is of the type {self._types[name]}, not as defined")
            return self._attributes[name]
        if known is None or not known.default_value.type:
            if known and known.required:
                raise InputError(f"attribute {name} is missing")
            return None
        return _attribute(known.default_value)

    def flag(self, name: str) -> bool:
        """Return an attribute that is 0 or 1; 0 where it is absent."""
        return bool(self.attr(name))

    def numbers(self, index: int) -> tuple[Any, ...] | fx.Node | None:
        """Return a 1-D input, to be an argument of a call: known, or a list at run time."""
        value = self.get(index)
        if isinstance(value, fx.Node):
            return self._builder.as_list(value)
        return None if value is None else tuple(self._builder.read(value).reshape(-1).tolist())

    def known(self, numbers: tuple[Any, ...] | fx.Node | None) -> tuple[Any, ...]:
        """Return what :meth:`numbers` are, or for the example input would be; nothing where that is not known."""
        return tuple(example(numbers) or ()) if isinstance(numbers, fx.Node) else numbers or ()

    def setting(self, name: str, index: int) -> tuple[Any, ...] | fx.Node | None:
        """Numbers that earlier definitions of the operator keep in an attribute and later ones in an input."""
        return self.attr(name) if name in self._definition else self.numbers(index)

    def number(self, name: str, index: int) -> Any:
        """Return a single number of that kind."""
        if name in self._definition:
            return self.attr(name)
        value = self.get(index)
        return self._builder.read(value).item() if isinstance(value, Constant) else value

    def shape(self, index: int) -> tuple[int | None, ...] | None:
        """Shape of an input, with ``None`` for a first dimension that is the batch.

        ``None``: not even the rank is known. Where the file leaves sizes of its inputs free, those here are made up.
        """
        value = self._inputs[index]
        if isinstance(value, Constant):
            return tuple(value.tensor.shape)
        known = self._example(value)
        return (
            None
            if known is None
            else tuple(None if i == 0 and n == self._builder.rows else n for i, n in enumerate(known.shape))
        )

    def sizes(self, index: int) -> tuple[int, ...]:
        """Sizes after the first of an input for which the file has to fix them."""
        shape = self.shape(index)
        if shape is None or self._builder.free_sizes:
            raise UnsupportedError(
                f"the sizes of input {index} ({self._node.input[index]!r}) are not fixed; declare them in the file"
            )
        return tuple(size for size in shape[1:] if size is not None)

    def dtype(self, index: int) -> torch.dtype:
        """Return the type of an input's elements."""
        value = self[index]
        if (dtype := integers(value)) is not None:
            return dtype
        if (dtype := file_dtype(value)) is not None:
            return dtype
        known = value.tensor if isinstance(value, Constant) else self._example(value)
        if known is None:
            raise UnknownError(f"the type of input {index} ({self._node.input[index]!r}) is not known")
        return known.dtype

    def rank(self, index: int) -> int:
        """Number of dimensions of an input."""
        shape = self.shape(index)
        if shape is None:
            raise UnknownError(
                f"the number of dimensions of input {index} ({self._node.input[index]!r}) is not known; "
                "declare the shapes of the graph's inputs"
            )
        return len(shape)

    def weights(self, **indices: int) -> dict[str, Constant] | None:
        """Weights for :meth:`layer` by their name there, without those that the node leaves out.

        ``None`` where one is computed at run time, or stored as integers for a layer that does not round: then they can
        be arguments of a call only.
        """
        given = {name: value for name, index in indices.items() if (value := self.get(index)) is not None}
        known = {name: value for name, value in given.items() if isinstance(value, Constant)}
        stored = any(c.source is not None and c.source.grid is not None for c in known.values())
        return None if len(known) < len(given) or (stored and self.type not in _ROUNDING) else known

    def call(self, function: Callable[..., Any], *args: Any, on_cpu: bool = False) -> Value:
        """Return ``function(*args)``, where arguments may be values; ``on_cpu`` says that it reads a shape."""
        return self._value(self._builder.call(function, args, on_cpu=on_cpu))

    def levels(self, function: Callable[..., Any], *args: Any, dtype: torch.dtype) -> Value:
        """Return ``function(*args)``, which gives the floating-point levels of integers of ``dtype``."""
        result = self.call(function, *args)
        if isinstance(result, fx.Node):
            return stand_for(result, dtype)
        return Constant(as_dtype(result.tensor, dtype), result.name, dtype=dtype)

    def call_many(
        self, function: Callable[..., Any], *args: Any, count: int | None = None
    ) -> tuple[Value, ...]:
        """Return ``function(*args)``, where it returns as many tensors as the node has outputs, or ``count``."""
        result = self._builder.call(function, args)
        if isinstance(result, fx.Node):
            return tuple(self._builder.item(result, i) for i in range(count or self.outputs))
        return tuple(self._value(tensor) for tensor in result)

    def reshape(self, function: Callable[..., Tensor], value: Value, *args: Any) -> Value:
        """Return ``function(value, *args)``, where it does not change the numbers or their order: a weight
        stays one.
        """
        if isinstance(value, Constant) and not any(isinstance(arg, fx.Node) for arg in args):
            return value.reshaped(tuple(function(value.tensor, *args).shape))
        return self.call(function, value, *args)

    def layer(self, module: nn.Module, *inputs: Value, **weights: Constant) -> Value:
        """Return ``module(*inputs)``, with ``weights`` in the place of the module's own parameters and buffers."""
        return self._value(
            self._builder.layer(self._layer_name(weights.get("weight")), module, inputs, weights)
        )

    def parameter(self, index: int) -> Value | None:
        """Input ``index``, trainable if it is a constant of the file; ``None`` where the node leaves it out."""
        value = self.get(index)
        if not isinstance(value, Constant) or value.source is None or not value.tensor.is_floating_point():
            return value
        return self._builder.parameter(self._layer_name(value), value)

    def factor_behind(self) -> Constant | None:
        """Return the constant by which the file multiplies the first output, past casts, if there is one."""
        return self._graph.factor_behind(self._node.output[0]) if self._graph else None

    def is_clipped(self) -> bool:
        """Return whether what it gives or takes has bounds that say that it quantises."""
        return self._graph is not None and self._graph.is_clipped(self._node)

    def stored(self, tensor: Tensor) -> Constant:
        """Return a constant that this node stores."""
        name = self._node.output[0]
        types = [dtype_of(a.t.data_type) for a in self._node.attribute if a.name == "value"]
        dtype = types[0] if types else tensor.dtype
        key = TensorKey("constant", name, self._builder.scope)
        if key in self._builder.file_tensors:
            return self._builder.constant(key, tensor, dtype)
        lost = f"{self.name} holds its numbers in a function or an attribute, where nothing is written"
        return Constant(tensor, name, dtype=dtype, lost=lost)

    def made(self, constant: Constant) -> Constant:
        """Return what the node makes of constants, which is in proportion to what the file holds."""
        self._builder.counted(constant.tensor)
        return constant

    def read(self, constant: Constant) -> Tensor:
        """Return the tensor of a constant, which is no longer to be trained."""
        tensor: Tensor = self._builder.read(constant)
        return tensor

    def part(self, op_type: str, inputs: Sequence[Value | None], attributes: Mapping[str, Any]) -> Op:
        """Return a node of ONNX's own operators that does a part of what this one does."""
        names = ["" if value is None else f"input {i} of its {op_type}" for i, value in enumerate(inputs)]
        node = helper.make_node(op_type, names, self._node.output, self._node.name, **attributes)
        return Op(node, "", _NEWEST, list(inputs), self._builder)

    def check_all_read(self) -> None:
        """Refuse a node with an attribute or an input that the importer has not asked for."""
        for part in sorted(self._unread, key=str):
            if isinstance(part, int):
                raise UnsupportedError(f"input {part} ({self._node.input[part]!r}) is not supported")
            raise UnsupportedError(f"attribute {part} = {self._attributes[part]!r} is not supported")

    def _example(self, value: fx.Node | None) -> Tensor | None:
        known = None if value is None else example(value)
        return known if isinstance(known, Tensor) else None

    def _value(self, result: Any) -> Value:
        if isinstance(result, fx.Node):
            return result
        return Constant(
            result, self._node.output[0], lost=self._lost() if result.is_floating_point() else None
        )

    def _lost(self) -> str | None:
        """Return why what the node makes of constants is not to be had back from it."""
        for value in self._inputs:
            if isinstance(value, Constant) and value.lost is not None:
                return value.lost
            if isinstance(value, Constant) and value.source is not None:
                return f"{value.source.key} passes {self.name}, from which there is no way back"
        return None

    def _layer_name(self, weight: Constant | None) -> str:
        return layer_name(self._node, weight.source.key.name if weight and weight.source else None)


def place_of(node: NodeProto) -> str:
    """Return in words which node it is."""
    return f"node {node.name or node.output[0]!r} ({repr(node.op_type)[1:-1]})"


def find_schema(op_type: str, domain: str, opset: int) -> defs.OpSchema | None:
    """Find the definition that ``opset`` of ``domain`` gives the operator, or ``None``."""
    try:
        return defs.get_schema(op_type, opset, domain)
    except defs.SchemaError:
        return None


def _attribute(attribute: AttributeProto) -> Any:
    value = helper.get_attribute_value(attribute)
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, TensorProto):
        return to_tensor(numpy_helper.to_array(value), value.data_type)
    if isinstance(value, (int, float, GraphProto)):
        return value
    if not isinstance(value, Sequence):
        raise InputError(f"attribute {attribute.name} holds no value that an operator takes")
    return tuple(value)

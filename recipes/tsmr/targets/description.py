"""What a net computes, as plain values: its weights, its settings and its code, down to the functions that it calls.

Two nets that compute something else have other descriptions, and the same net has the same one in every process.
Where code cannot be seen, in C and in the packages of ``_BY_NAME``, a name stands for it.
"""

from __future__ import annotations

import enum
import sys
from collections.abc import Iterable, Iterator, Mapping, Set
from dis import get_instructions, opmap
from io import BytesIO
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any
from zipfile import ZipFile

import numpy as np
import torch
from torch import fx, nn

from reparam_kit import fingerprint

# pytest writes itself into what it tests.
_BY_NAME = {*sys.stdlib_module_names, "numpy", "onnx", "torch", "torchvision", "_pytest"}
_IMPORT = opmap["IMPORT_NAME"]
_PLAIN = (type(None), bool, int, float, complex, str, bytes, bytearray)
# Of a module: told otherwise, or nothing to do with what it computes; ``meta`` is where an imported net came from.
_TOLD = {"training", "meta", "_parameters", "_buffers", "_modules", "_compiled_call_impl"}
_TOLD_OF_GRAPHS = {
    *("_graph", "_code", "_tracer_cls", "_tracer_extras", "_lineno_map", "_prologue_start", "shape_env"),
    *("_create_node_hooks", "_erase_node_hooks", "_replace_hooks", "_deepcopy_hooks"),  # of editing
}
# Of a class: not what its objects do.
_NO_CODE = {
    *("__module__", "__qualname__", "__doc__", "__dict__", "__weakref__", "__annotations__", "__annotate__"),
    *("__abstractmethods__", "_abc_impl", "__firstlineno__", "__static_attributes__", "__orig_bases__"),
    *("__dataclass_fields__", "__dataclass_params__", "__match_args__", "__parameters__", "__slots__"),
}


def described(value: object, known: Iterable[str] = ()) -> object:
    """Return ``value``, a module or anything else, as what ``fingerprint`` takes.

    A name stands for the code of the packages ``known``, as for that of those that are always known.
    """
    description = _Description(frozenset({*_BY_NAME, *known}))
    return [description.of(value), list(description.code())]


class _Description:
    def __init__(self, known: frozenset[str], within: tuple[int, ...] = ()) -> None:
        self._known = known  # packages for whose code a name stands
        self._within = within  # the containers that are being looked into, from the outermost
        self._met: dict[int, tuple[int, object]] = {}  # the objects are held, so that no other gets their id
        self._named: list[FunctionType | type] = []  # code that was met and not yet looked at

    def code(self) -> Iterator[object]:
        """Yield the functions and classes that the values so far lead to, and those that these lead to."""
        while self._named:
            met = self._named.pop()
            yield self._class(met) if isinstance(met, type) else self._function(met)

    def of(self, value: object) -> object:
        if isinstance(value, _PLAIN) and not isinstance(value, enum.Enum):
            return value
        if isinstance(value, np.generic):
            return [value.dtype.str, value.tobytes()]
        if isinstance(value, torch.Size | list | tuple | Set | Mapping):
            return self._container(value)
        if isinstance(value, slice):
            return ["slice", self.of(value.start), self.of(value.stop), self.of(value.step)]
        if isinstance(value, fx.Node):
            return ["node", value.name]
        if isinstance(value, torch.dtype | torch.device | torch.layout | torch.memory_format | ModuleType):
            return str(value) if not isinstance(value, ModuleType) else value.__name__
        # A weight that is used twice is another net than two weights of one value; and some objects hold themselves.
        if id(value) in self._met:
            return ["again", self._met[id(value)][0]]
        self._met[id(value)] = (len(self._met), value)
        return [self._name(type(value)), self._parts(value)]

    def _container(self, value: Iterable[object]) -> object:
        """Return what is in a container; one that it is in, directly or not, by how far out that is."""
        if id(value) in self._within:
            return ["within", len(self._within) - self._within.index(id(value))]
        outside = self._within
        self._within = (*outside, id(value))
        try:
            if isinstance(value, Set):
                return {self._alone(part) for part in value}
            if isinstance(value, Mapping):
                pairs = {self._alone(key): part for key, part in value.items()}
                return {key: self.of(pairs[key]) for key in sorted(pairs)}
            return [type(value).__qualname__, *map(self.of, value)]
        finally:
            self._within = outside

    def _alone(self, part: object) -> str:
        """Return a number for what has no place in an order that is always the same."""
        apart = _Description(self._known, self._within)
        return fingerprint([apart.of(part), list(apart.code())])

    def _parts(self, value: object) -> object:
        if isinstance(value, torch.Tensor):
            return [_stored(value), value.requires_grad]
        if isinstance(value, np.ndarray):
            return self.of(value.tolist()) if value.dtype.hasobject else value
        if isinstance(value, nn.Module):
            return self._module(value)
        if isinstance(value, MethodType):
            return [self.of(value.__self__), self.of(value.__func__)]
        if isinstance(value, FunctionType | type):
            if not self._by_name(value):
                self._named.append(value)
            return self._name(value)
        if isinstance(value, CodeType):
            return self._code(value)
        if isinstance(value, staticmethod | classmethod):
            return self.of(value.__func__)
        if isinstance(value, property):
            return [self.of(value.fget), self.of(value.fset)]
        if isinstance(value, torch.jit.ScriptFunction):
            return _script(value)
        if hasattr(value, "__qualname__") or isinstance(value, np.ufunc):
            # Written in C, around a function or not.
            return [self._name(value), self.of(getattr(value, "__wrapped__", None))]
        return self._object(value)

    def _module(self, module: nn.Module) -> object:
        told = _TOLD
        code: object = [self.of(type(module))]
        if isinstance(module, fx.GraphModule):
            told = told | _TOLD_OF_GRAPHS
            code = [self.of(type(module)), self._graph(module.graph)]
        elif isinstance(module, torch.jit.ScriptModule):
            return _script(module)
        attributes = {name: part for name, part in vars(module).items() if name not in told}
        hooks = {name for name in attributes if "_hooks" in name}  # whose keys are numbers of a counter
        return {
            "code": code,
            "parameters": [[name, self.of(part)] for name, part in module._parameters.items()],
            "buffers": [[name, self.of(part)] for name, part in module._buffers.items()],
            "modules": [[name, self.of(part)] for name, part in module._modules.items()],
            "hooks": {name: [self.of(hook) for hook in attributes[name].values()] for name in sorted(hooks)},
            "attributes": self.of({name: part for name, part in attributes.items() if name not in hooks}),
        }

    def _graph(self, graph: fx.Graph) -> object:
        return [
            [node.op, node.name, self.of(node.target), self.of(node.args), self.of(node.kwargs)]
            for node in graph.nodes
        ]

    def _class(self, kind: type) -> object:
        members = {name: part for name, part in vars(kind).items() if name not in _NO_CODE}
        return [self._name(kind), [self.of(base) for base in kind.__bases__], self.of(members)]

    def _function(self, function: FunctionType) -> object:
        return [
            self._name(function),
            self.of(function.__code__),
            self.of(function.__defaults__),
            self.of(function.__kwdefaults__),
            [self.of(part) for part in _enclosed(function)],
            [[name, self.of(part)] for name, part in _read(function, self._known)],
        ]

    def _code(self, code: CodeType) -> object:
        names = [code.co_names, code.co_varnames, code.co_freevars, code.co_cellvars]
        counts = [code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, code.co_flags]
        return [code.co_code, self.of(code.co_consts), names, counts]

    def _object(self, value: object) -> object:
        if isinstance(value, enum.Enum):
            return value.name
        if type(value).__module__.startswith("torch._"):
            return None
        reduced = self._reduced(value)
        if reduced is not None and self._by_name(type(value)):  # a logger is its name, and not all loggers
            return reduced
        slots = [name for kind in type(value).__mro__ for name in _slots(kind) if hasattr(value, name)]
        held = {**getattr(value, "__dict__", {}), **{name: getattr(value, name) for name in slots}}
        return [self.of(type(value)), self.of(held), reduced]

    def _reduced(self, value: object) -> object:
        """Return what pickle would keep of an object whose class says how, such as a ``functools.partial``."""
        if type(value).__reduce__ is object.__reduce__ and type(value).__reduce_ex__ is object.__reduce_ex__:
            return None
        try:
            parts = value.__reduce_ex__(2)
        except Exception:  # a class that cannot be pickled may raise anything
            return None
        return self.of(parts)

    def _name(self, value: object) -> str:
        """Name it with its module where that stands for the code; else alone, so that its file may be renamed."""
        name = str(getattr(value, "__qualname__", getattr(value, "__name__", None)))
        return f"{getattr(value, '__module__', None)}.{name}" if self._by_name(value) else name

    def _by_name(self, value: object) -> bool:
        return str(getattr(value, "__module__", None)).partition(".")[0] in self._known


def _slots(kind: type) -> list[str]:
    slots = vars(kind).get("__slots__", ())
    return [slots] if isinstance(slots, str) else list(slots)


def _enclosed(function: FunctionType) -> Iterator[object]:
    for cell in function.__closure__ or ():
        try:
            yield cell.cell_contents
        except ValueError:  # not filled yet
            yield None


def _read(function: FunctionType, known: frozenset[str]) -> Iterator[tuple[str, object]]:
    """Return what the names in a function mean: globals of its own, and parts of the modules that it names or
    imports.
    """
    code, given = function.__code__, function.__globals__
    names = sorted(set(_names(code)))
    imported = [
        module for name in _imports(code) for module in _loaded(name, given.get("__package__"), known)
    ]
    modules, spaces = {id(module): module for module in imported}, [given, *map(vars, imported)]
    for space in spaces:  # it grows: a module may lead to another
        for name in names:
            part = space.get(name)
            if not isinstance(part, ModuleType):
                if name in space:
                    yield name, part
            elif id(part) not in modules and not _of(part, known):
                modules[id(part)] = part
                spaces.append(vars(part))


def _of(module: ModuleType, packages: frozenset[str]) -> bool:
    return module.__name__.partition(".")[0] in packages


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _imports(code: CodeType) -> Iterator[str]:
    """Yield the names of modules that a function imports when it runs."""
    if _IMPORT in code.co_code[::2]:
        yield from (str(step.argval) for step in get_instructions(code) if step.opcode == _IMPORT)
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _imports(constant)


def _loaded(name: str, package: str | None, known: frozenset[str]) -> Iterator[ModuleType]:
    """Modules of that name, in ``package`` and its parents too: a code says how far up only in passing."""
    parents = (package or "").split(".")
    for end in range(len(parents), -1, -1):
        module = sys.modules.get(".".join(filter(None, [*parents[:end], name])))
        if module is not None and not _of(module, known):
            yield module


def _stored(tensor: torch.Tensor) -> object:
    if tensor.is_quantized:
        return [str(tensor.dtype), tensor.int_repr(), tensor.dequantize()]
    return tensor.to_dense() if tensor.layout != torch.strided else tensor


def _script(module: torch.jit.ScriptModule | torch.jit.ScriptFunction[Any, Any]) -> dict[str, bytes]:
    saved = BytesIO()
    torch.jit.save(module, saved)
    with ZipFile(saved) as archive:
        parts = {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}
    # Where the code came from; and torch's own, whose order changes from process to process.
    left_out = ("code/__torch__/torch/", ".data/")
    return {
        name: part
        for name, part in parts.items()
        if not name.startswith(left_out) and not name.endswith(".debug_pkl")
    }

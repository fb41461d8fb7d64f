"""The torch side of an import: the graph being built, its layers, its buffers, and where each tensor came from."""

from __future__ import annotations

import operator
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.node import map_aggregate

from reparam_kit.errors import InputError
from reparam_kit.onnx.importer import rules
from reparam_kit.onnx.importer.batch import Images, KeptBatchError, images_in, is_own, place
from reparam_kit.onnx.importer.dynamic import join_dynamic
from reparam_kit.onnx.importer.example import (
    MOST,
    ROWS,
    call_example,
    check_size,
    example,
    forget,
    layer_example,
    on_meta,
    remember,
)
from reparam_kit.onnx.importer.levels import (
    as_numbers,
    gives_levels,
    integers,
    integers_among,
    stand_for,
    stored_as,
    takes_levels,
    with_gradient,
)
from reparam_kit.onnx.importer.naming import Names
from reparam_kit.onnx.importer.rounded import grid_of, is_fake, on_grid, rounded, with_grids
from reparam_kit.onnx.importer.values import Constant, Value, leaves
from reparam_kit.onnx.keys import Place, TensorKey
from reparam_kit.onnx.provenance import Source

_LONGEST = 2**20  # entries of a constant that is written into the code of the graph


class Builder:
    """Adds layers and calls to an fx graph; what depends on constants only is computed at once instead.

    Shape arithmetic stays on the CPU wherever the model is: a value made from shapes only is in ``_on_cpu``, constants
    that meet it are written into the graph as literals, and it is moved where it meets a value of the model's device.
    ``_lists`` are Python lists of integers, made from such values to serve as arguments.

    ``file_tensors`` are those that the file stores; what inlined functions hold has no place in it to be written to.
    ``scope`` is the sub-graph whose nodes are being imported. ``batch`` is the size of the batch that the file fixes
    (``None``: it fixes none), which ``frees`` says is to be freed. ``free_sizes`` says that the file leaves other sizes
    of its inputs free, so that those of the example are made up. ``elsewhere`` are names of tensors that a part of the
    file reads which is not imported.
    """

    def __init__(
        self,
        file_tensors: Collection[TensorKey],
        batch: int | None,
        frees: bool,
        free_sizes: bool,
        elsewhere: Collection[str] = (),
        rows: int = ROWS,
    ) -> None:
        self.file_tensors = file_tensors
        self.scope: tuple[Place, ...] = ()
        self._elsewhere = elsewhere
        self.free_sizes = free_sizes
        self.rows = rows if batch is None else None  # of examples, where they stand for any number
        self.root = nn.Module()
        self.graph = fx.Graph()
        self.images = Images(self.graph, batch, free_sizes) if batch is not None and frees else None
        self._kept = None if frees else batch
        self.sources: dict[str, Source] = {}
        self.frozen: dict[str, str] = {}  # parameter -> why it cannot be trained
        self._names = Names()
        self._on_cpu: set[fx.Node] = set()
        self._lists: set[fx.Node] = set()
        self._buffers: dict[Constant, fx.Node] = {}
        self._parameters: dict[TensorKey, dict[object, nn.Parameter]] = defaultdict(dict)
        self._fixed: set[TensorKey] = set()
        self._stored = self._computed = 0  # entries of constants: in the file, and made of others

    def input(self, name: str, value: Tensor | None, optional: bool, batched: bool) -> fx.Node:
        """Return a graph input, for which ``value`` is an example; one that is ``optional`` is ``None`` by default."""
        name = self._names.unique(name.replace(".", "_"))
        default = {"default_value": None} if optional else {}
        node = remember(self.graph.placeholder(name, **default), value)
        # What fx has made an identifier that hides nothing: it writes this one into its code as it is.
        node.target = node.name
        if batched and not optional and self.images:
            self.images.hold(node)
        if batched and not optional and self._kept is not None:
            return self._call(kept, (node, self._kept))
        return node

    def finish(self, outputs: list[Value]) -> fx.GraphModule:
        """Return the model, in eval mode."""
        nodes = [self.stored(self._node(value)) for value in outputs]
        if self.images:
            nodes = [self.images.output(node) for node in nodes]
        self.graph.output(nodes[0] if len(nodes) == 1 else tuple(nodes))
        # Trained in one place, such a tensor would no longer be what it is in the other.
        several = {
            key
            for key, found in self._parameters.items()
            if len(found) > 1 or key in self._fixed or (key.name in self._elsewhere and not key.scope)
        }
        parameters = dict(self.root.named_parameters(remove_duplicate=False))
        for name, source in self.sources.items():
            if source.key in several and name in parameters:
                parameters[name].requires_grad_(False)
                self.frozen[name] = f"{source.key} is used in other ways too"
        self._keep_shared_statistics()
        forget(self.graph)
        join_dynamic(self.graph, self.root)
        model = fx.GraphModule(self.root, self.graph).eval()
        model.meta["frozen"] = self.frozen
        if model.graph.eliminate_dead_code():
            model.recompile()
        return model

    def _keep_shared_statistics(self) -> None:
        """Let no BatchNorm move statistics that the file stores once for it and something else, as optimisers of files
        store equal tensors.
        """
        uses = Counter(source.key for source in self.sources.values())
        for name, module in self.root.named_modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                sources = (self.sources.get(f"{name}.running_{kind}") for kind in ("mean", "var"))
                if any(source is not None and uses[source.key] > 1 for source in sources):
                    module.momentum = 0.0

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], *, on_cpu: bool = False) -> Any:
        """Return ``function(*args)``: an ``fx.Node``, or the result itself where no argument is computed at run
        time.
        """
        dtype = integers_among(args)
        if dtype is not None and not takes_levels(function):
            return self._on_integers(function, args)
        nodes = [leaf for leaf in leaves(args) if isinstance(leaf, fx.Node)]
        if not nodes:
            known = map_aggregate(args, self.read)
            check_size(function, known)
            with torch.no_grad():
                return self.counted(function(*known))
        tensors = [node for node in nodes if node not in self._lists]
        on_cpu = on_cpu or self._on_cpu.issuperset(tensors)
        if on_cpu:
            args = map_aggregate(args, self._literal)
        else:
            device_value = next(node for node in tensors if node not in self._on_cpu)
            args = map_aggregate(args, lambda leaf: self._beside(leaf, device_value))
        result = self._call(function, args)
        if on_cpu:
            self._on_cpu.add(result)
        return stand_for(result, dtype) if dtype and gives_levels(function) else result

    def _on_integers(self, function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
        """Return ``function`` of the integers whose levels are among ``args``, with the gradient that it has on
        these.
        """
        result = self.call(function, map_aggregate(args, self.stored))
        known = example(result) if isinstance(result, fx.Node) else None
        if not isinstance(known, Tensor) or known.dtype is torch.bool or known.dtype.is_floating_point:
            return result
        like = self.call(function, map_aggregate(args, self._floating))
        floating = example(like)
        if not isinstance(floating, Tensor) or not floating.dtype.is_floating_point:
            return result
        return stand_for(self.call(with_gradient, (result, like)), known.dtype)

    def stored(self, leaf: Any) -> Any:
        """Return the integers themselves, where ``leaf`` holds their levels."""
        dtype = integers(leaf)
        return leaf if dtype is None else self.call(stored_as, (leaf, dtype))

    def _floating(self, leaf: Any) -> Any:
        return self.call(as_numbers, (leaf,)) if integers(leaf) else leaf

    def item(self, result: fx.Node, index: int) -> fx.Node:
        """Return one output of a node that has several."""
        item = stand_for(self._call(operator.getitem, (result, index)), integers(result))
        if result in self._on_cpu:
            self._on_cpu.add(item)
        return item

    def as_list(self, value: fx.Node) -> fx.Node:
        """Return the integers of a 1-D value, to be an argument of a call."""
        value = self.stored(value)
        if place(value) is not None:
            raise KeptBatchError("sizes that are computed from an image cannot be had for several")
        node = self.graph.call_method("tolist", (value,))
        self._lists.add(node)
        return remember(node, call_example(Tensor.tolist, (value,)))

    def layer(
        self, name: str, module: nn.Module, inputs: tuple[Value, ...], weights: Mapping[str, Constant]
    ) -> Any:
        """Return ``module(*inputs)`` with ``weights`` as its tensors: an ``fx.Node``, or the result itself as in
        ``call``.
        """
        module = with_grids(module.eval(), weights)
        if all(isinstance(value, Constant) for value in inputs):
            self._fill(module, weights)
            for weight in weights.values():
                self.read(weight)
            return self.call(module, inputs)
        name = self._place(name, module, weights)
        dtype = integers_among(inputs) if gives_levels(module) else None
        nodes = tuple(self._there(self._node(value if dtype else self.stored(value))) for value in inputs)
        result = layer_example(module, nodes)
        if self.images is None or not images_in(nodes):
            return stand_for(remember(self.graph.call_module(name, nodes), result), dtype)
        nodes, where = rules.layer(self.images, module, nodes)
        node = self.images.held(remember(self.graph.call_module(name, nodes), result), where)
        return stand_for(self.images.settled(node), dtype)

    def parameter(self, name: str, weight: Constant) -> fx.Node:
        """Return ``weight`` as the parameter of a call that is no layer."""
        holder = nn.Module()
        holder.weight = nn.Parameter(torch.empty_like(weight.tensor, device="meta"))
        place = f"{self._place(name, holder, {'weight': weight})}.weight"
        node = remember(self.graph.get_attr(place), on_meta(weight.tensor))
        if weight.source is None or weight.source.grid is None:
            return node
        scale, zero, *rest = grid_of(weight.source, tuple(weight.tensor.shape))
        settings = (Constant(scale, f"{name}.scale"), Constant(zero, f"{name}.zero"))
        result: fx.Node = self.call(on_grid, (node, *settings, *rest))
        return result

    def constant(self, key: TensorKey, tensor: Tensor, dtype: torch.dtype) -> Constant:
        """Return what the file stores, there in ``dtype``."""
        self._stored += tensor.numel()
        return Constant(tensor, key.name, Source(key, tuple(tensor.shape)), dtype)

    def read(self, leaf: Any) -> Any:
        """Return the tensor of a constant, which is then part of the graph and no longer to be trained."""
        if not isinstance(leaf, Constant):
            return leaf
        if leaf.source is not None:
            self._fixed.add(leaf.source.key)
        if leaf.numbers is not None:
            self.read(leaf.numbers)
        return rounded(leaf)

    def counted(self, result: Any) -> Any:
        """Return ``result``, if all that is computed at import is in proportion to what the file holds."""
        self._computed += sum(leaf.numel() for leaf in leaves(result) if isinstance(leaf, Tensor))
        if self._computed > 2 * MOST + 8 * self._stored:
            raise InputError(
                f"constants of {self._computed:,} entries are computed from {self._stored:,} that the file holds, "
                "which is damage or far beyond a deployed net"
            )
        return result

    def _place(self, name: str, module: nn.Module, weights: Mapping[str, Constant]) -> str:
        """Fill the module with its weights and put it where its name says, changed as far as it is taken."""
        name = self._names.unique(name)
        for key, source in self._fill(module, weights).items():
            self.sources[f"{name}.{key}"] = source
        for key, weight in weights.items():
            if weight.lost is not None:
                self.frozen[f"{name}.{key}"] = weight.lost
        *path, last = name.split(".")
        parent = self.root
        for atom in path:
            if atom not in parent._modules:
                parent.add_module(atom, nn.Module())
            parent = parent.get_submodule(atom)
        parent.add_module(last, module)
        return name

    def _fill(self, module: nn.Module, weights: Mapping[str, Constant]) -> dict[str, Source]:
        for key, _ in module.named_parameters():
            if key not in weights:
                raise InputError(f"its {key} is missing")
        sources = {}
        for key, constant in weights.items():
            slot = getattr(module, key)
            weight = constant.reshaped(tuple(slot.shape))
            is_parameter = isinstance(slot, nn.Parameter)
            setattr(module, key, self._parameter(weight) if is_parameter else self.read(weight).clone())
            if weight.source is not None:
                sources[key] = weight.source
        return sources

    def _parameter(self, weight: Constant) -> nn.Parameter:
        """Return one parameter for all layers that use the same stored tensor in the same layout."""
        tensor, source = weight.tensor.clone(memory_format=torch.contiguous_format), weight.source
        if source is None:  # without a place in the file, what it learned would be lost
            return nn.Parameter(tensor, requires_grad=False)
        layout = (source.steps, tensor.shape)
        return self._parameters[source.key].setdefault(
            layout, nn.Parameter(tensor, requires_grad=tensor.is_floating_point())
        )

    def _call(self, function: Callable[..., Any], args: tuple[Any, ...]) -> fx.Node:
        if self.images and function is not moved_to and images_in(args):
            return self.images.call(function, args, call_example(function, args))
        node = self.graph.call_function(function, args)
        node.meta["is_wrapped"] = is_own(function)
        return remember(node, call_example(function, args))

    def _node(self, value: Value) -> fx.Node:
        """Return a constant as a buffer."""
        if isinstance(value, fx.Node):
            return value
        if value not in self._buffers:
            name = self._names.unique(value.name.strip("/").replace("/", ".").replace(".", "_"))
            self.root.register_buffer(name, self.read(value).clone())
            if value.source is not None and not is_fake(value):
                self.sources[name] = value.source
            self._buffers[value] = remember(self.graph.get_attr(name), on_meta(value.tensor))
        return self._buffers[value]

    def _literal(self, leaf: Any) -> Any:
        if not isinstance(leaf, Constant):
            return leaf
        tensor: Tensor = self.read(leaf)
        if tensor.numel() > _LONGEST:
            raise InputError(f"a constant of {tensor.numel():,} entries meets what is made from shapes alone")
        node = self.graph.call_function(torch.tensor, (tensor.tolist(),), {"dtype": tensor.dtype})
        self._on_cpu.add(node)
        return remember(node, tensor)

    def _there(self, node: fx.Node) -> fx.Node:
        """Return ``node`` on the model's device, where the inputs of the file are."""
        return self._beside(node, next(iter(self.graph.nodes))) if node in self._on_cpu else node

    def _beside(self, leaf: Any, device_value: fx.Node) -> Any:
        if isinstance(leaf, fx.Node) and leaf in self._on_cpu:
            return self._call(moved_to, (leaf, device_value))
        return self._node(leaf) if isinstance(leaf, Constant) else leaf


def kept(x: Tensor, batch: int) -> Tensor:
    """Return ``x``, if it has as many rows as the file fixes."""
    if x.shape[0] != batch:
        raise InputError(
            f"the file fixes a batch of {batch} and cannot do without it, and {x.shape[0]} rows are given"
        )
    return x


def moved_to(value: Tensor, like: Tensor) -> Tensor:
    """Return ``value`` on the device of ``like``."""
    return value.to(like.device)

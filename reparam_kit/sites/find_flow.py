"""Dataflow by running an example: for models that cannot be traced, as a check of those that can, and to count work.

Hooks see modules, a function mode sees every call on a tensor between them, and a dispatch mode what runs in
compiled TorchScript. Outputs of layers are held weakly: one that is alive when the model has returned is kept
somewhere, for example as an output of the model.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only
from torch.utils.weak import WeakTensorKeyDictionary

from reparam_kit.algebra import LAYERS, Layer, geometry, is_metadata
from reparam_kit.errors import InputError, first_line
from reparam_kit.inputs import Inputs, arguments
from reparam_kit.sites.flow import CONVOLUTIONS, TRANSPOSED, WHOLE, Flow, owners, untouched

_OPERATORS = {torch.ops.aten.convolution.default, torch.ops.aten._convolution.default}
"""The operators that a convolution in TorchScript calls; the seventh argument says whether it is transposed."""


def observe(model: nn.Module, example_inputs: Inputs) -> Flow:
    """Run ``model`` once in eval mode and see where its layers run and who consumes their outputs.

    Args:
        model: any module; parameters, buffers, attributes, modes and random state are as before afterwards.
        example_inputs: a tensor, or a sequence of positional arguments.

    Raises:
        InputError: the model does not run on the example inputs.
    """
    try:
        with _alone(model):
            watch = _Watch(model)
            with watch.hooks(), _Operators(watch), _Functions(watch):
                result = model(*tree_map_only(Tensor, Tensor.clone, arguments(example_inputs)))
                flow = watch.settle()
                del result
    except Exception as error:  # the user's forward may raise anything
        raise InputError(
            f"the model does not run on the example inputs: {type(error).__name__}: {first_line(error)}"
        ) from error
    return flow


@contextmanager
def _alone(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients, compilation or warnings, leaving no trace."""
    with ExitStack() as stack:
        stack.enter_context(untouched(model))
        stack.enter_context(torch.no_grad())
        if "torch._dynamo" in sys.modules:  # nothing is compiled without it, and importing it takes seconds
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        yield


class _Watch:
    """Notes every call of a module, a function or an operator while the model runs."""

    def __init__(self, model: nn.Module) -> None:
        self.flow = Flow.of(model)
        self.modules = list(model.modules())
        self.owner = owners(model)
        self.names = {id(parameter): name for name, parameter in model.named_parameters()}
        self.outputs = WeakTensorKeyDictionary()
        self.consumers: dict[Layer, list[object]] = {layer: [] for layer in self.flow.calls}
        self.norm_calls: Counter[nn.Module] = Counter()
        self.macs: Counter[Layer] = Counter()
        self.positions: Counter[Layer] = Counter()
        self.within: list[object] = []

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Nearest to the consumer: after the user's own hooks on what goes in, before them on what comes out."""
        with ExitStack() as stack:
            for module in self.modules:
                if isinstance(module, WHOLE):
                    before = module.register_forward_pre_hook(self.enter, with_kwargs=True)
                    after = module.register_forward_hook(self.leave, prepend=True, always_call=True)
                    stack.callback(before.remove)
                    stack.callback(after.remove)
            yield

    def enter(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.consume(module, (args, kwargs))
        self.within.append(module)
        if isinstance(module, LAYERS):
            self.flow.calls[module] = (self.flow.calls[module] or 0) + 1
        elif isinstance(module, _BatchNorm):
            self.norm_calls[module] += 1

    def leave(self, module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        self.within.pop()
        if isinstance(module, LAYERS) and isinstance(output, Tensor):
            self.outputs[output] = module

    def call(self, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        layer = self.within[-1] if self.within else None
        self.consume(function, (args, kwargs))
        self.within.append(function)
        try:
            output = function(*args, **kwargs)
        finally:
            self.within.pop()
        if function in CONVOLUTIONS or function in _OPERATORS or function is F.linear:
            x, weight = _operands(*args, **kwargs)
            if isinstance(layer, LAYERS):
                transposed = function in TRANSPOSED or (function in _OPERATORS and args[6])
                self.macs[layer] += (x if transposed else output).numel() * weight[0].numel()
                self.positions[layer] += output.numel() // geometry(layer).out_channels
            elif layer is None and function is not F.linear:
                self.flow.add_functional(function.__name__.partition(".")[0], self.names.get(id(weight)))
        return output

    def consume(self, consumer: object, arguments: object) -> None:
        """Note who takes outputs and parameters of layers, where that is not within another consumer."""
        if is_metadata(consumer):
            return
        for leaf in tree_leaves(arguments):
            if isinstance(leaf, Tensor):
                owner = self.owner.get(id(leaf), ())
                if not any(module in self.within for module in owner):
                    self.flow.reads.update(owner)
            if isinstance(leaf, Tensor) and not self.within and leaf in self.outputs:
                self.consumers[self.outputs[leaf]].append(consumer)

    def settle(self) -> Flow:
        """Return what has been seen, while the model still holds what it keeps, and the caller its result."""
        kept = set(self.outputs.values())  # type: ignore[no-untyped-call]
        sole = {
            layer: consumers[0]
            for layer, consumers in self.consumers.items()
            if len(consumers) == 1 and isinstance(consumers[0], _BatchNorm) and layer not in kept
        }
        self.flow.claim(sole, self.norm_calls)
        self.flow.macs, self.flow.positions = self.macs, self.positions
        return self.flow


def _operands(input: Tensor, weight: Tensor, *rest: object, **options: object) -> tuple[Tensor, Tensor]:
    return input, weight


class _Functions(TorchFunctionMode):
    def __init__(self, watch: _Watch) -> None:
        super().__init__()
        self.watch = watch

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.watch.call(func, args, kwargs or {})


class _Operators(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self, watch: _Watch) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.watch = watch

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        return self.watch.call(func, args, kwargs or {})

"""What is trained of a student: the weights chosen, their statistics, and what else depends on them.

Trained are the parameters that require a gradient, that the choices keep, and that the embedding depends on.
All else stays as it is, byte for byte: a head that no loss reaches, and statistics of a BatchNorm that is not trained.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

import reparam_kit as rk
from recipes.faces import input_preset
from recipes.faces.embedding.signature import EmbeddingOf, read_signature
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.targets.task import Task
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError, evaluating

Model = TypeVar("Model", bound=nn.Module)

MEASURED = 64  # images on which is measured how far other outputs moved

_SEEN = 2  # images on which is seen what depends on what


def choose_trained(model: Model, views: Views, config: TSMRConfig) -> tuple[Model, tuple[str, ...]]:
    """Return a copy of ``model`` in which what is trained, and nothing else, requires a gradient; and the names of its
    other outputs that depend on that too.

    Raises:
        InputError: a pattern matches nothing; a weight to train is not float32; the model does not take the images, or
            its embedding cannot be told or depends on nothing that is trained.
    """
    student = rk.duplicate(model)
    rk.train_only(student, config.include, config.exclude)
    for name, parameter in student.named_parameters():
        if parameter.requires_grad and parameter.dtype != torch.float32:
            raise InputError(
                f"the student's weight {name} is {str(parameter.dtype).removeprefix('torch.')}, in which small steps "
                "of training are lost: convert the student to float32 and train that, or leave the weight out "
                "(exclude, --exclude)"
            )
    images = views.first(_SEEN)
    device = next(student.parameters()).device
    take = EmbeddingOf(read_signature(student), config.student_output, "the student", Task(config.task).maps)
    with evaluating(student), torch.enable_grad():
        outputs = run_named(student, take, input_preset(config.student_input).prepare(images.to(device)))
        name = take.choose(outputs, len(images))
        reached = _reached(student, outputs)
    for parameter in student.parameters():
        if parameter not in reached[name]:
            parameter.requires_grad_(False)
    if not reached[name]:
        raise InputError(
            "the student's embedding depends on no weight that is trained: there is nothing to train"
        )
    others = tuple(other for other in outputs if other != name and reached[other] & reached[name])
    return student, others


def run_named(model: nn.Module, take: EmbeddingOf, inputs: Tensor) -> dict[str, Tensor]:
    """Return every output of ``model`` by name. Raises InputError where it fails on ``inputs``."""
    try:
        return take.named(model(inputs))
    except RuntimeError as error:
        raise InputError(
            f"the student fails on images {list(inputs.shape)}: {rk.first_line(error)}"
        ) from error


def _reached(student: nn.Module, outputs: Mapping[str, Tensor]) -> dict[str, set[nn.Parameter]]:
    """Return the parameters that each output depends on: those that its gradient reaches, as in training."""
    found: dict[str, set[nn.Parameter]] = {}
    for name, output in outputs.items():
        student.zero_grad(set_to_none=True)
        if output.requires_grad:
            output.float().sum().backward(retain_graph=True)  # type: ignore[no-untyped-call]
        found[name] = {parameter for parameter in student.parameters() if parameter.grad is not None}
    student.zero_grad(set_to_none=True)
    return found


def changed_outputs(
    old: nn.Module, new: nn.Module, names: Sequence[str], images: Tensor, config: TSMRConfig
) -> dict[str, float]:
    """Return how far each of the outputs ``names`` moved on ``images`` ``[N, C, H, W]``: ``|new - old| / |old|``."""
    if not names:
        return {}
    preset = input_preset(config.student_input)
    take = EmbeddingOf(read_signature(old))

    def run(model: nn.Module) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        with evaluating(model), torch.no_grad():
            return run_named(model, take, preset.prepare(images.to(device)))

    before, after = run(old), run(new)
    return {name: _relative(before[name], after[name]) for name in names}


def _relative(old: Tensor, new: Tensor) -> float:
    before = old.cpu().double()  # MPS has no float64
    return float((new.cpu().double() - before).norm() / before.norm().clamp_min(1e-12))


def hold_statistics(student: nn.Module, inputs: Callable[[], Tensor]) -> None:
    """Put into eval mode, in ``student`` that is in train mode, what has statistics and is not trained.

    That is a layer with buffers all of whose parameters are frozen; and of those without parameters, a normalisation
    that no trained weight lies before, as a run on ``inputs()`` shows. Dropout and the like keep their mode.
    """
    plain: list[nn.Module] = []
    for module in student.modules():
        own = list(module.parameters(recurse=False))
        if own and next(module.children(), None) is None and any(True for _ in module.buffers(recurse=False)):
            module.training = any(parameter.requires_grad for parameter in own)
        elif isinstance(module, _NormBase) and module.running_mean is not None:
            plain.append(module)
    if plain:
        moving = _behind_trained(student, plain, inputs())
        for module in plain:
            module.training = module in moving


def _behind_trained(student: nn.Module, modules: Sequence[nn.Module], inputs: Tensor) -> set[nn.Module]:
    found: set[nn.Module] = set()

    def note(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        if args[0].requires_grad:
            found.add(module)

    hooks = [module.register_forward_pre_hook(note) for module in modules]
    try:
        with evaluating(student), torch.enable_grad():
            student(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    return found

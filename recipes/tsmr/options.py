"""The choices of a run: what a file says, with the options of the command line in the place of what they name."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import reparam_kit as rk
from recipes.faces.embedding.inputs import CHOICES
from recipes.tsmr.choices import TaskName
from recipes.tsmr.config import Ablation, TSMRConfig
from recipes.tsmr.parts import Augment
from recipes.tsmr.stages import LOSSES, REFINE, Stage

_PASSING = {"adversarial": REFINE.losses["adversarial"]}


def chosen(
    choices_file: Path | None,
    student_input: str | None,
    teacher_inputs: tuple[str, ...],
    teacher_outputs: tuple[str, ...],
    include: tuple[str, ...],
    exclude: tuple[str, ...],
    block: str | None,
    losses: tuple[str, ...],
    imports: tuple[Path, ...],
    epochs: int | None,
    refine_epochs: int | None,
    adversarial: float | None,
    margin: str | None,
    compiled: bool | None,
    augmented: bool,
    views: str | None,
    **choices: Any,
) -> TSMRConfig:
    """Return the choices of ``choices_file``, those of the command line in their place; an option that is None is not
    given.

    Files of ``imports`` are run first: losses that are named may be theirs.

    Raises:
        InputError: a file cannot be read or run, a choice cannot be used, or an input preset is chosen by neither.
    """
    for path in imports:
        rk.import_file(path)
    written = {} if choices_file is None else read_choices(choices_file)
    options = {"student_input": student_input, "teacher_input": teacher_inputs}
    if not all(value or name in written for name, value in options.items()):
        raise rk.InputError(
            "--student-input and --teacher-input are required and have no default: a wrong channel order or "
            f"normalisation costs accuracy without any error; choose from {CHOICES}"
        )
    try:
        config = TSMRConfig.from_json(written)
    except rk.InputError as error:
        raise rk.InputError(f"{choices_file}: {error}") from error
    changed = {name: value for name, value in choices.items() if value is not None}
    if student_input:
        changed["student_input"] = student_input
    if teacher_inputs:
        changed["teacher_input"] = teacher_inputs[0] if len(teacher_inputs) == 1 else teacher_inputs
    if teacher_outputs:
        changed["teacher_output"] = teacher_outputs[0] if len(teacher_outputs) == 1 else teacher_outputs
    changed |= {name: value for name, value in {"include": include, "exclude": exclude}.items() if value}
    if block is not None:
        changed["block"] = None if block == "plain" else block
    if compiled is not None:
        changed["compile"] = compiled
    if views is not None:
        changed["views"] = int(views) if views.isdecimal() else views
    if augmented:
        changed["augment"] = Augment(crop=0.2, colour=0.2, low_resolution=0.2, occlusion=0.1)
    if margin is not None:
        changed["margin"] = {**asdict(config.margin), "kind": margin}
    config, weights = replace(config, **changed), _weights(losses)
    if config.stages is None and not weights and refine_epochs is None and adversarial is None:
        return (
            config if epochs is None else replace(config, epochs=epochs)
        )  # of stages that depend on the task
    made: dict[str, Any] = {"stages": _stages(_weighted(config, weights), epochs, refine_epochs, adversarial)}
    return replace(config, **made, epochs=None)


def ablation(compared: bool, seeds: int | None, rates: tuple[float, ...]) -> Ablation | None:
    """Give the choices of ``--compare``, or None where it is not given.

    Raises:
        InputError: a rate cannot be used, or one of the others is given without it.
    """
    if compared:
        return Ablation(tuple(range(seeds or 3)), rates or None)
    if rates or seeds is not None:
        raise rk.InputError("--seeds and --rate are of the arms of --compare, which is not given")
    return None


def read_choices(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        InputError: it cannot be read, is not JSON by the letter (a name twice, NaN, a comment), or no object.
    """
    try:
        values = json.loads(
            rk.require_file(path, "a JSON file of choices").read_bytes(),
            object_pairs_hook=_once,
            parse_constant=_no_number,
        )
    except (OSError, ValueError, RecursionError) as error:
        raise rk.InputError(f"{path} is no JSON that can be read: {rk.first_line(error)}") from error
    if not isinstance(values, dict):
        raise rk.InputError(f"{path} holds no JSON object of choices, {{name: value}}, as --json prints one")
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for name, value in pairs:
        if name in values:
            raise ValueError(f"{name!r} stands in it twice")
        values[name] = value
    return values


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no number of JSON")


def minutes(text: str) -> float:
    """Read a time such as ``45m``. Raises InputError for anything else."""
    number, unit = text[:-1], text[-1:]
    try:
        return float(number) * {"s": 1 / 60, "m": 1, "h": 60}[unit]
    except (ValueError, KeyError):
        raise rk.InputError(
            f"--budget {text}: a time is a number and s, m or h, such as 90s, 45m or 8h"
        ) from None


def _weights(losses: Sequence[str]) -> dict[str, float]:
    weights: dict[str, float] = {}
    for text in losses:
        name, given, weight = text.partition("=")
        try:
            _ = LOSSES[name]
        except rk.InputError as error:
            raise rk.InputError(f"--loss {text}: {error}") from error
        if name in weights:
            raise rk.InputError(f"--loss {text}: {name} has a weight already; give one")
        try:
            weights[name] = float(weight) if given else 1.0
        except ValueError:
            raise rk.InputError(f"--loss {text}: {weight!r} is no number") from None
    return weights


def _weighted(config: TSMRConfig, weights: dict[str, float]) -> list[dict[str, Any]]:
    """Return the stages of ``config`` with other weights; in usual ones, the losses of the first give way to those
    named.
    """
    if config.task == "auto" and config.stages is None:
        config = replace(config, task=_told(weights))
    stages = config.plan.stages or (Stage(losses=weights),)  # of maps none are usual
    given_up = stages[0].losses.keys() if weights and config.stages is None else ()
    return [
        {
            "epochs": stage.epochs,
            "rate": stage.rate,
            "losses": {name: weight for name, weight in stage.losses.items() if name not in given_up}
            | weights,
        }
        for stage in stages
    ]


def _told(losses: Iterable[str]) -> TaskName:
    """Return the task that one of ``losses`` is for."""
    return next((task for name in losses if (task := LOSSES[name].task)), "embeddings")


def _stages(
    stages: list[dict[str, Any]], epochs: int | None, refine_epochs: int | None, adversarial: float | None
) -> list[dict[str, Any]]:
    """Return ``stages`` with the first's ``epochs``; the second, made of the first where there is none, with the
    others.
    """
    if epochs is not None:
        stages[0]["epochs"] = epochs
    if refine_epochs is None and adversarial is None:
        return stages
    if len(stages) > 2:
        raise rk.InputError(
            f"--refine-epochs and --adversarial are of the second of two stages; the file has {len(stages)}: "
            "change them there"
        )
    if refine_epochs == 0 or (refine_epochs is None and len(stages) == 1):
        if adversarial is not None:
            raise rk.InputError(
                "--adversarial is of the second stage, and there is none: give --refine-epochs"
            )
        return stages[:1]
    first = stages[0]
    last = (
        stages[1]
        if len(stages) == 2
        else first | {"rate": first["rate"] * REFINE.rate, "losses": first["losses"] | _PASSING}
    )
    if refine_epochs is not None:
        last["epochs"] = refine_epochs
    if adversarial is not None:
        last["losses"] = last["losses"] | {"adversarial": adversarial}
    return [first, last]


def judged(val: Sequence[Path], people: Path | None, impostors: Path | None) -> list[str] | None:
    """Return what judges a run, the first deciding: ``people``, then ``val``; ``impostors`` belong to the people among
    them.

    Raises:
        InputError: there are impostors, and no people.
    """
    named = [f"people:{people}"] * (people is not None) + [str(path) for path in val]
    of_people = [name for name in named if name.startswith("people:")]
    if impostors is not None and not of_people:
        raise rk.InputError("--impostors sets thresholds for the faces of --val-people, which is not given")
    return [f"{name},{impostors}" if impostors and name in of_people else name for name in named] or None

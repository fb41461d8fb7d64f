"""The choices of a run: what a file and --set say, with options in the place of what they name."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import reparam_kit as rk
from recipes.faces.embedding.inputs import CHOICES
from recipes.tsmr.choices import MarginKind, TaskName
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.parts import Ablation
from recipes.tsmr.stages import LOSSES, REFINE, Stage
from recipes.tsmr.told import Told

_AUGMENTED = {"crop": 0.2, "colour": 0.2, "low_resolution": 0.2, "occlusion": 0.1}
_PASSING = {"adversarial": REFINE.losses["adversarial"]}


def chosen(
    told: Told,
    losses: tuple[str, ...],
    epochs: int | None,
    refine_epochs: int | None,
    adversarial: float | None,
    margin_kind: MarginKind | None,
    augmented: bool | None,
    views: str | None,
    **choices: Any,
) -> TSMRConfig:
    """Return the choices that were ``told``, those of the command line in their place; an option that is None, or an
    empty tuple, is not given.

    Raises:
        InputError: a choice cannot be used, or an input preset is chosen by neither.
    """
    changed = {name: one_or_all(value) for name, value in choices.items() if value not in (None, ())}
    if not all(name in changed or told.says(name) for name in ("student_input", "teacher_input")):
        raise rk.InputError(
            "--student-input and --teacher-input are required and have no default: a wrong channel order or "
            f"normalisation costs accuracy without any error; choose from {CHOICES}"
        )
    config = told.config(choices.get("task"))
    changed |= {name: choices[name] for name in ("include", "exclude") if choices.get(name)}
    if views is not None:
        changed["views"] = int(views) if views.isdecimal() else views
    if augmented is not None:
        changed["augment"] = replace(
            config.augment, **{name: share * augmented for name, share in _AUGMENTED.items()}
        )
    if margin_kind is not None:
        changed["margin"] = replace(config.margin, kind=margin_kind)
    config, weights = replace(config, **changed), _weights(losses)
    if config.stages is None and not weights and refine_epochs is None and adversarial is None:
        # The stages depend on the task, which is not known yet.
        return config if epochs is None else replace(config, epochs=epochs)
    made: dict[str, Any] = {"stages": _stages(_weighted(config, weights), epochs, refine_epochs, adversarial)}
    return replace(config, **made, epochs=None)


def one_or_all(value: Any) -> Any:
    """Return the only item of a tuple that has one; all else as it is."""
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value


def ablation(
    told: Ablation | None, compared: bool | None, seeds: int | None, rates: tuple[float, ...]
) -> Ablation | None:
    """Give the choices of ``--compare``, in the place of those that were ``told``; None where it is not given.

    Raises:
        InputError: a rate cannot be used, or one of the others is given without it.
    """
    if compared or (told is not None and compared is None):
        told = told or Ablation()
        seeded = told.seeds if seeds is None else tuple(range(seeds))
        return Ablation(seeded, rates or told.rates)
    if rates or seeds is not None:
        raise rk.InputError("--seeds and --rate are of the arms of --compare, which is not given")
    return None


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

"""What was found for the choices that a run left open, and the file in which the next run finds it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from recipes.tsmr.candidates import CANDIDATES, Hyperparameters
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.results import Trial
from recipes.tsmr.targets.identity import made_folder
from reparam_kit import atomic_file, fingerprint

NAME = "search.json"

_OTHER_RUN = {"seed", "budget", "val"}  # what another run may differ in, and start with the same choices


@dataclass(frozen=True)
class Found:
    """Choices that a run left open.

    Attributes:
        images: how many of them are trained on; None: not known.
        shares: of the way that are judged; None: as ``TSMRConfig`` has them.
        choices: those of the candidate that did best; None where none were tried.
        epochs: of the first stage, and
        steps: in each epoch; None: as ``TSMRConfig`` has them.
        trials: by which the choices were made.
    """

    images: int | None = None
    shares: tuple[float, ...] | None = None
    choices: Hyperparameters | None = None
    epochs: int | None = None
    steps: int | None = None
    trials: tuple[Trial, ...] = ()

    def settle(self, config: TSMRConfig) -> TSMRConfig:
        """Return ``config`` with them."""
        if self.choices is not None:
            config = self.choices.settle(config)
        if self.shares is not None:
            config = replace(config, shares=self.shares)
        if self.steps is None:
            return config
        first, *others = config.plan.stages
        first = replace(first, epochs=self.epochs or first.epochs)
        return replace(config, stages=(first, *others), epochs=None, steps=self.steps)


def read_found(folder: Path | None, origin: Mapping[str, Any]) -> Found:
    """Return what is in ``folder`` of the run ``origin``, or of one that differs in seed, budget or judges alone: of
    that, the choices. A file that cannot be read is as none: what it held is found anew.
    """
    if folder is None:
        return Found()
    try:
        held = json.loads((folder / NAME).read_bytes())
        found = dict(held["found"])
        if held["checksum"] != fingerprint([held["run"], held["search"], json.dumps(found)]):
            return Found()
        choices = found["choices"] and CANDIDATES[CANDIDATES.index(Hyperparameters(**found["choices"]))]
        trials = tuple(
            Trial(**{**one, "choices": Hyperparameters(**one["choices"])}) for one in found["trials"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return Found()
    if held["run"] == _run(origin):
        shares = found.get("shares")
        return Found(**{**found, "shares": shares and tuple(shares), "choices": choices, "trials": trials})
    return Found(choices=choices, trials=trials) if held["search"] == _search(origin) else Found()


def write_found(folder: Path | None, origin: Mapping[str, Any], found: Found) -> None:
    """Keep it in ``folder``, for the next run."""
    if folder is None:
        return
    held = {"run": _run(origin), "search": _search(origin), "found": asdict(found)}
    checksum = fingerprint([held["run"], held["search"], json.dumps(held["found"])])
    with atomic_file(made_folder(folder) / NAME) as file:
        file.write(json.dumps({**held, "checksum": checksum}, indent=1).encode())


def _run(origin: Mapping[str, Any]) -> str:
    return fingerprint(json.dumps(dict(origin), sort_keys=True, default=list))


def _search(origin: Mapping[str, Any]) -> str:
    return _run({name: value for name, value in origin.items() if name not in _OTHER_RUN})

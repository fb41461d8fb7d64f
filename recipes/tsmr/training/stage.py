"""One stage of a run: what is trained in it, by which optimizer, and its steps."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.objective.discriminator import Game
from recipes.tsmr.objective.objective import Objective
from recipes.tsmr.targets.examples import Examples
from recipes.tsmr.training.schedule import decay_groups
from recipes.tsmr.training.step import Step
from recipes.tsmr.training.trained import hold_statistics

Shown = tuple[Tensor, Tensor, Tensor]  # images, index, mirrored


@dataclass
class Means:
    """Running means of the loss terms: over an epoch, and since they were last read."""

    steps: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, terms: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, term in terms.items():
            self.sums[name] = self.sums.get(name, 0) + term.detach()

    def read(self) -> dict[str, float]:
        return {name: float(total) / self.steps for name, total in self.sums.items()}


class StageRun:
    """Stage ``number`` of ``config``, from 0: its terms, its optimizer, its adversary, and the steps that they take.

    Args:
        number: which stage.
        student: the net, on the device that is trained on. It is put into train mode.
        average: the running average of its weights, if any.
        objective: turn and terms, which are those of this stage from now on.
        examples: images, targets and labels.
        config: the choices of the run.
        processes: those that train together.
    """

    def __init__(
        self,
        number: int,
        student: nn.Module,
        average: AveragedModel | None,
        objective: Objective,
        examples: Examples,
        config: TSMRConfig,
        processes: Processes,
    ) -> None:
        self.number = number
        self.stage = config.stages[number]
        self._student = student
        self._average = average
        self._objective = objective
        self._examples = examples
        self._config = config
        objective.begin(self.stage)
        turn = objective.turn
        self.game = Game(turn.shape[1], turn.device, config.adversary) if self.stage.adversarial else None
        step = Step(student, objective, config, processes)
        self._parameters = [p for p in step.parameters() if p.requires_grad]
        self._device = self._parameters[0].device
        self._optimizer = torch.optim.AdamW(decay_groups(self._parameters, config.weight_decay), fused=True)
        self._step = DistributedDataParallel(step) if processes.count > 1 else step
        self._step.train()
        hold_statistics(student, lambda: step.preset(examples.views[0, False][0][None].to(self._device)))

    @property
    def parts(self) -> dict[str, torch.optim.Optimizer | Game]:
        """What it has beside student and objective that the next step depends on."""
        adversary = {} if self.game is None else {"game": self.game}
        return {"optimizer": self._optimizer, **adversary}

    def take_step(
        self, batches: Iterator[Shown], rate: float, done: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One step at learning rate ``rate``, when the share ``done`` of the stage is over.

        Returns the terms, without their weights, and the norm that the gradient had.
        """
        self._optimizer.zero_grad()
        terms = self._gradients(batches, done)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._student)
        return terms, norm

    def _gradients(self, batches: Iterator[Shown], done: float) -> dict[str, Tensor]:
        """Leave the gradients of one step in the parameters; returns the terms."""
        means = Means()
        for part in range(self._config.accumulate):
            images, index, mirrored = next(batches)
            teacher, labels, old = self._examples.known(index, mirrored)
            inputs = [images, teacher, labels, old]
            inputs = [
                None if value is None else value.to(self._device, non_blocking=True) for value in inputs
            ]
            last = part == self._config.accumulate - 1
            waiting = (
                self._step.no_sync() if isinstance(self._step, DistributedDataParallel) and not last else None
            )
            with waiting or nullcontext():
                terms, ours, theirs = self._step(*inputs)
                weights: dict[str, float | Tensor] = {**self._objective.weights}
                if self.game is not None:
                    terms["adversarial"] = self.game.loss(ours)
                    weights["adversarial"] = self.stage.adversarial * self.game.weight(done)
                loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
                (loss / self._config.accumulate).backward()  # type: ignore[no-untyped-call]
            if self.game is not None:
                self.game.play(ours, theirs)
            means.add(terms)
        return {name: total / means.steps for name, total in means.sums.items()}

"""One stage of a run: what is trained in it, by which optimizer, and its steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.objective.objective import Objective
from recipes.tsmr.targets.examples import Examples
from recipes.tsmr.targets.showing import Shown
from recipes.tsmr.training.schedule import decay_groups
from recipes.tsmr.training.step import Step
from recipes.tsmr.training.trained import hold_statistics
from reparam_kit import composed


@dataclass
class Means:
    """Running means of the losses: over an epoch, and since they were last read."""

    steps: int = 0
    sums: dict[str, Tensor] = field(default_factory=dict)

    def add(self, losses: dict[str, Tensor]) -> None:
        self.steps += 1
        for name, loss in losses.items():
            self.sums[name] = self.sums.get(name, 0) + loss.detach()

    def read(self) -> dict[str, float]:
        return {name: float(total) / self.steps for name, total in self.sums.items()}


class StageRun:
    """Stage ``number`` of ``config``, from 0: its losses, its optimizer, and the steps that they take.

    Args:
        number: which stage.
        student: the net, on the device that is trained on. It is put into train mode.
        average: the running average of its weights, if any.
        objective: the losses, which are those of this stage from now on.
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
        self.stage = config.plan.stages[number]
        self._student = student
        self._average = average
        self._objective = objective
        self._examples = examples
        self._config = config
        objective.begin(self.stage)
        step = Step(student, objective, config, processes)
        self._parameters = [p for p in step.parameters() if p.requires_grad]
        self._device = self._parameters[0].device
        self._optimizer = torch.optim.AdamW(decay_groups(self._parameters, config.weight_decay), fused=True)
        self._processes = processes
        student.train()  # and not the losses, which may hold a net in eval mode
        self._step = step
        processes.align(step)
        hold_statistics(
            student, lambda: step.preset.prepare(examples.views[0, False][0][None].to(self._device))
        )

    @property
    def parts(self) -> dict[str, torch.optim.Optimizer]:
        """What it has beside student and objective that the next step depends on."""
        return {"optimizer": self._optimizer}

    def take_step(
        self, batches: Iterator[tuple[Shown, ...]], rate: float, done: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Return one step at learning rate ``rate``, when the share ``done`` of the stage is over.

        Returns the losses, without their weights, and the norm that the gradient had.
        """
        self._optimizer.zero_grad()
        with composed(self._student):
            losses = self._gradients(batches, done)
        norm = nn.utils.clip_grad_norm_(self._parameters, self._config.clip)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._optimizer.step()
        if self._average is not None:
            self._average.update_parameters(self._student)
        return losses, norm

    def _gradients(self, batches: Iterator[tuple[Shown, ...]], done: float) -> dict[str, Tensor]:
        """Leave the gradients of one step in the parameters; returns the losses."""
        means = Means()
        for _ in range(self._config.accumulate):
            shown, *others = [view.to(self._device) for view in next(batches)]
            known = {
                name: _sent(rows, self._device) for name, rows in self._examples.known(shown, *others).items()
            }
            losses, batch = self._step(shown.images, known)
            loss = self._objective.total(losses, done)
            (loss / self._config.accumulate).backward()  # type: ignore[no-untyped-call]
            self._objective.after_step(batch.detach())
            means.add(losses)
        self._processes.average_gradients(self._parameters)
        return {name: total / means.steps for name, total in means.sums.items()}


def _sent(rows: Tensor, device: torch.device) -> Tensor:
    """Return ``rows`` on ``device``: by way of pinned memory to a GPU, which of other memory would be waited for."""
    waits = device.type == "cuda" and not rows.is_cuda
    return (rows.pin_memory() if waits else rows).to(device, non_blocking=True)

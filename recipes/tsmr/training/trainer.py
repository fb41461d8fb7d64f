"""The training loop: AdamW with warm-up and a cosine schedule in each stage, one epoch at a time.

Everything random in an epoch is seeded by its number, and the learning rate is a function of the step. So
what a run can go on from is the weights and the optimizers' moments after an epoch; there is no state of
generators or schedulers to carry along, and an epoch that was cut off is trained again, to the same end.

The student trains in train mode, BatchNorm layers included, as is usual in fine-tuning: they normalise by the
batch and their running statistics move to those of the training images. Those of a BatchNorm that is not trained
stay, see ``hold_statistics``. Deployed ONNX files seldom have any left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.objective.loss import SECOND
from recipes.tsmr.objective.objective import Objective
from recipes.tsmr.results import Point, StepReport
from recipes.tsmr.targets.examples import Examples
from recipes.tsmr.targets.showing import Shown, mixed_seed
from recipes.tsmr.training.callbacks import Callback
from recipes.tsmr.training.schedule import RunningAverage, schedule
from recipes.tsmr.training.stage import Means, StageRun
from reparam_kit import ReparamError

_POINTS = 50  # of the curve in an epoch, at most
# Steps between them, at least: reading losses waits for the device, and so does following the map.
_POINT_STEPS = 16


class DivergedError(ReparamError):
    """Training went where no number is finite."""


class Trainer:
    """Trains ``student`` with ``objective``, in place, through the stages of ``config``.

    Args:
        student: the net, on the device that is trained on.
        objective: the losses, on the same device.
        examples: images, targets and labels.
        config: the choices of the run.
        processes: those that train together.
    """

    def __init__(
        self,
        student: nn.Module,
        objective: Objective,
        examples: Examples,
        config: TSMRConfig,
        processes: Processes,
    ) -> None:
        self.student = student
        self.objective = objective
        self.examples = examples
        self.config = config
        self.processes = processes
        self.average = RunningAverage(student, config.ema) if config.ema else None
        if config.compile:
            student.compile()
        self.curve: list[Point] = []
        self._stage: StageRun | None = None

    @property
    def trained(self) -> nn.Module:
        """The student as it is judged: the running average of its weights, or itself."""
        return self.student if self.average is None else self.average.module

    def begin(self, number: int) -> StageRun:
        """Set up stage ``number``, from 0, of which the next steps are."""
        self._stage = StageRun(
            number, self.student, self.average, self.objective, self.examples, self.config, self.processes
        )
        return self._stage

    def run_epoch(self, epoch: int, callback: Callback) -> tuple[dict[str, float], float]:
        """Train one epoch, the first of the first stage being 1. Returns the mean of each loss, and images
        trained on a second, in all processes together.

        Raises:
            DivergedError: the gradient is no longer finite.
        """
        config, plan = self.config, self.config.plan
        seed = mixed_seed(config.seed, epoch)
        torch.manual_seed(seed)
        number, nth = config.place(epoch)
        current = (
            self._stage if self._stage is not None and self._stage.number == number else self.begin(number)
        )
        self.objective.seed(seed)
        size = config.images_of_step(self.processes.count)
        steps = config.steps or len(self.examples.showing) // size
        every = max(_POINT_STEPS, -(-steps // _POINTS))
        batches = self._batches(epoch)
        whole, recent = Means(), Means()
        start = time.perf_counter()
        for step in range(1, steps + 1):
            at, of = steps * nth + step, steps * current.stage.epochs
            rate = plan.lr * current.stage.rate * schedule(at, of, config.warmup)
            losses, norm = current.take_step(batches, rate, at / of)
            for means in (whole, recent):
                means.add(losses)
            point = None
            if step % every == 0 or step == steps:
                if not norm.isfinite():
                    raise DivergedError(
                        f"the gradient is no longer finite in epoch {epoch} at step {step} of {steps}: "
                        f"lower lr={plan.lr:g}, or check student_input={config.student_input!r}"
                    )
                self.objective.turn.follow()
                figures = self.objective.figures()
                point = Point(steps * (epoch - 1) + step, number + 1, rate, recent.read(), figures)
                self.curve.append(point)
                recent = Means()
            report = StepReport(epoch, step, steps, size, time.perf_counter() - start, rate, losses, point)
            callback.step(report)
        return whole.read(), steps * size / (time.perf_counter() - start)

    def _batches(self, epoch: int) -> Iterator[tuple[Shown, ...]]:
        """Yield this process's batches of an epoch, in two views where a loss of the stage asks for a second one."""
        config = self.config
        return self.examples.showing.epoch(
            epoch,
            config.plan.batch_size,
            config.workers,
            processes=self.processes,
            views=2 if self.objective.needs & SECOND else 1,
            batches=config.steps and config.steps * config.accumulate,
            partners=self.examples.partners if self.objective.paired else None,
            pin_memory=next(self.student.parameters()).is_cuda,
        )

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, and the curve so far."""
        current = self._stage or self.begin(0)
        states = {name: part.state_dict() for name, part in self._parts(current).items()}
        return {"stage": current.number, "parts": states, "curve": [vars(point) for point in self.curve]}

    def load_state_dict(self, state: dict[str, Any], epochs: int) -> None:
        """Go on from what ``state_dict`` gave after ``epochs``. ValueError: it was given after others."""
        if state["stage"] != self.config.place(epochs)[0]:
            raise ValueError(f"epoch {epochs} is not in stage {state['stage'] + 1}")
        parts = self._parts(self.begin(state["stage"]))
        if state["parts"].keys() != parts.keys():
            raise ValueError(f"it is of {', '.join(state['parts'])}, and not of {', '.join(parts)}")
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        device = next(self.student.parameters()).device
        self.objective.to(device)  # what a loss had not made before its first step
        self.curve = [Point(**point) for point in state["curve"]]

    def _parts(self, current: StageRun) -> dict[str, Any]:
        average = {} if self.average is None else {"average": self.average}
        return {"student": self.student, "objective": self.objective, **average, **current.parts}

"""The training loop: AdamW with warm-up and a cosine schedule in each stage, one epoch at a time.

Everything random in an epoch is seeded by its number, and the learning rate is a function of the step. So
what a run can go on from is the weights and the optimizers' moments after an epoch; there is no state of
generators or schedulers to carry along, and an epoch that was cut off is trained again, to the same end.

The student trains in train mode, BatchNorm layers included, as is usual in fine-tuning: they normalise by the
batch and their running statistics move to those of the training images. Those of a BatchNorm that is not trained
stay, see ``hold_statistics``. Deployed ONNX files seldom have any left.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.objective.discriminator import Game
from recipes.tsmr.objective.objective import Objective
from recipes.tsmr.progress import Progress, Task
from recipes.tsmr.results import Point
from recipes.tsmr.targets.examples import Examples
from recipes.tsmr.targets.views import Changes, epoch_order
from recipes.tsmr.training.schedule import decay_groups, running_average, schedule
from recipes.tsmr.training.step import Step
from recipes.tsmr.training.trained import hold_statistics
from reparam_kit import ReparamError

Shown = tuple[Tensor, Tensor, Tensor]  # images, index, mirrored

_POINTS = 50  # of the curve in an epoch, at most
_POINT_STEPS = 16  # between them, at least; reading the losses waits for the device, and so does the turn


class DivergedError(ReparamError):
    """Training went where no number is finite."""


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


class Trainer:
    """Trains ``student`` with ``objective``, in place, through the stages of ``config``.

    Args:
        student: the net, on the device that is trained on.
        objective: turn and terms, on the same device.
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
        self.average = running_average(student, config.ema) if config.ema else None
        if config.compile:
            student.compile()
        self.curve: list[Point] = []
        self._number = -1

    @property
    def trained(self) -> nn.Module:
        """The student as it is judged: the running average of its weights, or itself."""
        return self.student if self.average is None else self.average.module

    def begin(self, number: int) -> None:
        """Set up stage ``number``, from 0: its terms, its optimizer, its adversary."""
        config = self.config
        self._number = number
        stage = config.stages[number]
        self.objective.begin(stage)
        turn = self.objective.turn
        self.game = Game(turn.shape[1], turn.device, config.adversary) if stage.adversarial else None
        self.step = Step(self.student, self.objective, config, self.processes)
        self.parameters = [p for p in self.step.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(decay_groups(self.parameters, config.weight_decay), fused=True)
        self.run = DistributedDataParallel(self.step) if self.processes.count > 1 else self.step
        self.run.train()
        hold_statistics(self.student, self._first_image)

    def _first_image(self) -> Tensor:
        image = self.examples.views[0, False][0]
        return self.step.preset(image[None].to(self.parameters[0].device))

    def run_epoch(self, epoch: int, progress: Progress) -> tuple[dict[str, float], float]:
        """Train one epoch, the first of the first stage being 1. Returns the mean of each loss term, and images
        trained on a second, in all processes together.

        Raises:
            DivergedError: the gradient is no longer finite.
        """
        config = self.config
        seed = (config.seed * 1_000_003 + epoch) % 2**63
        torch.manual_seed(seed)
        number, nth = config.place(epoch)
        if number != self._number:
            self.begin(number)
        stage = config.stages[number]
        self.objective.seed(seed)
        size = config.batch_size * config.accumulate * self.processes.count
        steps = len(self.examples.views) // size
        every = max(_POINT_STEPS, -(-steps // _POINTS))
        batches = self._batches(seed)
        whole, recent = Means(), Means()
        with progress.task(f"epoch {epoch}/{config.epochs}", steps * size) as task:
            for step in range(1, steps + 1):
                at, of = steps * nth + step, steps * stage.epochs
                rate = config.lr * stage.rate * schedule(at, of, config.warmup)
                terms, norm = self.take_step(batches, rate, at / of)
                for means in (whole, recent):
                    means.add(terms)
                if step % every == 0 or step == steps:
                    if not norm.isfinite():
                        raise DivergedError(
                            f"the gradient is no longer finite in epoch {epoch} at step {step} of {steps}: "
                            f"lower lr={config.lr:g}, or check student_input={config.student_input!r}"
                        )
                    self.objective.follow()
                    self._note(steps * (epoch - 1) + step, rate, whole, recent, task)
                    recent = Means()
                task.advance(size)
        return whole.read(), task.rate

    def _batches(self, seed: int) -> Iterator[Shown]:
        """This process's batches of an epoch."""
        config, views = self.config, self.examples.views
        order = self.processes.share(epoch_order(len(views), config.flip, seed), config.batch_size)
        changes = Changes.of(config.augment, seed)
        return iter(views.batches(order, config.batch_size, config.workers, drop_last=True, changes=changes))

    def take_step(
        self, batches: Iterator[Shown], rate: float, done: float
    ) -> tuple[dict[str, Tensor], Tensor]:
        """One step at learning rate ``rate``, when the share ``done`` of the stage is over.

        Returns the terms, without their weights, and the norm that the gradient had.
        """
        self.optimizer.zero_grad()
        terms = self._gradients(batches, done)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.config.clip)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.student)
        return terms, norm

    def _gradients(self, batches: Iterator[Shown], done: float) -> dict[str, Tensor]:
        """Leave the gradients of one step in the parameters; returns the terms."""
        stage = self.config.stages[self._number]
        device = self.parameters[0].device
        means = Means()
        for part in range(self.config.accumulate):
            images, index, mirrored = next(batches)
            teacher, labels, old = self.examples.known(index, mirrored)
            inputs = [images, teacher, labels, old]
            inputs = [None if value is None else value.to(device, non_blocking=True) for value in inputs]
            last = part == self.config.accumulate - 1
            waiting = (
                self.run.no_sync() if isinstance(self.run, DistributedDataParallel) and not last else None
            )
            with waiting or nullcontext():
                terms, ours, theirs = self.run(*inputs)
                weights: dict[str, float | Tensor] = {**self.objective.weights}
                if self.game is not None:
                    terms["adversarial"] = self.game.loss(ours)
                    weights["adversarial"] = stage.adversarial * self.game.weight(done)
                loss = torch.stack([weights[name] * term for name, term in terms.items()]).sum()
                (loss / self.config.accumulate).backward()  # type: ignore[no-untyped-call]
            if self.game is not None:
                self.game.play(ours, theirs)
            means.add(terms)
        return {name: total / means.steps for name, total in means.sums.items()}

    def _note(self, step: int, rate: float, whole: Means, recent: Means, task: Task) -> None:
        """A point of the curve, and the line that the user sees."""
        accuracy = None if self.game is None else float(self.game.accuracy)
        self.curve.append(Point(step, self._number + 1, rate, recent.read(), accuracy))
        note = ", ".join(f"{name} {value:.4f}" for name, value in whole.read().items())
        if accuracy is not None:
            note += f", discriminator {accuracy:.2f}"
        task.advance(0, f"{note}, lr {rate:.1e}")

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next epoch depends on, and the curve so far."""
        states = {name: part.state_dict() for name, part in self._parts().items()}
        return {"stage": self._number, "parts": states, "curve": [vars(point) for point in self.curve]}

    def load_state_dict(self, state: dict[str, Any], epochs: int) -> None:
        """Go on from what ``state_dict`` gave after ``epochs``. ValueError: it was given after others."""
        if state["stage"] != self.config.place(epochs)[0]:
            raise ValueError(f"epoch {epochs} is not in stage {state['stage'] + 1}")
        self.begin(state["stage"])
        parts = self._parts()
        if state["parts"].keys() != parts.keys():
            raise ValueError(f"it is of {', '.join(state['parts'])}, and not of {', '.join(parts)}")
        for name, part in parts.items():
            part.load_state_dict(state["parts"][name])
        self.curve = [Point(**point) for point in state["curve"]]

    def _parts(self) -> dict[str, Any]:
        names = ("student", "objective", "optimizer", "average", "game")
        return {name: getattr(self, name) for name in names if getattr(self, name) is not None}

"""One forward pass of training, from images to losses, as one module."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from typing import cast

import torch
from torch import Tensor, nn

from recipes.faces import input_preset
from recipes.faces.embedding.signature import EmbeddingOf, read_signature
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.objective.attack import perturb
from recipes.tsmr.objective.earlier import Earlier
from recipes.tsmr.objective.embeddings import distances
from recipes.tsmr.objective.loss import Batch
from recipes.tsmr.objective.objective import Objective
from recipes.tsmr.targets.task import Task
from recipes.tsmr.training.statistics import SharedStatistics
from reparam_kit import evaluating


class Step(nn.Module):
    """``step(images, known)`` is the losses of the stage, and the batch that they are of: that of all processes.

    Args:
        student: images to embeddings.
        objective: the losses, and the map that they see the student through.
        config: input preset, embedding, precision and attack.
        processes: those that train together.
    """

    def __init__(
        self, student: nn.Module, objective: Objective, config: TSMRConfig, processes: Processes
    ) -> None:
        super().__init__()
        self.student = student
        self.objective = objective
        self.preset = input_preset(config.student_input)
        self.task = Task(config.task)
        self.embedding_of = EmbeddingOf(
            read_signature(student), config.student_output, "the student", self.task.maps
        )
        self.config = config
        self.processes = processes

    def forward(self, images: Tensor, known: dict[str, Tensor]) -> tuple[dict[str, Tensor], Batch]:
        """See the class.

        Args:
            images: ``[N, C, H, W]``, uint8 or already normalised.
            known: of these images, see ``recipes.tsmr.targets.examples.Examples.known``.
        """
        gather, turn, earlier = self.processes.gather, self.objective.turn, self.objective.earlier
        student = gather(self._embed(images))
        teacher = gather(known["teacher"])
        turn.observe(student, teacher)
        makers: dict[str, Callable[[], Tensor]] = {
            "teacher": lambda: teacher,
            "mapped": lambda: turn.map(student),
            "target": lambda: turn.unmap(teacher),
            "labels": lambda: gather(known["labels"]),
            "old": lambda: gather(known["old"]).view_as(student),
            "index": lambda: gather(known["index"]),
            "earlier_index": lambda: cast("Earlier", earlier).index,
            "earlier_student": lambda: cast("Earlier", earlier).student,
            "earlier_teacher": lambda: cast("Earlier", earlier).teacher,
            "perturbed": lambda: turn.map(gather(self._perturbed(images, known["teacher"]))),
            "second": lambda: gather(self._embed(known["second"])),
            "second_teacher": lambda: gather(known["second_teacher"]),
        }
        batch = Batch(student, **{need: makers[need]() for need in sorted(self.objective.needs)})
        return self.objective(batch), batch

    def _perturbed(self, images: Tensor, teacher: Tensor) -> Tensor:
        """Return the student's embeddings of images that were changed to where it is furthest from its teacher."""

        def error(images: Tensor) -> Tensor:
            return distances(self.objective.turn.map(self._run(self.preset(images))), teacher).mean()

        with evaluating(self.student):
            changed = perturb(images, error, self.config.attack, self.processes)
        return self._run(self.preset(changed))

    def _embed(self, images: Tensor) -> Tensor:
        return self._run(self.preset.prepare(images))

    def _run(self, inputs: Tensor) -> Tensor:
        # About 1.5 times as fast as channels first, where most convolutions are 1x1 and depthwise.
        inputs = inputs.contiguous(memory_format=torch.channels_last)
        alone = self.processes.count == 1
        shared = nullcontext() if alone else SharedStatistics(self.processes)
        with shared, torch.autocast(inputs.device.type, torch.bfloat16, enabled=self.config.bf16):
            output = self.student(inputs)
        return self.task.student(self.embedding_of(output, len(inputs)).float())

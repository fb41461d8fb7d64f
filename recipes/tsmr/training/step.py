"""One forward pass of training, from images to loss terms, as the one module that is run in parallel."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.faces import input_preset
from recipes.faces.embedding.signature import EmbeddingOf, read_signature
from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.objective.attack import perturb
from recipes.tsmr.objective.losses import Batch, distances
from recipes.tsmr.objective.objective import Objective
from reparam_kit import evaluating


class Step(nn.Module):
    """``step(images, teacher, labels, old)`` is the terms of the stage, and embeddings of student and teacher.

    All three are of the whole batch of all processes; the embeddings are of length 1, in the student's space.

    Args:
        student: images to embeddings.
        objective: turn and terms.
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
        self.embedding_of = EmbeddingOf(read_signature(student), config.student_embedding, "the student")
        self.config = config
        self.processes = processes

    def forward(
        self, images: Tensor, teacher: Tensor, labels: Tensor, old: Tensor | None
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """See the class.

        Args:
            images: uint8 ``[N, 3, H, W]``.
            teacher: float32 ``[N, T]``.
            labels: int64 ``[N]``.
            old: float32 ``[N, D]``, where a term needs it.
        """
        gather = self.processes.gather
        student = gather(self._embed(images))
        moved = None
        if "perturbed" in self.objective.weights:

            def error(images: Tensor) -> Tensor:
                return distances(self.objective.map(self._embed(images)), teacher).mean()

            with evaluating(self.student):
                changed = perturb(images, error, self.config.attack)
            moved = self.objective.map(gather(self._embed(changed)))
        teacher = gather(teacher)
        self.objective.observe(student, teacher)
        batch = Batch(
            student=student,
            mapped=self.objective.map(student),
            teacher=teacher,
            labels=gather(labels),
            old=None if old is None else gather(old),
            perturbed=moved,
        )
        return self.objective(batch), F.normalize(student, dim=1), self.objective.unmap(teacher)

    def _embed(self, images: Tensor) -> Tensor:
        # About 1.5 times as fast as channels first, where most convolutions are 1x1 and depthwise.
        inputs = self.preset(images).contiguous(memory_format=torch.channels_last)
        with torch.autocast(images.device.type, torch.bfloat16, enabled=self.config.bf16):
            output = self.student(inputs)
        return self.embedding_of(output, len(images)).float()

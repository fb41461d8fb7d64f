"""The adversary: a small net that tells the student's embeddings from the teacher's.

Distillation matches embeddings one by one; the discriminator judges whether they are distributed as the
teacher's are. The student learns to pass for the teacher (Goodfellow et al., NeurIPS 2014, with the
non-saturating loss), while the other losses of the stage keep each embedding in its place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import spectral_norm as _spectral_norm

from recipes.tsmr.objective.loss import Batch, Loss, Start
from recipes.tsmr.parts import Adversary

spectral_norm = cast("Callable[[nn.Linear], nn.Linear]", _spectral_norm)

_MEMORY = 0.95  # of the running accuracy, about the last 20 batches


class Discriminator(nn.Module):
    """Two hidden layers, LeakyReLU, spectral norm: a logit for each embedding, positive for the teacher's.

    Spectral norm (Miyato et al., ICLR 2018) bounds how sharply the logit may change, so that the student's
    gradient neither vanishes nor explodes.

    Args:
        size: of an embedding in the student's space, D. The teacher's are brought there: a student whose D is below
            the teacher's T can give no other directions, and being told so would teach it nothing.
        hidden: width of the hidden layers.
    """

    def __init__(self, size: int, hidden: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for ins, outs in pairwise((size, hidden, hidden)):
            layers += [spectral_norm(nn.Linear(ins, outs)), nn.LeakyReLU(0.2)]
        self.net = nn.Sequential(*layers, nn.Linear(hidden, 1))

    def forward(self, embeddings: Tensor) -> Tensor:
        """Logits ``[N]`` of embeddings ``[N, D]`` of length 1."""
        # Coordinates of a unit vector are about 1 / sqrt(D); the net gets them at about 1.
        logits: Tensor = self.net(embeddings * embeddings.shape[1] ** 0.5)
        return logits.squeeze(1)


class Game:
    """The discriminator with its optimizer, its running accuracy, and what these make of the student's loss.

    Args:
        size: of an embedding in the student's space, D.
        device: where these are.
        choices: the adversary.
    """

    def __init__(self, size: int, device: torch.device, choices: Adversary) -> None:
        self.choices = choices
        self.discriminator = Discriminator(size, choices.hidden).to(device)
        self.optimizer = torch.optim.Adam(
            self.discriminator.parameters(), choices.lr, betas=(0.5, 0.999), fused=True
        )
        self.discriminator.requires_grad_(False)  # until `play`: the student's step is not its own
        self.accuracy = torch.tensor(0.5, device=device)

    def loss(self, student: Tensor) -> Tensor:
        """Return what the student minimises: the cross-entropy of being taken for the teacher, ``[N, D]`` to a
        number.
        """
        return F.softplus(-self.discriminator(student)).mean()

    def weight(self, done: float) -> Tensor:
        """Factor on the loss's weight when the share ``done`` of the stage is over.

        It rises over the warm-up, and falls where the discriminator is no longer fooled.
        """
        rise = min(1.0, done / self.choices.warmup) if self.choices.warmup else 1.0
        return rise * ((1 - self.accuracy) / (1 - self.choices.saturation)).clamp(0, 1)

    def play(self, student: Tensor, teacher: Tensor) -> None:
        """Judge a batch of both, ``[N, D]`` each, and learn from it unless the accuracy is above the bound."""
        self.discriminator.requires_grad_(True)
        logits = self.discriminator(torch.cat([teacher, student.detach()]))
        real = torch.arange(len(logits), device=logits.device) < len(teacher)
        hits = ((logits > 0) == real).float().mean()
        self.accuracy = torch.lerp(hits, self.accuracy, _MEMORY)
        if self.accuracy <= self.choices.saturation:
            self.optimizer.zero_grad()
            F.binary_cross_entropy_with_logits(logits, real.float()).backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
        self.discriminator.requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        return {
            "discriminator": self.discriminator.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "accuracy": self.accuracy,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what ``state_dict`` gave."""
        self.discriminator.load_state_dict(state["discriminator"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.accuracy = state["accuracy"].to(self.accuracy.device)


_ACCURACY = "accuracy of the discriminator"  # 0.5 is guessing; near 1 it teaches nothing


class Adversarial(
    Loss, name="adversarial", title="passing as the teacher", needs={"target"}, task="embeddings"
):
    """What it takes to pass as the teacher before a discriminator, a new one in each stage.

    The discriminator has an optimizer of its own, so it is held in a ``Game``, which is no module.

    Attributes:
        kind: of game.
    """

    kind: type[Game] = Game
    game: Game | None = None

    def start(self, start: Start) -> None:
        self._make = partial(self.kind, start.size, start.device, start.config.adversary)

    def begin(self) -> None:
        self.game = self._make()

    def forward(self, batch: Batch) -> Tensor:
        return self._begun.loss(F.normalize(batch.student, dim=1))

    def after_step(self, batch: Batch) -> None:
        self._begun.play(F.normalize(batch.student, dim=1), batch.target)

    def weight(self, done: float) -> Tensor:
        return self._begun.weight(done)

    def figures(self) -> dict[str, float]:
        return {_ACCURACY: float(self._begun.accuracy)}

    @property
    def _begun(self) -> Game:
        assert self.game is not None
        return self.game

    def get_extra_state(self) -> dict[str, Any] | None:
        """Return the state of the game that is on."""
        return None if self.game is None else self.game.state_dict()

    def set_extra_state(self, state: dict[str, Any] | None) -> None:
        """Go on with the game."""
        if state is not None:
            self.begin()
            self._begun.load_state_dict(state)

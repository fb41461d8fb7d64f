"""The choices of which a search takes the best: rate, norms and losses that go together.

What is best depends on the net that is deployed. One that has converged gains by small steps away from what it is; a
small one that learned from labels alone gains by large ones, which BatchNorms allow, and has nothing to stay close to.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.stages import DISTIL, Stage

MOVED: dict[str, float] = {"mirror": 0.5, "affine": 1.0}
KEEP: dict[str, float] = dict(DISTIL.losses)
LEARN: dict[str, float] = {name: w for name, w in KEEP.items() if name != "gallery"} | {"cosine": 1.0}


@dataclass(frozen=True)
class Hyperparameters:
    """What a search chooses.

    Attributes:
        lr: peak learning rate.
        restore_bn: as in ``TSMRConfig``.
        losses: what is in the place of the usual losses, by name with its weight.
        augment: how images are changed, as in ``Augment``; where what the teacher is asked about is chosen, not at all.
    """

    lr: float
    restore_bn: bool
    losses: dict[str, float] = field(hash=False)
    augment: dict[str, float] = field(default_factory=dict, hash=False)

    @property
    def told(self) -> str:
        """Them as text."""
        parts = [f"lr {self.lr:g}"]
        parts += ["restored BN"] * self.restore_bn
        named = {**self.augment, **self.losses}
        return ", ".join(parts + [f"{name} {value:g}" for name, value in named.items()])

    def settle(self, config: TSMRConfig) -> TSMRConfig:
        """Return ``config`` with them; a loss that its own stages add to the usual ones stays."""

        def losses(stage: Stage) -> dict[str, float]:
            return self.losses | {name: weight for name, weight in stage.losses.items() if name not in KEEP}

        stages = tuple(Stage(stage.epochs, stage.rate, losses(stage)) for stage in config.plan.stages)
        augment = config.augment
        if config.views == "original":
            most = {name: max(share, getattr(augment, name)) for name, share in self.augment.items()}
            if config.flip:  # which shows both sides already
                most |= {"mirror": augment.mirror}
            augment = replace(augment, **most)
        return replace(
            config, lr=self.lr, restore_bn=self.restore_bn, augment=augment, stages=stages, epochs=None
        )


CANDIDATES = (
    Hyperparameters(2e-4, restore_bn=False, losses=KEEP),
    Hyperparameters(6e-4, restore_bn=False, losses=KEEP),
    Hyperparameters(1e-3, restore_bn=True, losses=LEARN, augment=MOVED),
    Hyperparameters(6e-3, restore_bn=True, losses=LEARN, augment=MOVED),
)
"""What is tried: the usual choices, then those that go further from the deployed net.

Of embeddings alone: a classifier's runs are short, and trials of a tenth of them took rates that were too careful
(tried on the digits of ``benchmarks.digits``: no better than the usual rate, where four times that is).
"""

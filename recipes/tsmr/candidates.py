"""The choices of which a search takes the best: rate, norms and losses that go together.

What is best depends on the net that is deployed. One that has converged gains by small steps away from what it is; a
small one that learned from labels alone gains by large ones, which BatchNorms allow, and has nothing to stay close to.
A classifier far from its teacher gains by a rate that spoils one that is near.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from recipes.tsmr.config import TSMRConfig
from recipes.tsmr.stages import DISTIL, Stage

KEEP: dict[str, float] = dict(DISTIL.losses)
LEARN: dict[str, float] = {name: w for name, w in KEEP.items() if name != "gallery"} | {"cosine": 1.0}


@dataclass(frozen=True)
class Hyperparameters:
    """What a search chooses.

    Attributes:
        lr: peak learning rate.
        restore_bn: as in ``TSMRConfig``.
        mirror: share of the images that are mirrored; where what the teacher is asked about is chosen, none.
        losses: what is in the place of the usual losses of embeddings, by name with its weight; empty: these stay.
    """

    lr: float
    restore_bn: bool
    mirror: float = 0.0
    losses: dict[str, float] = field(default_factory=dict, hash=False)

    @property
    def told(self) -> str:
        """Them as text."""
        parts = [f"lr {self.lr:g}"]
        parts += ["restored BN"] * self.restore_bn
        parts += [f"{self.mirror:.0%} mirrored"] * bool(self.mirror)
        return ", ".join(parts + [f"{name} {weight:g}" for name, weight in self.losses.items()])

    def settle(self, config: TSMRConfig) -> TSMRConfig:
        """Return ``config`` with them; a loss that its own stages add to the usual ones stays."""

        def losses(stage: Stage) -> dict[str, float]:
            if not self.losses:
                return stage.losses
            return self.losses | {name: weight for name, weight in stage.losses.items() if name not in KEEP}

        stages = tuple(Stage(stage.epochs, stage.rate, losses(stage)) for stage in config.plan.stages)
        augment = config.augment
        if self.mirror and config.views == "original" and not config.flip:
            augment = replace(augment, mirror=max(augment.mirror, self.mirror))
        return replace(
            config, lr=self.lr, restore_bn=self.restore_bn, augment=augment, stages=stages, epochs=None
        )


CANDIDATES: dict[str, tuple[Hyperparameters, ...]] = {
    "embeddings": (
        Hyperparameters(2e-4, restore_bn=False, losses=KEEP),
        Hyperparameters(6e-4, restore_bn=False, losses=KEEP),
        Hyperparameters(1e-3, restore_bn=True, mirror=0.5, losses=LEARN),
        Hyperparameters(3e-3, restore_bn=True, mirror=0.5, losses=LEARN),
    ),
    "logits": (
        Hyperparameters(4e-3, restore_bn=False),
        Hyperparameters(1e-3, restore_bn=False),
        Hyperparameters(1.6e-2, restore_bn=False),
        Hyperparameters(1.6e-2, restore_bn=True),
    ),
}
"""What is tried, by the task: the usual choices, then others, as many for each."""

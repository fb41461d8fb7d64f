"""A loss of your own: one class, found by its name. On the command line: `--import own_loss.py --loss mine=0.1`.

Run it with `python examples/own_loss.py`; it takes a few seconds.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from recipes.tsmr import Batch, Loss, Stage, TSMRConfig, apply_tsmr


class Mine(Loss, name="mine"):
    """1 - cos to the next image's embedding."""

    def forward(self, batch: Batch) -> Tensor:
        """A mean over the batch."""
        return (1 - torch.cosine_similarity(batch.student, batch.student.roll(1, 0))).mean()


def main() -> None:
    """Train a small net on random images with it, beside a loss that is there."""
    torch.manual_seed(0)
    images = torch.randint(0, 256, (32, 3, 8, 8), dtype=torch.uint8)
    data = torch.utils.data.StackDataset(images, torch.zeros(32, dtype=torch.int64), torch.arange(32))
    student, teacher = (nn.Sequential(nn.Conv2d(3, 8, 3), nn.Flatten(), nn.Linear(288, 4)) for _ in range(2))
    stage = Stage(epochs=1, losses={"cosine": 1.0, "mine": 0.1})
    report = apply_tsmr(student, teacher, data, config=TSMRConfig(stages=(stage,), batch_size=8)).report
    for name, value in report.epochs[-1].losses.items():
        print(f"{name}: {value:.4f}")
    print(f"sha256 of its code, in the report: {report.own_losses['mine']}")
    assert report.epochs[-1].losses["mine"] > 0


if __name__ == "__main__":
    main()

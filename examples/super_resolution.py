"""Super-resolution with the edge-oriented block `ecb`, which was made for it (ECBSR, ACM MM 2021).

A net for 2x trains on crops of a photograph that ships with scikit-learn, which it needs. Run it with
`python examples/super_resolution.py`; it takes a few seconds.
"""

from __future__ import annotations

import copy

import torch
from sklearn.datasets import load_sample_image
from torch import Tensor, nn
from torch.nn import functional as F

import reparam_kit as rk


class Upscaler(nn.Module):
    """Grey images ``[N, 1, H, W]`` in 0..1 to ``[N, 1, 2H, 2W]``: plain 3x3 convolutions, as a phone runs them."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.PReLU(width),
            nn.Conv2d(width, width, 3, padding=1), nn.PReLU(width),
            nn.Conv2d(width, 4, 3, padding=1), nn.PixelShuffle(2),
        )  # fmt: skip

    def forward(self, small: Tensor) -> Tensor:
        """Nearest neighbours, and what the net adds to them."""
        return F.interpolate(small, scale_factor=2.0) + self.body(small)


def psnr(result: Tensor, truth: Tensor) -> float:
    """Peak signal to noise ratio in dB, for values in 0..1."""
    return -10 * (result - truth).square().mean().log10().item()


def train(net: nn.Module, photograph: Tensor, steps: int, lr: float) -> None:
    """Mean absolute error on random 32x32 crops and their halves."""
    optimizer = torch.optim.Adam(net.parameters(), lr)
    for _ in range(steps):
        rows, columns = torch.randint(photograph.shape[0] - 32, (16,)), torch.randint(400, (16,))
        corners = zip(rows.tolist(), columns.tolist(), strict=True)
        truth = torch.stack([photograph[r : r + 32, c : c + 32] for r, c in corners])[:, None]
        loss = F.l1_loss(net(F.avg_pool2d(truth, 2)), truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def main() -> None:
    """Train a net, go on with `ecb` and without, fold, and compare on the part that was not trained on."""
    torch.manual_seed(0)
    photograph = torch.tensor(load_sample_image("flower.jpg"), dtype=torch.float32).mean(2) / 255
    unseen = photograph[:426, 440:].contiguous()[None, None]
    small = F.avg_pool2d(unseen, 2)
    deployed = Upscaler()
    train(deployed, photograph, 150, lr=2e-3)
    plain = copy.deepcopy(deployed)
    train(plain, photograph, 100, lr=1e-3)
    student = rk.expand(deployed, block="ecb", calibration=[small])
    train(student, photograph, 100, lr=1e-3)
    folded = rk.fold(student)
    with torch.no_grad():
        for name, net in (("deployed", deployed), ("trained on as it is", plain), ("folded", folded)):
            print(f"{name}: {psnr(net(small), unseen):.2f} dB")
        error = (folded(small) - student(small)).abs().max().item()
    print(f"largest difference of fold and student: {error:.1e}")
    assert error < 1e-5
    assert folded.state_dict().keys() == deployed.state_dict().keys()


if __name__ == "__main__":
    main()

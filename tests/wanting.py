"""A net that wants one input preset."""

from __future__ import annotations

import torch
from torch import nn

from recipes.faces import input_preset


class Wants(nn.Module):
    """Embeds well what one preset gives, and other input the worse the further it is from that."""

    def __init__(self, preset: str) -> None:
        super().__init__()
        self.preset = input_preset(preset)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mean, std = (torch.tensor(v).view(3, 1, 1) for v in (self.preset.mean, self.preset.std))
        x = x.flip(1) if self.preset.bgr else x
        pixels = (x * std + mean - 127.5) / 60
        # Red counts most, so that the order of the channels matters, and the range is limited.
        return (torch.tanh(pixels) * torch.tensor([4.0, 1.0, 0.2]).view(3, 1, 1)).flatten(1)

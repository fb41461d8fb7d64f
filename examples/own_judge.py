"""A judge of one's own: how much an embedding stays the same when the light changes.

Once it is imported, ``apply_tsmr(val=...)`` takes it beside any other judge, and ``read_judge`` finds it by its name.
"""

import numpy as np
import torch
from torch import nn

from recipes.faces import Embedder, Judge, Verdict, input_preset, read_judge, similarity


class Steady(Judge, name="steady"):
    """The cosine between each image's embedding and that of the image at half the light."""

    def __init__(self, count: str) -> None:
        random = np.random.default_rng(0)
        self.bright = list(random.integers(0, 256, (int(count), 16, 16, 3), np.uint8))

    def judge(self, model, input="insightface", embedding=None):
        embed = Embedder(model, input_preset(input), embedding=embedding).embed
        dark = [image // 2 for image in self.bright]
        return Verdict.of_means({"steadiness": similarity(embed(self.bright), embed(dark))}, "steadiness")


torch.manual_seed(0)
plain = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 32))
normed = nn.Sequential(nn.InstanceNorm2d(3), *plain)

judge = read_judge("steady:50")
before, after = judge.judge(plain), judge.judge(normed)
found = judge.compare(before, after).deciding
assert after.rank() > before.rank()
assert found.chance < 0.01
for name, verdict in (("plain", before), ("normalised", after)):
    print(f"{name}: {verdict.decides} {verdict.deciding.shown()}")
print(f"difference {found.value:+.3f}, interval {found.interval}, probability of chance {found.chance:.3f}")

"""TSMR on a folder of faces: a small face net learns the embeddings of a larger one, and its graph stays.

The faces are drawn in code, so that nobody's picture is needed; put your own folder `person/*.jpg` in their place.
Run it with `python examples/faces.py`; it takes a few seconds.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from PIL import Image

import reparam_kit as rk
from recipes.demo import nets
from recipes.demo.drawing import draw
from recipes.demo.identity import train_on_identities
from recipes.demo.people import IDENTITY, VARIATION, sample, take
from recipes.faces import PairSet, evaluate, read_faces, read_pairs
from recipes.tsmr import Callback, EpochReport, Stage, TSMRConfig, apply_tsmr


def draw_folder(folder: Path, people: int, pictures: int, seed: int) -> None:
    """``person/picture.png``: people who differ from those of another seed."""
    rng = np.random.default_rng(seed)
    who = np.repeat(np.arange(people), pictures)
    drawn = draw(take(sample(IDENTITY, people, rng), who), sample(VARIATION, len(who), rng), rng)
    for number, (person, picture) in enumerate(zip(who, drawn, strict=True)):
        path = folder / str(person) / f"{number % pictures}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(picture).save(path)


def write_pair_list(folder: Path, people: int) -> Path:
    """Lines ``path path 0/1``: two images of one person, and of two."""
    lines = [f"{i}/0.png {i}/1.png 1\n{i}/0.png {(i + 1) % people}/1.png 0\n" for i in range(people)]
    (folder / "pairs.txt").write_text("".join(lines))
    return folder / "pairs.txt"


def train(faces: Path) -> tuple[torch.nn.Module, torch.nn.Module]:
    """A student of a few people, which stands for the deployed net, and a teacher of all."""
    images, labels, _ = zip(*read_faces(faces), strict=True)
    pixels, people = torch.stack(images), torch.tensor(labels)
    deployed = train_on_identities(nets.student(), pixels[people < 8], people[people < 8], epochs=3)
    return deployed, train_on_identities(nets.teacher(), pixels, people, epochs=12)


class Losses(Callback):
    """Prints what each epoch came to."""

    def epoch(self, epoch: EpochReport, model: torch.nn.Module) -> None:
        print(f"epoch {epoch.epoch}:", *(f"{name} {value:.3f}" for name, value in epoch.losses.items()))


def main() -> None:
    """Draw, train a student and a teacher, run the recipe, and judge it on people whom neither has seen."""
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        training, others = Path(folder, "training"), Path(folder, "others")
        draw_folder(training, people=24, pictures=8, seed=0)
        draw_folder(others, people=100, pictures=2, seed=1)
        pairs: PairSet = read_pairs(write_pair_list(others, people=100))
        deployed, teacher = train(training)

        stages = (Stage(epochs=2, cosine=1.0), Stage(epochs=1, rate=0.5, cosine=1.0, adversarial=0.005))
        config = TSMRConfig(stages=stages, batch_size=32, lr=2e-3)
        result = apply_tsmr(deployed, teacher, training, pairs, config, callbacks=[Losses()])
        for name, net in (("deployed", deployed), ("teacher", teacher), ("TSMR", result.model)):
            judged = evaluate(net, pairs)
            print(f"{name}: accuracy {judged.accuracy:.1%}, d' {judged.d_prime:.2f} on {len(pairs)} pairs")
        assert rk.verify(deployed, result.model, same_function=False).ok, "folded: only weights differ"


if __name__ == "__main__":
    main()

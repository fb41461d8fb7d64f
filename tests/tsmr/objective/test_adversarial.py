from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.tsmr import Adversary
from recipes.tsmr.objective.adversarial import Game

CPU = torch.device("cpu")


def clouds(apart: float, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Student and teacher embeddings of length 1, which differ by ``apart`` standard deviations before."""
    ours, theirs = torch.randn(2, 64, 8, generator=generator)
    ours[:, 0] += apart
    return F.normalize(ours, dim=1), F.normalize(theirs, dim=1)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_it_learns_to_tell_two_clouds_and_then_holds_back(generator: torch.Generator) -> None:
    choices = Adversary(hidden=32, saturation=0.9)
    game = Game(8, CPU, choices)
    weights, trained = [], []
    for step in range(150):
        before = game.discriminator.net[0].weight.clone()
        game.play(*clouds(4.0, generator))
        trained.append(not torch.equal(before, game.discriminator.net[0].weight))
        weights.append(float(game.weight(step / 150)))
    assert game.accuracy > 0.9
    assert trained[0]
    assert not trained[-1]  # its updates are skipped
    assert 0 <= weights[-1] < max(weights)  # and the student hears less of it


def test_it_cannot_tell_what_is_the_same(generator: torch.Generator) -> None:
    game = Game(8, CPU, Adversary(hidden=32))
    for _ in range(60):
        game.play(*clouds(0.0, generator))
    assert 0.4 < game.accuracy < 0.6
    assert game.weight(1.0) == 1


@pytest.mark.parametrize(
    ("warmup", "done", "weight"),
    [(0.5, 0.0, 0.0), (0.5, 0.25, 0.5), (0.5, 0.5, 1.0), (0.5, 1.0, 1.0), (0.0, 0.0, 1.0)],
)
def test_the_weight_warms_up(warmup: float, done: float, weight: float) -> None:
    assert float(Game(3, CPU, Adversary(warmup=warmup)).weight(done)) == pytest.approx(weight)


@pytest.mark.parametrize(("accuracy", "weight"), [(0.5, 1.0), (0.8, 1.0), (0.9, 0.5), (1.0, 0.0)])
def test_the_weight_falls_as_the_accuracy_saturates(accuracy: float, weight: float) -> None:
    game = Game(3, CPU, Adversary(saturation=0.8, warmup=0.0))
    game.accuracy = torch.tensor(accuracy)
    assert float(game.weight(0.5)) == pytest.approx(weight, abs=1e-5)


def test_the_student_learns_to_pass(generator: torch.Generator) -> None:
    game = Game(8, CPU, Adversary(hidden=32))
    shift = torch.zeros(8, requires_grad=True)
    optimizer = torch.optim.Adam([shift], 0.05)
    ours, theirs = clouds(3.0, generator)
    for _ in range(100):
        shifted = F.normalize(ours + shift, dim=1)
        game.play(shifted, theirs)
        loss = game.loss(shifted)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert shift[0] < -0.3
    assert all(
        parameter.grad is None or not parameter.requires_grad for parameter in game.discriminator.parameters()
    )


def test_it_goes_on_from_its_state(generator: torch.Generator) -> None:
    games = [Game(8, CPU, Adversary(hidden=16)) for _ in range(2)]
    data = [clouds(1.0, generator) for _ in range(6)]
    for batch in data[:3]:
        games[0].play(*batch)
    games[1].load_state_dict(deepcopy(games[0].state_dict()))
    for game in games:
        for batch in data[3:]:
            game.play(*batch)
    ours = [game.discriminator.state_dict() for game in games]
    assert all(torch.equal(ours[0][name], ours[1][name]) for name in ours[0])
    assert games[0].accuracy == games[1].accuracy

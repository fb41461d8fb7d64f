from __future__ import annotations

import copy
from math import comb
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import top_k_accuracy_score
from torch import nn

from recipes.faces import ClassesJudge, read_judge
from recipes.faces.judging.classes import by_class_means, mcnemar, places
from reparam_kit import InputError

CLASSES = 8
PATTERNS = np.random.default_rng(0).integers(60, 196, (CLASSES, 3, 6, 6))


class Patterns:
    """Noisy pictures of one pattern for each class."""

    def __init__(self, count: int = 160) -> None:
        random = np.random.default_rng(1)
        self.labels = np.arange(count) % CLASSES
        noisy = PATTERNS[self.labels] + random.normal(0, 40, (count, 3, 6, 6))
        self.images = torch.from_numpy(noisy.clip(0, 255).astype(np.uint8))

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.labels[index])


@pytest.fixture
def classifier() -> nn.Sequential:
    """Knows the patterns: each logit is the likeness to one."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, CLASSES, bias=False))
    rows = torch.from_numpy(PATTERNS).flatten(1).float() - 127.5
    net[1].weight.data = nn.functional.normalize(rows)
    return net


def worse(net: nn.Sequential, noise: float) -> nn.Sequential:
    torch.manual_seed(0)
    spoilt = copy.deepcopy(net)
    weight = spoilt[1].weight.data
    spoilt[1].weight.data = weight + noise * weight.std() * torch.randn_like(weight)
    return spoilt


def test_figures_are_those_of_scikit_learn(classifier: nn.Sequential) -> None:
    images, net = Patterns(), worse(classifier, 8.0)
    verdict = ClassesJudge(images, batch_size=7, bootstrap=50).judge(net, "insightface")
    logits = net((images.images.float() - 127.5) / 127.5).detach().numpy()
    for k in (1, 5):
        assert verdict[f"top-{k}"].value == pytest.approx(top_k_accuracy_score(images.labels, logits, k=k))
    low, high = verdict["top-1"].interval or (1, 0)
    assert low < (verdict["top-1"].value or 0) < high
    assert verdict.notes() == {"input": "insightface", "outputs": "logits"}
    assert verdict.subject == "160 images of 8 classes"
    assert verdict.to_json()["outputs"] == "logits"


def test_a_net_with_noise_on_its_weights_is_worse_and_the_same_net_is_not(classifier: nn.Sequential) -> None:
    judge = ClassesJudge(Patterns())
    best, spoilt, same = (judge.judge(net) for net in (classifier, worse(classifier, 4.0), classifier))
    assert best.rank() > spoilt.rank()
    found = judge.compare(best, spoilt).deciding
    assert found.interval is not None
    assert found.interval[1] < 0
    assert (found.chance or 1) < 1e-3
    still = judge.compare(best, same)
    equal = still.deciding
    assert (equal.value, equal.interval, equal.chance) == (0.0, (0.0, 0.0), 1.0)
    assert still.told == "no difference that these images could show"


@pytest.mark.parametrize("embedding", [False, True])
def test_embeddings_are_held_against_the_mean_of_each_class(
    classifier: nn.Sequential, embedding: bool
) -> None:
    net = nn.Sequential(classifier, nn.Linear(CLASSES, 12)) if embedding else classifier
    verdict = ClassesJudge(Patterns()).judge(net)
    assert ("mean of each class" in verdict.notes()["outputs"]) == embedding
    assert (verdict["top-1"].value or 0) > 0.9
    assert not verdict.at_chance()


def test_class_means_leave_the_image_out() -> None:
    """Against a slow copy: without this, two images of a class would always find each other in their mean."""
    random = np.random.default_rng(0)
    rows, labels = (
        random.normal(size=(12, 5)).astype(np.float32),
        np.array([0, 0, 1, 1, 1, 2, 2, 2, 2, 7, 4, 4]),
    )
    scores, own = by_class_means(rows, labels)
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    tested = [i for i, label in enumerate(labels) if (labels == label).sum() > 1]
    assert len(scores) == len(tested) == 11
    for row, i in zip(scores, tested, strict=True):
        for column, label in enumerate(np.unique(labels)):
            others = [j for j in range(12) if labels[j] == label and j != i]
            mean = unit[others].mean(axis=0)
            assert row[column] == pytest.approx(unit[i] @ mean / np.linalg.norm(mean), abs=1e-6)
    assert np.unique(labels)[own].tolist() == labels[tested].tolist()


def test_equal_scores_are_no_hit() -> None:
    assert places(np.zeros((3, 4)), np.array([0, 1, 2])).tolist() == [3, 3, 3]


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_mcnemar_is_the_binomial_test(rows: list[tuple[bool, bool]]) -> None:
    before, after = np.array(rows).T
    gained, lost = int((after & ~before).sum()), int((before & ~after).sum())
    count = gained + lost
    tail = sum(comb(count, k) for k in range(min(gained, lost) + 1)) / 2**count
    assert mcnemar(before, after) == pytest.approx(min(1.0, 2 * tail))


def test_a_quick_look_has_images_of_every_class() -> None:
    few = ClassesJudge(Patterns()).sample(40)
    assert set(few._labels) == set(range(CLASSES))
    assert len(few._labels) == 40
    assert few.identity() != ClassesJudge(Patterns()).identity() == ClassesJudge(Patterns()).identity()


def test_a_net_that_guesses_is_at_chance() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(108, CLASSES, bias=False))
    net[1].weight.data[3] += 100
    assert ClassesJudge(Patterns()).judge(net, "raw").at_chance()


def test_refusals(tmp_path: Path, encode, pictures) -> None:
    for name in ("a", "b", "-1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(encode(pictures(1)[0]))
    with pytest.raises(InputError, match=r"image 0 has no label \(1 of 3 have none\)"):
        read_judge(f"classes:{tmp_path}")
    one = Patterns()
    one.labels[:] = 0
    with pytest.raises(InputError, match="160 images show 1 classes: two are the fewest"):
        ClassesJudge(one)
    with pytest.raises(InputError, match="4 logits cannot name 8 classes"):
        ClassesJudge(Patterns(), outputs="logits").judge(nn.Sequential(nn.Flatten(), nn.Linear(108, 4)))

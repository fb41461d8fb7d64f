from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from recipes.faces import (
    Embedder,
    PairSet,
    cross_evaluate,
    decode_image,
    evaluate,
    input_preset,
    kfold_accuracy,
    similarity,
    write_pairs,
)
from reparam_kit import InputError


@pytest.fixture
def pairs(pictures, encode) -> PairSet:
    """Genuine pairs are an image and a noisy copy of it."""
    random = np.random.default_rng(1)
    same = np.arange(40) % 2 == 0
    images = []
    for i, image in enumerate(pictures(40)):
        noisy = np.clip(image + random.normal(0, 60, image.shape), 0, 255).astype(np.uint8)
        images += [image, noisy if same[i] else pictures(1, seed=100 + i)[0]]
    return PairSet([encode(image) for image in images], same)


@pytest.fixture
def models() -> tuple[nn.Module, nn.Module]:
    """A net and one that is a little off it."""
    old = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    new = nn.Sequential(nn.Flatten(), nn.Linear(192, 6))
    state = {name: value + 0.02 * torch.randn_like(value) for name, value in old.state_dict().items()}
    new.load_state_dict(state)
    return old, new


def test_cross_evaluation(models: tuple[nn.Module, nn.Module], pairs: PairSet) -> None:
    results = cross_evaluate(*models, pairs, "raw", flip=True, folds=4, bootstrap=5)
    assert list(results) == ["old-old", "new-new", "new-old"]
    for case, model in zip(("old-old", "new-new"), models, strict=True):
        alone = evaluate(model, pairs, "raw", flip=True, folds=4, bootstrap=5)
        assert results[case].to_json() == alone.to_json()
    images = [decode_image(data, "x") for data in pairs.images]
    old, new = (Embedder(model, input_preset("raw")).embed(images, flip=True) for model in models)
    scores = np.append(similarity(old[0::2], new[1::2]), similarity(new[0::2], old[1::2]))
    mixed = results["new-old"]
    np.testing.assert_allclose(mixed.scores, scores, atol=1e-6)
    assert (mixed.pairs, mixed.genuine, mixed.folds, mixed.input) == (80, 40, 4, "raw")
    fold = np.tile(np.repeat(np.arange(4), 10), 2)
    assert mixed.accuracy == kfold_accuracy(mixed.scores, mixed.same, fold)[0]


def test_new_model_that_is_the_old_one_keeps_the_gallery(models, pairs: PairSet) -> None:
    results = cross_evaluate(models[0], models[0], pairs)
    assert results["new-old"].d_prime == pytest.approx(results["old-old"].d_prime)


def test_turned_embeddings_lose_the_gallery_and_nothing_else(models, pairs: PairSet) -> None:
    turned = nn.Sequential(models[0], nn.Linear(6, 6, bias=False))
    turned[1].weight.data = torch.linalg.qr(torch.randn(6, 6))[0]
    results = cross_evaluate(models[0], turned, pairs)
    assert results["new-new"].accuracy == results["old-old"].accuracy
    old, mixed = results["old-old"].d_prime, results["new-old"].d_prime
    assert old is not None
    assert mixed is not None
    assert mixed < old / 2


def test_inputs_may_differ_and_sizes_may_not(models, pairs: PairSet, tmp_path: Path) -> None:
    results = cross_evaluate(*models, pairs, "raw", "insightface")
    assert [result.input for result in results.values()] == ["raw", "insightface", "raw and insightface"]
    write_pairs(tmp_path / "set.bin", pairs)
    with pytest.raises(InputError, match="embeddings of 6 and 192 numbers cannot be compared"):
        cross_evaluate(models[0], nn.Flatten(), tmp_path / "set.bin")

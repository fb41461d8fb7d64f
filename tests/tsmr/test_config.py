from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from recipes.tsmr import TSMRConfig
from reparam_kit import InputError


@pytest.mark.parametrize(
    ("choice", "value", "says"),
    [
        ("student_input", "imagnet", "did you mean 'imagenet'"),
        ("teacher_input", "rw", "did you mean 'raw'"),
        ("loss", "cosin", "loss='cosin': did you mean 'cosine'?"),
        ("loss", "hinge", "choose one of cosine, mse"),
        ("epochs", 0, "epochs=0 must be at least 1"),
        ("batch_size", 1, "batch_size=1 must be at least 2"),
        ("lr", 0.0, "lr=0.0 must be positive"),
        ("lr", float("nan"), "lr=nan must be positive"),
        ("weight_decay", -0.1, "weight_decay=-0.1 must be zero or positive"),
        ("warmup", 1.0, "warmup=1.0 must be at least 0 and below 1"),
        ("clip", 0.0, "clip=0.0 must be positive"),
        ("workers", -1, "workers=-1 must be zero or positive"),
    ],
)
def test_a_value_that_cannot_be_used_is_refused(choice: str, value: object, says: str) -> None:
    with pytest.raises(InputError) as caught:
        TSMRConfig(**{choice: value})  # type: ignore[arg-type]
    assert says in str(caught.value)


def test_it_is_frozen_and_says_its_version() -> None:
    config = TSMRConfig(lr=2e-4)
    with pytest.raises(FrozenInstanceError):
        config.lr = 1.0  # type: ignore[misc]
    assert config.to_json()["version"] == TSMRConfig.VERSION
    assert config.to_json()["lr"] == 2e-4

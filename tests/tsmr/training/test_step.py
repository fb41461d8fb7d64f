"""A step waits for nothing on the device it trains on, and does nothing that no loss asks for.

Each number that is read back, or brought there from memory that is not pinned, is a wait for all before it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from recipes.tsmr import Adversary, Batch, Stage, TSMRConfig
from recipes.tsmr.beginning import start_objective
from recipes.tsmr.distributed import Processes
from recipes.tsmr.expansion import expanded
from recipes.tsmr.objective import pairs
from recipes.tsmr.objective.turn import Turn
from recipes.tsmr.stages import DISTIL, LOSSES
from recipes.tsmr.targets.examples import Examples
from recipes.tsmr.targets.partners import Partners
from recipes.tsmr.targets.showing import Showing
from recipes.tsmr.targets.targets import StoredTargets
from recipes.tsmr.targets.views import Views
from recipes.tsmr.training.trainer import Trainer
from tests.tsmr.conftest import Net

IMAGES, SIZE = 12, 16
READING = {"_local_scalar_dense", "nonzero", "masked_select", "equal", "_unique2", "unique_consecutive"}


class Reads(TorchDispatchMode):
    """Counts the operators that a device has to be waited for, by name."""

    def __init__(self) -> None:
        super().__init__()
        self.found: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        by_booleans = name in ("index", "index_put", "index_put_") and any(
            at is not None and at.dtype == torch.bool for at in args[1]
        )
        self.found += Counter([name] if name in READING or by_booleans else [])
        return func(*args, **(kwargs or {}))


class Made(TorchFunctionMode):
    """Counts the tensors that are made of Python's numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.found += func in (torch.tensor, torch.as_tensor, Tensor.new_tensor)
        return func(*args, **(kwargs or {}))


class Images(torch.utils.data.Dataset[Any]):
    def __len__(self) -> int:
        return IMAGES

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        image = np.random.default_rng(index).integers(0, 256, (3, SIZE, SIZE), np.uint8)
        return torch.from_numpy(image), index // 2, index


def take_step(config: TSMRConfig) -> Callable[[], object]:
    """Return what takes a step."""
    rows = [
        torch.randn(IMAGES, 1, size, generator=torch.Generator().manual_seed(size)) for size in (SIZE, 32)
    ]
    old, teacher = (StoredTargets([F.normalize(part, dim=2).half().numpy()], "concat") for part in rows)
    views = Views(Images())
    showing = Showing.of(views, config)
    nobody = Partners(*[np.zeros((0, 2), dtype=np.int64)] * 2)
    examples = Examples(showing, teacher, np.arange(IMAGES) // 2, old, nobody)
    sample = Batch(old.originals(np.arange(IMAGES)), teacher=teacher.originals(np.arange(IMAGES)))
    objective = start_objective(sample, examples, config, torch.device("cpu"))
    stage = Trainer(expanded(Net(SIZE), views, config), objective, examples, config, Processes()).begin(0)
    batches = iter(list(showing.epoch(1, 4, 0, batches=8, views=2)))
    return lambda: stage.take_step(batches, 1e-3, 0.5)


def reads(monkeypatch: pytest.MonkeyPatch, **losses: float) -> dict[str, int]:
    # What is read on the CPU is there.
    monkeypatch.setattr(pairs, "_with_any", lambda said, bound: slice(None))
    config = TSMRConfig(stages=(Stage(1, losses=losses),), batch_size=4, adversary=Adversary(hidden=8))
    step = take_step(config)
    step()
    with Reads() as seen, Made() as made:
        step()
    assert not made.found
    return dict(seen.found)


OF_EMBEDDINGS = [
    name for name in LOSSES if not LOSSES.foreign(name) and LOSSES[name].task in (None, "embeddings")
]


@pytest.mark.parametrize("name", [*OF_EMBEDDINGS, "usual"])
def test_a_step_reads_nothing_from_the_device(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = DISTIL.losses if name == "usual" else {"cosine": 1.0, name: 1.0}
    # Whether the discriminator learns from a batch is one number, and no parameter of it moves where it does not.
    wanted = {"_local_scalar_dense": 1} if name == "adversarial" else {}
    assert reads(monkeypatch, **losses) == wanted


def test_what_is_read_and_made_is_counted() -> None:
    with Reads() as seen, Made() as made:
        x = torch.arange(4)
        x[x > x.new_tensor(1)].sum().item()
    assert seen.found == {"index": 1, "_local_scalar_dense": 1}
    assert made.found == 1


@pytest.mark.parametrize("name", [*OF_EMBEDDINGS, "usual"])
def test_a_map_follows_the_student_where_a_loss_looks_through_it(name: str) -> None:
    losses = DISTIL.losses if name == "usual" else {name: 1.0}
    step = take_step(TSMRConfig(stages=(Stage(1, losses=losses),), batch_size=4))
    with ExitStack() as stack:
        looked, looked_back, followed = (
            stack.enter_context(patch.object(Turn, method, autospec=True, side_effect=getattr(Turn, method)))
            for method in ("map", "unmap", "observe")
        )
        step()
    assert followed.called == (looked.called or looked_back.called)

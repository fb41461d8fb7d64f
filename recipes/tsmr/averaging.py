"""Which model is returned: the trained one, the deployed one, or one on the way from the second to the first.

Averaging the weights of a net before and after fine-tuning often beats both ends (WiSE-FT: Wortsman et al., Robust
fine-tuning of zero-shot models, CVPR 2022). It is done on folded weights, so what comes of it has the graph that was
deployed, and the share 0 is the deployed model bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from torch import Tensor, nn

from recipes.faces import Verdict
from recipes.tsmr.prepare import Ingredients
from recipes.tsmr.training.history import History
from reparam_kit import duplicate

Model = TypeVar("Model", bound=nn.Module)


@dataclass(frozen=True)
class Chosen(Generic[Model]):
    """The model that a run returns.

    Attributes:
        model: a copy of the deployed one, with other weights.
        share: of the way from the deployed weights to those of the epoch that was kept.
        verdicts: what each judge says of it.
        shares: what the judge that decides says of each share; empty without a judge.
    """

    model: Model
    share: float = 1.0
    verdicts: tuple[Verdict, ...] = ()
    shares: dict[float, Verdict] = field(default_factory=dict)


def choose(given: Ingredients[Model], history: History) -> Chosen[Model]:
    """Judge shares of the way to the best epoch and take the best; of equals, the one that changes the least.

    Without a judge it is the last epoch.
    """
    if not given.judges:
        return Chosen(between(given.model, history.weights, 1.0))
    best: Chosen[Model] | None = None
    shares: dict[float, Verdict] = {}
    for found in _candidates(given, history):
        shares[found.share] = found.verdicts[0]
        if best is None or found.verdicts[0].rank() > best.verdicts[0].rank():
            best = found
    assert best is not None
    return Chosen(best.model, best.share, best.verdicts, shares)


def _candidates(given: Ingredients[Model], history: History) -> Iterator[Chosen[Model]]:
    yield Chosen(between(given.model, history.weights, 0.0), 0.0, history.before)
    for share in sorted(set(given.config.shares) - {0.0, 1.0}):
        model = between(given.model, history.weights, share)
        yield Chosen(model, share, given.judge(model))
    yield Chosen(between(given.model, history.weights, 1.0), 1.0, history.best)


def between(model: Model, weights: Mapping[str, Tensor], share: float) -> Model:
    """Return a copy of ``model``, ``share`` of the way to ``weights``; what is no floating point number is theirs.

    0 gives the values of ``model`` exactly, and 1 those of ``weights``.
    """
    mixed = duplicate(model)
    state = mixed.state_dict()
    if share:
        for name, tensor in state.items():
            target = weights[name].to(tensor.device)
            whole = share == 1 or not tensor.is_floating_point()
            state[name] = target if whole else tensor.lerp(target, share)
    mixed.load_state_dict(state)
    return mixed

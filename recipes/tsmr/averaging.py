"""Which model is returned: the trained one, the deployed one, or one on the way from the second to the first.

Averaging the weights of a net before and after fine-tuning often beats both ends (WiSE-FT: Wortsman et al., Robust
fine-tuning of zero-shot models, CVPR 2022). It is done on folded weights, so what comes of it has the graph that was
deployed, and the share 0 is the deployed model bit for bit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from torch import Tensor, nn

from recipes.faces import Comparison, Verdict
from recipes.tsmr.ingredients import Ingredients
from recipes.tsmr.training.history import History
from reparam_kit import as_written, duplicate

Model = TypeVar("Model", bound=nn.Module)


WORSE = 0.01  # of figures that did not change, this share is taken for worse


@dataclass(frozen=True)
class Chosen(Generic[Model]):
    """The model that a run returns.

    Attributes:
        model: a copy of the deployed one, with other weights.
        share: of the way from the deployed weights to those of the epoch that was kept.
        verdicts: what each judge says of it.
        comparisons: of these with the deployed model, a judge each.
        shares: what the judge that decides says of each share; empty without a judge.
        held_back: the shares that are not taken, each with the figures that got worse by more than chance,
            of several judges each with the place of its judge.
    """

    model: Model
    share: float = 1.0
    verdicts: tuple[Verdict, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    shares: dict[float, Verdict] = field(default_factory=dict)
    held_back: dict[float, tuple[str, ...]] = field(default_factory=dict)


def choose(given: Ingredients[Model], history: History) -> Chosen[Model]:
    """Judge shares of the way to the best epoch and take the best; of equals, the one that changes the least.

    One by which any figure of any judge got worse by more than chance, at the level ``WORSE``, is not taken. Without a
    judge it is ``TSMRConfig.share`` of the way to the last epoch.
    """
    if not given.judges:
        share = given.config.plan.share
        return Chosen(between(given.model, history.weights, share), share)
    found = dict(_judged(given, history))
    compared = {
        share: compared_with(given, history.before, verdicts) for share, verdicts in found.items() if share
    }
    worse = {share: worsened(comparisons) for share, comparisons in compared.items()}
    best = max((share for share in found if not worse.get(share)), key=lambda share: found[share][0].rank())
    return Chosen(
        between(given.model, history.weights, best),
        best,
        found[best],
        compared[best] if best else compared_with(given, history.before, found[best]),
        {share: verdicts[0] for share, verdicts in found.items()},
        {share: names for share, names in worse.items() if names},
    )


def compared_with(
    given: Ingredients[Any], before: Sequence[Verdict], verdicts: Sequence[Verdict]
) -> tuple[Comparison, ...]:
    """Compare verdicts with those on the deployed model, a judge each."""
    return tuple(
        judge.compare(old, new) for judge, old, new in zip(given.judges, before, verdicts, strict=True)
    )


def worsened(comparisons: Sequence[Comparison]) -> tuple[str, ...]:
    """Name the figures that got worse, of several judges with the place of the judge: they share names."""
    return tuple(
        difference.before.name + (f" (judge {place})" if len(comparisons) > 1 else "")
        for place, comparison in enumerate(comparisons, start=1)
        for difference in comparison.worse(WORSE)
    )


def _judged(given: Ingredients[Any], history: History) -> Iterator[tuple[float, tuple[Verdict, ...]]]:
    """Yield what the judges say of each share, from the deployed model to the trained one: both ends are judged."""
    yield 0.0, history.before
    for share in sorted(set(given.config.shares) - {0.0, 1.0}):
        yield share, given.judge(between(given.model, history.weights, share))
    yield 1.0, history.best


def between(model: Model, weights: Mapping[str, Tensor], share: float) -> Model:
    """Return a copy of ``model``, ``share`` of the way to ``weights``; what is no floating point number is theirs.

    It is rounded as the student's file will be. 0 gives the values of ``model`` exactly, and 1 those of ``weights``.
    """
    mixed = duplicate(model)
    state = mixed.state_dict()
    if share:
        for name, tensor in state.items():
            target = weights[name].to(tensor.device)
            whole = share == 1 or not tensor.is_floating_point()
            state[name] = target if whole else tensor.lerp(target, share)
    mixed.load_state_dict(state)
    return as_written(mixed)

"""The loss of pairs: which faces are of one person, as the teacher says it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from recipes.tsmr.objective.earlier import find
from recipes.tsmr.objective.loss import Batch, Loss, Start
from recipes.tsmr.targets.spread import ALIKE, DIFFERENT, MARGIN, Spread

# Steepness towards pairs of one person, and of two. At 2 the many strangers that are near the margin count, and not the
# nearest alone, of which some are mistakes of the teacher's.
_PULL, _PUSH = 0.4, 2.0
_MEASURED = 4096  # of those remembered, from which the spread of unrelated pairs is told
_NEVER = 1e30  # for a cosine between, so far down that nothing is left of its exponential


class NamedPairs(
    Loss,
    name="pairs",
    title="telling people apart as the teacher does",
    # "old" begins the memory, and tells which pairs the deployed model confuses.
    needs={"index", "teacher", "old", "earlier_index", "earlier_student", "earlier_teacher"},
    task="embeddings",
):
    """Pairs that the teacher calls one person are drawn above the student's own margin, those it calls two below.

    Multi-similarity loss (Wang et al., CVPR 2019, eq. 15) on the teacher's word in place of labels, of each image of a
    batch with the others and with all that are remembered. Of these there are millions of pairs, and each look at them
    costs what a layer of a small student does: they are looked at as seldom as can be.
    """

    paired = True
    teacher: Spread

    def start(self, start: Start) -> None:
        self.teacher = Spread.of(start.sample.teacher)

    def forward(self, batch: Batch) -> Tensor:
        student, earlier = F.normalize(batch.student, dim=1), batch.earlier_student
        alike, different = self.teacher.cosine(ALIKE), self.teacher.cosine(DIFFERENT)
        now, then = _said(batch, (alike + different) / 2)
        mean, width = _spread(
            student.detach() @ torch.cat([student.detach(), earlier[:_MEASURED]]).T,
            torch.cat([now, then[:, :_MEASURED]], dim=1) < different,
        )

        units, margin = student / width, mean / width + MARGIN

        def above(slope: float, others: Tensor) -> Tensor:
            """How far above the margin the student puts each pair, in units of its spread, times ``slope``."""
            return torch.addmm(margin, units, others.T, beta=-slope, alpha=slope)

        pull = [_log_sum(above(-_PULL, student), now > alike)]
        push = [_log_sum(above(_PUSH, student), now < different)]
        if len(earlier):
            few = _with_any(then, alike)
            pull.append(_log_sum(above(-_PULL, earlier[few]), then[:, few] > alike))
            too_alike = then.clamp_min_(different).sub_(different)
            push.append(_log_sum_of_all(_PUSH * units, earlier, too_alike) - _PUSH * margin)
        return (_softplus_sum(pull) / _PULL + _softplus_sum(push) / _PUSH).mean()


def _said(batch: Batch, neither: float) -> tuple[Tensor, Tensor]:
    """Cosines by the teacher of each image with those of the batch and those remembered, ``[N, N]`` and ``[N, Q]``;
    ``neither`` of an image with itself.
    """
    now = batch.teacher @ batch.teacher.T
    now.masked_fill_(batch.index[:, None] == batch.index, neither)
    then = batch.teacher @ batch.earlier_teacher.T
    if len(batch.earlier_index):
        known, place = find(batch.index, batch.earlier_index)
        column = place[:, None]
        then.scatter_(1, column, then.gather(1, column).masked_fill_(known[:, None], neither))
    return now, then


def _spread(cosines: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of those ``chosen``: 0 and 1 where there are too few."""
    count = chosen.sum()
    mean = torch.where(chosen, cosines, 0).sum() / count
    variance = torch.where(chosen, cosines - mean, 0).square().sum() / (count - 1)
    return torch.where(count > 1, mean, 0), torch.where(count > 1, variance.sqrt().clamp_min(1e-3), 1)


def _log_sum(values: Tensor, chosen: Tensor) -> Tensor:
    """Return ``log sum exp(values)`` over the ``chosen`` of each row."""
    return values.masked_fill(~chosen, torch.finfo(values.dtype).min).logsumexp(dim=1)


def _log_sum_of_all(rows: Tensor, others: Tensor, barred: Tensor) -> Tensor:
    """Return ``log sum exp(row . other)`` over those of the ``others`` for which ``barred`` is 0 and not above.

    The gradient of ``rows`` is found at once, so that the pairs are not gone through again in the backward pass. All is
    done in place, on numbers: to make booleans of them takes torch five times as long as to add them.
    """
    with torch.no_grad():
        values = (rows @ others.T).sub_(barred, alpha=_NEVER)
        most = values.amax(dim=1, keepdim=True)
        weights = values.sub_(most).exp_()
        total = weights.sum(dim=1, keepdim=True)
        towards = weights @ others / total
    return (most + total.log()).squeeze(1) + ((rows - rows.detach()) * towards).sum(dim=1)


def _softplus_sum(logs: list[Tensor]) -> Tensor:
    """Return ``log(1 + sum exp(logs))``."""
    return F.softplus(torch.stack(logs).logsumexp(dim=0))


def _with_any(said: Tensor, bound: float) -> Tensor | slice:
    """Return the columns of which some are above ``bound``; all on a GPU, which would have to be waited for."""
    return slice(None) if said.is_cuda else (said.amax(dim=0) > bound).nonzero().squeeze(1)

"""The judge of people against a slow implementation that shares no code with it, and what it refuses."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from recipes.faces import PeopleJudge, Verdict, read_judge, write_records
from recipes.faces.judging import all_pairs, recognition
from reparam_kit import InputError

TAR, MIXED = "TAR at FAR {:g}", "TAR at FAR {:g}, mixed"


class Given:
    """A set whose image ``i`` is ``rows[i]``, whole numbers, which the net gives back as embeddings."""

    def __init__(self, rows: Sequence[Sequence[int]], labels: Sequence[int]) -> None:
        self.rows, self.labels = rows, labels

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return torch.tensor([[self.rows[index]]] * 3, dtype=torch.uint8), self.labels[index]


class Net(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, 0, 0] - 2


def drawn_faces(images: int, people: int, seed: int, size: int = 6) -> Given:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([rng.permutation(people), rng.integers(people, size=images - people)])
    centres = rng.integers(0, 200, (people, size))
    return Given((centres[labels] + rng.integers(0, 55, (images, size))).tolist(), labels.tolist())


def similarities(faces: Given) -> list[list[float]]:
    rows = np.array(faces.rows, float) - 2
    rows /= np.sqrt((rows**2).sum(axis=1, keepdims=True))
    return [[round(float(a @ b) * 2**20) / 2**20 for b in rows] for a in rows]


def slow_threshold(scores: list[float], rate: float) -> float | None:
    """The threshold above which no more than ``rate`` of scores lie, by trying each one; None: less than one may."""
    if rate * len(scores) + 1e-9 < 1:
        return None
    for candidate in [-2.0, *sorted(set(scores))]:
        if sum(score > candidate for score in scores) <= rate * len(scores) + 1e-9:
            return candidate
    raise AssertionError


def slow(faces: Given, others: Given | None, apart: float = math.inf) -> dict[str, float | None]:
    """All figures by loops over pairs, images and galleries."""
    known = [i for i in range(len(faces)) if faces.labels[i] >= 0]
    alike, who = similarities(faces), faces.labels
    pairs = [(i, j) for n, i in enumerate(known) for j in known[n + 1 :]]
    genuine = [alike[i][j] for i, j in pairs if who[i] == who[j]]
    sets = {TAR: [alike[i][j] for i, j in pairs if who[i] != who[j]]}
    if others is not None:
        between = similarities(others)
        sets[MIXED] = [
            between[i][j]
            for i in range(len(others))
            for j in range(i + 1, len(others))
            if between[i][j] <= apart and not 0 <= others.labels[i] == others.labels[j]
        ]
    figures: dict[str, float | None] = {}
    for name, scores in sets.items():
        for far in (1e-2, 1e-3, 1e-4):
            bound = slow_threshold(scores, far)
            figures[name.format(far)] = (
                None if bound is None else sum(g > bound for g in genuine) / len(genuine)
            )
    spread = (np.var(genuine) + np.var(sets[TAR])) / 2
    figures["d'"] = (np.mean(genuine) - np.mean(sets[TAR])) / math.sqrt(spread) if spread else None

    gallery = {who[i]: i for i in reversed(known)}
    hits, strangers = [], []
    for i in known:
        best = max(alike[i][g] for person, g in gallery.items() if person != who[i])
        strangers.append(best)
        if i not in gallery.values():
            own = alike[i][gallery[who[i]]]
            hits.append(own if own > best else None)
    figures["rank-1"] = sum(own is not None for own in hits) / len(hits)
    for fpir in (1e-2, 1e-3):
        bound = slow_threshold(strangers, fpir)
        passed = None if bound is None else sum(own is not None and own > bound for own in hits) / len(hits)
        figures[f"TPIR at FPIR {fpir:g}"] = passed
    return figures


def require_equal(verdict: Verdict, figures: dict[str, float | None]) -> None:
    for figure in verdict.figures:
        expected = figures[figure.name]
        assert (figure.value is None) == (expected is None), figure
        if expected is None:
            assert figure.missing.startswith("not measurable: ")
        else:
            assert figure.value == pytest.approx(expected), figure.name


@pytest.mark.parametrize("block", [32, 2048])
@pytest.mark.parametrize("seed", range(2))
def test_figures_are_those_of_loops(monkeypatch: pytest.MonkeyPatch, seed: int, block: int) -> None:
    monkeypatch.setattr(all_pairs, "_BLOCK", block)
    faces, others = drawn_faces(50, 16, seed), drawn_faces(50, 50, seed + 10)
    others.labels[:40] = [-1] * 40  # the last ten say that they are of ten people
    others.labels[40:] = [3, 3, *range(8)]
    bound = sorted(np.ravel(similarities(others)))[-80]
    judge = PeopleJudge(faces, others, alike=np.array(others.rows) - 2.0, alike_above=bound, bootstrap=0)
    verdict = judge.judge(Net(), "raw")
    require_equal(verdict, slow(faces, others, bound))
    assert verdict.left_out > 0
    assert verdict.decides == "d'"  # of 1,200 pairs fewer than 30 lie above a rate of 0.01


@settings(max_examples=30)
@given(st.data())
def test_ties_unknown_people_and_people_with_one_image(data: st.DataObject) -> None:
    size = data.draw(st.integers(2, 3))
    count = data.draw(st.integers(3, 24))
    row = st.lists(st.integers(0, 4), min_size=size, max_size=size).map(lambda values: [3, *values])
    rows = data.draw(st.lists(row, min_size=count, max_size=count))
    labels = data.draw(st.lists(st.integers(-2, 6), min_size=count, max_size=count))
    known = [label for label in labels if label >= 0]
    faces = Given(rows, labels)
    if len(set(known)) < 2 or len(set(known)) == len(known):
        with pytest.raises(InputError, match="two of them, and two images of one"):
            PeopleJudge(faces)
        return
    verdict = PeopleJudge(faces, bootstrap=0).judge(Net(), "raw")
    require_equal(verdict, slow(faces, None))
    assert verdict.images == len(known)
    assert ("of nobody known" in verdict.subject) == (len(known) < count)


@pytest.mark.parametrize("people", [2, 40])
def test_a_net_that_gives_everybody_the_same_accepts_and_finds_nobody(people: int) -> None:
    labels = [*range(people), *range(people)]
    verdict = PeopleJudge(Given([[5, 5]] * 2 * people, labels), bootstrap=5).judge(Net(), "raw")
    assert all(not figure.value for figure in verdict.figures)
    assert verdict["d'"].missing == "not measurable: similarities do not differ"


def blurred(scale: float) -> nn.Module:
    torch.manual_seed(1)
    noise = scale * torch.randn(6, 6)

    class Blurred(Net):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) @ (torch.eye(6) + noise)

    return Blurred()


def test_the_lowest_rate_with_thirty_impostor_pairs_decides() -> None:
    faces, others = drawn_faces(100, 40, 0), drawn_faces(180, 180, 1)
    alone = PeopleJudge(faces, bootstrap=20).judge(Net(), "raw")
    assert alone.decides == "TAR at FAR 0.01"  # of 4,800 pairs 48 lie above, and 4 above a rate of 0.001
    assert alone["TAR at FAR 0.01"].interval is not None
    assert alone["TAR at FAR 0.001"].value is not None
    assert alone["TAR at FAR 0.001"].interval is None
    assert alone["TAR at FAR 0.0001"].missing == (
        f"not measurable: 0.0001 of {4950 - slow_genuine(faces):,} impostor pairs is less than one"
    )
    both = PeopleJudge(faces, others, bootstrap=20).judge(Net(), "raw")
    assert both.decides == "TAR at FAR 0.01, mixed"
    assert PeopleJudge(faces, decides="rank-1", bootstrap=0).judge(Net(), "raw").decides == "rank-1"


def slow_genuine(faces: Given) -> int:
    return sum(a == b for n, a in enumerate(faces.labels) for b in faces.labels[n + 1 :])


def test_a_worse_model_is_told_and_the_same_one_is_not() -> None:
    judge = PeopleJudge(drawn_faces(300, 60, 0), drawn_faces(150, 150, 1), bootstrap=200)
    good, same, bad = (judge.judge(net, "raw") for net in (Net(), Net(), blurred(0.5)))
    found = judge.compare(good, bad)
    assert found.deciding.value is not None
    assert found.deciding.value < 0
    assert found.deciding.significant() == "worse"
    assert found.deciding in found.worse()
    assert found.told == "worse by more than chance"
    assert found.deciding.interval is not None
    assert found.deciding.interval[1] < 0
    back = judge.compare(bad, good)
    assert back.deciding.significant() == "better"
    assert not back.worse()
    still = judge.compare(good, same)
    assert still.deciding.interval == (0, 0)
    assert still.deciding.chance == 1
    assert still.deciding.significant() is None
    assert still.told == "no difference that these people could show"
    assert "people, and impostors apart from them, drawn 200 times" in still.method


def test_an_interval_holds_the_figure_and_narrows_with_more_people() -> None:
    widths = []
    for people in (30, 270):
        verdict = PeopleJudge(drawn_faces(4 * people, people, 2), bootstrap=200).judge(Net(), "raw")
        figure = verdict["d'"]
        assert figure.interval is not None
        assert figure.value is not None
        assert figure.interval[0] <= figure.value <= figure.interval[1]
        widths.append(figure.interval[1] - figure.interval[0])
    assert 2 < widths[0] / widths[1] < 4.5  # a third as wide of nine times the people


def test_resampled_people_are_people_drawn() -> None:
    """A set in which each person stands as often as drawn, as another person each time, has the figures drawn."""
    faces = drawn_faces(40, 12, 5)
    times = np.random.default_rng(3).multinomial(12, np.ones(12) / 12).astype(float)
    judge = PeopleJudge(faces, bootstrap=0)
    found = all_pairs.unit_rows(np.array(faces.rows) - 2.0)
    people = np.array(faces.labels)
    genuine, own = all_pairs.genuine_pairs(found, people), all_pairs.impostor_pairs(found, people, highest=1)
    (rate,) = all_pairs.true_accept_rates(genuine, own, [0.05], (times, times))
    scores = [
        (
            float(found[i] @ found[j]),
            people[i] == people[j],
            times[people[i]] * (1 if people[i] == people[j] else times[people[j]]),
        )
        for i in range(40)
        for j in range(i + 1, 40)
    ]
    impostors = [
        round(s * 2**20) / 2**20 for s, same, weight in scores if not same for _ in range(int(weight))
    ]
    bound = slow_threshold(impostors, 0.05)
    assert bound is not None
    passed = sum(w for s, same, w in scores if same and round(s * 2**20) / 2**20 > bound)
    assert rate == pytest.approx(passed / sum(w for _, same, w in scores if same))
    assert judge.images(3)[0].shape == (1, 6, 3)


def test_what_a_checkpoint_holds_is_small_and_compares(tmp_path: Path) -> None:
    judge = PeopleJudge(drawn_faces(300, 60, 0), drawn_faces(150, 150, 1))
    verdicts = [judge.judge(net, "raw") for net in (Net(), blurred(0.2))]
    for number, verdict in enumerate(verdicts):
        torch.save(verdict.state_dict(), tmp_path / f"{number}.pt")
        assert (tmp_path / f"{number}.pt").stat().st_size < 80_000
    back = [Verdict.from_state(torch.load(tmp_path / f"{number}.pt", weights_only=True)) for number in (0, 1)]
    assert judge.compare(*back).to_json() == judge.compare(*verdicts).to_json()
    assert back[0].to_json() == verdicts[0].to_json()


def test_verdicts_of_other_people_are_not_compared() -> None:
    one, other = PeopleJudge(drawn_faces(40, 12, 5)), PeopleJudge(drawn_faces(40, 12, 6))
    with pytest.raises(InputError, match="not the same examples"):
        one.compare(one.judge(Net(), "raw"), other.judge(Net(), "raw"))


def test_a_quick_look_has_fewer_people_and_no_impostors() -> None:
    judge = PeopleJudge(drawn_faces(300, 60, 0), drawn_faces(50, 50, 1))
    few = judge.sample(80).judge(Net(), "raw")
    assert 40 <= few.images <= 120
    assert few.impostors == 0
    assert few["d'"].value is not None
    assert few["d'"].interval is None
    smallest = judge.sample(1).judge(Net(), "raw")
    assert smallest.people == 2


def test_a_part_of_the_people_is_judged_by_as_large_a_part_of_the_impostors() -> None:
    faces, others = drawn_faces(300, 60, 0), drawn_faces(90, 90, 1)
    rows = np.array(others.rows, float)
    judge = PeopleJudge(faces, others, alike=rows, alike_above=0.9, decides=MIXED.format(1e-3), bootstrap=40)
    few = judge.part(130)
    whole, part = (one.judge(Net(), "raw") for one in (judge, few))
    assert 90 <= part.images + part.impostors <= 170
    assert part.impostors == pytest.approx(part.images * 90 / 300, abs=5)
    found = few.compare(part, few.judge(blurred(0.2), "raw")).differences
    assert [one.interval is None for one in found] == [one.interval is None for one in part.figures]
    kept = few._others.chosen.tolist()
    pairs = {(kept[a], kept[b]) for a, b in few._left_out}
    assert pairs == {(a, b) for a, b in judge._left_out.tolist() if a in kept and b in kept}
    assert 0 < part.left_out < whole.left_out
    assert judge.part(390) is judge
    assert PeopleJudge(faces).part(299).judge(Net(), "raw").impostors == 0


def test_a_quick_comparison_draws_the_same_people_for_what_separates_and_for_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    judge = PeopleJudge(drawn_faces(80, 20, 0), bootstrap=40)
    nets = Net(), blurred(0.2)
    whole = judge.compare(*(judge.judge(net, "raw") for net in nets))
    for rates in ("true_accept_rates", "true_positive_rates"):
        monkeypatch.setattr(recognition, rates, once_each(getattr(recognition, rates)))
    quick = judge.comparable().compare(*(judge.comparable().judge(net, "raw") for net in nets))
    differences = {found.before.name: found for found in quick.differences}
    assert len(differences) > 4
    for found in whole.differences:
        same = differences[found.before.name]
        assert same.value == found.value
        assert (same.interval, same.chance) == (
            (found.interval, found.chance) if found.before.name == "d'" else (None, None)
        )


def once_each(rates: Callable[..., Any]) -> Callable[..., Any]:
    """The figures of all people as they are, and of none that are drawn."""

    def of_all(*args: Any) -> Any:
        assert args[-1] is None
        return rates(*args)

    return of_all


def test_a_teacher_of_the_run_says_which_impostors_are_alike() -> None:
    faces, others = drawn_faces(60, 20, 0), drawn_faces(40, 40, 1)
    others.rows[7] = others.rows[3]
    judge = PeopleJudge(faces, others, bootstrap=0)
    taught = judge.with_teacher(Net(), "raw")
    assert judge.judge(Net(), "raw").left_out == 0
    verdict = taught.judge(blurred(0.3), "raw")
    assert verdict.left_out > 0
    assert [3, 7] in verdict.outcomes["left out"].tolist()
    assert taught.with_teacher(blurred(0.3), "raw") is taught
    assert taught.identity() != judge.identity()
    assert PeopleJudge(faces).with_teacher(Net(), "raw").judge(Net(), "raw").left_out == 0


def test_who_is_called_alike_is_found_among_the_people() -> None:
    faces, others = drawn_faces(60, 20, 0), drawn_faces(40, 40, 1)
    verdict = PeopleJudge(faces, others, alike=Net(), alike_input="raw", bootstrap=0).judge(Net(), "raw")
    alike = similarities(faces)
    genuine = [alike[i][j] for i in range(60) for j in range(i + 1, 60) if faces.labels[i] == faces.labels[j]]
    between = similarities(others)
    pairs = [[i, j] for i in range(40) for j in range(i + 1, 40) if between[i][j] > np.quantile(genuine, 0.1)]
    assert verdict.outcomes["left out"].tolist() == pairs


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"impostors": Given([[1, 2, 3]], [-1])}, "1 impostor images make no pair"),
        ({"impostors": Given([[1, 2]] * 3, [-1] * 3)}, "1 x 3 pixels .* impostors 1 x 2"),
        ({"alike": np.ones((3, 4))}, "no impostors are given"),
        ({"impostors": Given([[1, 2, 3]] * 3, [-1] * 3), "alike": np.ones((2, 4))}, r"\[3, D\]"),
        ({"impostors": Given([[1, 2, 3]] * 3, [-1] * 3), "alike": np.ones((3, 4))}, "need alike_above"),
    ],
)
def test_what_does_not_fit_together(options: dict[str, object], match: str) -> None:
    with pytest.raises(InputError, match=match):
        PeopleJudge(Given([[1, 2, 3], [3, 2, 1], [2, 2, 5]], [0, 0, 1]), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("decides", ["TAR at FAR 0.5", "TAR at FAR 0.01"])
def test_a_figure_that_cannot_decide(decides: str) -> None:
    judge = PeopleJudge(Given([[1, 2, 3], [3, 2, 1], [2, 2, 5]], [0, 0, 1]), decides=decides)
    with pytest.raises(
        InputError, match=r"no figure is called|cannot decide: it is not measurable: 0.01 of 2"
    ):
        judge.judge(Net(), "raw")


def test_a_judge_is_found_by_its_name_with_and_without_impostors(tmp_path: Path, encode) -> None:
    pictures = np.random.default_rng(0).integers(0, 256, (12, 4, 4, 3), np.uint8)
    write_records(tmp_path / "p.rec", [(n % 4, encode(p)) for n, p in enumerate(pictures[:8])])
    write_records(tmp_path / "i.rec", [(-1, encode(p)) for p in pictures[8:]])
    flat = nn.Flatten()
    one = read_judge(f"people:{tmp_path}/p.rec").judge(flat)
    both = read_judge(f"people:{tmp_path}/p.rec,{tmp_path}/i.rec").judge(flat)
    assert isinstance(one.subject, str)
    assert "8 images of 4 people: 4 genuine, 24 impostor pairs" in one.subject
    assert both.subject.endswith("mixed: thresholds of 6 pairs of 4 others")


def test_a_net_that_guesses_is_at_chance_and_one_that_knows_is_not() -> None:
    class Guess(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.sin(1e4 * x.flatten(1).sum(dim=1, keepdim=True) * torch.arange(1, 9))

    judge = PeopleJudge(drawn_faces(200, 60, 0), bootstrap=0)
    assert judge.judge(Guess(), "raw").at_chance()
    assert not judge.judge(blurred(0.3), "raw").at_chance()

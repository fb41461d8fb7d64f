"""What is held out of the training images to judge a run by."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recipes.faces import PeopleJudge, write_records
from recipes.faces.judging.agreement import AgreementJudge
from recipes.tsmr import Stage, TSMRConfig, apply_tsmr
from recipes.tsmr.targets.auto import with_auto
from recipes.tsmr.targets.views import Part
from reparam_kit import InputError

from ..conftest import SIZE, photograph


class Labelled:
    """Images of one colour each."""

    def __init__(self, labels: list[int]) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        value = [index % 256, index // 256, 7]
        return (
            torch.tensor(value, dtype=torch.uint8)[:, None, None].expand(3, 4, 4),
            self.labels[index],
            index,
        )


def of_faces(images: object) -> None:
    return None


def of_classes(images: object) -> int:
    return 8


class Colours(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, 0, 0] - 128.5


def test_people_are_held_out_whole_and_unknown_images_beside_them() -> None:
    labels = [i // 5 for i in range(300)] + [-1] * 600
    rest, judges, told = with_auto(Labelled(labels), "auto", of_faces)  # type: ignore[arg-type]
    assert isinstance(rest, Part)
    assert isinstance(judges, list)
    (judge,) = judges
    assert isinstance(judge, PeopleJudge)
    assert (
        told
        == "val='auto': held out of the 900 images: 60 images of 12 people and 120 images of nobody known"
    )
    kept = {labels[i] for i in rest.chosen if labels[i] >= 0}
    verdict = judge.judge(Colours(), "raw")
    assert (verdict.images, verdict.people, verdict.impostors) == (60, 12, 120)
    assert len(kept) == 48
    assert len(rest) == 720
    again = with_auto(Labelled(labels), ["auto"], of_faces)[0]  # type: ignore[arg-type]
    np.testing.assert_array_equal(again.chosen, rest.chosen)  # type: ignore[union-attr]


def test_of_classes_some_images_of_each_are_held_out_under_their_own_numbers() -> None:
    labels = (
        [i % 3 * 2 for i in range(60)] + [7] * 2 + [-1] * 8
    )  # no class 1, 3, 5 and 6; few images of class 7
    rest, judges, told = with_auto(Labelled(labels), "auto", of_classes)  # type: ignore[arg-type]
    assert isinstance(rest, Part)
    assert isinstance(judges, list)
    assert told == "val='auto': held out of the 70 images: 12 images of 3 classes"
    assert rest.labels.tolist() == [labels[i] for i in rest.chosen]
    assert set(rest.labels) == {0, 2, 4, 7, -1}
    held = set(range(70)) - set(rest.chosen.tolist())
    assert sorted(labels[i] for i in held) == [0] * 4 + [2] * 4 + [4] * 4

    class Numbers(nn.Module):
        """The logits of the class that the number of an image, its red, belongs to."""

        def forward(self, x: Tensor) -> Tensor:
            return torch.eye(8)[torch.tensor(labels)[x[:, 0, 0, 0].long()]]

    assert judges[0].judge(Numbers(), "raw")["top-1"].value == 1  # type: ignore[union-attr]


@pytest.mark.parametrize("labels", [[0] * 100, [0, 1] * 20, [0, 1, 2, 3] * 4])
def test_too_few_of_each_class(labels: list[int]) -> None:
    with pytest.raises(InputError, match=r"a fifth of the images of each class .*: too few to judge by"):
        with_auto(Labelled(labels), "auto", of_classes)  # type: ignore[arg-type]


def test_where_nobody_is_known_the_teacher_is_agreed_with() -> None:
    rest, judges, told = with_auto(Labelled([-1] * 1000), "auto", of_faces)  # type: ignore[arg-type]
    assert len(rest) == 800  # type: ignore[arg-type]
    assert isinstance(judges[0], AgreementJudge)  # type: ignore[index]
    assert "200 images (nobody is known: judged is agreement with the teacher)" in told


@pytest.mark.parametrize("labels", [[-1] * 50, list(range(300)), [0, 0, 1, 1]])
def test_too_few_to_judge_by(labels: list[int]) -> None:
    with pytest.raises(
        InputError, match="too few to judge by: it takes 10 pairs of one person, or 100 images"
    ):
        with_auto(Labelled(labels), "auto", of_faces)  # type: ignore[arg-type]


def test_nothing_is_held_out_unasked() -> None:
    images = Labelled([0])
    assert with_auto(images, None, of_faces) == (images, None, "")  # type: ignore[arg-type]
    assert with_auto(images, ["a.bin"], of_faces) == (images, ["a.bin"], "")  # type: ignore[arg-type]


def test_agreement_is_whole_with_oneself_and_falls_with_noise() -> None:
    torch.manual_seed(0)
    noise = torch.eye(3) + 0.3 * torch.randn(3, 3)

    class Noisy(Colours):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) @ noise

    images = Labelled([-1] * 300)
    judge = AgreementJudge(images, bootstrap=50).with_teacher(Colours(), "raw")  # type: ignore[arg-type]
    same, other = judge.judge(Colours(), "raw"), judge.judge(Noisy(), "raw")
    assert same.decides == "agreement at 0.001"  # of 44,850 pairs 44 are that share, and 4 a tenth of it
    assert [figure.value for figure in same.figures] == [1, 1]
    assert judge.compare(same, other).deciding.significant() == "worse"

    # By hand: which pairs of the teacher's hundredth are in that of the other net.
    alike = []
    for net in (Colours(), Noisy()):
        rows = net(torch.stack([images[i][0] for i in range(300)]).float()).double().numpy()
        rows /= np.linalg.norm(rows, axis=1, keepdims=True)
        scores = ((rows @ rows.T) * 2**20).round()[np.triu_indices(300, 1)]
        alike.append(scores > np.sort(scores)[::-1][448])
    assert other["agreement at 0.01"].value == pytest.approx((alike[0] & alike[1]).sum() / alike[0].sum())


def test_agreement_needs_a_teacher_and_images() -> None:
    with pytest.raises(InputError, match="with_teacher says which"):
        AgreementJudge(Labelled([-1] * 300)).judge(Colours(), "raw")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="10 images make 45 pairs"):
        AgreementJudge(Labelled([-1] * 10))  # type: ignore[arg-type]


@pytest.mark.parametrize("known", [True, False])
def test_a_run_by_itself(
    tmp_path: Path, student: nn.Module, teacher: nn.Module, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for judge in (PeopleJudge, AgreementJudge):
        monkeypatch.setitem(judge.__init__.__kwdefaults__, "bootstrap", 20)
    rng = np.random.default_rng(0)
    records = [(p if known else -1, photograph(p, rng)) for p in range(40) for _ in range(15)]
    write_records(tmp_path / "a.rec", records, (SIZE, SIZE))
    config = TSMRConfig(stages=(Stage(epochs=1, cosine=1.0),), batch_size=16, block=None, shares=())
    report = apply_tsmr(student, teacher, tmp_path / "a.rec", "auto", replace(config, lr=1e-3)).report
    assert report.images == 480
    assert report.before[0].decides == ("TAR at FAR 0.01" if known else "agreement at 0.01")
    assert report.comparisons[0].deciding.interval is not None

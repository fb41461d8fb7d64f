"""A run judged by people: end to end, resumed, with its teacher judged first."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from recipes.faces import PeopleJudge, decode_image, read_faces, write_records
from recipes.tsmr import Callback, Stage, TSMRConfig, apply_tsmr, improve, write_report
from recipes.tsmr.places import hold_apart
from recipes.tsmr.rendering.show import show_report
from recipes.tsmr.run import Run
from reparam_kit import InputError

from .conftest import SIZE, face_net, photograph

CONFIG = TSMRConfig(stages=(Stage(epochs=2, cosine=1.0),), batch_size=8, block=None, shares=(0.5,))
OTHERS = 1000


@pytest.fixture(scope="module")
def people(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Thirty people with four images each, and sixty others."""
    rng, folder = np.random.default_rng(3), tmp_path_factory.mktemp("people")
    known = [(p, photograph(200 + p, rng)) for p in range(30) for _ in range(4)]
    write_records(folder / "people.rec", known, (SIZE, SIZE))
    write_records(folder / "others.rec", [(-1, photograph(OTHERS + p, rng)) for p in range(60)])
    return folder / "people.rec", folder / "others.rec"


class Stop(Callback):
    def epoch(self, epoch: object, model: nn.Module) -> None:
        raise KeyboardInterrupt


def test_a_run_goes_on_to_the_same_end_and_writes_its_page(
    rec: Path, people: tuple[Path, Path], student: nn.Module, tmp_path: Path
) -> None:
    teacher = face_net(tmp_path / "teacher.onnx", 12, 5)
    judge = PeopleJudge(*people, bootstrap=40)
    places = {"cache": tmp_path / "work", "checkpoint": tmp_path / "c.pt"}
    whole = apply_tsmr(student, teacher, rec, judge, CONFIG).report
    with pytest.raises(KeyboardInterrupt):
        apply_tsmr(student, teacher, rec, judge, CONFIG, **places, callbacks=[Stop()])  # type: ignore[arg-type]
    resumed = apply_tsmr(student, teacher, rec, judge, CONFIG, **places).report  # type: ignore[arg-type]
    assert [one.to_json() for one in resumed.comparisons] == [one.to_json() for one in whole.comparisons]
    assert (
        resumed.before[0].decides == "TAR at FAR 0.01"
    )  # of 1,770 mixed pairs too few lie above, of 6,960 own 69
    assert {one.left_out for one in (*resumed.before, *resumed.after)} == {resumed.before[0].left_out}  # type: ignore[attr-defined]
    write_report(resumed, tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "TPIR at FPIR 0.01" in page
    assert "120 images of 30 people: 180 genuine, 6,960 impostor pairs" in page


def test_a_stronger_and_a_no_better_teacher(
    rec: Path,
    people: tuple[Path, Path],
    student: nn.Module,
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Noisy(nn.Module):
        """The student, its embedding drowned in what says nothing."""

        def forward(self, x: Tensor) -> Tensor:
            noise = torch.sin(1e4 * x.flatten(1).sum(dim=1, keepdim=True) * torch.arange(1, 9))
            out: Tensor = student(x)
            return out / out.norm(dim=1, keepdim=True) + 0.04 * noise

    class Pixels(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            out = nn.functional.avg_pool2d(x, 4).flatten(1)
            return out - out.mean(dim=1, keepdim=True)

    config = TSMRConfig(stages=(Stage(epochs=1, cosine=1.0),), batch_size=8, block=None, shares=())
    judge = PeopleJudge(people[0], bootstrap=400, decides="rank-1")
    with caplog.at_level(logging.WARNING, "recipes.tsmr"):
        apply_tsmr(student, [Pixels(), Noisy(), student], rec, judge, config)
    told = [message for message in caplog.messages if "student" in message and "against" in message]
    assert len(told) == 2, told
    assert told[0].startswith("teacher 2 is worse than the student: rank-1 ")
    assert told[1].startswith("teacher 3 is not shown to be better than the student: rank-1 ")
    assert "(difference +0.00 to +0.00, 95 %)" in told[1]


def test_another_figure_decides(rec: Path, people: tuple[Path, Path], student: nn.Module) -> None:
    config = TSMRConfig(stages=(Stage(epochs=1, cosine=1.0),), batch_size=8, block=None, decides="rank-1")
    judge = PeopleJudge(people[0], bootstrap=10)
    assert apply_tsmr(student, student, rec, judge, config).report.before[0].decides == "rank-1"
    with pytest.raises(InputError, match="decides='rank-1' is a figure of val"):
        apply_tsmr(student, student, rec, config=config)


def test_a_run_without_a_judge_says_so(rec: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    student, teacher = face_net(tmp_path / "s.onnx", 8, 1), face_net(tmp_path / "t.onnx", 8, 2)
    config = TSMRConfig(stages=(Stage(epochs=1, cosine=1.0),), batch_size=8, block=None)
    with caplog.at_level(logging.WARNING, "recipes.tsmr"):
        improve(student, teacher, rec, tmp_path / "out.onnx", config=config)
    (told,) = [message for message in caplog.messages if "without val" in message]
    assert "nobody can know whether the result is better" in told
    assert "\n" not in told


def test_impostors_belong_to_the_people() -> None:
    run = Run("deployed.onnx", "teacher.onnx", "train.rec", "better.onnx", val=("lfw.bin", "people:b.rec"))
    assert replace(run, val=()).judges == []
    mixed = replace(run, val_people="a.rec", impostors="i.rec")
    assert mixed.judges == ["people:a.rec,i.rec", "lfw.bin", "people:b.rec,i.rec"]
    assert replace(mixed, impostors=None).judges == ["people:a.rec", "lfw.bin", "people:b.rec"]
    with pytest.raises(InputError, match="--val-people, which is not given"):
        _ = replace(mixed, val=("lfw.bin",), val_people=None).judges


@pytest.mark.parametrize("output", ["a.rec", "b.rec"])
def test_what_a_kind_of_judge_reads_is_not_written_to(tmp_path: Path, output: str) -> None:
    for name in ("a.rec", "b.rec"):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=output):
        hold_apart({"val": [f"people:{tmp_path}/a.rec,{tmp_path}/b.rec"]}, {"output": tmp_path / output})


def test_a_run_that_keeps_the_gallery_is_shown_without_pairs_to_tell_it_by(
    rec: Path,
    people: tuple[Path, Path],
    student: nn.Module,
    teacher: nn.Module,
    capsys: pytest.CaptureFixture[str],
) -> None:
    config = replace(CONFIG, keep_gallery=1.0)
    show_report(apply_tsmr(student, teacher, rec, PeopleJudge(*people, bootstrap=40), config).report)
    shown = capsys.readouterr().out
    assert "TAR at FAR 0.01" in shown
    assert max(map(len, shown.splitlines())) <= 80
    assert "gallery:" not in shown


@pytest.mark.parametrize(("images", "warned"), [(10, True), (0, False)])
def test_images_that_are_trained_on_and_judge_are_warned_of(
    rec: Path,
    student: nn.Module,
    teacher: nn.Module,
    caplog: pytest.LogCaptureFixture,
    images: int,
    warned: bool,
) -> None:
    """Ten of the training images under another name, among those of other people."""
    rng = np.random.default_rng(4)
    known = [(p, photograph(300 + p, rng)) for p in range(4) for _ in range(3)]
    faces = read_faces(rec)
    shared = [(faces[i][0], 90 + i // 2) for i in range(images)]
    decoded = [(decode_image(photo, "a photo"), label) for label, photo in known]
    judge = PeopleJudge([*decoded, *shared], bootstrap=20)  # type: ignore[arg-type]
    apply_tsmr(student, teacher, rec, judge, replace(CONFIG, stages=(Stage(epochs=1, cosine=1.0),)))
    said = [text for text in caplog.messages if "keep the two apart" in text]
    assert len(said) == warned
    assert all(f"validation set 1: {images} of 24 training images" in text for text in said)

"""Nets that give logits or maps, from their start to what is written."""

from __future__ import annotations

import html
import json
import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import StackDataset

import reparam_kit as rk
from recipes.faces import ClassesJudge, RetrievalJudge, read_faces
from recipes.progress import Progress
from recipes.tsmr import (
    Ablation,
    Augment,
    Batch,
    Loss,
    Stage,
    Start,
    TSMRConfig,
    apply_tsmr,
    improve,
    write_report,
)
from recipes.tsmr.ablation import arms
from recipes.tsmr.beginning import Fingerprints, gathered
from recipes.tsmr.cli import tsmr
from recipes.tsmr.distributed import Processes
from recipes.tsmr.improved import Improved
from recipes.tsmr.ingredients import gather
from recipes.tsmr.targets import holdout
from reparam_kit import InputError

SHORT = TSMRConfig(epochs=2, batch_size=8, block="acb")


PEOPLE = 6


@pytest.fixture(scope="module")
def photos(rec: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of the photographs of six people."""
    folder, images = tmp_path_factory.mktemp("photos"), read_faces(rec)
    for number in range(len(images)):
        image, person, _ = images[number]
        (folder / str(person)).mkdir(exist_ok=True)
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(folder / str(person) / f"{number}.png")
    return folder


def small(size: int, width: int = 8) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, stride=2, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
        nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(16 * width, size),
    ).eval()  # fmt: skip


class Classifier(nn.Module):
    """Six classes, in one of the forms that nets have."""

    def __init__(self, seed: int, form: str = "tensor") -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = small(PEOPLE)
        self.form = form

    def forward(self, x: Tensor) -> Any:
        logits = self.net(x)
        features = torch.cat([logits.sin(), logits.cos()], dim=1)
        return {
            "tensor": lambda: logits,
            "softmax": lambda: logits.softmax(dim=1),
            "dict": lambda: {"features": features, "logits": logits, "map": x},
            "tuple": lambda: (features, logits),
            "object": lambda: Answer(features, logits),
        }[self.form]()


@dataclass
class Answer:
    features: Tensor
    logits: Tensor


def taught(seed: int, photos: Path, form: str = "tensor") -> Classifier:
    """A teacher that knows the six people."""
    net = Classifier(seed, form)
    images = read_faces(photos)
    x = torch.stack([images[i][0] for i in range(len(images))]).float() / 127.5 - 1
    y = torch.tensor([images.label(i) for i in range(len(images))])
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(25):
        optimizer.zero_grad()
        nn.functional.cross_entropy(net.net(x), y).backward()
        optimizer.step()
    return net.eval()


@pytest.mark.parametrize(("form", "name"), [("dict", "logits"), ("tuple", "1"), ("object", "logits")])
def test_logits_among_other_outputs_are_named(photos: Path, form: str, name: str) -> None:
    student, teacher = Classifier(1, form), taught(2, photos, form)
    judge = ClassesJudge(photos)
    with pytest.raises(InputError, match=r"could be the embedding.* name it .*--student-output"):
        apply_tsmr(student, taught(2, photos), photos, judge, SHORT)
    config = TSMRConfig(epochs=12, batch_size=8, student_output=name, teacher_output=name)
    result = apply_tsmr(student, teacher, photos, judge, config)
    assert result.report.config.task == "logits"
    assert result.report.config.stages == (Stage(12, kl=1.0, labels=1.0),)
    before, after = result.report.before[0]["top-1"], result.report.after[0]["top-1"]
    assert after.goodness > before.goodness
    assert type(result.model(torch.zeros(1, 3, 16, 16))) is type(student(torch.zeros(1, 3, 16, 16)))
    features = "0" if form == "tuple" else "features"
    assert result.report.other_outputs.keys() == {features}


def test_several_judges_of_which_the_first_decides(photos: Path, bin_file: Path, tmp_path: Path) -> None:
    classes, retrieval = ClassesJudge(photos), RetrievalJudge(photos, photos)
    student, teacher = Classifier(1), taught(2, photos)
    for judges, task, decides in (
        ([classes, retrieval, bin_file], "logits", "top-1"),
        ([retrieval, f"classes:{photos}"], "embeddings", "mAP"),
    ):
        report = apply_tsmr(student, teacher, photos, judges, SHORT).report
        assert report.config.task == task
        assert report.before[0].decides == decides
        assert [len(epoch.validation) for epoch in report.epochs] == [len(judges)] * len(report.epochs)
        assert len(report.after) == len(report.comparisons) == len(judges)
        write_report(report, tmp_path / "page.html")
        page = (tmp_path / "page.html").read_text()
        assert report.task[1:] in html.unescape(page)
        assert json.loads(json.dumps(report.to_json()))["task"] == report.task


def test_what_ends_in_a_softmax_learns_as_what_does_not(photos: Path) -> None:
    ends = []
    for form in ("tensor", "softmax"):
        student, teacher = Classifier(1, form), taught(2, photos, form)
        config = TSMRConfig(task="logits", epochs=2, batch_size=8, lr=1e-3)
        ends.append(apply_tsmr(student, teacher, photos, config=config))
    assert ends[0].report.epochs[-1].losses == pytest.approx(ends[1].report.epochs[-1].losses, rel=2e-2)
    for name, tensor in ends[0].model.state_dict().items():
        torch.testing.assert_close(ends[1].model.state_dict()[name], tensor, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("views", ["original", "live"])
def test_the_logits_of_several_teachers_are_averaged(photos: Path, tmp_path: Path, views: Any) -> None:
    teachers = [taught(seed, photos) for seed in (2, 3)]
    config = TSMRConfig(task="logits", batch_size=8, views=views)
    given = gather(Classifier(1), teachers, None, str(photos), None, config, Processes())
    examples = gathered(given, Fingerprints("s", ("a", "b"), "d"), None, tmp_path, Progress(silent=True))
    (shown,) = examples.showing.first(8, 8, 0)
    x = shown.images.float() / 127.5 - 1
    with torch.no_grad():
        mean = (teachers[0](x) + teachers[1](x)) / 2
    torch.testing.assert_close(examples.targets.rows(shown), mean, rtol=2e-3, atol=2e-3)


def two_outputs(path: Path, seed: int) -> Path:
    """The file of a net that gives features and logits."""
    net = Classifier(seed, "tuple").eval()
    rk.export_onnx(net, path, example_inputs=(torch.zeros(2, 3, 16, 16),))
    return path


def test_files_with_several_outputs_on_the_command_line(photos: Path, tmp_path: Path) -> None:
    student, teacher = two_outputs(tmp_path / "s.onnx", 0), two_outputs(tmp_path / "t.onnx", 1)
    names = [output.name for output in onnx.load(student).graph.output]
    command = [
        str(student), "--teacher", str(teacher), "--data", str(photos), "--student-input", "insightface",
        "--teacher-input", "insightface", "--batch-size", "8", "-o", str(tmp_path / "out.onnx"), "--json",
        "--student-output", names[1], "--teacher-output", names[1], "--epochs", "1",
    ]  # fmt: skip
    result = CliRunner().invoke(tsmr, [*command, "--task", "logits"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout)
    assert report["task"].startswith("the student's output is taken for logits: task='logits' was chosen")
    assert report["config"]["stages"] == [{"epochs": 1, "rate": 1.0, "losses": {"kl": 1.0}}]
    assert report["verification"]["structure"]["same_graph"]
    assert "the student's output is taken for logits" in result.stderr


def compared(photos: Path, output: Path) -> Improved:
    """A run with its controls, by images of each class that are held out."""
    student = two_outputs(output.with_name("s.onnx"), 0)
    outputs = {"student_output": onnx.load(student).graph.output[1].name}
    return improve(
        student, taught(2, photos), photos, output, val="auto", ablation=Ablation(seeds=(0,), rates=(1e-2,)),
        config=TSMRConfig(epochs=1, batch_size=6, task="logits", block="acb", **outputs),
    )  # fmt: skip


def test_controls_of_logits_are_judged_by_classes(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdout, "_HELD_OUT", 0.5)  # of four images of each of six people, then of two
    monkeypatch.setattr(holdout, "_FEWEST", 6)
    report = compared(photos, tmp_path / "out.onnx").report
    assert [arm.name for arm in report.ablation] == list(arms(report.config))
    for arm in report.ablation:
        assert (arm.verdicts[0].decides, arm.verdicts[0].subject) == ("top-1", "12 images of 6 classes")
        assert arm.rates[1e-2] is not None
        assert arm.images == 12


def test_controls_that_cannot_be_judged_are_refused_before_training(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdout, "_HELD_OUT", 0.5)
    monkeypatch.setattr(
        holdout, "_FEWEST", 7
    )  # the judge has twelve of 24 images, and the rates half of the others
    with pytest.raises(InputError, match="too few to judge by; leave --compare out"):
        compared(photos, tmp_path / "out.onnx")
    assert not (tmp_path / "out.onnx").exists()


@pytest.fixture
def gap(photos: Path, tmp_path: Path) -> Path:
    """The photographs without those of the third person: the last three are numbered as others are elsewhere."""
    copy = tmp_path / "gap"
    shutil.copytree(photos, copy, ignore=shutil.ignore_patterns("2"))
    return copy


def test_labels_of_images_that_do_not_show_every_class_are_left_out(
    photos: Path, gap: Path, caplog: pytest.LogCaptureFixture
) -> None:
    student, teacher = taught(1, photos), taught(2, photos)
    config = replace(SHORT, epochs=1, task="logits")
    assert apply_tsmr(student, teacher, gap, f"classes:{gap}", config).report.config.losses == ("kl",)
    assert "'labels' is left out: the images show 5 classes and the nets give 6 logits" in caplog.text
    assert "the judge 'classes' has other classes than the student's 6 logits" in caplog.text
    asked = replace(config, stages=(Stage(epochs=1, labels=1.0),), epochs=None)
    for val, choices in ((None, asked), ("auto", config)):
        with pytest.raises(InputError, match="the images show 5 classes and the nets give 6 logits"):
            apply_tsmr(student, teacher, gap, val, choices)


def test_auto_takes_a_net_that_names_the_labels_for_a_classifier(
    photos: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(holdout, "_HELD_OUT", 0.5)
    report = apply_tsmr(taught(1, photos), taught(2, photos), photos, "auto", SHORT).report
    assert report.config.losses == ("kl", "labels")
    assert (report.before[0].decides, report.before[0].subject) == ("top-1", "12 images of 6 classes")


class Pixels(Loss, name="test_pixels", needs={"teacher"}, task="maps"):
    """Cross entropy of each place with the teacher's class there."""

    def start(self, start: Start) -> None:
        self.weights = nn.Parameter(torch.ones(start.size))

    def forward(self, batch: Batch) -> Tensor:
        return nn.functional.cross_entropy(
            self.weights[:, None, None] * batch.student, batch.teacher.argmax(dim=1)
        )


def segmenter(width: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
        nn.Conv2d(width, 4, 1),
    ).eval()  # fmt: skip


@pytest.mark.parametrize("views", ["original", "live"])
def test_maps_train_with_a_loss_of_ones_own(photos: Path, views: Any) -> None:
    torch.manual_seed(0)
    student, teacher = segmenter(6), segmenter(12)

    config = TSMRConfig(
        stages=(Stage(4, losses={"test_pixels": 1.0}),), batch_size=8, views=views, lr=1e-2, flip=True
    )
    result = apply_tsmr(student, teacher, photos, config=config)
    first, *_, last = result.report.epochs
    assert result.report.config.task == "maps"
    assert last.losses["test_pixels"] < 0.9 * first.losses["test_pixels"]
    assert result.model.state_dict().keys() == student.state_dict().keys()


@pytest.mark.parametrize("move", ["mirror", "affine"])
def test_maps_of_images_that_are_moved_without_them_are_refused(photos: Path, move: str) -> None:
    stages = (Stage(1, losses={"test_pixels": 1.0}),)
    config = TSMRConfig(stages=stages, batch_size=8, augment=Augment(**{move: 0.5}))
    with pytest.raises(InputError, match=f"augment={move} moves an image and not the map"):
        apply_tsmr(segmenter(4), segmenter(6), photos, config=config)
    apply_tsmr(segmenter(4), segmenter(6), photos, config=replace(config, views="live"))


@pytest.mark.parametrize(
    ("choices", "says"),
    [
        (
            {},
            "the student gives output .* not one embedding each: a map is pooled .* losses that take maps alone",
        ),
        (
            {"stages": (Stage(1, mse=1.0, losses={"test_pixels": 1.0}),)},
            "not one embedding each: a map is pooled",
        ),
        ({"task": "maps"}, "no losses are usual for maps"),
        ({"task": "maps", "stages": (Stage(1, mse=1.0),)}, "the loss 'mse' is for rows .* for maps"),
    ],
)
def test_maps_are_refused_unless_each_loss_takes_them(
    photos: Path, choices: dict[str, Any], says: str
) -> None:
    teacher = segmenter(4) if "task" in choices else small(8)
    with pytest.raises(InputError, match=says):
        apply_tsmr(segmenter(4), teacher, photos, config=TSMRConfig(batch_size=8, **choices))


def test_rows_are_refused_where_losses_take_maps(photos: Path) -> None:
    config = TSMRConfig(stages=(Stage(1, losses={"test_pixels": 1.0}),), batch_size=8)
    with pytest.raises(InputError, match="not one map each"):
        apply_tsmr(small(8), segmenter(4), photos, config=config)


def test_labels_of_a_dataset_teach_and_some_may_be_missing(photos: Path) -> None:
    images = read_faces(photos)
    labels = torch.tensor([images.label(i) if i % 3 else -1 for i in range(24)])
    data: Any = StackDataset(torch.stack([images[i][0] for i in range(24)]), labels, torch.arange(24))
    config = TSMRConfig(stages=(Stage(3, labels=1.0),), batch_size=8, lr=1e-2)
    losses = [
        epoch.losses["labels"]
        for epoch in apply_tsmr(Classifier(1), Classifier(2), data, config=config).report.epochs
    ]
    assert losses[-1] < losses[0]

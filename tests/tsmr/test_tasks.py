"""What the student's output is taken for, by what it is told from, and which losses that refuses."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import StackDataset

from recipes.faces import ClassesJudge, Judge
from recipes.tsmr import Stage, TSMRConfig
from recipes.tsmr.distributed import Processes
from recipes.tsmr.stages import CLASSIFY, DISTIL
from recipes.tsmr.targets.streams import require_batch
from recipes.tsmr.targets.views import Views
from recipes.tsmr.tasks import settle
from reparam_kit import InputError

CLASSES = 6
torch.manual_seed(0)
SHOWN = torch.arange(90) % CLASSES
IMAGES = torch.randint(0, 100, (90, 3, 4, CLASSES), dtype=torch.uint8)
IMAGES[torch.arange(90), :, :, SHOWN] = 255  # a bright column for each class
TURNED = torch.tensor([3, 0, 5, 1, 2, 4])
SCATTER = torch.randn(4 * CLASSES * 3, 8)

Asked = Callable[[Tensor], Tensor]


def names(images: Tensor) -> Tensor:
    """The class of an image is its largest number."""
    return images.float().mean(dim=(1, 2)) / 10


def scattered(images: Tensor) -> Tensor:
    """Numbers that have nothing to do with the class."""
    return (images.float().flatten(1) / 255 - 0.4) @ SCATTER[:, :CLASSES]


def unit(images: Tensor) -> Tensor:
    return F.normalize(names(images), dim=1)


def probable(images: Tensor) -> Tensor:
    return names(images).softmax(dim=1)


def turned(images: Tensor) -> Tensor:
    return names(images)[:, TURNED]


def wide(images: Tensor) -> Tensor:
    return F.pad(names(images), (0, 2))


def stuck(images: Tensor) -> Tensor:
    return scattered(images) + 100 * torch.eye(CLASSES)[2]


class Known(Judge):
    def __init__(self, outputs: Any) -> None:
        self._known = outputs

    def outputs(self, size: int) -> Any:
        return self._known

    def judge(self, *args: Any) -> Any:
        raise NotImplementedError


def found(
    student: Asked = scattered,
    *teachers: Asked,
    labels: Tensor | None = None,
    judges: Sequence[Judge] = (),
    **choices: Any,
) -> tuple[TSMRConfig, str]:
    people = torch.full((90,), -1) if labels is None else labels
    views = Views(cast("Any", StackDataset(IMAGES, people, torch.arange(90))))
    return settle(TSMRConfig(**choices), student, teachers or (names,), views, judges)


CLASSIFIED = ClassesJudge(StackDataset(IMAGES, SHOWN))
KL, COSINE = (Stage(2, kl=1.0),), (Stage(2, cosine=1.0),)


@pytest.mark.parametrize(
    ("given", "task", "says"),
    [
        ({}, "embeddings", "nothing says that it is logits"),
        ({"judges": [CLASSIFIED]}, "logits", "the judge 'classes' takes its 6 numbers for that"),
        ({"judges": [Known(None), Known("logits")]}, "logits", "the judge 'Known'"),
        ({"judges": [Known("embeddings")], "student": names}, "embeddings", "the judge 'Known'"),
        ({"labels": SHOWN}, "logits", "90 of 90 labels are the largest of its 6 numbers or the teacher's"),
        ({"labels": torch.where(SHOWN < 3, SHOWN, -1)}, "logits", "45 of 45 labels are the largest"),
        ({"student": names}, "logits", "the largest of its 6 numbers is the teacher's for 90 of 90 images"),
        ({"student": probable}, "logits", "the teacher's for 90 of 90 images"),
        ({"student": turned, "teachers": [turned], "labels": SHOWN}, "logits", "the teacher's for 90 of 90"),
        ({"student": unit, "teachers": [unit], "labels": SHOWN}, "embeddings", "nothing says"),
        (
            {"student": names, "labels": torch.arange(90)},
            "embeddings",
            "nothing says",
        ),  # people, more than numbers
        ({"student": stuck, "teachers": [stuck]}, "embeddings", "nothing says"),
        (
            {"student": stuck, "teachers": [stuck], "labels": torch.full((90,), 2)},
            "embeddings",
            "nothing says",
        ),
        ({"student": wide}, "embeddings", "nothing says"),
        ({"student": names, "teachers": [names, wide]}, "embeddings", "nothing says"),
        ({"stages": KL}, "logits", "the loss 'kl' was chosen, which is for logits"),
        ({"stages": COSINE, "student": names}, "embeddings", "the loss 'cosine' was chosen"),
        ({"stages": (Stage(2, mse=1.0),), "student": names}, "logits", "the teacher's for 90 of 90"),
        ({"task": "logits"}, "logits", "task='logits' was chosen"),
        ({"task": "embeddings", "labels": SHOWN, "judges": [CLASSIFIED]}, "embeddings", "was chosen"),
    ],
)
def test_it_is_found_and_said(
    given: dict[str, Any], task: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "recipes.tsmr")
    teachers = given.get("teachers", [names])
    others = {name: value for name, value in given.items() if name not in ("student", "teachers")}
    config, line = found(given.get("student", scattered), *teachers, **others)
    assert config.task == task
    assert line.startswith(f"the student's output is taken for {task}: ")
    assert says in line
    assert line in caplog.messages


def test_labels_that_are_none_are_said_and_left_out(caplog: pytest.LogCaptureFixture) -> None:
    boxes = torch.zeros(90, 4)
    assert found(labels=boxes, stages=KL)[0].task == "logits"
    assert (
        "labels of the images are left out, unless a loss asks for them: image 0 has the label" in caplog.text
    )
    assert "labels" not in found(labels=boxes, task="logits")[0].losses


def test_how_many_images_fill_a_batch_hangs_on_the_task() -> None:
    views = Views(cast("Any", IMAGES[:70]))
    require_batch(views, found(labels=SHOWN)[0], Processes())
    with pytest.raises(InputError, match="70 training images do not fill a batch: lower batch_size=128"):
        require_batch(views, found()[0], Processes())


def test_what_hangs_on_the_task_is_settled() -> None:
    faces = found()[0]
    assert (faces.stages, faces.lr, faces.batch_size, faces.share) == ((DISTIL,), 2e-4, 128, 0.5)
    labelled = found(labels=SHOWN)[0]
    assert (labelled.stages, labelled.batch_size, labelled.share) == ((CLASSIFY,), 64, 1)
    assert labelled.lr is not None
    assert labelled.lr > 1e-4
    short = found(names, epochs=3)[0]
    assert short.stages == (Stage(3, kl=1.0),)  # nobody says what is on the images
    assert (short.epochs, short.total_epochs) == (None, 3)
    assert (
        found(names, stages=COSINE, flip=False, lr=0.5)[0].plan
        == found(task="embeddings", stages=COSINE, flip=False, lr=0.5)[0].plan
    )
    assert found(task="logits", flip=True, lr=0.5)[0].flip is True
    assert TSMRConfig.from_json(short.to_json()) == short


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"stages": COSINE, "judges": [CLASSIFIED]},
            r"the loss 'cosine' is for embeddings, .* for logits \(the judge",
        ),
        (
            {"stages": COSINE, "judges": [CLASSIFIED]},
            r"choose losses of logits \(mse, kl, dist, labels.*\), or say by .*--task",
        ),
        ({"stages": COSINE, "labels": SHOWN}, "the loss 'cosine' is for embeddings"),
        (
            {"stages": KL, "judges": [Known("embeddings")]},
            "the loss 'kl' is for logits, .* taken for embeddings",
        ),
        ({"stages": (*COSINE, *KL)}, "the loss 'kl' is for logits, .*the loss 'cosine' was chosen"),
        ({"keep_gallery": 1.0, "task": "logits"}, "the loss 'gallery' is for embeddings"),
        (
            {"task": "maps", "stages": (Stage(2, mse=1.0),)},
            r"the loss 'mse' is for rows \[N, D\], .* for maps",
        ),
        (
            {"student": wide, "task": "logits"},
            r"gives 8 logits .* and the teachers 6 numbers: .*student_output",
        ),
        ({"student": wide, "stages": KL}, "gives 8 logits .* and the teachers 6 numbers"),
        (
            {"student": wide, "labels": SHOWN},
            r"gives 8 logits \(the labels .* largest.*\) and the teachers 6 numbers",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(given: dict[str, Any], says: str) -> None:
    others = {name: value for name, value in given.items() if name != "student"}
    with pytest.raises(InputError, match=says):
        found(given.get("student", scattered), **others)


@pytest.mark.parametrize(
    ("given", "level", "says"),
    [
        (
            {"labels": SHOWN.flip(0) * 0 + (SHOWN + 2) % 6},
            "WARNING",
            "in another order; the loss 'labels' is left out",
        ),
        ({"labels": (SHOWN + 2) % 6, "stages": (Stage(1, labels=1.0),)}, "WARNING", "in another order"),
        ({"student": probable}, "INFO", "the student ends in a softmax"),
        ({"student": lambda images: names(images).sigmoid()}, "WARNING", "the student's numbers lie in 0..1"),
    ],
)
def test_what_is_unusual_about_logits_is_said(
    given: dict[str, Any], level: str, says: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "recipes.tsmr")
    others = {name: value for name, value in given.items() if name != "student"}
    config, _ = found(given.get("student", names), task="logits", **others)
    said = [record.getMessage() for record in caplog.records if record.levelname == level]
    assert any(says in line for line in said), said
    assert ("left out" in " ".join(said)) == ("labels" not in config.losses and "labels" in others)


def test_a_known_label_is_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    found(names, labels=SHOWN)
    found(names)
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]

"""What teachers say: of tables, and live of the very images that are shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from recipes.faces import Embedder, FaceRecords, input_preset
from recipes.progress import Progress
from recipes.tsmr import Augment, Batch, Loss, Margin, Stage, TSMRConfig, apply_tsmr
from recipes.tsmr.choices import Combine, Taught
from recipes.tsmr.stages import LOSSES
from recipes.tsmr.targets.passes import Net, embedding_tables
from recipes.tsmr.targets.showing import Showing, Shown
from recipes.tsmr.targets.targets import LiveTargets, PartTable, StoredTargets
from recipes.tsmr.targets.views import Part, Views
from reparam_kit import InputError

CPU = torch.device("cpu")
CHANGED = Augment(colour=0.5, occlusion=0.5, mix=0.4)


def unit(images: int, size: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).normal(size=(images, 2, size))
    return (rows / np.linalg.norm(rows, axis=2, keepdims=True)).astype(np.float16)


def at(rows: list[int], column: int = 0) -> Shown:
    number = torch.tensor(rows)
    return Shown(torch.zeros(len(rows), 3, 4, 4), number, torch.full_like(number, column), number < 0)


def test_one_teacher_is_its_table() -> None:
    table = unit(5, 3)
    for combine in ("concat", "mean"):
        targets = StoredTargets([table], combine)
        assert targets.size == 3
        np.testing.assert_array_equal(targets.rows(at([4, 0], 1)), table[[4, 0], 1].astype(np.float32))
        np.testing.assert_array_equal(
            targets.originals(np.array([4, 0])), table[[4, 0], 0].astype(np.float32)
        )


@pytest.mark.parametrize("combine", ["concat", "mean"])
def test_the_table_of_a_part_holds_its_rows(combine: Combine) -> None:
    chosen = np.array([1, 2, 4, 7])
    tables = [unit(9, 3), unit(9, 5, seed=1)]
    part = StoredTargets([PartTable(table, chosen) for table in tables], combine)
    cut = StoredTargets([table[chosen] for table in tables], combine)
    assert part.size == cut.size
    for column in (0, 1):
        torch.testing.assert_close(
            part.rows(at([3, 0], column)), cut.rows(at([3, 0], column)), rtol=0, atol=0
        )


def test_a_concatenation_has_the_mean_of_the_similarities() -> None:
    tables = [unit(6, 3), unit(6, 7, seed=1)]
    targets = StoredTargets(tables, "concat")
    assert targets.size == 10
    rows = targets.rows(at([0, 1, 2]))
    each = [torch.from_numpy(table[:3, 0].astype(np.float32)) for table in tables]
    torch.testing.assert_close(rows @ rows.T, sum(a @ a.T for a in each) / 2)


@pytest.mark.parametrize("sizes", [(4, 4), (4, 6), (6, 4)])
def test_the_mean_of_teachers_that_agree_is_the_first(sizes: tuple[int, int]) -> None:
    """The second teacher has the first one's embeddings, turned into a space of its own."""
    shared = unit(200, min(sizes)).astype(np.float64)
    tables = []
    for seed, size in enumerate(sizes):
        turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
        tables.append((shared @ turn[: min(sizes)]).astype(np.float16))
    targets = StoredTargets(tables, "mean")
    assert targets.size == sizes[0]
    for column in (0, 1):
        np.testing.assert_allclose(targets.rows(at([3, 8], column)), tables[0][[3, 8], column], atol=5e-3)


def test_the_mean_is_of_length_one() -> None:
    rows = StoredTargets([unit(50, 4), unit(50, 6, seed=1), unit(50, 3, seed=2)], "mean").rows(at([1, 2, 3]))
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(3))


class Seeing(nn.Module):
    """Keeps the images that it is shown."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.seen: list[Tensor] = []

    def forward(self, x: Tensor) -> Tensor:
        assert not self.training
        assert not torch.is_grad_enabled()
        assert not torch.is_autocast_enabled("cpu")
        self.seen.append(x)
        return self.net(x)


def test_a_live_teacher_sees_the_image_as_it_is_shown_in_eval_mode_and_full_precision(
    rec: Path, teacher: nn.Module
) -> None:
    views = Views(FaceRecords(rec))
    net = Seeing(teacher).train()
    showing = Showing(views, "live", CHANGED, flip=True)
    targets = LiveTargets([Embedder(net, input_preset("raw"))], "concat", views, CPU)
    shown = next(showing.epoch(1, 8, 0))[0]
    net.seen.clear()
    with torch.autocast("cpu", torch.bfloat16):
        rows = targets.rows(shown)
    assert torch.equal(net.seen[0], shown.images.float())
    assert net.training
    torch.testing.assert_close(rows, F.normalize(teacher.eval()(shown.images.float()), dim=1))
    assert targets.size == 12


@pytest.mark.parametrize("combine", ["concat", "mean"])
def test_stored_views_are_what_live_teachers_say_of_them(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, combine: Combine
) -> None:
    """Within the rounding of float16."""
    views = Views(FaceRecords(rec))
    showing = Showing(views, 3, CHANGED, flip=True, seed=5)
    embedders = [Embedder(net, input_preset("raw")) for net in (teacher, student)]
    nets = [Net(embed, str(i)) for i, embed in enumerate(embedders)]
    tables = embedding_tables(nets, showing, "data", tmp_path, workers=0, progress=Progress(silent=True))
    assert [table.shape for table in tables] == [(24, 4, 12), (24, 4, 8)]
    stored = StoredTargets(tables, combine, showing.person)
    live = LiveTargets(embedders, combine, views, CPU)
    assert stored.size == live.size
    for epoch in (1, 2, 3, 4):
        for (shown,) in showing.epoch(epoch, 8, 0):
            torch.testing.assert_close(stored.rows(shown), live.rows(shown), rtol=0, atol=2e-3)
    everyone = np.arange(24)
    torch.testing.assert_close(stored.originals(everyone), live.originals(everyone), rtol=0, atol=2e-3)


def test_a_live_embedding_that_is_no_number_names_the_image(rec: Path) -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rows = x.flatten(1)[:, :8].clone()
            if len(x) > 2:
                rows[3] = 0
            return rows

    views = Views(FaceRecords(rec))
    targets = LiveTargets([Embedder(Broken(), input_preset("raw"))], "concat", views, CPU)
    shown = next(Showing(views, "live").epoch(1, 8, 0))[0]
    with pytest.raises(
        InputError, match=f"teacher's embedding of training image {int(shown.number[3])} is zero"
    ):
        targets.rows(shown)


def run(student: nn.Module, teacher: nn.Module, data: object, views: Taught, **choices: object):
    where = {name: choices.pop(name) for name in ("checkpoint", "cache", "callbacks") if name in choices}
    usual = {
        "stages": (Stage(3, cosine=1.0, gallery=0.2, margin=0.1),),
        "augment": CHANGED,
        "margin": Margin(scale=8.0),
    }
    config = TSMRConfig(batch_size=8, lr=3e-3, views=views, **(usual | choices))
    return apply_tsmr(student, teacher, data, config=config, **where)


def test_a_run_on_as_many_stored_views_as_epochs_is_a_run_on_live_ones(
    rec: Path, student: nn.Module, teacher: nn.Module
) -> None:
    live, stored = (run(student, teacher, rec, views).report.curve for views in ("live", 3))
    for ours, theirs in zip(live, stored, strict=True):
        assert ours.losses == pytest.approx(theirs.losses, rel=2e-2)
    few = run(student, teacher, rec, 1).report.curve
    assert few[0].losses == pytest.approx(live[0].losses, rel=2e-2)
    assert few[2].losses != pytest.approx(live[2].losses, rel=2e-2)


@pytest.mark.parametrize("views", ["live", 2])
def test_an_interrupted_run_on_changed_views_ends_the_same(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, views: Taught
) -> None:
    from recipes.tsmr import Callback

    class Stop(Callback):
        def epoch(self, epoch: object, model: nn.Module) -> None:
            raise KeyboardInterrupt

    whole = run(student, teacher, rec, views)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            run(student, teacher, rec, views, checkpoint=tmp_path / "run.pt", callbacks=[Stop()])
    gone_on = run(student, teacher, rec, views, checkpoint=tmp_path / "run.pt")
    assert gone_on.report.curve == whole.report.curve
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(gone_on.model.state_dict()[name], tensor)


def test_of_a_part_no_other_image_is_blended_in(
    rec: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path
) -> None:
    """The tables of changed views are of the part alone, since its images are numbered anew."""
    records = FaceRecords(rec)
    part = Part(records, np.arange(4, 20), np.array([records.label(i) for i in range(24)]))
    run(student, teacher, part, 2, cache=tmp_path)
    assert sorted(np.load(path).shape[:2] for path in tmp_path.glob("*.npy")) == [(16, 3)] * 2


@pytest.fixture
def second(monkeypatch: pytest.MonkeyPatch) -> list[Batch]:
    """The batches that a loss with two views of each image saw."""
    monkeypatch.setattr(LOSSES, "_known", dict(LOSSES._known))
    batches: list[Batch] = []

    class Both(Loss, name="both", title="two views alike", needs={"second", "second_teacher", "teacher"}):
        def forward(self, batch: Batch) -> Tensor:
            batches.append(batch)
            return (1 - F.cosine_similarity(batch.student, batch.second)).mean()

    return batches


@pytest.mark.parametrize("views", ["original", "live", 2])
def test_a_loss_gets_a_second_view_and_what_the_teacher_says_of_it(
    rec: Path, student: nn.Module, teacher: nn.Module, second: list[Batch], views: Taught
) -> None:
    stages = (Stage(1, cosine=1.0, both=1.0),)
    augment = Augment(colour=1.0)
    result = run(student, teacher, rec, views, stages=stages, augment=augment, flip=True)
    assert result.report.epochs[0].losses["both"] > 0
    for batch in second:
        assert batch.second.shape == batch.student.shape
        assert batch.second.requires_grad
        assert batch.second_teacher.shape == batch.teacher.shape
        assert not torch.equal(batch.second_teacher, batch.teacher)


@pytest.mark.parametrize(("views", "augment"), [("original", Augment()), ("live", Augment()), (1, CHANGED)])
def test_a_second_view_that_would_be_the_first_is_refused(
    rec: Path, student: nn.Module, teacher: nn.Module, second: list[Batch], views: Taught, augment: Augment
) -> None:
    stages = (Stage(1, cosine=1.0, both=1.0),)
    with pytest.raises(InputError, match="both needs a second view of each image, and"):
        run(student, teacher, rec, views, stages=stages, augment=augment, flip=False)
    assert second == []


def test_blended_images_are_nobody(
    rec: Path, student: nn.Module, teacher: nn.Module, counted: Callable[[nn.Module], list[int]]
) -> None:
    """A margin softmax on people, where all images are blends, has nothing to tell apart."""
    stages = (Stage(1, cosine=1.0, margin=1.0),)
    assert run(student, teacher, rec, "live", stages=stages, augment=Augment(mix=1.0)).report.epochs[
        0
    ].losses["margin"] == pytest.approx(0)
    calls = counted(teacher)
    run(student, teacher, rec, "live", stages=stages, augment=Augment())
    assert sum(calls) >= 24

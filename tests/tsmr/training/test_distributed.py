"""Runs in processes of their own: some that train together, and one that is killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recipes.tsmr import Adversary, Augment, Callback, Margin, Stage, StepReport, TSMRConfig, apply_tsmr
from recipes.tsmr.distributed import Processes
from recipes.tsmr.objective.loss import Batch, Loss, Start
from recipes.tsmr.stages import LOSSES

ROOT = Path(__file__).parents[3]

# As torchrun starts them, but forked, so that what takes seconds to import is imported once.
PROGRAM = """
import os, sys
sys.path.insert(0, sys.argv[1])
from test_distributed import train
from recipes.tsmr.distributed import launched
for rank in range(1, int(os.environ["WORLD_SIZE"])):
    if os.fork() == 0:
        os.environ["RANK"] = str(rank)
        break
with launched("cpu"):
    train(sys.argv[2], sys.argv[3], *map(int, sys.argv[5:]), task=sys.argv[4])
if os.environ["RANK"] != "0":
    os._exit(0)  # with threads that were not forked, there is no other end
for rank in range(1, int(os.environ["WORLD_SIZE"])):
    assert os.wait()[1] == 0
"""


class Queue(Loss, name="test_memory", title="a memory", needs={"mapped", "teacher"}):
    """A user's: similarity to the teacher's embeddings of the last batches, scaled by what is learnt."""

    rows: torch.Tensor

    def start(self, start: Start) -> None:
        self.scale = nn.Parameter(torch.ones(()))
        self.spare = nn.Parameter(torch.ones(3))  # that is not used
        self.register_buffer("rows", torch.zeros(12, start.teacher_size))

    def forward(self, batch: Batch) -> torch.Tensor:
        against = torch.cat([batch.teacher, self.rows.clone()])
        return torch.logsumexp(self.scale * batch.mapped @ against.T, dim=1).mean()

    def after_step(self, batch: Batch) -> None:
        self.rows.copy_(torch.cat([batch.teacher, self.rows])[: len(self.rows)])


class Second(Loss, name="test_second", title="two views", needs={"second", "second_teacher"}):
    """A user's: the similarity of two views of an image, against the teacher's."""

    def forward(self, batch: Batch) -> torch.Tensor:
        across = torch.corrcoef(torch.cat([batch.student, batch.second]))
        teachers = torch.corrcoef(batch.second_teacher)
        return (across[: len(teachers), len(teachers) :] - teachers).square().mean()


class Net(nn.Module):
    """With a BatchNorm, an output that no loss uses, and a layer that steps leave out at random."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(3, 8, 3, 2, 1, bias=False),
            nn.BatchNorm2d(8),
            nn.PReLU(8),
            nn.Conv2d(8, 8, 3, 2, 1),
            nn.Flatten(),
            nn.Linear(128, size),
        )
        self.quality = nn.Linear(size, 1)
        self.more = nn.Linear(size, size)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        embedding = self.net(x)
        if not self.training or torch.rand(()) < 0.5:
            embedding = embedding + self.more(embedding)
        return embedding, self.quality(embedding)


def find(rec: str, folder: str, batch_size: int) -> None:
    """A run that looks for its choices and its length."""
    torch.manual_seed(0)
    config = TSMRConfig(block=None, batch_size=batch_size, budget=0.5, auto=True, shares=())
    result = apply_tsmr(Net(6), Net(9), rec, "auto", config, cache=Path(folder) / "cache")
    report = result.report
    assert report.trials
    torch.save(
        {"lr": report.config.lr, "steps": report.config.steps, "weights": result.model.state_dict()},
        Path(folder) / f"{Processes.current().rank}.pt",
    )


class Hangs(Callback):
    """Waits to be killed, in the middle of an epoch."""

    def __init__(self, number: int) -> None:
        self.number = number

    def step(self, step: StepReport) -> None:
        if step.epoch == self.number:
            time.sleep(600)


def train(
    rec: str, folder: str, batch_size: int, epochs: int = 2, hangs: int = 0, task: Any = "embeddings"
) -> None:
    if task == "search":
        find(rec, folder, batch_size)
        return
    torch.manual_seed(0)
    student, teacher = (Net(6), Net(9)) if task == "embeddings" else (Net(10), Net(10))
    ours = [name for name in LOSSES if not LOSSES.foreign(name)]
    embedding = [*(name for name in ours if LOSSES[name].task != "logits"), "test_memory", "test_second"]
    logits = [name for name in ours if LOSSES[name].task != "embeddings"]
    chosen = embedding if task == "embeddings" else logits
    config = TSMRConfig(
        task=task,
        stages=(
            Stage(epochs, losses=dict.fromkeys(chosen, 0.3)),
            Stage(epochs - 1, losses={"mse": 1.0} | ({"adversarial": 0.1} if task == "embeddings" else {})),
        ),
        batch_size=batch_size,
        lr=3e-3,
        keep_gallery=0.5 if task == "embeddings" else 0.0,
        adversary=Adversary(hidden=8),
        margin=Margin("adaface", 0.2, 8.0, classes=4),
        augment=Augment(colour=0.5, mix=0.3),
        views=2,
    )
    out = Path(folder)
    result = apply_tsmr(
        student, teacher, rec, config=config, cache=out / "cache", checkpoint=out / "run.pt",
        callbacks=[Hangs(hangs)],
    )  # fmt: skip
    if Processes.current().rank == 0:
        curve = [point.losses for point in result.report.curve]
        torch.save({"curve": curve, "weights": result.model.state_dict()}, out / "result.pt")


def start(
    rec: Path, folder: Path, *numbers: int, count: int = 1, task: str = "embeddings"
) -> subprocess.Popen[bytes]:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    launch = {"WORLD_SIZE": str(count), "RANK": "0", "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    command = [sys.executable, "-c", PROGRAM, str(Path(__file__).parent), str(rec), str(folder), task]
    environment = {**os.environ, **launch, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([*command, *map(str, numbers)], cwd=ROOT, env=environment, stderr=subprocess.PIPE)


@pytest.fixture
def alone(
    request: pytest.FixtureRequest, uneven: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[str, dict[str, Any]]:
    """A task, and what comes of one process with batches of 12."""
    folder = tmp_path_factory.mktemp("alone")
    train(str(uneven), str(folder), batch_size=12, task=request.param)
    return request.param, torch.load(folder / "result.pt", weights_only=True)


@pytest.mark.parametrize(("alone", "count"), [("embeddings", 2), ("logits", 3)], indirect=["alone"])
def test_processes_take_the_steps_of_one_with_a_batch_of_all(
    uneven: Path, tmp_path: Path, alone: tuple[str, dict[str, Any]], count: int
) -> None:
    task, by_one = alone
    process = start(uneven, tmp_path, 12 // count, count=count, task=task)
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    lines = (
        1 if task == "embeddings" else 2
    )  # of the output that no loss is of; and of labels that no net names
    assert errors.count(b"\n") == lines * count, errors.decode()
    together = torch.load(tmp_path / "result.pt", weights_only=True)
    for ours, theirs in zip(by_one["curve"], together["curve"], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3, abs=1e-5)
    for name, tensor in by_one["weights"].items():
        torch.testing.assert_close(together["weights"][name], tensor, rtol=1e-3, atol=1e-4)


def test_processes_find_the_same_choices_and_length(uneven: Path, tmp_path: Path) -> None:
    process = start(uneven, tmp_path, 4, count=2, task="search")
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors.decode()
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in (0, 1))
    assert (one["lr"], one["steps"]) == (other["lr"], other["steps"])
    assert (tmp_path / "cache" / "search.json").is_file()
    for name, tensor in one["weights"].items():
        torch.testing.assert_close(other["weights"][name], tensor, rtol=1e-5, atol=1e-6)


def test_a_run_killed_in_each_stage_ends_with_the_same_weights(rec: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    whole.mkdir()
    killed.mkdir()
    for epochs in (3, 11):  # of 9 in the first stage and 8 in the second
        process = start(rec, killed, 8, 9, epochs + 1)
        while _epochs(killed / "run.pt") < epochs:
            assert process.poll() is None, process.communicate()[1].decode()
            time.sleep(0.02)
        process.kill()
        process.communicate()
        assert _epochs(killed / "run.pt") == epochs
    for folder in (whole, killed):
        train(str(rec), str(folder), 8, 9)
    one, other = (
        torch.load(folder / "result.pt", weights_only=True)["weights"] for folder in (whole, killed)
    )
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, rtol=1e-5, atol=1e-7)


def _epochs(checkpoint: Path) -> int:
    if not checkpoint.exists():
        return 0
    return len(torch.load(checkpoint, weights_only=True)["state"]["history"]["epochs"])


def test_processes_share_full_batches_in_order() -> None:
    order = range(11)
    parts = [list(Processes(rank, 2).share(order, 2)) for rank in (0, 1)]
    assert parts == [[0, 1, 4, 5], [2, 3, 6, 7]]
    assert list(Processes().share(order, 4)) == list(range(8))


def test_one_process_gathers_what_it_has() -> None:
    rows = torch.randn(3, 2)
    assert Processes().gather(rows) is rows
    assert Processes.current() == Processes(0, 1)

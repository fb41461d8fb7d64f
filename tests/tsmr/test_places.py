"""Two runs never write to one place, and none writes to what it reads."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from recipes.tsmr import Stage, TSMRConfig, apply_tsmr
from recipes.tsmr.places import locked
from reparam_kit import InputError

HOLD = (
    "import sys, time; from pathlib import Path; from recipes.tsmr.places import locked\n"
    "with locked(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)"
)


def holder(path: Path) -> subprocess.Popen[str]:
    process = subprocess.Popen([sys.executable, "-c", HOLD, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_run_is_told_at_once_and_a_killed_one_holds_nothing(tmp_path: Path) -> None:
    with holder(tmp_path / ".lock") as process:
        with pytest.raises(InputError, match="another run writes to"), locked(tmp_path / ".lock"):
            pytest.fail("two runs in one place")
        process.kill()
    assert (tmp_path / ".lock").exists()  # what kill -9 leaves
    with locked(tmp_path / ".lock"):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_to_takes_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"), locked(tmp_path / "nowhere" / ".lock"):
        pytest.fail("the body must not run")


def run(rec: Path, **places: Any) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5))
    net(torch.zeros(1, 3, 16, 16))
    config = TSMRConfig(
        stages=(Stage(epochs=1, cosine=1.0),), batch_size=4, student_input="raw", teacher_input="raw"
    )
    apply_tsmr(net, net, rec, None, config, **places)


@pytest.mark.parametrize("place", ["cache", "checkpoint"])
def test_apply_tsmr_keeps_others_out(place: str, rec: Path, tmp_path: Path) -> None:
    target, lock = {
        "cache": (tmp_path, tmp_path / ".lock"),
        "checkpoint": (tmp_path / "run.pt", tmp_path / ".run.pt.lock"),
    }[place]
    with locked(lock), pytest.raises(InputError, match="another run writes to"):
        run(rec, **{place: target})
    run(rec, **{place: target})
    assert not lock.exists()


@pytest.mark.parametrize("place", ["cache", "checkpoint"])
def test_apply_tsmr_writes_to_nothing_that_it_reads(place: str, rec: Path) -> None:
    before = rec.read_bytes()
    with pytest.raises(InputError, match=f"{place} .* and data .* are the same"):
        run(rec, **{place: rec})
    assert rec.read_bytes() == before

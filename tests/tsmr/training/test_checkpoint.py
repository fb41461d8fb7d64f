"""A checkpoint that was damaged or changed is one line, or gives the state that was written: never another one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from damage import DAMAGE, Damage
from hypothesis import given, settings
from torch import nn
from wrong_files import assert_one_line

from recipes.tsmr import Stage, TSMRConfig, apply_tsmr, beginning
from recipes.tsmr.training.checkpoint import read_checkpoint, write_checkpoint
from reparam_kit import InputError, ReparamError, fingerprint

CONFIG = TSMRConfig(stages=(Stage(2, cosine=1.0), Stage(1, cosine=1.0)), batch_size=8, block=None)
RUN = {"lr": 0.1, "stages": [{"epochs": 3}], "data": "d" * 64}
STATE = {
    "weights": {"a": torch.arange(12.0).view(3, 4), "b": torch.ones(3, dtype=torch.int64)},
    "kept": 1,
    "scores": torch.linspace(0, 1, 50, dtype=torch.float64),
    "optimizer": {"state": {0: {"step": torch.tensor(3.0)}}, "groups": [{"lr": 1e-3, "betas": (0.9, 0.999)}]},
}


def outcome(path: Path) -> str:
    """A fingerprint of what is read, or the line that says why nothing is."""
    try:
        return fingerprint(read_checkpoint(path, RUN))
    except ReparamError as error:
        return str(error)


def test_a_damaged_checkpoint_gives_the_same_state_or_a_line(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    write_checkpoint(path, RUN, STATE)
    content = path.read_bytes()
    lines = []

    @settings(max_examples=150)
    @given(DAMAGE)
    def check(damage: Damage) -> None:
        path.write_bytes(damage(content))
        found = outcome(path)
        if found != fingerprint(STATE):
            assert_one_line(found, r"checkpoint\.pt.*delete it to start anew")
            lines.append(found)

    check()
    assert lines


@pytest.mark.parametrize("make", [Path.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_what_is_no_file_is_a_line(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "checkpoint.pt")
    assert_one_line(outcome(tmp_path / "checkpoint.pt"), "checkpoint.pt is a (folder|device)")


@pytest.fixture(scope="module")
def finished(
    rec: Path, bin_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Callable[[Path], dict[str, torch.Tensor]]]:
    """A checkpoint of a run that ended, and the run that goes on from a file."""
    torch.manual_seed(0)
    student, teacher = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(784, 6)).eval() for _ in "st"
    )

    def go_on(checkpoint: Path) -> dict[str, torch.Tensor]:
        result = apply_tsmr(student, teacher, rec, bin_file, CONFIG, checkpoint=checkpoint)
        return result.model.state_dict()

    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    go_on(path)
    return path, go_on


Change = Callable[[dict[str, Any]], object]


def weights_of(state: dict[str, Any]) -> Any:
    return state["history"]["weights"]


CHANGES: list[Change] = [
    lambda state: state.pop("trainer"),
    lambda state: state.pop("history"),
    lambda state: state["history"].pop("kept"),
    lambda state: state["history"].update(kept=99),
    lambda state: state["history"].update(kept=-1),
    lambda state: state["history"].update(kept="2"),
    lambda state: state["history"]["epochs"].pop(0),
    lambda state: state["history"].update(epochs=state["history"]["epochs"] * 2),
    lambda state: weights_of(state)["0.weight"].fill_(torch.nan),
    lambda state: weights_of(state).update({"0.weight": torch.zeros(3)}),
    lambda state: weights_of(state).update({"0.weight": weights_of(state)["0.weight"].double()}),
    lambda state: weights_of(state).update({"0.weight": 3}),
    lambda state: weights_of(state).update(extra=torch.zeros(1)),
    lambda state: weights_of(state).pop("0.weight"),
    lambda state: state["trainer"].update(stage=0),
    lambda state: state["trainer"].update(stage=7),
    lambda state: state["trainer"]["parts"].pop("optimizer"),
    lambda state: state["trainer"]["parts"]["student"].popitem(),
    lambda state: state["trainer"]["parts"].update(student=None),
    lambda state: state["trainer"].update(curve=[{"step": 1}]),
]  # fmt: skip


@pytest.mark.parametrize("checksum", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_a_checkpoint_that_was_changed_is_a_line(
    finished: tuple[Path, Callable[[Path], Any]], tmp_path: Path, change: Change, checksum: bool
) -> None:
    whole, go_on = finished
    saved = torch.load(whole, weights_only=True)
    change(saved["state"])
    if checksum:
        saved["sha256"] = fingerprint([saved["run"], saved["state"]])
    torch.save(saved, tmp_path / "checkpoint.pt")
    says = "does not fit the run that it names" if checksum else "not a checkpoint of this recipe, or damaged"
    with pytest.raises(InputError) as caught:
        go_on(tmp_path / "checkpoint.pt")
    assert_one_line(str(caught.value), rf"checkpoint\.pt (is )?{says}.*: delete it to start anew")


def test_whole_it_is_gone_on_from(finished: tuple[Path, Callable[[Path], Any]]) -> None:
    whole, go_on = finished
    content = whole.read_bytes()
    assert fingerprint(dict(go_on(whole))) == fingerprint(dict(go_on(whole)))
    assert whole.read_bytes() == content


@pytest.mark.parametrize("what", ["version", "images"])
def test_a_checkpoint_of_another_version_or_other_images_is_refused(
    finished: tuple[Path, Callable[[Path], Any]], monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    whole, go_on = finished
    if what == "version":
        monkeypatch.setattr(beginning, "__version__", "9.9")
    else:
        monkeypatch.setattr(beginning, "data_identity", lambda *args, **kwargs: "0" * 64)
    with pytest.raises(InputError, match=f"with {'reparam-kit' if what == 'version' else 'data'}='"):
        go_on(whole)

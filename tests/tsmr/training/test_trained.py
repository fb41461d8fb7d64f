from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from recipes.faces import FaceRecords, InputPreset
from recipes.tsmr import Stage, TSMRConfig, apply_tsmr, write_report
from recipes.tsmr.targets.views import Views
from recipes.tsmr.training.trained import choose_trained, hold_statistics
from reparam_kit import InputError, NothingToDoError

CONFIG: dict[str, Any] = {
    "stages": (Stage(epochs=1, cosine=1.0),), "batch_size": 8, "lr": 3e-3, "block": None, "warmup": 0.0
}  # fmt: skip


class Heads(nn.Module):
    """A trunk with BatchNorms, an embedding, a quality that depends on the trunk, and a mask of its own weights."""

    def __init__(self) -> None:
        super().__init__()
        self.c1 = nn.Conv2d(3, 6, 3, 2, 1, bias=False)
        self.n1 = nn.BatchNorm2d(6)
        self.c2 = nn.Conv2d(6, 6, 3, 2, 1)
        self.n2 = nn.BatchNorm2d(6, affine=False)
        self.fc = nn.Linear(96, 8)
        self.quality = nn.Sequential(nn.Linear(96, 4), nn.BatchNorm1d(4), nn.Linear(4, 1))
        self.mask = nn.Conv2d(3, 1, 3)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        y = torch.relu(self.n2(self.c2(torch.relu(self.n1(self.c1(x)))))).flatten(1)
        return {"quality": self.quality(y), "face": self.fc(y), "mask": self.mask(x)}


@pytest.fixture
def heads() -> Heads:
    torch.manual_seed(3)
    return Heads().eval()


def changed(old: nn.Module, new: nn.Module) -> set[str]:
    before, after = old.state_dict(), new.state_dict()
    return {name for name, tensor in before.items() if not torch.equal(tensor, after[name])}


def statistics(*names: str) -> set[str]:
    return {f"{n}.{s}" for n in names for s in ("running_mean", "running_var", "num_batches_tracked")}


TRUNK = {"c1.weight", "n1.weight", "n1.bias", "c2.weight", "c2.bias", *statistics("n1")}
FACE = {"fc.weight", "fc.bias"}


@pytest.mark.parametrize(
    ("choices", "moved"),
    [
        ({}, TRUNK | FACE | statistics("n2")),
        ({"exclude": ("n1",)}, {"c1.weight", "c2.weight", "c2.bias"} | FACE | statistics("n2")),
        ({"exclude": ("c1", "n1")}, {"c2.weight", "c2.bias"} | FACE | statistics("n2")),
        ({"include": ("fc.*",)}, FACE),
        ({"include": ("fc.bias",), "ema": 0.5}, {"fc.bias"}),
        ({"include": ("c?", "fc"), "exclude": ("c1",)}, {"c2.weight", "c2.bias"} | FACE | statistics("n2")),
    ],
)
def test_what_is_not_trained_stays_byte_for_byte(
    rec: Path, teacher: nn.Module, heads: Heads, choices: dict[str, Any], moved: set[str]
) -> None:
    result = apply_tsmr(heads, teacher, rec, config=TSMRConfig(**CONFIG, **choices))
    assert changed(heads, result.model) == moved


@pytest.mark.parametrize(
    "choices",
    [
        {"block": "dbb"},
        {"block": "dbb", "norm": "batch"},
        {"block": "repvgg", "restore_bn": True},
        {"block": None, "restore_bn": True},
    ],
)
def test_what_is_not_trained_is_not_expanded_either(
    rec: Path, teacher: nn.Module, heads: Heads, choices: dict[str, Any]
) -> None:
    config = TSMRConfig(**{**CONFIG, **choices}, exclude=("c1", "n1"))
    moved = changed(heads, apply_tsmr(heads, teacher, rec, config=config).model)
    assert moved == {"c2.weight", "c2.bias"} | FACE | statistics("n2")


def test_a_frozen_batch_norm_takes_up_no_shift(rec: Path, teacher: nn.Module, heads: Heads) -> None:
    config = TSMRConfig(**{**CONFIG, "block": "dbb"}, norm="batch", exclude=("n1",))
    moved = changed(heads, apply_tsmr(heads, teacher, rec, config=config).model)
    assert not moved & {"n1.weight", "n1.bias", *statistics("n1")}


def test_what_the_caller_froze_stays_too(rec: Path, teacher: nn.Module, heads: Heads) -> None:
    for part in (heads.c1, heads.n1):
        part.requires_grad_(False)
    result = apply_tsmr(heads, teacher, rec, config=TSMRConfig(**CONFIG))
    assert changed(heads, result.model) == {"c2.weight", "c2.bias"} | FACE | statistics("n2")


def test_other_outputs_that_hang_on_trained_weights_are_told(
    rec: Path,
    bin_file: Path,
    teacher: nn.Module,
    heads: Heads,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    result = apply_tsmr(heads, teacher, rec, config=TSMRConfig(**CONFIG))
    assert set(result.report.other_outputs) == {"quality"}
    assert result.report.other_outputs["quality"] > 1e-3
    assert "output 'quality' of the student depends on weights that are trained" in caplog.text
    caplog.clear()
    write_report(result.report, tmp_path / "page.html")
    assert "Other outputs" in (tmp_path / "page.html").read_text()
    only = apply_tsmr(heads, teacher, rec, config=TSMRConfig(**CONFIG, include=("fc",)))
    assert only.report.other_outputs == {}
    assert "depends on" not in caplog.text


def test_the_measure_is_that_of_the_outputs(rec: Path, teacher: nn.Module, heads: Heads) -> None:
    result = apply_tsmr(heads, teacher, rec, config=TSMRConfig(**CONFIG, student_input="raw"))
    images = torch.stack([FaceRecords(rec)[i][0] for i in range(24)]).float()
    with torch.no_grad():
        old, new = (model.eval()(images)["quality"] for model in (heads, result.model))
    expected = float((new - old).norm() / old.norm())
    assert result.report.other_outputs["quality"] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize(
    ("choices", "error", "says"),
    [
        (
            {"include": ("fcc",)},
            InputError,
            "include='fcc' matches no trainable tensor; did you mean",
        ),
        ({"exclude": ("*running*",)}, InputError, r"exclude='\*running\*' matches no trainable tensor"),
        ({"exclude": ("*",)}, InputError, "depends on no weight that is trained"),
        ({"include": ("quality*",)}, InputError, "depends on no weight that is trained"),
        ({"include": ("fc",), "block": "dbb"}, NothingToDoError, r"block=None \(--block plain\) trains it"),
        ({"student_output": "mask"}, InputError, "the student gives mask .* a map is pooled"),
        ({"student_output": "quality"}, InputError, "the student gives quality .* no embedding"),
        ({"student_output": "fase"}, InputError, "the student has no output 'fase': did you mean 'face'"),
    ],
)
def test_choices_that_leave_nothing_or_name_nothing(
    rec: Path, teacher: nn.Module, heads: Heads, choices: dict[str, Any], error: type[Exception], says: str
) -> None:
    with pytest.raises(error, match=says):
        apply_tsmr(heads, teacher, rec, config=TSMRConfig(**{**CONFIG, **choices}))


def test_half_precision_is_not_trained_in(rec: Path, heads: Heads) -> None:
    heads.c2.half()
    with pytest.raises(InputError, match=r"weight c2\.weight is float16, in which small steps .* are lost"):
        choose_trained(heads, Views(FaceRecords(rec)), TSMRConfig())


def test_what_is_chosen_is_part_of_the_checkpoint(
    rec: Path, teacher: nn.Module, heads: Heads, tmp_path: Path
) -> None:
    checkpoint = tmp_path / "run.pt"
    apply_tsmr(heads, teacher, rec, config=TSMRConfig(**CONFIG), checkpoint=checkpoint)
    with pytest.raises(InputError, match="exclude"):
        apply_tsmr(heads, teacher, rec, config=TSMRConfig(**CONFIG, exclude=("c1",)), checkpoint=checkpoint)
    frozen = copy.deepcopy(heads)
    frozen.c1.requires_grad_(False)
    with pytest.raises(InputError, match="trained="):
        apply_tsmr(frozen, teacher, rec, config=TSMRConfig(**CONFIG), checkpoint=checkpoint)


class Gained(nn.Module):
    """A hook on one part works with another, which it knows from the function that it is."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(()))
        self.fc = nn.Linear(192, 8)
        self.fc.register_forward_hook(lambda module, args, out: out + self.gain * args[0].mean())

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(nn.functional.adaptive_avg_pool2d(x, 8).flatten(1))


def test_a_function_over_parts_of_the_student_trains_those_of_the_copy(rec: Path, teacher: nn.Module) -> None:
    torch.manual_seed(3)
    net = Gained().eval()
    before = copy.deepcopy(net.state_dict())
    trained = apply_tsmr(net, teacher, rec, config=TSMRConfig(**CONFIG)).model
    assert changed(net, trained) == {"gain", "fc.weight", "fc.bias"}
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    x = torch.randn(2, 3, 16, 16)
    expected = trained(x)
    nn.init.zeros_(net.gain)
    assert torch.equal(trained(x), expected)
    nn.init.zeros_(trained.gain)
    assert not torch.equal(trained(x), expected)


class Norm(nn.Module):
    """Statistics of one's own making."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(size))
        self.register_buffer("mean", torch.zeros(size))


@pytest.mark.parametrize(
    ("make", "frozen", "modes"),
    [
        (lambda: [nn.Linear(4, 4), nn.BatchNorm1d(4)], "", [True, True]),
        (lambda: [nn.Linear(4, 4), nn.BatchNorm1d(4)], "1", [True, False]),
        (lambda: [nn.Linear(4, 4), nn.BatchNorm1d(4)], "1.weight", [True, True]),
        (lambda: [nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)], "", [True, True]),
        (lambda: [nn.Linear(4, 4), nn.BatchNorm1d(4, affine=False)], "0", [True, False]),
        (lambda: [nn.Linear(4, 4), nn.SyncBatchNorm(4)], "1", [True, False]),
        (lambda: [nn.Linear(4, 4), Norm(4)], "1", [True, False]),
        (lambda: [nn.Linear(4, 4), Norm(4)], "0", [True, True]),
        (lambda: [nn.Linear(4, 4), nn.Dropout()], "0", [True, True]),
        (
            lambda: [nn.Linear(4, 4), nn.InstanceNorm1d(4, affine=True, track_running_stats=True)],
            "1",
            [True, False],
        ),
    ],
)
def test_statistics_are_held_where_nothing_is_trained(
    make: Callable[[], list[nn.Module]], frozen: str, modes: list[bool]
) -> None:
    net = nn.Sequential(*make()).train()
    for name, parameter in net.named_parameters():
        if frozen in (name, name.split(".")[0]):
            parameter.requires_grad_(False)
    hold_statistics(net, lambda: torch.zeros(2, 4))
    assert [module.training for module in net] == modes
    assert net.training


@pytest.mark.parametrize("preset", [InputPreset("mine", (127.5,) * 3, (128.0,) * 3), "(x - 127.5) / 128"])
def test_inputs_of_ones_own_train_and_are_drawn(
    rec: Path, bin_file: Path, student: nn.Module, teacher: nn.Module, tmp_path: Path, preset: Any
) -> None:
    config = TSMRConfig(**CONFIG, student_input=preset, teacher_input=("x / 255, bgr",))
    assert config.student_input == "(x - 127.5) / 128"
    assert TSMRConfig.from_json(config.to_json()) == config
    result = apply_tsmr(student, teacher, rec, bin_file, config)
    assert "(x - 127.5) / 128" in result.report.inputs.verdicts
    assert result.report.before[0].to_json()["input"] == "(x - 127.5) / 128"
    write_report(result.report, tmp_path / "page.html")
    assert "(x - 127.5) / 128" in (tmp_path / "page.html").read_text()


def test_a_teacher_of_several_outputs_is_named(rec: Path, student: nn.Module, heads: Heads) -> None:
    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = heads

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            face = self.net(x)["face"]
            return face, face * 2

    both = Both().eval()
    with pytest.raises(InputError, match="several outputs that could be the embedding"):
        apply_tsmr(student, both, rec, config=TSMRConfig(**CONFIG))
    apply_tsmr(student, both, rec, config=TSMRConfig(**CONFIG, teacher_output="1"))
    with pytest.raises(InputError, match="3 names of outputs for 1 teachers"):
        apply_tsmr(student, both, rec, config=TSMRConfig(**CONFIG, teacher_output=("0", "1", "1")))

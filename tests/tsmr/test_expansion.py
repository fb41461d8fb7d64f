from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from recipes.faces import FaceRecords
from recipes.tsmr import Stage, TSMRConfig, apply_tsmr
from recipes.tsmr.expansion import deployable, expanded
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError
from reparam_kit.algebra import Expanded
from reparam_kit.restoration import Restored


def kinds(model: nn.Module, kind: type[nn.Module]) -> list[str]:
    return [name for name, module in model.named_modules() if type(module) is kind]


@pytest.mark.parametrize("restore_bn", [False, True])
@pytest.mark.parametrize(("block", "norm"), [(None, "scale"), ("dbb", "scale"), ("dbb", "batch")])
def test_training_starts_from_the_deployed_function_and_ends_in_its_graph(
    rec: Path, student: nn.Module, block: str | None, norm: str, restore_bn: bool
) -> None:
    config = TSMRConfig(block=block, norm=norm, restore_bn=restore_bn)  # type: ignore[arg-type]
    trained = expanded(student, Views(FaceRecords(rec)), config)
    assert kinds(trained, Restored) == (["depthwise", "mix"] if restore_bn else [])  # stem has its own
    assert len(kinds(trained, Expanded)) == (0 if block is None else 3)
    x = torch.randn(4, 3, 16, 16)
    torch.testing.assert_close(trained.eval()(x), student(x), rtol=1e-5, atol=1e-5)
    folded = deployable(trained)
    assert folded is not trained
    assert type(folded) is type(student)
    for name, tensor in student.state_dict().items():
        torch.testing.assert_close(folded.state_dict()[name], tensor, rtol=1e-6, atol=1e-6)


def test_a_net_that_has_its_batch_norms_is_given_none(rec: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.Flatten()).eval()
    views = Views(FaceRecords(rec))
    trained = expanded(net, views, TSMRConfig(restore_bn=True, block=None))
    assert list(trained.state_dict()) == list(net.state_dict())
    assert trained is not net


@pytest.mark.parametrize(
    ("scale", "shift", "message"),
    [
        (0.0, 0.0, "the student gives the same embedding for each of 24 training images"),
        (0.0, 1.0, "the student gives the same embedding for each of 24 training images"),
        (float("nan"), 0.0, "the student's outputs of the training images are not finite"),
    ],
)
def test_a_student_that_tells_nobody_apart_is_not_trained(
    rec: Path, student: nn.Module, teacher: nn.Module, scale: float, shift: float, message: str
) -> None:
    class Dead(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = student

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.net(x) * scale + shift

    config = TSMRConfig(
        stages=(Stage(epochs=1, cosine=1.0),),
        student_input="insightface",
        teacher_input="insightface",
        batch_size=8,
    )
    with pytest.raises(InputError, match=message):
        apply_tsmr(Dead().eval(), teacher, FaceRecords(rec), config=config)

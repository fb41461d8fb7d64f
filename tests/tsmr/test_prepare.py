from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from recipes.faces import FaceRecords
from recipes.tsmr import TSMRConfig
from recipes.tsmr.prepare import deployable, expanded
from recipes.tsmr.targets.views import Views
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

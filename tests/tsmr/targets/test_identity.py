"""What differs has another identity, and what must not matter does not change it."""

from __future__ import annotations

import functools
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from PIL import Image
from torch import Tensor, fx, nn
from torch.nn import functional as F
from torch.utils.data import Dataset

import reparam_kit as rk
from recipes.faces import FaceFiles, read_faces, write_records
from recipes.tsmr.targets import identity
from recipes.tsmr.targets.holdout import hold_out
from recipes.tsmr.targets.identity import data_identity, model_identity

SCALE = 1.0
PEOPLE = 6


def photograph(person: int, rng: np.random.Generator) -> bytes:
    """Pictures of one length in bytes."""
    data = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (16, 16, 3), np.uint8)).save(data, "PNG", compress_level=0)
    return data.getvalue()


def scaled(x: Tensor) -> Tensor:
    return x * SCALE


class Net(nn.Module):
    """Holds what a net may hold outside its state_dict."""

    def __init__(self, **settings: Any) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 4, 3)
        self.other = nn.Conv2d(3, 4, 3)
        self.register_buffer("shift", torch.zeros(4, 1, 1), persistent=False)
        self.norm = nn.BatchNorm2d(4)
        self.k, self.act, self.sizes = 1.0, F.relu, (1, 2)
        vars(self).update(settings)

    def forward(self, x: Tensor) -> Tensor:
        return scaled(self.act(self.norm(self.conv(x)) * self.k + self.shift)).mean((2, 3))


class Negative(Net):
    def forward(self, x: Tensor) -> Tensor:
        return -super().forward(x)


class Holder:
    def __init__(self, value: object) -> None:
        self.value = value

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.value


class Slotted(Holder):
    __slots__ = ("more",)

    def __init__(self, more: int) -> None:
        super().__init__(1)
        self.more = more


def changed(change: Callable[[Net], object]) -> Net:
    net = Net()
    with torch.no_grad():
        change(net)
    return net


def closure(factor: float) -> Callable[[Tensor], Tensor]:
    return lambda x: x * factor


def traced(operation: Callable[..., Tensor], *args: Any) -> fx.GraphModule:
    graph = fx.Graph()
    graph.output(graph.call_function(operation, (graph.placeholder("x"), *args)))
    return fx.GraphModule(nn.Module(), graph)


def inner(net: Net) -> None:
    net.conv.register_forward_hook(lambda module, args, output: output + 1)


def other_hook(net: Net) -> None:
    net.conv.register_forward_hook(lambda module, args, output: output + 2)


def tied(net: Net) -> None:
    net.other.weight = net.conv.weight


def equal(net: Net) -> None:
    net.other.weight.copy_(net.conv.weight)


DIFFERENT: list[Callable[[], nn.Module]] = [
    Net,
    Negative,
    lambda: Net(k=-1.0),
    lambda: Net(k=1),
    lambda: Net(sizes=(2, 1)),
    lambda: Net(sizes=[1, 2]),
    lambda: Net(sizes={"a": 1}),
    lambda: Net(act=F.silu),
    lambda: Net(act=torch.tanh),
    lambda: Net(act=lambda x: x + 1),
    lambda: Net(act=lambda x: x + 2),
    lambda: Net(act=closure(1.0)),
    lambda: Net(act=closure(2.0)),
    lambda: Net(act=functools.partial(F.leaky_relu, negative_slope=0.1)),
    lambda: Net(act=functools.partial(F.leaky_relu, negative_slope=0.2)),
    lambda: Net(act=Holder(1)),
    lambda: Net(act=Holder(2)),
    lambda: Net(act=Holder(torch.ones(2))),
    lambda: Net(act=Holder(np.ones(2))),
    lambda: Net(act=Slotted(1)),
    lambda: Net(act=Slotted(2)),
    lambda: Net(act=Holder(1).__call__),
    lambda: changed(lambda net: net.shift.add_(1)),  # type: ignore[operator]
    lambda: changed(lambda net: net.norm.running_mean.add_(1)),  # type: ignore[union-attr]
    lambda: changed(lambda net: net.conv.weight[0, 0, 0].neg_()),
    lambda: changed(lambda net: setattr(net.conv, "stride", (2, 2))),
    lambda: changed(lambda net: setattr(net.norm, "eps", 1e-3)),
    lambda: changed(lambda net: net.conv.requires_grad_(False)),
    lambda: changed(lambda net: net.double()),
    lambda: changed(lambda net: setattr(net, "forward", net.conv.forward)),
    lambda: changed(inner),
    lambda: changed(other_hook),
    lambda: changed(tied),
    lambda: changed(equal),
    lambda: changed(lambda net: nn.utils.parametrizations.weight_norm(net.conv)),
    lambda: nn.Sequential(nn.ReLU(), nn.Tanh()),
    lambda: nn.Sequential(nn.Tanh(), nn.ReLU()),
    lambda: traced(torch.relu),
    lambda: traced(torch.abs),
    lambda: traced(torch.mul, 2.0),
    lambda: traced(torch.mul, 3.0),
    lambda: traced(torch.sum, (2, 3)),
    lambda: traced(torch.sum, (3, 2)),
    lambda: traced(closure(2.0)),
    lambda: traced(closure(3.0)),
]  # fmt: skip


def test_nets_that_are_not_the_same_have_other_identities() -> None:
    identities = [model_identity(make()) for make in DIFFERENT]
    assert len(set(identities)) == len(DIFFERENT)
    assert identities == [model_identity(make()) for make in DIFFERENT]


def test_a_global_that_a_net_reads_is_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    before = model_identity(Net())
    monkeypatch.setitem(globals(), "SCALE", 2.0)
    assert model_identity(Net()) != before


@pytest.mark.parametrize(
    "change",
    [
        lambda net: net.eval(),
        lambda net: net.train(),
        lambda net: net(torch.zeros(1, 3, 8, 8)) if net.eval() else None,
        lambda net: net.to(memory_format=torch.channels_last),
        lambda net: vars(net).update(dict(reversed(vars(net).items()))),
        lambda net: net.register_forward_hook(lambda *_: None).remove(),
    ],
)
def test_what_does_not_change_a_net_does_not_change_its_identity(change: Callable[[Net], object]) -> None:
    net = Net()
    before = model_identity(net)
    change(net)
    assert model_identity(net) == before


def test_code_is_known_by_what_it_does_and_not_by_the_file_that_it_is_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = model_identity(Net())
    monkeypatch.setattr(Net, "__module__", "__main__")
    monkeypatch.setattr(scaled, "__module__", "__main__")
    assert model_identity(Net()) == before


def test_a_net_has_one_identity_in_every_process() -> None:
    code = (
        "import sys; sys.path[:0] = ['tests/tsmr/targets', 'tests']; import test_identity as t; "
        "print(*[t.model_identity(make()) for make in t.DIFFERENT])"
    )
    root, runs = Path(__file__).parents[3], []
    for seed in "12":
        env = {**os.environ, "PYTHONHASHSEED": seed}
        run = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, env=env, cwd=root)
        runs.append(run.stdout.decode().split())
    assert runs[0] == runs[1]
    assert len(set(runs[0])) == len(DIFFERENT)


ACTIVATIONS = ("Relu", "Sigmoid", "Abs", "Exp", "Neg", "Sin", "Cos")


def onnx_net(path: Path, node: onnx.NodeProto | str = "Relu", constant: bool = False) -> Path:
    weight = numpy_helper.from_array(np.ones((4, 3, 3, 3), np.float32), "w")
    nodes = [helper.make_node("Conv", ["x", "w"], ["c"])]
    if constant:
        nodes.insert(0, helper.make_node("Constant", [], ["w"], value=weight))
    nodes.append(helper.make_node(node, ["c"], ["y"]) if isinstance(node, str) else node)
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 3, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4, 6, 6])],
        [] if constant else [weight],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    if constant:
        onnx.external_data_helper.convert_model_to_external_data(
            model, location=f"{path.name}.data", size_threshold=0, convert_attribute=True
        )
    onnx.save(model, path)
    return path


def test_imported_nets_of_one_weight_and_another_operator_are_others(tmp_path: Path) -> None:
    nodes = [
        *ACTIVATIONS,
        *(helper.make_node("LeakyRelu", ["c"], ["y"], alpha=alpha) for alpha in (0.1, 0.2)),
        *(helper.make_node("Softmax", ["c"], ["y"], axis=axis) for axis in (1, 2)),
    ]
    nets = [rk.load(onnx_net(tmp_path / f"{i}.onnx", node)) for i, node in enumerate(nodes)]
    assert len(set(map(model_identity, nets))) == len(nodes)
    again = shutil.copy(tmp_path / "0.onnx", tmp_path / "again.onnx")
    assert model_identity(rk.load(again)) == model_identity(nets[0])


@pytest.mark.parametrize("constant", [False, True])
def test_every_byte_of_a_file_and_its_payloads_counts(tmp_path: Path, constant: bool) -> None:
    (tmp_path / "a").mkdir()
    path = onnx_net(tmp_path / "a" / "net.onnx", constant=constant)
    before = model_identity(path)
    copy = shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert model_identity(copy / "net.onnx") == before
    for file in copy.iterdir():
        content = file.read_bytes()
        at = (
            content.rindex(np.ones(1, np.float32).tobytes())
            if np.ones(1, np.float32).tobytes() in content
            else 9
        )
        file.write_bytes(content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :])
        assert model_identity(copy / "net.onnx") != before
        file.write_bytes(content)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for person in range(PEOPLE):
        (tmp_path / "set" / f"p{person}").mkdir(parents=True)
        for photo in range(20):
            (tmp_path / "set" / f"p{person}" / f"{photo}.png").write_bytes(photograph(person, rng))
    return tmp_path / "set"


def exchange(folder: Path, *numbers: int) -> None:
    """The contents of two files, under the old names, sizes and times."""
    one, two = (sorted(folder.rglob("*.png"))[number] for number in numbers)
    contents, times = (
        (one.read_bytes(), two.read_bytes()),
        [(s.st_atime_ns, s.st_mtime_ns) for s in (one.stat(), two.stat())],
    )
    for path, content, time in zip((two, one), contents, reversed(times), strict=True):
        path.write_bytes(content)
        os.utime(path, ns=time)


@pytest.mark.parametrize("numbers", [(0, 1), (3, 5), (37, 101), (118, 119)])
def test_every_image_counts(folder: Path, numbers: tuple[int, int]) -> None:
    before = data_identity(read_faces(folder))
    exchange(folder, *numbers)
    assert data_identity(read_faces(folder)) != before


def test_a_bit_of_one_record_counts_and_the_name_of_the_file_does_not(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images = [(p, photograph(p, rng)) for p in range(4)]
    write_records(tmp_path / "a.rec", images, (16, 16))
    before = data_identity(read_faces(tmp_path / "a.rec"))
    write_records(tmp_path / "b.rec", images, (16, 16))
    assert data_identity(read_faces(tmp_path / "b.rec")) == before
    write_records(tmp_path / "b.rec", [*images[:3], (3, images[3][1][:-1] + b"\0")], (16, 16))
    assert data_identity(read_faces(tmp_path / "b.rec")) != before


@pytest.mark.parametrize("workers", [0, 2])
def test_a_copy_is_the_same_set_whatever_its_folders_are_called(
    folder: Path, tmp_path: Path, workers: int
) -> None:
    before = data_identity(read_faces(folder))
    copy = shutil.copytree(folder, tmp_path / "copy", copy_function=shutil.copyfile)
    (copy / "p0").rename(copy / "a")
    assert data_identity(read_faces(copy), workers=workers) == before


def test_labels_and_the_size_of_the_images(folder: Path) -> None:
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*.png"))]
    labels = [name[1] for name in names]
    before = data_identity(FaceFiles(folder, names, labels))
    assert data_identity(FaceFiles(folder, names, labels[::-1])) == before  # no teacher sees them
    assert data_identity(FaceFiles(folder, names[::-1], labels)) != before
    assert data_identity(FaceFiles(folder, names, labels, size=8)) != before


class Pictures(Dataset[tuple[Tensor, int, int]]):
    def __init__(self, pixels: Tensor) -> None:
        self.pixels = pixels

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: int) -> tuple[Tensor, int, int]:
        return self.pixels[index], 0, index


def test_of_any_dataset_every_pixel_counts() -> None:
    pixels = torch.randint(256, (200, 3, 4, 4), dtype=torch.uint8)
    before = data_identity(Pictures(pixels))
    assert data_identity(Pictures(pixels.clone()), workers=1) == before
    pixels[77, 1, 2, 3] ^= 1
    assert data_identity(Pictures(pixels)) != before


def test_a_part_is_known_by_its_images(folder: Path) -> None:
    images = read_faces(folder)
    parts = [hold_out(images, seed)[0] for seed in (0, 0, 1)]
    first, again, other = map(data_identity, parts)
    assert first == again
    assert len({first, other, data_identity(images)}) == 3


@contextmanager
def no_reading(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    def refuse(*args: object) -> str:
        raise AssertionError("the images are read")

    with monkeypatch.context() as patch:
        patch.setattr(identity, "_read_all", refuse)
        yield


@pytest.fixture
def kept_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(identity, "_LONG", 0)
    monkeypatch.setattr(identity, "_SETTLED", -1e9)


@pytest.mark.usefixtures("kept_at_once")
def test_what_was_read_once_is_known_until_a_file_changes(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    first = data_identity(read_faces(folder), cache)
    with no_reading(monkeypatch):
        assert data_identity(read_faces(folder), cache) == first
    (kept,) = cache.iterdir()
    for damaged in (b"", b"x y", kept.read_bytes()[1:], bytes(9), b"0" * 64 + kept.read_bytes()[64:]):
        kept.write_bytes(damaged)
        assert data_identity(read_faces(folder), cache) == first
    exchange(folder, 37, 101)
    assert data_identity(read_faces(folder), cache) == data_identity(read_faces(folder)) != first


def test_files_that_have_just_changed_are_read_again(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(identity, "_LONG", 0)
    data_identity(read_faces(folder), tmp_path / "cache")
    assert not (tmp_path / "cache").exists()

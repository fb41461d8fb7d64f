"""Streams: what they train is what a list of the same images in the same order trains, and what they cannot is told."""

from __future__ import annotations

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from recipes.tsmr import Augment, Callback, Stage, TSMRConfig, apply_tsmr, compare
from recipes.tsmr.distributed import Processes
from recipes.tsmr.targets.streams import Stream, Streaming
from recipes.tsmr.targets.views import Views
from reparam_kit import InputError

PIXELS = torch.randint(256, (11, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
CONFIG = TSMRConfig(
    stages=(Stage(epochs=3, cosine=1.0),),
    batch_size=2,
    lr=1e-3,
    block=None,
    views="live",
    steps=2,
    flip=False,
)


class Endless(IterableDataset[Any]):
    """Items as webdataset's ``to_tuple`` gives them; ``read`` counts them."""

    def __init__(self, images: Tensor = PIXELS) -> None:
        self.images = images
        self.read = 0

    def __iter__(self) -> Iterator[Any]:
        for image in self.images:
            self.read += 1
            yield image, 3


class Sized(Endless):
    def __len__(self) -> int:
        return len(self.images)


def net(size: int, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, size))


def changed(**choices: Any) -> TSMRConfig:
    return TSMRConfig(**{**vars(CONFIG), **choices})


def trained(data: Any, config: TSMRConfig = CONFIG, **options: Any) -> dict[str, Tensor]:
    return apply_tsmr(net(6, 0), net(10, 1), data, config=config, **options).model.state_dict()


def shown(
    config: TSMRConfig, epochs: range, rank: int = 0, count: int = 1, source: Any = None
) -> list[list[int]]:
    """The numbers that each epoch shows, in one of several processes."""
    processes = Processes(rank, count)
    showing = Streaming.of(Views(Stream(source or Endless(), config, processes)), config)
    assert len(showing) == (config.steps or 0) * config.batch_size * config.accumulate * count
    return [
        [
            n
            for (batch,) in showing.epoch(epoch, config.batch_size, 0, processes=processes)
            for n in batch.number.tolist()
        ]
        for epoch in epochs
    ]


def test_an_epoch_goes_on_where_the_one_before_ended_and_over_the_end() -> None:
    assert shown(CONFIG, range(1, 5)) == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11], [12, 13, 14, 15]]
    assert shown(CONFIG, range(3, 5)) == [[8, 9, 10, 11], [12, 13, 14, 15]]


def test_processes_share_the_stream() -> None:
    parts = [shown(CONFIG, range(1, 3), rank, 2) for rank in (0, 1)]
    assert parts == [[[0, 1, 4, 5], [8, 9, 12, 13]], [[2, 3, 6, 7], [10, 11, 14, 15]]]


def test_a_second_view_is_of_the_same_images() -> None:
    config = changed(augment=Augment(colour=1.0))
    showing = Streaming.of(Views(Stream(Endless(), config, Processes())), config)
    (first, second), _ = showing.epoch(1, 2, 0, views=2)
    assert first.number.tolist() == second.number.tolist() == [0, 1]
    assert not torch.equal(first.images, second.images)
    assert [batch.number.tolist() for (batch,) in showing.epoch(2, 2, 0)] == [[4, 5], [6, 7]]
    again = pickle.loads(pickle.dumps(showing))  # as to a worker that is no fork
    assert torch.equal(next(again.epoch(1, 2, 0, views=2))[1].images, second.images)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
@pytest.mark.parametrize("choices", [{}, {"flip": True, "augment": Augment(colour=1.0), "accumulate": 2}])
def test_a_stream_trains_the_same_net_again_with_a_worker_and_after_an_interruption(
    choices: dict[str, Any], tmp_path: Path
) -> None:
    class Stop(Callback):
        def epoch(self, epoch: Any, model: nn.Module) -> None:
            if epoch.epoch == 2:
                raise KeyboardInterrupt

    config = changed(**choices)
    whole = trained(Endless(), config)
    place = tmp_path / "run.pt"
    with pytest.raises(KeyboardInterrupt):
        trained(Endless(), config, checkpoint=place, callbacks=[Stop()])
    resumed = trained(Endless(), config, checkpoint=place)
    workers = trained(Endless(), changed(**choices, workers=2))
    for weights in (resumed, workers):
        assert all(torch.equal(weights[name], value) for name, value in whole.items())
    assert any(not torch.equal(value, net(6, 0).state_dict()[name]) for name, value in whole.items())


def test_a_length_says_how_long_an_epoch_is() -> None:
    source = Sized()
    result = apply_tsmr(net(6, 0), net(10, 1), source, config=changed(steps=None))
    assert result.report.images == 10
    assert source.read < 11 + 3 * 11  # once beforehand, and three epochs of ten


@pytest.mark.parametrize(
    ("images", "dtype"), [(PIXELS[:, :1], torch.uint8), (PIXELS.float() / 255, torch.float32)]
)
def test_items_of_any_kind(images: Tensor, dtype: torch.dtype) -> None:
    head = Stream(Endless(images), CONFIG, Processes())
    assert {image.dtype for image in (head[i] for i in range(len(head)))} == {dtype}


def test_what_is_held_is_bounded() -> None:
    large = torch.zeros(3, 2048, 4096, dtype=torch.uint8).expand(40, -1, -1, -1)
    assert len(Stream(Endless(large), changed(steps=1000), Processes())) < 20


class Once(Endless):
    def __init__(self) -> None:
        self.items = iter([(image, 0) for image in PIXELS])

    def __iter__(self) -> Iterator[Any]:
        return self.items


class Mixed(Endless):
    def __iter__(self) -> Iterator[Any]:
        yield from PIXELS[:6]
        yield PIXELS[0, :, 1:]


REFUSED = {
    "stored": (Endless(), {"views": "original"}, "views='original' asks for: give views='live', or"),
    "some views": (Endless(), {"views": 2}, "views=2 asks for: give views='live'"),
    "no length": (
        Endless(),
        {"steps": None},
        r"without a length: say how many steps an epoch has \(steps=\)",
    ),
    "blends": (Endless(), {"augment": Augment(mix=0.5)}, "leave out augment.mix"),
    "people": (Endless(), {"stages": (Stage(epochs=1, margin=1.0),)}, "as the loss 'margin' needs"),
    "empty": (Endless(PIXELS[:0]), {}, "the stream ends after 0 images, which do not fill a batch"),
    "short": (Sized(PIXELS[:1]), {"steps": None}, "1 training images do not fill a batch"),
    "once": (Once(), {}, "gives no image when it is read again"),
    "sizes": (Mixed(), {}, r"image 6 of the stream is torch.uint8 \[3, 7, 8\]; all must be as image 0"),
    "no image": (Endless(torch.zeros(11, 2, 8, 8)), {}, r"training image 0 is torch.float32 \[2, 8, 8\]"),
}


@pytest.mark.parametrize(("data", "choices", "says"), REFUSED.values(), ids=REFUSED)
def test_what_a_stream_cannot_do_is_one_line(data: Any, choices: dict[str, Any], says: str) -> None:
    with pytest.raises(InputError, match=says) as raised:
        trained(data, changed(**choices))
    assert "\n" not in str(raised.value)


def test_controls_need_people(tmp_path: Path, bin_file: Path) -> None:
    with pytest.raises(InputError, match="images held out, which cannot be told beforehand in a stream"):
        compare(net(6, 0), net(10, 1), Endless(), bin_file, CONFIG, tmp_path)


def test_webdataset_where_it_is_installed(tmp_path: Path) -> None:
    wds = pytest.importorskip("webdataset")
    with wds.TarWriter(str(tmp_path / "a.tar")) as tar:
        for number, image in enumerate(PIXELS):
            tar.write({"__key__": f"{number:04d}", "png": image.permute(1, 2, 0).numpy(), "cls": number})
    stream = wds.WebDataset(str(tmp_path / "a.tar"), shardshuffle=False).decode("rgb8").to_tuple("png", "cls")
    weights, wanted = trained(stream), trained(Endless())
    assert all(torch.equal(weights[name], value) for name, value in wanted.items())

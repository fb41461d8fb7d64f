"""A small set is decoded once, a larger one each time; and what is given is the reader's own."""

from __future__ import annotations

import pickle
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from recipes.faces import PairSet, read_faces, write_records
from recipes.faces.images import decoding, kept
from recipes.faces.sets import faces as sets
from reparam_kit import InputError


@pytest.fixture
def encoded(pictures, encode) -> list[bytes]:
    return [encode(picture, "PNG") for picture in pictures(4)]


@pytest.fixture
def decoded(monkeypatch: pytest.MonkeyPatch) -> Counter[bytes]:
    """How often each image was decoded."""
    counts: Counter[bytes] = Counter()
    real = decoding.decode_image

    def decode(data: bytes, where: str) -> Any:
        counts[data] += 1
        return real(data, where)

    for module in (decoding, sets):
        monkeypatch.setattr(module, "decode_image", decode)
    return counts


@pytest.mark.parametrize("room", [1, 0], ids=["all fit", "one too many"])
def test_a_small_set_is_decoded_once(
    room: int, tmp_path: Path, encoded: list[bytes], decoded: Counter[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_records(tmp_path / "a.rec", [(n, image) for n, image in enumerate(encoded)])
    size = read_faces(tmp_path / "a.rec")[0][0].nbytes
    monkeypatch.setattr(kept, "_ROOM", len(encoded) * size - 1 + room)
    faces = read_faces(tmp_path / "a.rec")
    pairs = PairSet(encoded, np.array([True, False]))
    for number in range(3):
        first = [image for image, *_ in faces]
        second = [pairs.image(i, "pairs") for i in range(4)]
        assert all(map(torch.equal, first, second))
        assert len(decoded) == (0 if room and number else 4)
        decoded.clear()


def test_what_is_written_to_an_image_is_not_read_again(tmp_path: Path, encoded: list[bytes]) -> None:
    write_records(tmp_path / "a.rec", [(0, image) for image in encoded])
    faces = read_faces(tmp_path / "a.rec")
    before = faces[1][0].clone()
    faces[1][0].zero_()
    assert torch.equal(faces[1][0], before)


def test_another_process_is_sent_no_image(tmp_path: Path, encoded: list[bytes]) -> None:
    write_records(tmp_path / "a.rec", [(0, image) for image in encoded])
    faces = read_faces(tmp_path / "a.rec")
    alone = len(pickle.dumps(faces))
    before = list(faces)
    sent = pickle.dumps(faces)
    assert len(sent) <= alone + 100
    assert all(
        torch.equal(ours[0], theirs[0]) for ours, theirs in zip(before, pickle.loads(sent), strict=True)
    )


def test_an_image_that_cannot_be_decoded_is_told_each_time(encoded: list[bytes]) -> None:
    pairs = PairSet([encoded[0], encoded[1][:40]], np.array([True]))
    for _ in range(2):
        with pytest.raises(InputError, match="lfw: image 1 of pair 0 is"):
            pairs.image(1, "lfw")

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score
from torch import nn

from recipes.faces import RetrievalJudge, decode_image, read_judge
from recipes.faces.judging.retrieval import search
from recipes.faces.sets.searches import read_shots
from reparam_kit import InputError

PEOPLE = 12


@pytest.fixture
def market(tmp_path: Path, encode) -> tuple[Path, Path]:
    """Queries of camera 1, a gallery of cameras 1 to 3, with junk and with distractors."""
    random = np.random.default_rng(0)
    query, gallery = tmp_path / "query", tmp_path / "bounding_box_test"
    for folder, cameras in ((query, (1,)), (gallery, (1, 2, 3))):
        folder.mkdir()
        for person in range(PEOPLE):
            pattern = np.random.default_rng(person).integers(60, 196, (8, 4, 3))
            for camera in cameras:
                noisy = (pattern + random.normal(0, 50, pattern.shape)).clip(0, 255).astype(np.uint8)
                name = f"{person:04d}_c{camera}s1_000001_00.png"
                (folder / name).write_bytes(encode(noisy))
    for i in range(6):
        picture = random.integers(0, 256, (8, 4, 3), np.uint8)
        (gallery / f"-1_c{i}s1_000002_0{i}.png").write_bytes(encode(picture))
    return query, gallery


NET = nn.Flatten()


def by_hand(query: Path, gallery: Path) -> tuple[list[float], list[int]]:
    """Average precision by scikit-learn, and the rank of the first right image, image by image."""

    def rows(folder: Path) -> list[tuple[str, str, np.ndarray]]:
        found = []
        for file in sorted(folder.iterdir()):
            person, camera = file.name.split("_")[0], file.name.split("_")[1][:2]
            pixels = (decode_image(file.read_bytes(), "x").astype(np.float64) - 127.5) / 127.5
            vector = pixels.transpose(2, 0, 1).reshape(-1)
            found.append((person, camera, vector / np.linalg.norm(vector)))
        return found

    precisions, ranks = [], []
    for person, camera, vector in rows(query):
        left = [row for row in rows(gallery) if row[0] != "-1" and (row[0], row[1]) != (person, camera)]
        scores = np.array([row[2] @ vector for row in left])
        right = np.array([row[0] == person for row in left])
        precisions.append(average_precision_score(right, scores))
        ranks.append(int((scores > scores[right].max()).sum()))
    return precisions, ranks


def test_figures_are_those_of_market_1501_by_hand(market: tuple[Path, Path]) -> None:
    verdict = RetrievalJudge(*market, batch_size=5, bootstrap=30).judge(NET)
    precisions, ranks = by_hand(*market)
    assert verdict["mAP"].value == pytest.approx(np.mean(precisions))
    for k in (1, 5, 10):
        assert verdict[f"rank-{k}"].value == pytest.approx(np.mean(np.array(ranks) < k))
    low, high = verdict["mAP"].interval or (1, 0)
    assert low < (verdict["mAP"].value or 0) < high
    shown = verdict.to_json()
    assert shown["cmc"][4] == verdict["rank-5"].value
    assert shown["subject"] == "12 queries of 12 people in a gallery of 42 images"
    assert shown["decides"] == "mAP"


def test_a_net_that_sees_less_is_worse(market: tuple[Path, Path]) -> None:
    judge = RetrievalJudge(*market)

    class Noisy(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            generator = torch.Generator().manual_seed(0)
            return (x + 2 * torch.randn(x.shape, generator=generator)).flatten(1)

    good, bad, again = judge.judge(NET), judge.judge(Noisy()), judge.judge(NET)
    assert good.rank() > bad.rank()
    found = judge.compare(good, bad).deciding
    assert found.interval is not None
    assert found.interval[1] < 0
    assert (found.chance or 1) < 0.05
    equal = judge.compare(good, again)
    assert equal.deciding.chance == 1.0
    assert equal.told == "no difference that these queries could show"
    assert equal.method == "groups of queries drawn 1,000 times"


def test_a_net_that_gives_everyone_the_same_embedding_finds_nobody(market: tuple[Path, Path]) -> None:
    class Same(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(x), 4)

    assert RetrievalJudge(*market).judge(Same())["rank-1"].value == 0


@given(
    st.lists(
        st.tuples(st.integers(-50, 50), st.booleans()), min_size=1, max_size=30, unique_by=lambda p: p[0]
    )
)
def test_average_precision_is_that_of_scikit_learn(rows: list[tuple[int, bool]]) -> None:
    alike, right = (np.array(column) for column in zip(*rows, strict=True))
    if right.any():
        first, precision = search(alike.astype(float), right)
        assert precision == pytest.approx(average_precision_score(right, alike))
        assert first == (alike > alike[right].max()).sum()


def test_people_in_folders_are_known_by_name_and_find_not_themselves(
    tmp_path: Path, encode, pictures
) -> None:
    for folder, names in (("query", "bc"), ("gallery", "abc")):
        for name in names:
            (tmp_path / folder / name).mkdir(parents=True)
            (tmp_path / folder / name / "0.png").write_bytes(encode(pictures(1, seed=ord(name))[0]))
    apart = read_judge(f"retrieval:{tmp_path / 'query'},{tmp_path / 'gallery'}")
    assert apart.judge(NET)["rank-1"].value == 1
    with pytest.raises(InputError, match="no query has an image of its person in the gallery"):
        RetrievalJudge(tmp_path / "query", tmp_path / "query")


def test_a_quick_look_keeps_queries_and_their_right_images(market: tuple[Path, Path]) -> None:
    judge = RetrievalJudge(*market)
    few = judge.sample(20)
    assert few.judge(NET).to_json()["queries"] in range(2, 8)
    assert few.identity() != judge.identity() == RetrievalJudge(*market).identity()
    assert judge.sample(1000) is judge


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["0001_c1s1_000001_00.png", "cat.png"], "cat.png has no name such as 0002_c1s1_000451_03.jpg"),
        ([], "holds no images of people"),
    ],
)
def test_refused(names: list[str], message: str, tmp_path: Path, encode, pictures) -> None:
    for name in names:
        (tmp_path / name).write_bytes(encode(pictures(1)[0]))
    with pytest.raises(InputError, match=message):
        read_shots(tmp_path)
    with pytest.raises(InputError, match="is not a folder"):
        read_shots(tmp_path / "missing")
    with pytest.raises(InputError, match="write retrieval:QUERY,GALLERY"):
        read_judge("retrieval:one")

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from recipes.faces import PairSet, evaluate, read_pairs, write_pairs
from reparam_kit import InputError


def put(root: Path, *names: str) -> Path:
    """Files whose content is their name, so that a pair shows which files it was made of."""
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(name.encode())
    return root


def shown(pairs: PairSet) -> list[tuple[str, str, bool]]:
    names = [image.decode() for image in pairs.images]
    return list(zip(names[0::2], names[1::2], pairs.same.tolist(), strict=True))


LFW = """2\t2
Ann_B\t1\t4
Cy\t1\t2
Ann_B\t1\tCy\t2
Cy\t1\tDee\t3
Dee\t3\t20
Ann_B\t4\t1
Dee\t20\tCy\t1
Ann_B\t1\tDee\t3
"""
LFW_IMAGES = [
    "Ann_B/Ann_B_0001.jpg",
    "Ann_B/Ann_B_0004.jpg",
    "Cy/Cy_0001.jpg",
    "Cy/Cy_0002.png",
    "Dee/Dee_0003.jpg",
    "Dee/Dee_0020.jpg",
]


@pytest.mark.parametrize("elsewhere", [False, True])
def test_lfw(tmp_path: Path, elsewhere: bool) -> None:
    images = put(tmp_path / "lfw", *LFW_IMAGES)
    listed = (tmp_path if elsewhere else images) / "pairs.txt"
    listed.write_text(LFW)
    pairs = read_pairs(listed, images if elsewhere else None)
    ann1, ann4, cy1, cy2, dee3, dee20 = LFW_IMAGES
    assert shown(pairs) == [
        (ann1, ann4, True),
        (cy1, cy2, True),
        (ann1, cy2, False),
        (cy1, dee3, False),
        (dee3, dee20, True),
        (ann4, ann1, True),
        (dee20, cy1, False),
        (ann1, dee3, False),
    ]
    assert pairs.folds is not None
    assert pairs.folds.tolist() == [0] * 4 + [1] * 4
    assert pairs.names is not None
    assert pairs.names[1] == str(images / ann4)


@pytest.mark.parametrize("header", ["20", "1 20"])
def test_lfw_with_one_set_spreads_each_kind_over_ten_folds(header: str, tmp_path: Path) -> None:
    put(tmp_path, *(f"P/P_{i:04d}.jpg" for i in range(1, 22)), "Q/Q_0001.jpg")
    rows = [f"P {i} {i + 1}" for i in range(1, 21)] + [f"P {i} Q 1" for i in range(1, 21)]
    (tmp_path / "pairsDevTest.txt").write_text(f"{header}\n" + "\n".join(rows))
    folds = read_pairs(tmp_path / "pairsDevTest.txt").folds
    assert folds is not None
    assert folds.tolist() == np.repeat(np.arange(1, 11), 2).tolist() * 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("2\t2\n", "2\t3\n", r"pairs\.txt:1 promises 2 sets of 3 genuine and 3 impostor pairs, and 8 lines"),
        ("2\t2\n", "0\t0\n", r"pairs\.txt:1 promises 0 sets"),
        ("Cy\t1\t2\n", "Cy\t1\n", r"pairs\.txt:3 is not `name i j` \(a genuine pair\)"),
        ("Cy\t1\t2\n", "Cy\t1\tDee\t3\n", r"pairs\.txt:3 is not `name i j`"),
        ("Cy\t1\tDee\t3\n", "Cy\t1\t2\n", r"pairs\.txt:5 is not `name1 i name2 j`"),
        ("Cy\t1\t2\n", "Cy\tone\t2\n", r"pairs\.txt:3 has 'one' where a whole number belongs"),
        ("Cy\t1\t2\n", "Cy\t1\t7\n", r"pairs\.txt:3: there is no image .*Cy/Cy_0007\.jpg"),
    ],
)
def test_damaged_lfw_names_the_line(tmp_path: Path, old: str, new: str, message: str) -> None:
    put(tmp_path, *LFW_IMAGES)
    (tmp_path / "pairs.txt").write_text(LFW.replace(old, new, 1))
    with pytest.raises(InputError, match=message):
        read_pairs(tmp_path / "pairs.txt")


def two_lines(pairs: list[tuple[str, str, int]]) -> str:
    return "".join(f"{a} {number}\n{b} {number}\n" for a, b, number in pairs)


def test_calfw_folds_of_genuine_pairs_are_given_and_impostors_dealt_out(tmp_path: Path) -> None:
    names = [f"i{k}.jpg" for k in range(16)]
    put(tmp_path, *names)
    numbers = [1, 1, 2, 2, 0, 0, 0, 0]
    rows = [(names[2 * k], names[2 * k + 1], number) for k, number in enumerate(numbers)]
    (tmp_path / "pairs_CALFW.txt").write_text(two_lines(rows))
    pairs = read_pairs(tmp_path / "pairs_CALFW.txt")
    assert shown(pairs) == [(a, b, number > 0) for a, b, number in rows]
    assert pairs.folds is not None
    assert pairs.folds.tolist() == [1, 1, 2, 2, 1, 1, 2, 2]


def test_cplfw_without_folds_is_dealt_out_to_ten(tmp_path: Path) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "pairs_CPLFW.txt").write_text(two_lines([("a.jpg", "b.jpg", n) for n in [1] * 20 + [0] * 10]))
    folds = read_pairs(tmp_path / "pairs_CPLFW.txt").folds
    assert folds is not None
    assert folds.tolist() == [*np.repeat(np.arange(1, 11), 2), *range(1, 11)]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a.jpg 1\nb.jpg 1\na.jpg 0\n", r"list\.txt:3 is half a pair"),
        ("a.jpg 1\nb.jpg 0\n", r"list\.txt:2 has the number 0, and the first line of its pair has 1"),
        ("a.jpg 1\nb.jpg 1 x\n", r"list\.txt:2 is not `file number`"),
        ("a.jpg -1\nb.jpg -1\n", r"list\.txt:1 has '-1' where a whole number"),
        ("a.jpg 1\nno.jpg 1\n", r"list\.txt:1: .*no\.jpg: no such file"),
        ("a.jpg b.jpg 2\n", r"list\.txt:1 is not `path path 0/1`"),
        ("a.jpg b.jpg 1\n\na.jpg b.jpg\n", r"list\.txt:3 is not `path path 0/1`"),
        ("a.jpg b.jpg c.jpg d.jpg 1\n", r"list\.txt:1 begins no known pair list"),
        ("\n\n", r"list\.txt is empty"),
    ],
)
def test_malformed_list_names_the_line(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "a.jpg", "b.jpg")
    (tmp_path / "list.txt").write_text(text)
    with pytest.raises(InputError, match=message):
        read_pairs(tmp_path / "list.txt")


def test_path_path_truth(tmp_path: Path) -> None:
    put(tmp_path / "agedb", "x/1.jpg", "y/2.jpg")
    (tmp_path / "agedb_30_pair.txt").write_text("\ufeffx/1.jpg y/2.jpg 1\r\ny/2.jpg x/1.jpg 0\r\n")
    pairs = read_pairs(tmp_path / "agedb_30_pair.txt", tmp_path / "agedb")
    assert shown(pairs) == [("x/1.jpg", "y/2.jpg", True), ("y/2.jpg", "x/1.jpg", False)]
    assert pairs.folds is None
    assert pairs.images[0] is pairs.images[3]  # each file is read once


@pytest.fixture
def cfp(tmp_path: Path) -> Path:
    root = tmp_path / "cfp-dataset"
    frontal = [f"Data/Images/{p:03d}/frontal/{i:02d}.jpg" for p in (1, 2) for i in (1, 2)]
    profile = [f"Data/Images/{p:03d}/profile/01.jpg" for p in (1, 2)]
    put(root, *frontal, *profile)
    protocol = root / "Protocol"
    for name, files in (("F", frontal), ("P", profile)):
        protocol.mkdir(exist_ok=True)
        (protocol / f"Pair_list_{name}.txt").write_text(
            "".join(f"{number} ../{file} \n" for number, file in enumerate(files, 1))
        )
    rows = {
        "FP/01": ("1,1\n3,2", "1,2\n"),
        "FP/02": ("2,1\n", "4,1\n"),
        "FF/01": ("1,2\n", "1,3\n"),
        "FF/02": ("3,4\n", "2,4\n"),
    }
    for fold, (same, diff) in rows.items():
        (protocol / "Split" / fold).mkdir(parents=True)
        (protocol / "Split" / fold / "same.txt").write_text(same)
        (protocol / "Split" / fold / "diff.txt").write_text(diff)
    return root


def test_cfp_frontal_profile(cfp: Path) -> None:
    pairs = read_pairs(cfp)
    f, p = "Data/Images/{}/frontal/{}.jpg".format, "Data/Images/{}/profile/01.jpg".format
    assert shown(pairs) == [
        (f("001", "01"), p("001"), True),
        (f("002", "01"), p("002"), True),
        (f("001", "01"), p("002"), False),
        (f("001", "02"), p("001"), True),
        (f("002", "02"), p("001"), False),
    ]
    assert pairs.folds is not None
    assert pairs.folds.tolist() == [0, 0, 0, 1, 1]
    assert shown(read_pairs(cfp / "Protocol" / "Split" / "FP")) == shown(pairs)


def test_cfp_frontal_frontal_and_crops_elsewhere(cfp: Path, tmp_path: Path) -> None:
    crops = put(tmp_path / "crops", *(f"{p:03d}/frontal/{i:02d}.jpg" for p in (1, 2) for i in (1, 2)))
    pairs = read_pairs(cfp / "Protocol" / "Split" / "FF", crops)
    f = "{}/frontal/{}.jpg".format
    assert shown(pairs)[:2] == [
        (f("001", "01"), f("001", "02"), True),
        (f("001", "01"), f("002", "01"), False),
    ]


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("Split/FP/02/diff.txt", "4;1\n", r"diff\.txt:1 is not two numbers"),
        ("Split/FP/02/diff.txt", "4,9\n", r"diff\.txt:1 is not two numbers"),
        ("Pair_list_P.txt", "1\n", r"Pair_list_P\.txt:1 is not `number path`"),
    ],
)
def test_damaged_cfp(cfp: Path, file: str, text: str, message: str) -> None:
    (cfp / "Protocol" / file).write_text(text)
    with pytest.raises(InputError, match=message):
        read_pairs(cfp)


def test_folder_that_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no folder of a verification set"):
        read_pairs(tmp_path)


def test_bin_needs_no_folder(tmp_path: Path) -> None:
    write_pairs(tmp_path / "a.bin", PairSet([b"a", b"b"], np.array([True])))
    with pytest.raises(InputError, match="leave out the image folder"):
        read_pairs(tmp_path / "a.bin", tmp_path)
    (tmp_path / "a.bin").rename(tmp_path / "set")
    assert read_pairs(tmp_path / "set").images == [b"a", b"b"]


def test_evaluation_uses_the_folds_of_the_list_and_names_damaged_files(
    tmp_path: Path, net, pictures, encode
) -> None:
    images = pictures(8)
    for i, image in enumerate(images):
        (tmp_path / f"{i}.png").write_bytes(encode(image))
    numbers = [1, 2, 1, 2, 0, 0, 0, 0]
    rows = [(f"{k}.png", f"{(k + 1) % 8}.png", number) for k, number in enumerate(numbers)]
    (tmp_path / "list.txt").write_text(two_lines(rows))
    result = evaluate(net, tmp_path / "list.txt")
    assert result.folds == 2
    assert evaluate(net, tmp_path / "list.txt", folds=4).folds == 4
    from recipes.faces import kfold_accuracy

    assert result.accuracy == kfold_accuracy(result.scores, result.same, [1, 2, 1, 2, 1, 1, 2, 2])[0]
    (tmp_path / "5.png").write_bytes(b"junk")
    with pytest.raises(InputError, match=r"5\.png is not a JPEG, PNG"):
        evaluate(net, tmp_path / "list.txt")


@pytest.mark.parametrize(
    ("genuine", "impostors", "limit", "wanted"),
    [
        (10, 10, 6, (3, 3)),
        (10, 2, 6, (4, 2)),
        (1, 10, 7, (1, 6)),
        (10, 10, 7, (3, 4)),
        (3, 3, 6, (3, 3)),
        (3, 3, 99, (3, 3)),
    ],
)
def test_sample_is_spread_and_balanced(
    genuine: int, impostors: int, limit: int, wanted: tuple[int, int]
) -> None:
    same = np.array([True] * genuine + [False] * impostors)
    count = len(same)
    images = [f"{i}".encode() for i in range(2 * count)]
    pairs = PairSet(images, same, np.arange(count), [image.decode() for image in images])
    sample = pairs.sample(limit)
    assert (int(sample.same.sum()), int((~sample.same).sum())) == wanted
    assert sample.folds is not None
    assert len(set(sample.folds.tolist())) == len(sample)
    if limit > 3 and genuine > 3:
        assert {0, genuine - 1} <= set(sample.folds.tolist())
    for i, pair in enumerate(sample.folds.tolist()):
        assert sample.images[2 * i : 2 * i + 2] == images[2 * pair : 2 * pair + 2]
        assert sample.names is not None
        assert sample.names[2 * i] == images[2 * pair].decode()

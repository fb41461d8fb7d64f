from __future__ import annotations

import multiprocessing
import pickle
import struct
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from recipes.faces import FaceParts, FaceRecords, Record, RecordFile, write_records
from reparam_kit import InputError

MAGIC = struct.pack("<I", 0xCED7230A)
# The header before an image has 24 bytes, so the magic of a payload is aligned where it is in the image.
PAYLOADS = st.lists(st.one_of(st.binary(max_size=9), st.just(MAGIC)), max_size=5).map(b"".join)
any_folder = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def part(flag: int, data: bytes) -> bytes:
    return MAGIC + struct.pack("<I", flag << 29 | len(data)) + data + bytes(-len(data) % 4)


def payload(label: float, image: bytes, labels: tuple[float, ...] = ()) -> bytes:
    return struct.pack("<IfQQ", len(labels), label, 0, 0) + struct.pack(f"<{len(labels)}f", *labels) + image


def write_raw(path: Path, *records: bytes, index: bool = True) -> Path:
    path.write_bytes(b"".join(records))
    if index:
        starts = np.cumsum([0, *map(len, records[:-1])])
        path.with_suffix(".idx").write_text("".join(f"{k}\t{at}\n" for k, at in enumerate(starts)))
    return path


def contents(records: RecordFile) -> list[Record]:
    return [records.read(i) for i in range(len(records))]


def expected(pairs: list[tuple[int, bytes]]) -> list[Record]:
    return [Record(*pair) for pair in sorted(pairs, key=lambda pair: pair[0])]


SOME = [(3, b"abc"), (1, b""), (3, MAGIC * 2), (2, b"x" * 5 + MAGIC), (1, b"wxyz" + MAGIC + b"q")]


@any_folder
@given(st.lists(st.tuples(st.integers(-(2**24), 2**24), PAYLOADS), max_size=6), st.booleans())
def test_round_trip(tmp_path: Path, pairs: list[tuple[int, bytes]], index: bool) -> None:
    path = tmp_path / "a.rec"
    write_records(path, pairs)
    if not index:
        path.with_suffix(".idx").unlink()
    records = RecordFile(path)
    assert contents(records) == expected(pairs)
    ranges = records.identity_ranges()
    assert len(ranges) == len({label for label, _ in pairs})
    for start, end in ranges:
        assert len({records.read(i).label for i in range(start, end)}) == 1
    assert sum(end - start for start, end in ranges) == len(pairs)


def test_magic_is_cut_out_at_multiples_of_four_only(tmp_path: Path) -> None:
    write_records(tmp_path / "a.rec", [(0, b"abcd" + MAGIC + b"e"), (1, b"ab" + MAGIC)])
    data = (tmp_path / "a.rec").read_bytes()
    first = data[40:]
    assert first.startswith(
        part(1, payload(0, b"abcd")[:8] + struct.pack("<QQ", 1, 0) + b"abcd") + part(3, b"e")
    )
    assert b"ab" + MAGIC in data


def test_layout_and_property(tmp_path: Path) -> None:
    write_records(tmp_path / "a.rec", SOME, image_size=(96, 80))
    assert (tmp_path / "property").read_text() == "3,96,80\n"
    keys = [int(line.split("\t")[0]) for line in (tmp_path / "a.idx").read_text().splitlines()]
    assert keys == list(range(1 + len(SOME) + 3))
    count, _, _, _, images_end, identities_end = struct.unpack(
        "<IfQQ2f", (tmp_path / "a.rec").read_bytes()[8:40]
    )
    assert (count, images_end, identities_end) == (2, 6.0, 9.0)
    assert RecordFile(tmp_path / "a.rec").identity_ranges().tolist() == [[0, 2], [2, 3], [3, 5]]


@pytest.mark.parametrize("index", [True, False])
def test_file_cut_at_every_byte(tmp_path: Path, index: bool) -> None:
    write_records(tmp_path / "whole.rec", SOME)
    data = (tmp_path / "whole.rec").read_bytes()
    path = tmp_path / "cut.rec"
    if index:
        path.with_suffix(".idx").write_bytes((tmp_path / "whole.idx").read_bytes())
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(InputError, match=r"cut\.rec"):
            RecordFile(path)


def test_cut_record_names_file_record_and_byte(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.rec", part(0, payload(0, b"abcd")), part(0, payload(1, b"efgh")))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(
        InputError, match=r"a\.rec: record 1 at byte 36 is cut short: the file ends at byte 71"
    ):
        RecordFile(path)


@pytest.mark.parametrize(
    ("damaged", "message"),
    [
        (b"junk" + part(0, payload(1, b""))[4:], "record 1 at byte 36 is corrupt: byte 36 does not begin"),
        (part(2, payload(1, b"")), "record 1 at byte 36 is corrupt: byte 36 does not begin"),
        (part(5, payload(1, b"")), "record 1 at byte 36 is corrupt: byte 36 does not begin"),
        (
            part(1, payload(1, b"")) + part(0, b"abcd"),
            "record 1 at byte 36 is corrupt: byte 68 does not begin",
        ),
        (part(0, b"short"), "record 1 at byte 36 is corrupt: 5 bytes hold no label"),
        (
            part(0, struct.pack("<IfQQ", 9, 0, 0, 0)),
            "record 1 at byte 36 is corrupt: 24 bytes hold no 9 labels",
        ),
        (part(0, payload(0.5, b"")), "record 1 at byte 36 has the label 0.5, not a whole number"),
        (part(0, payload(float("nan"), b"")), "record 1 at byte 36 has the label nan, not a whole number"),
    ],
)
def test_damaged_record(tmp_path: Path, damaged: bytes, message: str) -> None:
    records = [part(0, payload(0, b"abcd")), damaged, part(0, payload(2, b"last"))]
    path = write_raw(tmp_path / "a.rec", *records)
    opened = RecordFile(path)
    assert opened.read(0) == Record(0, b"abcd")
    with pytest.raises(InputError, match=message):
        opened.read(1)


def test_headerless_file_holds_images_from_record_zero(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.rec", *(part(0, payload(k, b"img")) for k in (5, 7)))
    records = RecordFile(path)
    assert contents(records) == [Record(5, b"img"), Record(7, b"img")]
    assert records.identity_ranges().shape == (0, 2)


def test_array_of_labels(tmp_path: Path) -> None:
    path = write_raw(tmp_path / "a.rec", part(0, payload(99, b"img", labels=(4, 8, 9))))
    assert contents(RecordFile(path)) == [Record(4, b"img")]


def test_index_in_any_order(tmp_path: Path) -> None:
    write_records(tmp_path / "a.rec", SOME)
    index = tmp_path / "a.idx"
    index.write_text("".join(reversed(index.read_text().splitlines(keepends=True))))
    assert contents(RecordFile(tmp_path / "a.rec")) == expected(SOME)


@pytest.mark.parametrize(
    "text", ["", "0\n", "a\tb\n", "0\t0\t0\n", "-1\t0\n", "0\t-4\n", "0\t99999999999999999999\n"]
)
def test_damaged_index(tmp_path: Path, text: str) -> None:
    write_records(tmp_path / "a.rec", SOME)
    (tmp_path / "a.idx").write_text(text)
    with pytest.raises(InputError, match=r"a\.idx"):
        RecordFile(tmp_path / "a.rec")


@pytest.mark.parametrize("lines", [1, 3, 5])
def test_index_that_was_cut_short(tmp_path: Path, lines: int) -> None:
    """Without a record 0 nothing but the size of the file tells that images are missing."""
    path = write_raw(tmp_path / "a.rec", *(part(0, payload(i, b"x" * i)) for i in range(6)))
    index = tmp_path / "a.idx"
    index.write_text("".join(index.read_text().splitlines(keepends=True)[:lines]))
    with pytest.raises(InputError, match=r"a\.rec goes on for \d+ bytes behind the last record of its \.idx"):
        RecordFile(path)
    index.unlink()
    assert len(RecordFile(path)) == 6


def test_missing_record(tmp_path: Path) -> None:
    write_records(tmp_path / "a.rec", SOME)
    index = tmp_path / "a.idx"
    lines = index.read_text().splitlines(keepends=True)
    index.write_text("".join(lines[:3] + lines[4:]))
    with pytest.raises(InputError, match="no record 3, though its record 0 promises them up to 8"):
        RecordFile(tmp_path / "a.rec")


@pytest.mark.parametrize("labels", [(0.0, 5.0), (4.0, 2.0)])
def test_impossible_header(tmp_path: Path, labels: tuple[float, float]) -> None:
    path = write_raw(tmp_path / "a.rec", part(0, payload(0, b"", labels)))
    with pytest.raises(InputError, match="record 0 at byte 0 says that images end"):
        RecordFile(path)


@pytest.mark.parametrize("bounds", [(1.0, 9.0), (0.0, 1.0), (2.0, 1.0)])
def test_impossible_range(tmp_path: Path, bounds: tuple[float, float]) -> None:
    path = write_raw(
        tmp_path / "a.rec",
        part(0, payload(0, b"", (2.0, 3.0))),
        part(0, payload(0, b"img")),
        part(0, payload(0, b"", bounds)),
    )
    with pytest.raises(InputError, match="record 2 at byte 76 is not a range of the 1 images"):
        RecordFile(path).identity_ranges()


def test_missing_and_empty_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no such file; name a \.rec file"):
        RecordFile(tmp_path / "a.rec")
    (tmp_path / "a.rec").touch()
    with pytest.raises(InputError, match="has no record"):
        RecordFile(tmp_path / "a.rec")


@pytest.mark.parametrize("index", [-1, len(SOME)])
def test_index_outside(tmp_path: Path, index: int) -> None:
    write_records(tmp_path / "a.rec", SOME)
    with pytest.raises(IndexError):
        RecordFile(tmp_path / "a.rec").read(index)


def _check(records: RecordFile, wanted: list[Record], rounds: int) -> None:
    for _ in range(rounds):
        assert contents(records) == wanted


@pytest.fixture
def opened(tmp_path: Path) -> tuple[RecordFile, list[Record]]:
    pairs = [(i, bytes([i]) * (100 * i)) for i in range(40)]
    write_records(tmp_path / "a.rec", pairs)
    records = RecordFile(tmp_path / "a.rec")
    records.read(7)
    return records, expected(pairs)


def test_pickled(opened: tuple[RecordFile, list[Record]]) -> None:
    _check(pickle.loads(pickle.dumps(opened[0])), opened[1], 1)


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_forked_readers_do_not_share_a_position(opened: tuple[RecordFile, list[Record]]) -> None:
    context = multiprocessing.get_context("fork")
    children = [context.Process(target=_check, args=(*opened, 20)) for _ in range(2)]
    for child in children:
        child.start()
    _check(*opened, 20)
    for child in children:
        child.join()
    assert [child.exitcode for child in children] == [0, 0]


def test_threads_do_not_share_a_position(opened: tuple[RecordFile, list[Record]]) -> None:
    done: list[int] = []
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work() -> None:
        _check(*opened, 150)
        done.append(1)

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(interval)
    assert len(done) == 3


@pytest.mark.parametrize(
    ("name", "pairs", "message"),
    [
        ("a.bin", [], r"ends in \.rec"),
        ("a.rec", [(2**24 + 1, b"")], "float32 and end at 16777216"),
        ("no/a.rec", [], "cannot be written"),
    ],
)
def test_refused_writing_leaves_nothing(
    tmp_path: Path, name: str, pairs: list[tuple[int, bytes]], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        write_records(tmp_path / name, pairs)
    assert list(tmp_path.iterdir()) == []


def test_failed_writing_keeps_the_old_file(tmp_path: Path) -> None:
    write_records(tmp_path / "a.rec", SOME)
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(TypeError):
        write_records(tmp_path / "a.rec", [(0, b"good"), (1, "text")])  # type: ignore[list-item]
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_real_file(shared_faces: Path, tmp_path: Path) -> None:
    records = RecordFile(shared_faces / "train.rec")
    assert len(records) == 6922
    ranges = records.identity_ranges()
    assert len(ranges) == 3554
    assert ranges[0, 0] == 0
    assert ranges[-1, 1] == 6922
    assert (ranges[1:, 0] == ranges[:-1, 1]).all()
    write_records(tmp_path / "a.rec", [(r.label, r.image) for r in contents(records)])
    for ours, theirs in (("a.rec", "train.rec"), ("a.idx", "train.idx"), ("property", "property")):
        assert (tmp_path / ours).read_bytes() == (shared_faces / theirs).read_bytes()


@pytest.mark.parametrize("last", [2, 3, 4])
@pytest.mark.parametrize("start", [-20, 0])
def test_identity_ranges_that_float32_rounds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, start: int, last: int
) -> None:
    """Beyond 2**24 images, starts and ends are stored to the nearest even number; the images know their people."""
    first = (1 << 24) + start
    sizes = [first - 1, *[1, 3, 2, 1, 4] * 3, last]
    starts = np.cumsum([1, *sizes])
    end, stop = int(starts[-1]), int(starts[-1]) + len(sizes)
    images = [part(0, payload(7 * k, b"image")) for k in range(len(sizes))]
    people = [part(0, payload(0, b"", (starts[k], starts[k + 1]))) for k in range(len(sizes))]
    records = [part(0, payload(0, b"", (end, stop))), *images, *people]
    path = write_raw(tmp_path / "big.rec", *records, index=False)
    at = np.cumsum([0, *map(len, records[:-1])])
    offsets = np.repeat(at, [1, *sizes, *[1] * len(sizes)])
    # Millions of records share a few images. Read from text, the index alone would take seconds.
    path.with_suffix(".idx").touch()
    monkeypatch.setattr("recipes.faces.records.reading.read_index", lambda _: (np.arange(stop), offsets))
    faces = FaceRecords(path)
    assert (len(faces), faces.num_identities) == (end - 1, len(sizes))
    for k, begin in enumerate(starts[:-1].tolist()):
        assert [faces.label(begin - 1), faces.label(begin + sizes[k] - 2)] == [k, k]
    with pytest.raises(InputError, match="are rounded to float32; take the labels of the images"):
        faces.records.identity_ranges()


@pytest.mark.parametrize("label", [2.0**24 + 2, -(2.0**25), 1e30, float("inf"), float("nan"), 0.5])
@pytest.mark.parametrize("array", [False, True])
def test_labels_that_are_no_exact_whole_numbers(tmp_path: Path, label: float, array: bool) -> None:
    labels = (label, 1.0) if array else ()
    path = write_raw(tmp_path / "a.rec", part(0, payload(label, b"img", labels)))
    for read in (RecordFile(path).read, RecordFile(path).label):
        with pytest.raises(InputError, match=r"record 0 at byte 0 has the label"):
            read(0)


@pytest.mark.parametrize("array", [False, True])
def test_negative_labels_are_not_known(tmp_path: Path, array: bool) -> None:
    labels = [5, -1, 3, -2, 5]
    rows = [part(0, payload(k, b"img", (k, 0.0) if array else ())) for k in labels]
    faces = FaceRecords(write_raw(tmp_path / "a.rec", *rows))
    assert [faces.label(i) for i in range(5)] == [1, -1, 0, -1, 1]
    assert faces.num_identities == 2
    parts = FaceParts([tmp_path / "a.rec", tmp_path / "a.rec"])
    assert [parts.label(i) for i in range(10)] == [1, -1, 0, -1, 1] * 2
    assert parts.num_identities == 2


def test_promises_of_record_zero_cost_no_memory(tmp_path: Path) -> None:
    path = write_raw(
        tmp_path / "a.rec", part(0, payload(0, b"", (3.0e38, 3.0e38))), part(0, payload(1, b"img"))
    )
    with pytest.raises(InputError, match="has no record 2, though its record 0 promises"):
        RecordFile(path)


@any_folder
@given(st.sampled_from([".rec", ".idx"]), st.data())
def test_mutations_are_records_or_a_line(tmp_path: Path, suffix: str, data: st.DataObject) -> None:
    write_records(tmp_path / "a.rec", SOME)
    path = tmp_path / f"a{suffix}"
    whole = path.read_bytes()
    at = data.draw(st.integers(0, len(whole)))
    changed = data.draw(st.binary(max_size=6))
    path.write_bytes(whole[:at] + changed + whole[at + data.draw(st.integers(0, 6)) :])
    try:
        faces = FaceRecords(tmp_path / "a.rec")
        for i in range(len(faces)):
            faces.encoded(i)
    except InputError:
        return

"""Photos to a .rec of aligned crops and a list of those that gave none, by the library and the command."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from marked import dots_of, marked_photo, write_detector
from PIL import Image

from recipes.faces import align_faces, read_faces
from recipes.faces.crops import faces as command
from recipes.faces.images.align import TEMPLATE
from reparam_kit import InputError


def save(path: Path, side: float, x: float = 160, y: float = 120, orientation: int = 1) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    points = (TEMPLATE - 55.5) * (side / 112) + [x, y]
    image = Image.fromarray(marked_photo(points, 240, 320, radius=max(2.0, side / 30)))
    exif = Image.Exif()
    exif[0x112] = orientation
    if orientation == 6:  # stored as turned by 90 degrees, to be turned back
        image = image.transpose(Image.Transpose.ROTATE_90)
    image.save(path, exif=exif)


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write_detector(tmp_path / "d.onnx", size=192)
    save(tmp_path / "photos/anna/1.png", 130)
    save(tmp_path / "photos/anna/2.png", 120, orientation=6)
    save(tmp_path / "photos/ben/1.png", 140, x=180)
    save(tmp_path / "photos/ben/far.png", 45)
    (tmp_path / "photos/ben/wall.png").write_bytes(b"")
    Image.new("RGB", (90, 60)).save(tmp_path / "photos/ben/dark.png")
    return tmp_path


def run(*args: str) -> Result:
    return CliRunner().invoke(command, ["align", *args])


def test_people_become_labels_and_the_rest_is_listed(here: Path) -> None:
    done = run("photos", "-o", "out.rec", "--detector", "d.onnx")
    assert done.exit_code == 0, done.output
    crops = read_faces("out.rec")
    assert [label for _, label, _ in crops] == [0, 0, 1]
    for image, _, _ in crops:
        np.testing.assert_allclose(dots_of(image.permute(1, 2, 0).numpy()), TEMPLATE, atol=0.6)
    first = (
        "out.rec: 3 faces of 2 people, from 6 photos\nskipped 3 photos (1 no face, 1 too small, 1 unreadable)"
    )
    assert done.stdout.startswith(first)
    assert "aligning: 6 images, " in done.stderr
    listed = list(csv.DictReader(Path("out.skipped.csv").read_text().splitlines()))
    assert [(Path(row["photo"]).name, row["kind"]) for row in listed] == [
        ("dark.png", "no face"), ("far.png", "too small"), ("wall.png", "unreadable"),
    ]  # fmt: skip


def test_json_says_what_the_list_says(here: Path) -> None:
    done = run("photos", "-o", "out.rec", "--detector", "d.onnx", "--json", "--smallest", "10")
    said = json.loads(done.stdout)
    assert (said["photos"], said["crops"], said["people"]) == (6, 4, 2)
    assert {one["kind"] for one in said["skipped"]} == {"no face", "unreadable"}


def test_photos_alone_have_no_labels_and_size_and_margin_are_obeyed(here: Path) -> None:
    made = align_faces("photos/anna", "out.rec", "d.onnx", size=160, margin=0.25)
    assert (made.crops, made.people, made.skipped) == (2, 0, ())
    image, label, _ = read_faces("out.rec")[0]
    assert label == -1
    assert image.shape == (3, 160, 160)
    expected = (TEMPLATE + 0.5 + 28) * 160 / 168 - 0.5
    np.testing.assert_allclose(dots_of(image.permute(1, 2, 0).numpy()), expected, atol=0.6)
    assert Path("out.skipped.csv").read_text() == "photo,kind,reason\n"
    assert Path("property").read_text().endswith(",160,160\n")


def test_nothing_is_left_of_a_run_that_gives_no_crop(here: Path) -> None:
    Path("empty").mkdir()
    Image.new("RGB", (90, 60)).save("empty/dark.png")
    with pytest.raises(
        InputError,
        match=r"none of the 1 photos of empty gives a crop \(1 no face\); of the first: no face of a score",
    ):
        align_faces("empty", "out.rec", "d.onnx")
    assert not [path for path in here.iterdir() if "out" in path.name]


def test_several_faces(here: Path) -> None:
    """The drawn detector finds one face, so that another is put beside it."""
    from recipes.faces.aligning.detections import Detections, join
    from recipes.faces.aligning.detector import Detector

    class Twice(Detector):
        def __call__(self, photo: np.ndarray, every: bool = False) -> Detections:
            found = super().__call__(photo, every)
            return join([found, Detections(found.scores, found.boxes + 9, found.points)])

    detector = Twice("d.onnx")
    every = align_faces("photos", "out.rec", detector, faces="all")
    assert (every.crops, every.people) == (6, 0)  # whose faces they are is not known
    assert align_faces("photos", "out.rec", detector).crops == 3
    with pytest.raises(InputError, match=r"\(3 several faces, 1 no face, 1 too small, 1 unreadable\)"):
        align_faces("photos", "out.rec", detector, faces="one")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"size": 8}, "size=8"),
        ({"margin": -0.1}, "margin=-0.1"),
        ({"faces": "some"}, "choose one of largest, all, one"),
        ({"output": "out.bin"}, "ends in .rec"),
        ({"output": "no/out.rec"}, "does not exist"),
        ({"detector": "photos"}, "photos"),
        ({"photos": "none"}, "none"),
    ],
)
def test_wrong_choices_are_refused_before_any_work(here: Path, options: dict[str, object], said: str) -> None:
    given = {"photos": "photos", "output": "out.rec", "detector": "d.onnx", **options}
    with pytest.raises(InputError, match=said):
        align_faces(**given)  # type: ignore[arg-type]

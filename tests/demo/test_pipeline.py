"""The demo at a miniature size: it runs to the end, keeps the graph, and repeats."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

import reparam_kit as rk
from recipes.demo import pipeline
from recipes.demo.cli import _show
from recipes.demo.drawing import SIZE, draw
from recipes.demo.people import IDENTITY, VARIATION, sample, take
from recipes.demo.pipeline import Effort, run_demo
from recipes.faces import FaceRecords, read_pairs
from recipes.tsmr.search import planning, trials
from reparam_kit.cli import main

TINY = Effort(
    people=24,
    deployed_people=8,
    pictures=8,
    pairs=40,
    teacher_epochs=12,  # a teacher at chance is refused
    student_epochs=1,
    distillation_epochs=1,
    refinement_epochs=1,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    with pytest.MonkeyPatch.context() as patch:
        for module in (planning, trials):
            patch.setattr(module, "FEWEST", 1)  # steps of a trial: what it finds says nothing here
        run_demo(folder, seed=3, effort=TINY)
    return folder


def test_the_graph_stays_and_the_weights_do_not(finished: Path) -> None:
    difference = rk.diff(finished / "deployed.onnx", finished / "improved.onnx")
    assert difference.same_graph
    report = json.loads((finished / "report.json").read_text())
    assert report["verification"]["ok"]
    assert set(report["evaluation"]) == {"deployed", "improved", "teacher"}
    assert report["provenance"]["files"]
    assert "latency" not in (finished / "report.html").read_text()


def test_both_stages_are_told(finished: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = json.loads((finished / "report.json").read_text())
    stages = [(stage["stage"], stage["epochs"]) for stage in report["stages"]]
    assert stages == [("as deployed", 0), ("distillation", 1), ("adversarial refinement", 1)]
    _show(report, finished)
    shown = capsys.readouterr().out
    for stage in report["stages"]:
        assert re.search(rf"{stage['stage']} +{stage['epochs']} +{stage['value']:.2%}", shown)


def test_the_deployed_file_is_folded_as_deployed_files_are(finished: Path) -> None:
    model = rk.load(finished / "deployed.onnx")
    assert "BatchNorm" not in repr(model)
    assert all(site.reason is None for site in rk.inspect(model))


def test_the_files_can_be_opened(finished: Path) -> None:
    records = FaceRecords(finished / "faces.rec")
    assert len(records) == TINY.people * TINY.pictures
    assert records[0][0].shape == (3, SIZE, SIZE)
    pairs = read_pairs(finished / "judge.bin")
    assert (len(pairs.images), pairs.same.sum()) == (2 * TINY.pairs, TINY.pairs // 2)


def test_it_may_run_again_in_its_own_folder_but_not_in_another(finished: Path, tmp_path: Path) -> None:
    pipeline._prepare(finished)
    (tmp_path / "thesis.tex").write_text("do not touch")
    result = CliRunner().invoke(main, ["demo", "-o", str(tmp_path)])
    assert result.exit_code == 2
    assert "holds no earlier demo" in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]


def test_it_may_run_again_where_it_was_interrupted(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(pipeline, "train_on_identities", interrupt)
    with pytest.raises(KeyboardInterrupt):
        pipeline.run_demo(tmp_path, effort=TINY)
    assert (tmp_path / "faces.rec").is_file()
    pipeline._prepare(tmp_path)


def test_drawing_repeats_and_people_differ_more_than_pictures_of_one() -> None:
    rows = np.repeat(np.arange(12), 6)

    def pictures(seed: int) -> np.ndarray:
        rng = np.random.default_rng(seed)
        return draw(take(sample(IDENTITY, 12, rng), rows), sample(VARIATION, len(rows), rng), rng)

    first = pictures(0)
    assert first.shape == (72, SIZE, SIZE, 3)
    assert first.dtype == np.uint8
    assert np.array_equal(first, pictures(0))
    assert not np.array_equal(first, pictures(1))
    # Colours of the middle of the face: least of all touched by pose and backdrop.
    centre = first[:, 16:32, 16:32].astype(float).mean((1, 2)).reshape(12, 6, 3)
    assert centre.mean(1).var(0).sum() > centre.var(1).mean(0).sum() / 6

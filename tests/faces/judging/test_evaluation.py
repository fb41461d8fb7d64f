from __future__ import annotations

import dataclasses
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from plugs import fresh

import recipes.faces
from recipes.faces import (
    PairSet,
    PairsJudge,
    d_prime,
    evaluate,
    input_preset,
    kfold_accuracy,
    tar_at_far,
    write_pairs,
)
from recipes.faces.cli import evaluate as command
from recipes.faces.judging.evaluation import FARS, judge_scores
from recipes.faces.judging.judge import JUDGES
from reparam_kit import InputError, UnsafeFileError
from reparam_kit.cli import main

PAIRS = 24


@pytest.fixture
def pairs(pictures, encode) -> PairSet:
    """Genuine pairs are an image and a noisy copy of it; impostor pairs are two images."""
    rng = np.random.default_rng(1)
    images = []
    same = np.arange(PAIRS) % 2 == 0
    for i, image in enumerate(pictures(PAIRS)):
        noisy = np.clip(image + rng.normal(0, 90, image.shape), 0, 255).astype(np.uint8)
        images += [image, noisy if same[i] else pictures(1, seed=100 + i)[0]]
    return PairSet([encode(image) for image in images], same)


@pytest.fixture
def bin_file(tmp_path: Path, pairs: PairSet) -> Path:
    write_pairs(tmp_path / "set.bin", pairs)
    return tmp_path / "set.bin"


@pytest.mark.parametrize("flip", [False, True])
def test_figures_follow_from_the_embeddings(flip: bool, net, pairs: PairSet, bin_file: Path, truth) -> None:
    from recipes.faces import decode_image

    images = [decode_image(data, "x") for data in pairs.images]
    embeddings = truth(images) + (truth([image[:, ::-1] for image in images]) if flip else 0)
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    scores = (embeddings[0::2] * embeddings[1::2]).sum(1)
    result = evaluate(net, bin_file, flip=flip, batch_size=5, folds=4)
    np.testing.assert_allclose(result.scores, scores, atol=1e-5)
    accuracy, std, thresholds = kfold_accuracy(result.scores, pairs.same, 4)
    assert (result.accuracy, result.accuracy_std, result.threshold) == (accuracy, std, thresholds.mean())
    assert result.tar_at_far == {
        0.1: tar_at_far(result.scores, pairs.same, 0.1),
        0.01: None,
        0.001: None,
        0.0001: None,
    }
    assert (result.pairs, result.genuine, result.impostors, result.embedding_size) == (24, 12, 12, 5)
    assert (result.input, result.flip, result.folds) == ("insightface", flip, 4)
    assert result.same is not None


def test_file_and_module_and_preset_forms_agree(net, onnx_net, pairs: PairSet, bin_file: Path) -> None:
    by_module = evaluate(net, pairs, "raw")
    by_file = evaluate(str(onnx_net((1, 3, 8, 8))), bin_file, input_preset("raw"))
    np.testing.assert_allclose(by_module.scores, by_file.scores, atol=1e-5)
    assert by_file.input == "raw"
    other = evaluate(net, pairs, "raw-bgr")
    assert not np.allclose(other.scores, by_module.scores, atol=1e-3)


def test_intervals_and_separation(net, pairs: PairSet) -> None:
    plain = evaluate(net, pairs, "raw")
    assert plain.d_prime == d_prime(plain.scores, plain.same)
    assert all(figure.interval is None for figure in plain.figures)
    result = evaluate(net, pairs, "raw", bootstrap=200)
    low, high = result["accuracy"].interval or (1, 0)
    assert low < high
    assert low <= result.accuracy <= high
    assert result["TAR at FAR 0.1"].interval is not None
    assert result["TAR at FAR 0.001"].interval is None
    assert result["d'"].interval is not None
    value = json.loads(json.dumps(result.to_json(), allow_nan=False))
    assert value["figures"][0] == {
        "name": "accuracy",
        "value": result.accuracy,
        "better": "higher",
        "interval": [low, high],
    }


def test_json_is_plain_and_without_scores(net, pairs: PairSet) -> None:
    value = json.loads(json.dumps(evaluate(net, pairs, "raw").to_json(), allow_nan=False))
    assert value.keys() >= {f.name for f in dataclasses.fields(recipes.faces.Evaluation)} - {
        "outcomes",
        "fars",
        "guessing",
    }
    assert not {"scores", "same", "outcomes"} & value.keys()
    assert list(value["tar_at_far"]) == ["0.1", "0.01", "0.001", "0.0001"]
    assert value["tar_at_far"]["0.001"] is None


class _MustNotRun(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise AssertionError("the set is judged before anything is embedded")


@pytest.mark.parametrize(
    ("change", "folds", "message"),
    [
        (lambda p: p, 25, "24 pairs cannot be cut into 25 folds"),
        (lambda p: PairSet(p.images, np.ones(PAIRS, bool)), 10, "genuine and impostor"),
    ],
)
def test_set_is_judged_first(change, folds: int, message: str, pairs: PairSet) -> None:
    with pytest.raises(InputError, match=message):
        evaluate(_MustNotRun(), change(pairs), "raw", folds=folds)


def test_damaged_image_names_file_and_pair(net, pairs: PairSet, tmp_path: Path) -> None:
    images = list(pairs.images)
    images[7] = b"junk"
    write_pairs(tmp_path / "set.bin", PairSet(images, pairs.same))
    with pytest.raises(InputError, match=r"set\.bin: image 1 of pair 3 is not a JPEG, PNG"):
        evaluate(net, tmp_path / "set.bin", "raw")


def test_net_that_gives_nan_is_an_error(net, pairs: PairSet) -> None:
    net[1].weight.data.fill_(float("nan"))
    with pytest.raises(InputError, match="zero or not finite"):
        evaluate(net, pairs, "raw")


def run(*args: object, code: int = 0) -> tuple[str, str]:
    result = CliRunner().invoke(main, ["evaluate", *map(str, args)])
    assert result.exit_code == code, (result.output, result.exception)
    return result.stdout, result.stderr


@pytest.fixture(autouse=True)
def _registered(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command, also where the package is not installed and has no entry points."""
    monkeypatch.setitem(main.commands, "evaluate", command)


def test_command_prints_json(onnx_net, bin_file: Path) -> None:
    model = onnx_net()
    out, err = run(
        model, "--pairs", bin_file, "--input", "raw", "--flip", "--folds", 4, "--batch-size", 5, "--json"
    )
    value = json.loads(out)
    wanted = evaluate(model, bin_file, "raw", True, 5, 4).to_json()
    assert value == json.loads(json.dumps({"model": str(model), "set": str(bin_file), **wanted}))
    assert "does better with input 'insightface-bgr'" in err  # besides, and not among the figures


def test_command_prints_a_table(onnx_net, bin_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    out, _ = run(onnx_net(), "--pairs", bin_file, "--input", "insightface-bgr", "--folds", 4)
    result = evaluate(onnx_net(), bin_file, "insightface-bgr", folds=4)
    assert f"{result.accuracy:.2%}" in out
    assert "12 genuine and 12 impostor pairs" in out
    assert "insightface-bgr, without flip" in out
    assert "not measurable: needs 1,000 impostor pairs" in out


def test_command_loads_a_factory_with_weights(
    net, pairs: PairSet, bin_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "faces_test_nets.py").write_text(
        "from torch import nn\ndef small(): return nn.Sequential(nn.Flatten(), nn.Linear(192, 5))\n"
    )
    monkeypatch.chdir(tmp_path)
    torch.save(net.state_dict(), "w.pt")
    out, _ = run(
        "faces_test_nets:small", "--weights", "w.pt", "--pairs", bin_file, "--input", "raw", "--json"
    )
    assert json.loads(out)["accuracy"] == evaluate(net, pairs, "raw").accuracy


def test_pickled_module_needs_permission(net, bin_file: Path, tmp_path: Path) -> None:
    torch.save(net, tmp_path / "net.pt")
    _, err = run(tmp_path / "net.pt", "--pairs", bin_file, "--input", "raw", code=2)
    assert "--unsafe-load" in err
    run(tmp_path / "net.pt", "--pairs", bin_file, "--input", "raw", "--unsafe-load")


def test_input_is_required_and_says_why(onnx_net, bin_file: Path) -> None:
    _, err = run(onnx_net(), "--pairs", bin_file, code=2)
    assert "--input is required" in err
    assert "normalisation" in err
    for name in ("imagenet", "insightface", "raw", "-bgr"):
        assert name in err


@pytest.fixture
def second(onnx_net, tmp_path: Path) -> Path:
    other = tmp_path / "second.onnx"
    other.write_bytes(onnx_net((1, 3, 8, 8)).read_bytes())
    return other


def test_several_models(onnx_net, second: Path, bin_file: Path, tmp_path: Path) -> None:
    one = onnx_net()
    plot = tmp_path / "roc.svg"
    common = (one, second, "--pairs", bin_file, "--bootstrap", 20, "--roc", plot)
    out, err = run(*common, "--input", "raw", "--json")
    values = json.loads(out)
    assert [value["model"] for value in values] == [str(one), str(second)]
    assert values[0]["accuracy"] == values[1]["accuracy"]
    assert values[0]["figures"] == values[1]["figures"]
    assert "against" not in values[0]
    same = values[1]["against"][str(one)]["differences"][0]
    assert (same["difference"], same["interval"], same["chance"]) == (0.0, [0.0, 0.0], 1.0)
    assert err == ""
    assert str(second) in plot.read_text()
    values = json.loads(run(*common, "--input", "raw", "--input", "raw-bgr", "--json")[0])
    assert [value["input"] for value in values] == ["raw", "raw-bgr"]
    out, _ = run(*common, "--input", "raw")
    low, high = values[0]["figures"][0]["interval"]
    assert f"({low:.2%} to {high:.2%})" in " ".join(out.split())
    assert "chance" in out


def test_list_with_a_folder_and_templates(onnx_net, pairs: PairSet, tmp_path: Path, pictures, encode) -> None:
    folder = tmp_path / "crops"
    folder.mkdir()
    for i, image in enumerate(pairs.images):
        (folder / f"{i}.png").write_bytes(image)
    rows = [f"{2 * i}.png {2 * i + 1}.png {int(same)}\n" for i, same in enumerate(pairs.same)]
    (tmp_path / "list.txt").write_text("".join(rows))
    out, _ = run(onnx_net(), "--pairs", tmp_path / "list.txt", "--images", folder, "--input", "raw", "--json")
    assert json.loads(out)["accuracy"] == evaluate(onnx_net(), pairs, "raw").accuracy
    for i in range(4):
        video = folder / f"p{i}" / "0"
        video.mkdir(parents=True)
        (video / "0.1.png").write_bytes(pairs.images[i])
    rows = ["1, 1, p0/0, p1/0, 1", "1, 2, p0/0, p2/0, 0", "2, 1, p1/0, p0/0, 1", "2, 2, p3/0, p0/0, 0"]
    (tmp_path / "splits.txt").write_text("split, pair, one, two, same\n" + "\n".join(rows))
    ask = ("--pairs", tmp_path / "splits.txt", "--images", folder, "--input", "raw")
    value = json.loads(run(onnx_net(), *ask, "--json")[0])
    assert (value["pairs"], value["folds"], len(value["tar_at_far"])) == (4, 2, 6)
    _, err = run(onnx_net(), *ask, "--detector-score", code=2)
    assert "no detector scores" in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--input", "raw", "--input", "raw", "--input", "raw"), "3 times --input for 2 models"),
        (("--input", "raw", "--weights", "w.pt"), "--weights is for package.module:factory"),
        (
            ("--input", "raw", "--roc", "roc.pdf"),
            "roc.pdf: the suffix says what is written; choose .svg or .png",
        ),
    ],
)
def test_wrong_words_for_several(words, message: str, onnx_net, second: Path, bin_file: Path) -> None:
    _, err = run(onnx_net(), second, "--pairs", bin_file, *words, code=2)
    assert message in err


def test_a_model_named_twice(onnx_net, bin_file: Path) -> None:
    _, err = run(onnx_net(), onnx_net(), "--pairs", bin_file, "--input", "raw", code=2)
    assert "named twice" in err


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"--input": "insigthface"}, "did you mean 'insightface'"),
        ({"--pairs": "no.bin"}, "no.bin: no such file"),
        ({"--weights": "w.pt"}, "--weights is for package.module:factory"),
        ({"--folds": "25"}, "24 pairs cannot be cut into 25 folds"),
        ({"--folds": "1"}, "1 is not in the range"),
        ({"--batch-size": "0"}, "0 is not in the range"),
    ],
)
def test_wrong_arguments(change: dict[str, str], message: str, onnx_net, bin_file: Path) -> None:
    options = {"--pairs": str(bin_file), "--input": "raw"} | change
    out, err = run(onnx_net(), *(word for option in options.items() for word in option), code=2)
    assert message in err
    assert out == ""


def test_hostile_set_is_refused_in_one_line(onnx_net, tmp_path: Path) -> None:
    class Call:
        def __reduce__(self):
            return os.system, ("touch ran",)

    (tmp_path / "set.bin").write_bytes(pickle.dumps(Call()))
    with pytest.raises(UnsafeFileError):
        evaluate(onnx_net(), tmp_path / "set.bin")
    _, err = run(onnx_net(), "--pairs", tmp_path / "set.bin", "--input", "raw", code=2)
    assert err.count("\n") == 1


def test_every_public_name_resolves() -> None:
    for name in recipes.faces.__all__:
        assert getattr(recipes.faces, name).__name__ == name


def test_real_models_tell_people_apart(shared_faces: Path) -> None:
    whole = recipes.faces.read_pairs(shared_faces / "lfw_dev.bin")
    some = [*range(0, 1200, 15)]
    part = PairSet([whole.images[2 * i + k] for i in some for k in (0, 1)], whole.same[some])
    assert evaluate(shared_faces / "models" / "mobilefacenet.onnx", part, "imagenet").accuracy > 0.95


def test_a_separation_that_is_infinite_is_not_compared(pairs: PairSet) -> None:
    folds = np.arange(PAIRS) // 6
    verdicts = [
        judge_scores(pairs.same * high, pairs.same, folds, FARS, 5, "raw", False, 0) for high in (0.3, 0.7)
    ]
    assert [verdict.d_prime for verdict in verdicts] == [None, None]
    *shares, separation = PairsJudge(pairs, bootstrap=20).compare(*verdicts).differences
    assert (shares[0].interval, shares[0].chance) == ((0.0, 0.0), 1.0)
    assert (separation.interval, separation.chance) == (None, None)


COUNTING = """import numpy as np
from recipes.faces import Judge, Verdict


class Counting(Judge, name="counting"):
    def judge(self, model, input="insightface", embedding=None):
        return Verdict.of_means({"counted": np.ones(int(self.path))}, "counted")

    def __init__(self, path):
        self.path = path
"""


def test_command_takes_judges_from_a_file_of_ones_own(
    onnx_net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(JUDGES, monkeypatch)
    (tmp_path / "mine.py").write_text(COUNTING)
    out, _ = run(onnx_net(), "--input", "raw", "--judge", "counting:7", "--import", tmp_path / "mine.py")
    assert "counting:7: 7 examples" in out


def test_what_fails_in_a_file_of_ones_own_is_told_by_its_line(
    onnx_net, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh(JUDGES, monkeypatch)
    (tmp_path / "mine.py").write_text(COUNTING)
    asked = ("--input", "raw", "--judge", "counting:seven", "--import", tmp_path / "mine.py")
    _, err = run(onnx_net(), *asked, code=2)
    assert f"{tmp_path / 'mine.py'}, line 7: ValueError: invalid literal" in err
    assert "fault of reparam-kit" not in err

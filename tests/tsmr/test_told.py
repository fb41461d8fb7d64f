"""What a file and ``--set`` say of a run: all of it comes back, and one change changes one thing."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from any_choices import configs
from hypothesis import given, settings
from hypothesis import strategies as st

from recipes.tsmr import Ablation, Adversary, Margin, Run, Stage, TSMRConfig, read_run
from recipes.tsmr.catalogue import keys
from recipes.tsmr.run import OWN, plain
from recipes.tsmr.settings import as_yaml
from recipes.tsmr.stages import USUAL
from recipes.tsmr.told import Told
from reparam_kit import InputError

NEEDED = {"student": "s.onnx", "teacher": "t.onnx", "data": "d.rec", "output": "o.onnx"}
paths = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), min_size=1, max_size=9)
some = st.lists(paths, max_size=2).map(tuple)
runs = st.builds(
    Run,
    **dict.fromkeys(("student", "data", "output", "device"), paths),
    teacher=paths | st.lists(paths, min_size=1, max_size=2).map(tuple),
    **dict.fromkeys(("val", "teacher_weights", "outputs", "log_to"), some),
    **dict.fromkeys(("val_people", "impostors", "weights", "float", "report", "work"), st.none() | paths),
    compare=st.none() | st.builds(Ablation, seeds=st.just((0, 7)), rates=st.none() | st.just((1e-5, 3.0))),
    scales=st.sampled_from(["kept", "weights"]),
    unsafe_load=st.booleans(),
    sha256=st.dictionaries(st.sampled_from(["student", "data"]), st.just("ab")),
    config=configs,
)  # fmt: skip


@settings(max_examples=20)
@given(runs, st.sampled_from(["run.yaml", "run.json"]))
def test_any_run_comes_back_from_its_file(run: Run, name: str) -> None:
    with TemporaryDirectory() as folder:
        run.save(Path(folder, name))
        assert read_run(Path(folder, name), trusted=True) == run


def written(tmp_path: Path, text: str) -> Path:
    (tmp_path / "run.yaml").write_text(text)
    return tmp_path / "run.yaml"


STAGES = """
seed: 3
stages:
- epochs: 3
  losses: {cosine: 2, hard: 1}
- rate: 0.25
  mse: 1
margin: {size: 0.5}
"""
OTHER = {  # another value that each key may have
    "task": "logits", "block": "repvgg", "norm": "none", "restore_bn": True, "include": ["a", "b"], "exclude": ["*.w"],
    "student_input": "raw", "teacher_input": ["raw", "imagenet"], "student_output": "y", "teacher_output": "z",
    "combine": "mean", "stages": [{"epochs": 2, "rate": 3.0, "losses": {"mse": 1.0}}], "epochs": 7, "budget": 3.0,
    "auto": False, "temperature": 3.0, "margin": {"kind": "arcface", "size": 0.1}, "margin.kind": "arcface",
    "margin.size": 0.2, "margin.scale": 3.0, "margin.classes": 9, "adversary": {"lr": 0.1}, "adversary.hidden": 3,
    "adversary.lr": 1e-5, "adversary.warmup": 0.1, "adversary.saturation": 0.9, "attack": {"steps": 3},
    "attack.radius": 3.0, "attack.steps": 2, "augment": {"crop": 0.1}, "views": 3, "keep_gallery": 1.5,
    "batch_size": 9, "accumulate": 2, "steps": 3, "images": 77, "lr": 1e-3, "weight_decay": 0.1, "warmup": 0.2,
    "clip": 1.0, "shares": [0.1], "share": 0.3, "ema": 0.9, "bf16": True, "compile": True, "flip": True,
    "decides": "accuracy", "seed": 5, "workers": 2, "stages.0.epochs": 9, "stages.0.rate": 0.1,
    "stages.0.losses": {"mse": 0.5},
    **{f"augment.{name}": 0.5 for name in ("mirror", "affine", "crop", "colour", "low_resolution", "occlusion")},
    "augment.mix": 0.0,
}  # fmt: skip
CHOICES = [key.place for key in keys() if key.place.partition(".")[0] not in OWN]


def plainly(config: TSMRConfig) -> dict[str, Any]:
    """Every choice by its place."""
    found: dict[str, Any] = {}

    def walk(value: Any, place: str) -> None:
        if isinstance(value, dict):
            for name, item in value.items():
                walk(item, f"{place}.{name}".strip("."))
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            for number, item in enumerate(value):
                walk(item, f"{place}.{number}")
        else:
            found[place] = value

    walk(plain(asdict(config)), "")
    return found


@pytest.mark.parametrize("text", ["", STAGES])
@pytest.mark.parametrize("place", CHOICES)
def test_a_change_reaches_every_choice_and_no_other(tmp_path: Path, place: str, text: str) -> None:
    file = written(tmp_path, text) if text else None
    if text and place == "epochs":
        return  # it is of the usual stages, and the file has others
    value = OTHER[place]
    usual = Told(file).config()
    changed = Told(
        file,
        [f"{place}={as_yaml({'v': value})[2:].strip() if not isinstance(value, dict | list) else value}"],
    )
    before, after = plainly(usual), plainly(changed.config())
    if usual.stages is None and place.startswith("stages."):
        before |= plainly(replace(usual, stages=usual.plan.stages))
    assert {name for name in before | after if before.get(name) != after.get(name)} <= {
        name for name in before | after if name == place or name.startswith(f"{place}.")
    }
    assert place == "augment.mix" or before != after


def test_the_table_has_another_value_for_every_choice() -> None:
    assert OTHER.keys() == set(CHOICES)


@pytest.mark.parametrize(
    "loss", ["stages.0.losses.pairs=0.2", "stages[0].losses.pairs=0.2", "stages.0.pairs=0.2"]
)
def test_a_loss_of_a_usual_stage_is_changed_alone(loss: str) -> None:
    (usual,) = USUAL["embeddings"].stages
    (stage,) = Told(None, [loss]).config().plan.stages
    assert stage == replace(usual, losses=usual.losses | {"pairs": 0.2})
    (of_logits,) = Told(None, ["stages.0.losses.kl=0.2"]).config("logits").plan.stages
    assert of_logits.losses == {"kl": 0.2, "labels": 1.0}
    assert Told(None, ["stages.0.losses.kl=0.2", "task=logits"]).config().plan.stages == (of_logits,)
    assert Told(None, [loss, "epochs=9"]).config().plan.stages[0].epochs == 9


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("auto: off", {"auto": False}), ("bf16: yes", {"bf16": True}), ("flip: 'On'", {"flip": True}),
        ("lr: none", {"lr": None}), ("lr: 1e-4", {"lr": 1e-4}), ("budget: 45m", {"budget": 45.0}),
        ("budget: 30", {"budget": 30.0}), ("budget: '30'", {"budget": 30.0}),
        ("include: conv1", {"include": ("conv1",)}), ("views: live", {"views": "live"}),
        ("student_output: 683", {"student_output": "683"}), ("block: plain", {"block": None}),
        ("block: null", {"block": None}),
        ("margin: {classes: 0}", {"margin": Margin()}), ("margin: {classes: none}", {"margin": Margin()}),
        ("shares: 0.5", {"shares": (0.5,)}), ("adversary: {lr: 1e-5}", {"adversary": Adversary(lr=1e-5)}),
        ("version: 2", {}), ("stages: [{mse: 1, epochs: 2}]", {"stages": (Stage(2, mse=1),)}),
        ("config: {seed: 4}\nkept: 3", {"seed": 4}),
    ],
)  # fmt: skip
def test_a_file_says_it_as_people_write_it(tmp_path: Path, text: str, value: dict[str, Any]) -> None:
    assert Told(written(tmp_path, text)).config() == TSMRConfig(**value)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("seed: 1\nlr: much", 2, "lr='much' must be a positive number, or none"),
        ("seed: 1\nweigth_decay: 1", 2, "there is no choice 'weigth_decay': did you mean 'weight_decay'?"),
        ("hidden: 3", 1, "there is no choice 'hidden': did you mean 'adversary.hidden'?"),
        ("margin:\n  size: 0.1\n  scal: 1", 3, "margin: Margin has no choice 'scal': did you mean 'scale'?"),
        ("margin:\n  size: wide", 2, "margin.size='wide' must be a number, at least 0 and below 1.5"),
        ("stages:\n- mse: 1\n- mse: 1\n  rate: fast", 4, "stages[1].rate='fast' must be a positive number"),
        ("stages:\n- losses:\n    cosin: 1", 3, "there is no loss 'cosin'"),
        ("stages:\n- cosin: 1", 2, "Stage has no choice or loss 'cosin'"),
        ("flip: maybe", 1, "flip='maybe' must be true or false"),
        ("batch_size: 64.5", 1, "batch_size=64.5 must be a whole number"),
        ("seed: 1\nnorm: bach", 2, "norm='bach' is not known: did you mean 'batch'?"),
        ("margin: 3", 1, "margin: Margin is written as {name: value}, not as 3"),
        ("lr: 0.1\nversion: 7", 2, "choices of version 7; this is version 2"),
        ("budget: 9\nepochs: 3", 1, "budget: decides how long is trained"),
        (
            "budget: soon",
            1,
            "budget='soon' must be minutes, a positive number, or a time such as 90s, 45m or 8h",
        ),
        ("student: {}", 1, "student={} must be a path"),
        ("val: {}", 1, "val={} must be a list"),
        ("compare: {seeds: x}", 1, "compare.seeds="),
    ],
)
def test_what_cannot_be_used_is_named_with_its_line(tmp_path: Path, text: str, line: int, says: str) -> None:
    file = written(tmp_path, text)
    with pytest.raises(InputError) as caught:
        _ = Told(file).own(), Told(file).config()
    assert str(caught.value).startswith(f"{file}, line {line}: ")
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("lr", "write it as KEY=VALUE, such as adversary.lr=1e-3"),
        ("=3", "write it as KEY=VALUE"),
        ("lr=much", "lr='much' must be a positive number, or none"),
        ("adversary.lr=", "adversary.lr='' must be a positive number"),
        ("adversary.lrr=1", "adversary: Adversary has no choice 'lrr': did you mean 'lr'?"),
        ("adversery.lr=1", "there is no choice 'adversery.lr': did you mean 'adversary.lr'?"),
        ("saturation=1", "there is no choice 'saturation': did you mean 'adversary.saturation'?"),
        ("stages.3.epochs=1", "stages: has no item '3': its 1 are numbered from 0"),
        ("stages.0.losses.cosin=1", "there is no loss 'cosin'"),
        ("stages.0.cosin=1", "did you mean 'cosine'?"),
        ("lr.x=1", "lr: has no parts, and so no 'x'"),
        ("seed=2.5", "seed=2.5 must be a whole number"),
        ("seed=[1]", "seed=[1] must be a whole number"),
        ("block=", "block='' must be a preset, an expression or none"),
        ("bf16=2", "bf16=2 must be true or false"),
    ],
)
def test_a_change_that_cannot_be_made_is_named(change: str, says: str) -> None:
    with pytest.raises(InputError) as caught:
        Told(None, ["seed=1", change]).config()
    assert str(caught.value).startswith(f"--set {change}: ")
    assert says in str(caught.value)


def test_a_change_takes_the_place_of_what_the_file_says(tmp_path: Path) -> None:
    file = written(
        tmp_path, "lr: much\nadversary: {lr: 1e-5, hidden: 8}\ndata: a.rec\nval: [x, y]\ncompare: true"
    )
    told = Told(file, ["lr=1e-3", "adversary.lr=2e-5", "data=b.rec", "compare.seeds=[4]"])
    assert told.config() == TSMRConfig(lr=1e-3, adversary=Adversary(lr=2e-5, hidden=8))
    assert told.own() == {"data": "b.rec", "val": ("x", "y"), "compare": Ablation(seeds=(4,))}


@pytest.mark.parametrize(
    "line",
    [
        "imports: [mine.py]",
        "unsafe_load: true",
        "student: nets:make",
        "teacher: [t.onnx, 'nets:make(depth=18)']",
    ],
)
def test_a_file_runs_code_only_where_it_is_trusted(tmp_path: Path, line: str) -> None:
    file = written(tmp_path, f"data: d.rec\n{line}")
    with pytest.raises(InputError, match=r"line 2: .* is code, which can do anything: .*--trust-config"):
        Told(file)
    assert Told(file, trusted=True).own()["data"] == "d.rec"


def test_a_run_is_read_from_python(tmp_path: Path) -> None:
    file = written(
        tmp_path, as_yaml({**NEEDED, "val_people": "p", "impostors": "i", "val": "v.bin", "lr": 1e-5})
    )
    run = read_run(file)
    assert run == Run(**NEEDED, val_people="p", impostors="i", val=("v.bin",), config=TSMRConfig(lr=1e-5))
    assert run.judges == ["people:p,i", "v.bin"]
    with pytest.raises(InputError, match=r"run.yaml does not say: teacher, data"):
        read_run(written(tmp_path, "student: s.onnx\noutput: o.onnx"))

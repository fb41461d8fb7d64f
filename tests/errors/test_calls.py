"""What users get wrong in Python: each raises an error of the family, in one line that names what is wrong."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn
from wrong_files import assert_one_line

import reparam_kit as rk
from recipes.faces import (
    Augmentation,
    PairSet,
    cross_evaluate,
    evaluate,
    read_faces,
    read_pairs,
    read_templates,
    write_pairs,
)
from recipes.tsmr import Ablation, Margin, Stage, TSMRConfig, apply_tsmr, compare
from reparam_kit.algebra.factors import Conv


def convolution() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(144, 5))


def spoilt(model: nn.Module) -> nn.Module:
    for parameter in model.parameters():
        nn.init.constant_(parameter, float("nan"))
    return model


def cut(path: Path) -> nn.Module:
    model = rk.load(path)
    conv = model.get_submodule("conv")
    conv.weight = nn.Parameter(torch.zeros(2, 2))
    return model


def recipe(**choices: Any) -> TSMRConfig:
    usual = {"stages": (Stage(epochs=1, cosine=1.0),), "batch_size": 4}
    return TSMRConfig(**{**usual, "student_input": "raw", "teacher_input": "raw", **choices})


def train(w: Path, student: nn.Module | None = None, **arguments: Any) -> None:
    usual = {"teacher": w / "teacher.onnx", "data": w / "faces.rec", "config": recipe()}
    apply_tsmr(student or convolution(), **{**usual, **arguments})


def train_twice(w: Path) -> None:
    torch.manual_seed(0)
    student = convolution()
    train(w, student, checkpoint="run.pt")
    train(w, student, checkpoint="run.pt", config=recipe(seed=1))


X = torch.ones(2, 3, 8, 8)
NAN = torch.full_like(X, float("nan"))
OTHER = torch.ones(1, 5, 8, 8)
# fmt: off
CALLS: dict[str, tuple[Callable[[Path], object], type[rk.ReparamError], str]] = {
    "weights by a wrong name": (
        lambda w: rk.load(w / "net.onnx", include=["zzz"]), rk.InputError, "'zzz' matches no trainable tensor"),
    "weights of another kind of file": (
        lambda w: rk.load(w / "student.pt", include=["a"]), rk.InputError, "choose what is trained of a .onnx"),
    "misspelt block": (lambda w: rk.expand(convolution(), "ddb"), rk.ExpressionError, "mean 'dbb'"),
    "misspelt norm": (lambda w: rk.expand(convolution(), norm="bach"), rk.InputError, "did you mean 'batch'"),
    "inputs of another size": (
        lambda w: rk.inspect(convolution(), OTHER), rk.InputError, "does not run on the example inputs"),
    "no batch to calibrate on": (
        lambda w: rk.expand(convolution(), calibration=[]), rk.InputError, "calibration holds no batch"),
    "calibrated on inputs of another size": (
        lambda w: rk.expand(convolution(), calibration=[OTHER]), rk.InputError, "does not run on the calibration data"),
    "calibrated on an empty batch": (
        lambda w: rk.expand(convolution(), calibration=[X[:0]]), rk.InputError, "a batch .* is empty"),
    "restored from an empty batch": (
        lambda w: rk.restore_bn(convolution(), [X[:0]]), rk.InputError, "a batch .* is empty"),
    "budget without inputs": (
        lambda w: rk.expand(convolution(), budget=1.2), rk.InputError, "needs example_inputs"),
    **{
        f"a budget of {budget}": (
            lambda w, budget=budget: rk.expand(convolution(), budget=budget, example_inputs=torch.zeros(1, 3, 8, 8)),
            rk.InputError, "above 1 and finite")
        for budget in (float("nan"), float("inf"), 1.0, -1.0)
    },
    "no batch to restore from": (lambda w: rk.restore_bn(convolution(), []), rk.InputError, "holds no batch"),
    "restored from NaN": (lambda w: rk.restore_bn(convolution(), [NAN]), rk.InputError, "not finite"),
    "restored where there is one": (
        lambda w: rk.restore_bn(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)), [X]),
        rk.NothingToDoError, "it has a BatchNorm of its own"),
    "nothing to bake": (lambda w: rk.bake(convolution()), rk.NothingToDoError, "nothing to bake"),
    "nothing to fold": (lambda w: rk.fold(convolution()), rk.NothingToDoError, "expand it first"),
    "latency of modules": (
        lambda w: rk.verify(convolution(), convolution(), X, latency=True), rk.InputError, "two .onnx files"),
    "inputs that a module does not take": (
        lambda w: rk.verify(convolution(), convolution(), OTHER),
        rk.InputError, r"Sequential does not run on inputs of shapes \[\[.*\]\]: "),
    "a file on inputs of another size": (
        lambda w: rk.verify(w / "net.onnx", rk.load(w / "net.onnx"), OTHER), rk.InputError, "Got: 5 Expected: 3"),
    "module saved as ONNX": (
        lambda w: rk.save(convolution(), "out.onnx"), rk.InputError, "not loaded from an ONNX file"),
    "NaN saved": (
        lambda w: rk.save(spoilt(rk.load(w / "net.onnx")), "out.onnx"), rk.InputError, "the training diverged"),
    "another size saved": (
        lambda w: rk.save(cut(w / "net.onnx"), "out.onnx"), rk.InputError, "the layer's size must stay"),
    "unknown suffix": (lambda w: rk.save(convolution(), "out.bin"), rk.InputError, "out.bin: the suffix"),
    "exported like nothing": (
        lambda w: rk.export_onnx(convolution(), "out.onnx"), rk.InputError, "say the sizes of the input 'input'"),
    "a class that cannot be pickled": (
        lambda w: rk.save(nn.Sequential(type("Local", (nn.Module,), {})()), "out.pt"),
        rk.InputError, "out.pt: the model cannot be pickled: .*Local"),
    "data file unknown": (
        lambda w: rk.diff(onnx.load(w / "lost.onnx", load_external_data=False), w / "net.onnx"),
        rk.InputError, "give the model by its path"),
    "sum in a chain": (
        lambda w: Conv(1) >> (Conv("k") + Conv(1)), rk.ExpressionError, "a sum cannot stand inside a chain"),
    "no copies": (lambda w: 0 * Conv(1), rk.ExpressionError, "number of copies must be at least 1"),
    "option of a factor": (lambda w: Conv(1, widht=2), rk.ExpressionError, "conv is written conv"),
    "images without partners": (
        lambda w: PairSet([b"a"], np.ones(1, np.bool_)), rk.InputError, "1 images do not make 1 pairs"),
    "net that gives NaN": (
        lambda w: evaluate(spoilt(convolution()), w / "pairs.bin", "raw", folds=2), rk.InputError, "not finite"),
    "one embedding for all": (
        lambda w: evaluate(nn.Flatten(0), w / "pairs.bin", "raw", folds=2), rk.InputError, "not one embedding each"),
    "galleries of two sizes": (
        lambda w: cross_evaluate(w / "face.onnx", w / "teacher.onnx", w / "pairs.bin", "raw", folds=2),
        rk.InputError, "embeddings of 4 and 6 numbers cannot be compared"),
    "pairs into a missing folder": (
        lambda w: write_pairs("nowhere/out.bin", read_pairs(w / "pairs.bin")), rk.InputError, "does not exist"),
    "images of records": (lambda w: read_faces(w / "faces.rec", images=w), rk.InputError, "holds its images"),
    "folder of no template": (lambda w: read_templates(w / "nobody"), rk.InputError, "no folder of an IJB set"),
    "no probability": (lambda w: Augmentation(flip=2), rk.InputError, "flip=2 is not a probability"),
    "ablation without a seed": (
        lambda w: Ablation(seeds=()), rk.InputError, r"seeds=\(\) must be whole numbers, zero or positive, one at"),
    "ablation at no rate": (
        lambda w: Ablation(rates=(1e-3, float("nan"))), rk.InputError, "rates=.*nan.* must be positive numbers"),
    "stage of nothing": (lambda w: Stage(), rk.InputError, "a stage minimises nothing"),
    "misspelt margin": (lambda w: Margin(kind="arcfac"), rk.InputError, "did you mean 'arcface'"),
    "batch of one": (lambda w: recipe(batch_size=1), rk.InputError, "batch_size=1 must be a whole number, at least 2"),
    "choices that are none": (
        lambda w: TSMRConfig.from_json({"stages": [3]}), rk.InputError, "Stage is written as"),
    "nothing to train": (
        lambda w: train(w, convolution().requires_grad_(False)), rk.InputError, "no parameter that requires"),
    "no convolution to train": (
        lambda w: train(w, nn.Sequential(nn.Flatten(), nn.Linear(192, 4))), rk.NothingToDoError, "none of the 1"),
    "one person to hold out": (
        lambda w: compare(convolution(), w / "teacher.onnx", w / "alone.rec", w / "pairs.bin", recipe(), "arms"),
        rk.InputError, "the images show 1 people"),
    "student that gives NaN": (
        lambda w: train(w, spoilt(convolution())), rk.InputError, "outputs .* are not finite"),
    "no image": (lambda w: train(w, data=[]), rk.InputError, "the training data has no image"),
    "no teacher": (lambda w: train(w, teacher=[]), rk.InputError, "for 0 teachers"),
    "checkpoint of another run": (train_twice, rk.InputError, r"run.pt was written by a run with seed=0 \(now 1\)"),
    "damaged checkpoint": (
        lambda w: train(w, checkpoint=w / "text.pt"), rk.InputError, "text.pt is not a checkpoint"),
}
# fmt: on


@pytest.mark.parametrize("case", CALLS)
def test_a_call_says_what_is_wrong(case: str, w: Path, here: Path) -> None:
    call, kind, says = CALLS[case]
    with pytest.raises(kind) as error:
        call(w)
    assert_one_line(str(error.value), says)
    assert {path.name for path in here.iterdir()} <= {"run.pt"}

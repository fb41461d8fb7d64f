"""Only an ONNX file is left: load it, expand, train, fold, and write new weights into the same file.

The file that this writes first stands for yours. Run it with `python examples/onnx_in_and_out.py`; it takes a few
seconds.
"""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import onnxruntime
import torch
from torch import nn

import reparam_kit as rk


def write_deployed(path: Path) -> None:
    """An ONNX file as exporters write it: BatchNorm folded away, free batch."""
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8),
        nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5),
    ).eval()  # fmt: skip
    free = {"image": {0: "n"}, "scores": {0: "n"}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch would rather have its newer exporter, which needs onnxscript
        torch.onnx.export(
            net, (torch.zeros(1, 3, 16, 16),), path, dynamo=False,
            input_names=["image"], output_names=["scores"], dynamic_axes=free,
        )  # fmt: skip


def main() -> None:
    """Load, put BatchNorms back, expand, train, fold, save, compare."""
    torch.manual_seed(0)
    with TemporaryDirectory() as folder:
        deployed, better = Path(folder, "deployed.onnx"), Path(folder, "better.onnx")
        write_deployed(deployed)
        model = rk.load(deployed)
        images = torch.randn(64, 3, 16, 16)
        target = model(images).detach().roll(1, dims=1)  # something to learn

        student = rk.restore_bn(model, calibration=[images])  # the export has folded them away
        student = rk.expand(student, block="dbb", calibration=[images]).train()
        optimizer = torch.optim.AdamW(student.parameters(), lr=1e-2)
        for step in range(30):
            loss = nn.functional.mse_loss(student(images), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if step % 10 == 0:
                print(f"step {step}: loss {loss.item():.4f}")

        rk.save(rk.fold(student), better)
        difference = rk.diff(deployed, better)
        print(f"deployed.onnx against better.onnx: {difference}")
        assert difference.same_graph

        session = onnxruntime.InferenceSession(str(better), providers=["CPUExecutionProvider"])
        (scores,) = session.run(None, {"image": images.numpy()})
        error = (torch.from_numpy(scores) - student.eval()(images)).abs().max().item()
        print(f"better.onnx in onnxruntime against the student: {error:.1e}")
        assert error < 1e-4


if __name__ == "__main__":
    main()

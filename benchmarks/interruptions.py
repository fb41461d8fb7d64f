"""A small run of ``tsmr``, ended at random moments: what it leaves behind, and whether the next one ends the same.

    python -m benchmarks.interruptions [--moments 30] [-o FILE]

Half of the moments are kill -9, half SIGTERM. After each the same command is repeated to its end; the file that it
writes has to have the bytes of a run that nothing interrupted. After SIGTERM no temporary file may be left.
"""

from __future__ import annotations

import io
import random
import shutil
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from PIL import Image

import reparam_kit as rk
from recipes.demo import nets
from recipes.faces import write_records

RUN = [sys.executable, "-c", "from reparam_kit.cli import main; main()"]
OPTIONS = ["--batch-size", "16", "--epochs", "3", "--refine-epochs", "1", "--workers", "1"]


def prepare(folder: Path) -> list[str]:
    """Two nets and 96 images of noise; the words of the command."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    for name, net in (("student", nets.student()), ("teacher", nets.teacher())):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch would rather have its newer exporter
            torch.onnx.export(
                net.eval(), (torch.zeros(1, 3, 48, 48),), folder / f"{name}.onnx", dynamo=False,
                input_names=["x"], output_names=["y"], dynamic_axes={"x": {0: "n"}, "y": {0: "n"}},
            )  # fmt: skip
    images = []
    for index in range(96):
        data = io.BytesIO()
        Image.fromarray(rng.integers(256, size=(48, 48, 3), dtype=np.uint8)).save(data, "PNG")
        images.append((index // 8, data.getvalue()))
    write_records(folder / "faces.rec", images, (48, 48))
    files = [
        "tsmr",
        "student.onnx",
        "--teacher",
        "teacher.onnx",
        "--data",
        "faces.rec",
        "-o",
        "out/model.onnx",
    ]
    return [*files, "--student-input", "insightface", "--teacher-input", "insightface", *OPTIONS]


def start(words: list[str], folder: Path) -> subprocess.Popen[str]:
    """The command, in a folder whose ``out`` is there."""
    (folder / "out").mkdir(exist_ok=True)
    return subprocess.Popen(
        [*RUN, *words], cwd=folder, text=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


def finish(words: list[str], folder: Path) -> bytes:
    """The bytes that the command writes when nothing interrupts it."""
    process = start(words, folder)
    said = process.communicate()[1]
    if process.returncode:
        raise rk.VerificationError(f"the run ended with {process.returncode}: {said}")
    return (folder / "out" / "model.onnx").read_bytes()


def interrupt(words: list[str], folder: Path, after: float, number: signal.Signals) -> str:
    """Ends a run ``after`` seconds; what was wrong with what it left, or nothing."""
    process = start(words, folder)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        process.send_signal(number)
    said = process.communicate()[1]
    if number == signal.SIGKILL:
        return ""
    left = [path.name for path in (folder / "out").rglob("*") if path.name.startswith((".", "tmp"))]
    wrong = [f"left {', '.join(left)}"] if left else []
    if "Traceback" in said:
        wrong.append("a traceback")
    if process.returncode not in (0, 143, -signal.SIGTERM):  # the last: before the command line had begun
        wrong.append(f"exit status {process.returncode}")
    return "; ".join(wrong)


@click.command()
@click.option("--moments", default=30, show_default=True, type=click.IntRange(min=1))
@click.option("-o", "--output", type=rk.OutputPath(".md"), help="Where to write the table.")
def main(moments: int, output: Path | None) -> None:
    """Interrupt the run at random moments."""
    chance = random.Random(0)
    lines = [
        "| signal | moments | temporary files, tracebacks, odd exits | other bytes after going on |",
        "|---|---|---|---|",
    ]
    with TemporaryDirectory() as name:
        folder = Path(name)
        words = prepare(folder)
        begun = time.perf_counter()
        whole = finish(words, folder)
        length = time.perf_counter() - begun
        for number in (signal.SIGKILL, signal.SIGTERM):
            wrong = other = 0
            for _ in range(moments // 2):
                shutil.rmtree(folder / "out")
                after = chance.uniform(0.2, 1) * length
                if fault := interrupt(words, folder, after, number):
                    click.echo(f"{number.name} after {after:.1f} s: {fault}", err=True)
                    wrong += 1
                other += finish(words, folder) != whole
            lines.append(f"| {number.name} | {moments // 2} | {wrong} | {other} |")
    text = "\n".join(lines) + "\n"
    click.echo(text)
    if output is not None:
        with rk.atomic_file(output) as file:
            file.write(text.encode())


if __name__ == "__main__":
    main()

"""Whether training pays for a deployed INT8 file: a face net before it was quantised, after, and trained in place.

    python -m benchmarks.int8 WORK [--seed N ...] [--images N] [--epochs N] [--lr RATE] [--loss NAME=WEIGHT ...]
                              [--scales kept|weights]

Quantises the MobileFaceNet of ``faces/models`` as onnxruntime does (Q/DQ, one scale for each kernel, calibrated on
faces of ``pool.rec``), and distils the file, once for each seed, from its own float twin and ``teacher_mbf512`` on
faces of ``pool.rec``. All pairs of ``people_dev.rec`` judge the files as onnxruntime runs them. ``WORK`` keeps what is
done, and the same call goes on. On all images it writes ``benchmarks/results/int8.md``, with ``--images`` it prints.
The measuring data is looked for beside the project (``../shared/faces``, or ``REPARAM_SHARED``).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from statistics import mean, stdev
from typing import Literal

import click
import onnx
import onnxruntime
import torch
from onnx.version_converter import convert_version
from onnxruntime.quantization import QuantType, quantize_static
from torch.utils.data import Subset

import reparam_kit as rk
from benchmarks.formats import FACES, Images
from recipes.faces import PeopleJudge, input_preset, read_faces
from recipes.faces.judging.evaluation import tar_name
from recipes.tsmr import Stage, TSMRConfig, improve

RESULTS = Path(__file__).parent / "results" / "int8.md"
FLOAT, TEACHER = FACES / "models" / "mobilefacenet.onnx", FACES / "models" / "teacher_mbf512.onnx"
PRESETS = ("imagenet", "insightface")  # of these two
CALIBRATED = 256
SHOWN = (*map(tar_name, (1e-3, 1e-4, 1e-5)), "d'")
Figures = dict[str, float]


def quantise(target: Path) -> None:
    """Write the INT8 file, calibrated on the last faces of the pool."""
    pool = read_faces(FACES / "pool.rec")
    seen = torch.stack([pool[len(pool) - 1 - i][0] for i in range(CALIBRATED)])
    [entry] = rk.open_session(FLOAT).get_inputs()
    feeds = Images(entry.name, input_preset(PRESETS[0])(seen).numpy())
    newer = convert_version(onnx.load(FLOAT), 17)
    quantize_static(newer, target, feeds, activation_type=QuantType.QUInt8, weight_type=QuantType.QInt8)


def figures_of(file: Path, work: Path, judge: PeopleJudge) -> Figures:
    """Return what the judge says of a file in onnxruntime, which is kept beside what it said of others."""
    kept = work / "figures.json"
    known: dict[str, Figures] = json.loads(kept.read_text()) if kept.exists() else {}
    of = rk.onnx_fingerprint(file)
    if of not in known:
        verdict = judge.judge(file, PRESETS[0])
        known[of] = {f.name: f.value for f in verdict.figures if f.name in SHOWN and f.value is not None}
        kept.write_text(json.dumps(known, indent=2))
    return known[of]


def lines(before: Figures, quantised: Figures, after: list[Figures]) -> Iterator[str]:
    """Yield the table, and of each figure what part of the loss is regained."""
    yield "| file | " + " | ".join(SHOWN) + " |"
    yield "|---" * (len(SHOWN) + 1) + "|"
    for name, figures in (("float", before), ("INT8, before", quantised)):
        yield f"| {name} | " + " | ".join(_text(key, figures[key]) for key in SHOWN) + " |"
    values = {key: [figures[key] for figures in after] for key in SHOWN}
    cells = []
    for key, found in values.items():
        spread = f" ± {_text(key, stdev(found))}" if len(found) > 1 else ""
        cells.append(f"{_text(key, mean(found))}{spread}")
    yield "| INT8, after | " + " | ".join(cells) + " |"
    shares = []
    for key, found in values.items():
        lost = before[key] - quantised[key]
        shares.append(f"{(mean(found) - quantised[key]) / lost:.0%}" if lost > 0 else "nothing was lost")
    yield "| regained of what was lost | " + " | ".join(shares) + " |"


def _text(name: str, value: float) -> str:
    return f"{value:.2%}" if name.startswith("TAR") else f"{value:.2f}"


@click.command()
@click.argument("work", type=click.Path(file_okay=False, path_type=Path))
@click.option("--seed", "seeds", type=int, multiple=True, default=(0, 1, 2), show_default=True)
@click.option("--images", type=int, help="Train on so many of the pool, and record nothing.")
@click.option("--epochs", type=int, default=4, show_default=True)
@click.option("--lr", type=float, default=3e-5, show_default=True)
@click.option("--loss", "losses", multiple=True, default=("cosine=1",), show_default=True)
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--scales", type=click.Choice(["kept", "weights"]), default="kept", show_default=True)
@click.option("--device", default="cpu", show_default=True)
def main(
    work: Path,
    seeds: tuple[int, ...],
    images: int | None,
    epochs: int,
    lr: float,
    losses: tuple[str, ...],
    batch_size: int,
    scales: Literal["kept", "weights"],
    device: str,
) -> None:
    """Quantise, train and judge."""
    work.mkdir(parents=True, exist_ok=True)
    quantised, pool = work / "int8.onnx", read_faces(FACES / "pool.rec")
    if not quantised.exists():
        quantise(quantised)
    judge = PeopleJudge(FACES / "people_dev.rec", bootstrap=0)
    weights = {name: float(weight) for name, _, weight in (loss.partition("=") for loss in losses)}
    for seed in seeds:
        output = work / f"seed-{seed}.onnx"
        config = TSMRConfig(
            stages=(Stage(epochs=epochs, losses=weights),), lr=lr, batch_size=batch_size, seed=seed,
            student_input=PRESETS[0], teacher_input=PRESETS,
        )  # fmt: skip
        if not output.exists():
            data = pool if images is None else Subset(pool, range(images))
            improved = improve(
                quantised, [FLOAT, TEACHER], data, output,
                config=config, work=work / f"seed-{seed}", float=FLOAT, scales=scales, device=device,
                progress=True,
            )  # fmt: skip
            click.echo(f"{output}: {improved.report.integers}", err=True)
        click.echo(f"{output}: {figures_of(output, work, judge)}", err=True)
    after = [figures_of(work / f"seed-{seed}.onnx", work, judge) for seed in seeds]
    text = "\n".join(
        [
            "# A deployed INT8 file, trained in place",
            "",
            f"`python -m benchmarks.int8 WORK{f' --images {images}' if images else ''} --epochs {epochs} --lr {lr:g} "
            f"--scales {scales} "
            f"{' '.join(f'--loss {x}' for x in losses)}` "
            f"(onnxruntime {onnxruntime.__version__}, torch {torch.__version__}) on "
            f"{images or len(pool):,} images of the pool, seeds {', '.join(map(str, seeds))}: the MobileFaceNet of "
            f"`faces/models`, quantised by onnxruntime (Q/DQ, a scale for each kernel, {CALIBRATED} images), judged by "
            "all pairs of `people_dev` as onnxruntime runs the files.",
            "",
            *lines(figures_of(FLOAT, work, judge), figures_of(quantised, work, judge), after),
        ]
    )
    if images is None:
        RESULTS.write_text(text + "\n")
    click.echo(text)


if __name__ == "__main__":
    main()

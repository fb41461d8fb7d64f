"""Any folder of ONNX files: what of the list in ``benchmarks.file_trials`` holds of each.

    python -m benchmarks.wild FOLDER [--record FILE]

Each ``.onnx`` file is tried on noise in the shape of its inputs; one that onnxruntime cannot run counts as refused.
``--record`` writes the table as Markdown; ``benchmarks/results/wild.md`` is that of files of public repositories, which
it lists. Exit status 1 if anything fails.
"""

from __future__ import annotations

from pathlib import Path

import click

import reparam_kit as rk
from benchmarks.file_trials import COLUMNS, Trial, table, try_file
from reparam_kit.onnx.noise import noise
from reparam_kit.onnx.run import Session


def try_noise(path: Path, name: str) -> Trial:
    """Try a file on two images of noise, or as many as it takes."""
    try:
        inputs = noise([Session(path, optimised=False)], [2])[0]
    except rk.ReparamError as error:
        trial = Trial(name)
        trial.columns["imports"] = rk.first_line(error)
        return trial
    return try_file(name, path, inputs)


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the table there.")
def main(folder: Path, record: Path | None) -> None:
    """Try every .onnx file below FOLDER."""
    trials: list[Trial] = []
    for path in sorted(folder.rglob("*.onnx")):
        trials.append(try_noise(path, str(path.relative_to(folder))))
        click.echo(f"{trials[-1].file}: {trials[-1].failures or 'all'}", err=True)
    good = sum(not trial.failures for trial in trials)
    imported = sum("imports" not in trial.failures for trial in trials)
    lines = [f"{imported} of {len(trials)} files import; of {good} all holds ({', '.join(COLUMNS)}).", ""]
    text = "\n".join([*lines, *table(trials)]) + "\n"
    click.echo(text)
    if record is not None:
        record.write_text(text)
    if good < len(trials):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

"""Any folder of ONNX files: what of the list in ``benchmarks.file_trials`` holds of each.

    python -m benchmarks.wild FOLDER [--record FILE]

Each ``.onnx`` file is tried on noise in the shape of its inputs; where onnxruntime cannot run it, only the import and
the bytes are. ``--record`` writes the table as Markdown. A line of ``FOLDER/sources.tsv`` says where a file is from:
its name in the folder, repository, commit, and path there. ``benchmarks/results/wild.md`` is of files of public
repositories, which are not the project's to copy. Exit status 1 if anything fails.
"""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

import click

import reparam_kit as rk
from benchmarks.file_trials import COLUMNS, Trial, table, try_file
from reparam_kit.onnx.noise import noise
from reparam_kit.onnx.run import Session


def try_noise(path: Path, name: str) -> Trial:
    """Try a file on two images of noise, or as many as it takes."""
    inputs = None
    with suppress(rk.ReparamError):
        inputs = noise([Session(path, optimised=False)], [2])[0]
    return try_file(name, path, inputs)


def sources(folder: Path) -> list[str]:
    """Return a line for each file whose place is known."""
    path = folder / "sources.tsv"
    if not path.is_file():
        return []
    places = (line.split("\t") for line in path.read_text().splitlines())
    return [
        "",
        *(f"- {name}: `{inside}` of {repository} at {commit}" for name, repository, commit, inside in places),
    ]


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
    lines = [
        "# ONNX files of the wild",
        "",
        "Made by `python -m benchmarks.wild FOLDER`; `benchmarks.file_trials` says what the columns mean. "
        f"{imported} of {len(trials)} files import; of {good} all holds ({', '.join(COLUMNS)}).",
        "",
    ]
    text = "\n".join([*lines, *table(trials), *sources(folder)]) + "\n"
    click.echo(text)
    if record is not None:
        record.write_text(text)
    if good < len(trials):
        raise SystemExit(1)


if __name__ == "__main__":
    main()

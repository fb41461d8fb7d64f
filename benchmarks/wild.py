"""Any folder of ONNX files: what of the list in ``benchmarks.file_trials`` holds of each.

    python -m benchmarks.wild FOLDER [--record FILE]

Each ``.onnx`` file, the smallest first, is tried on noise in the shape of its inputs; where onnxruntime cannot run it,
only the import and the bytes are. ``--record`` writes the table as Markdown, file by file. A line of
``FOLDER/sources.tsv`` says where a file is from: its name in the folder, repository, commit, and path there.
``benchmarks/results/wild.md`` is of files of public repositories, which are not the project's to copy. Exit status 1 if
anything fails.
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


def sources(folder: Path, files: set[str]) -> list[str]:
    """Return a line for each of these files whose place is known."""
    path = folder / "sources.tsv"
    places = [line.split("\t") for line in path.read_text().splitlines()] if path.is_file() else []
    known = [place for place in places if place[0] in files]
    return ["", *(f"- {name}: `{inside}` of {repo} at {commit}" for name, repo, commit, inside in known)]


@click.command()
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--record", type=click.Path(dir_okay=False, path_type=Path), help="Write the table there.")
def main(folder: Path, record: Path | None) -> None:
    """Try every .onnx file below FOLDER."""
    trials: list[Trial] = []
    for path in sorted(folder.rglob("*.onnx"), key=lambda path: path.stat().st_size):
        trials.append(try_noise(path, str(path.relative_to(folder))))
        click.echo(f"{trials[-1].file}: {trials[-1].failures or 'all'}", err=True)
        if record is not None:
            record.write_text(page(trials, folder))
    click.echo(page(trials, folder))
    if any(trial.failures for trial in trials):
        raise SystemExit(1)


def page(trials: list[Trial], folder: Path) -> str:
    """Return the table, what went wrong, and where the files are from."""
    good = sum(not trial.failures for trial in trials)
    imported = sum("imports" not in trial.failures for trial in trials)
    lines = [
        "# ONNX files of the wild",
        "",
        "Made by `python -m benchmarks.wild FOLDER`; `benchmarks.file_trials` says what the columns mean. "
        f"{imported} of {len(trials)} files import; of {good} all holds ({', '.join(COLUMNS)}).",
        "",
        *table(trials),
        *sources(folder, {trial.file for trial in trials}),
    ]
    return "\n".join(lines).replace(f"{folder}/", "") + "\n"


if __name__ == "__main__":
    main()

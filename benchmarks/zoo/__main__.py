"""``python -m benchmarks.zoo``: expand and fold over the convolutional architectures of torchvision and timm.

For each: every convolution is a site or has a reason, the two finders agree, no convolution runs unknown, the net
expanded with ``dbb`` and moved equals its fold in float64 (``norm="scale"``; ``"batch"`` where that is quick), the
fold is as near to the float64 truth in float32 as the expanded net, and the exported graph has the same operators.
Exit status 1 if anything is wrong. Needs torchvision, timm and onnx. Each architecture runs in a process of its own.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click

from reparam_kit import atomic_file

RESULTS = Path(__file__).parents[1] / "results" / "zoo.md"


@click.command()
@click.option(
    "--filter", "pattern", default="", metavar="TEXT", help="Only architectures whose name has TEXT in it."
)
@click.option(
    "--limit-parameters", type=int, metavar="N", help="Leave out those with more parameters than N."
)
@click.option("--jobs", default=1, show_default=True, metavar="N", help="Architectures side by side.")
@click.option("-o", "--output", default=str(RESULTS), show_default=True, help="Where the table goes.")
def main(pattern: str, limit_parameters: int | None, jobs: int, output: str) -> None:
    """Expand and fold every architecture, write the table, and exit with 1 if anything is wrong."""
    try:
        import torch

        from benchmarks.zoo.cases import CASES
        from benchmarks.zoo.processes import run
        from benchmarks.zoo.table import line, table
    except ImportError as error:
        raise click.ClickException(f"{error}; the zoo needs: pip install torchvision timm onnx") from error
    torch.set_num_threads(1)
    verdicts = []
    with ThreadPoolExecutor(jobs) as pool:
        for verdict in pool.map(
            lambda case: run(case, limit_parameters), [case for case in CASES if pattern in case.title]
        ):
            if verdict is not None:
                verdicts.append(verdict)
                click.echo(line(verdict), err=True)
    Path(output).parent.mkdir(parents=True, exist_ok=True)
    with atomic_file(output) as file:
        file.write(table(verdicts, __doc__.split("\n\n")[1], sys.argv[1:]).encode())
    if any(verdict.faults for verdict in verdicts):
        sys.exit(1)


if __name__ == "__main__":
    main()

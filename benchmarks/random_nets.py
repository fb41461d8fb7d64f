"""Folds of random nets: at least a thousand, each exact, or refused with a reason.

    python -m benchmarks.random_nets [--count N] [--first SEED] [-o FILE]

The grammar, and what one trial is, are those of ``tests/random_nets.py``; ``tests/test_random_nets.py`` runs a hundred.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from pathlib import Path

import click
import torch

from tests.random_nets import Outcome, trial


def table(outcomes: list[Outcome]) -> list[str]:
    """How many nets ended in what, and why those that were refused were."""
    exact = [outcome for outcome in outcomes if not outcome.refused and not outcome.fault]
    layers = sum(outcome.layers for outcome in exact)
    worst = max((outcome.error or 0 for outcome in exact), default=0)
    reasons = Counter(_general(outcome.refused) for outcome in outcomes if outcome.refused)
    return [
        f"Made by `python -m benchmarks.random_nets --count {len(outcomes)} --first {outcomes[0].seed}`.",
        "",
        f"torch {torch.__version__}. Of {len(outcomes)} nets {len(exact)} were expanded, moved and folded, "
        f"{layers} layers in all, with a relative error of at most {worst:.0e} in float64; "
        f"{reasons.total()} were refused; {sum(outcome.fault is not None for outcome in outcomes)} are at fault.",
        "",
        "| nets | why they were refused (the first reason of each) |",
        "|---:|---|",
        *(f"| {count} | {reason} |" for reason, count in reasons.most_common()),
        *(
            f"\nSeed {outcome.seed} ({outcome.text}): {outcome.fault}"
            for outcome in outcomes
            if outcome.fault
        ),
    ]


def _general(reason: str) -> str:
    """The reason without names and numbers."""
    first = reason.rpartition(" can be expanded with ")[2].rpartition(": 1 x ")[2].split("; ")[0]
    first = re.sub(r"^.*: \d+ x ", "", first)
    return re.sub(r"\b(?:body|head|norm)[\w.]*|\b\d+x\d+(?:x\d+)?\b", "…", first)


@click.command()
@click.option("--count", default=2000, show_default=True, help="How many nets.")
@click.option("--first", default=1000, show_default=True, help="The first seed; the test takes those from 0.")
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Markdown file to write.")
def main(count: int, first: int, output: Path | None) -> None:
    """Judge the nets and print the table; exit with 1 if any is at fault."""
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    lines = table([trial(seed) for seed in range(first, first + count)])
    print("\n".join(lines))
    if output is not None:
        output.write_text("\n".join(lines) + "\n")
    raise SystemExit(any(line.startswith("\nSeed") for line in lines))


if __name__ == "__main__":
    main()

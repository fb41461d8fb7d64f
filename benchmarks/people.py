"""What a face net does on all pairs of labelled people, on thresholds of a mixed population, and in a gallery.

    python -m benchmarks.people MODEL --input imagenet --people people.rec [--impostors impostors.rec]

Prints TAR at every FAR that the impostor pairs can show, with an interval over people, d', rank-1, and TPIR at FPIR
0.01 and 0.001.
"""

from __future__ import annotations

from argparse import ArgumentParser

import numpy as np

from recipes.faces import Embedder, input_preset, read_faces
from recipes.faces.judging.all_pairs import (
    Floats,
    Genuine,
    Impostors,
    genuine_pairs,
    impostor_pairs,
    measurable,
    numbered,
    separation,
    true_accept_rates,
    unit_rows,
)
from recipes.faces.judging.identification import rank_one, search, true_positive_rate

FARS = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


def interval(genuine: Genuine, impostors: Impostors, far: float, same: bool) -> tuple[float, float]:
    """The ends of 95 % of the rates of 200 sets of people drawn with replacement; ``same``: both of one set."""
    rng = np.random.default_rng(0)

    def drawn(count: int) -> Floats:
        return rng.multinomial(count, np.full(count, 1 / count)).astype(np.float64)

    rates = []
    for _ in range(200):
        ours = drawn(genuine.count)
        theirs = ours if same else drawn(impostors.count)
        rates.append(true_accept_rates(genuine, impostors, [far], (ours, theirs))[0])
    low, high = np.quantile(rates, [0.025, 0.975])
    return float(low), float(high)


def main() -> None:
    """Judge the model that the command line names."""
    parser = ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("--input", required=True)
    parser.add_argument("--people", required=True)
    parser.add_argument("--impostors")
    asked = parser.parse_args()
    embedder = Embedder(asked.model, input_preset(asked.input))

    known = read_faces(asked.people)
    rows = unit_rows(embedder.embed(known[i][0] for i in range(len(known))))
    people, _ = numbered([known.label(i) for i in range(len(known))])
    genuine, own = genuine_pairs(rows, people), impostor_pairs(rows, people)

    def show(name: str, impostors: Impostors) -> None:
        fars = measurable(FARS, impostors)
        rates = zip(fars, true_accept_rates(genuine, impostors, fars), strict=True)
        print(name)
        for far, rate in rates:
            low, high = interval(genuine, impostors, far, impostors is own)
            print(f"  TAR at FAR {far:g} {rate:.2%} [{low:.2%}, {high:.2%}]")

    show(f"{len(genuine.scores)} genuine and {own.pairs} impostor pairs:", own)
    print(f"d' {separation(genuine, own):.2f}")
    if asked.impostors:
        others = read_faces(asked.impostors)
        strangers = unit_rows(embedder.embed(others[i][0] for i in range(len(others))))
        mixed = impostor_pairs(strangers, np.arange(len(strangers)))
        show(f"thresholds of {mixed.pairs} pairs of {len(others)} others:", mixed)
    searches = search(rows, people)
    rates = ", ".join(f"TPIR at FPIR {f:g} {true_positive_rate(searches, f):.2%}" for f in (1e-2, 1e-3))
    print(f"{len(searches.hits)} searches: rank-1 {rank_one(searches):.2%}, {rates}")


if __name__ == "__main__":
    main()

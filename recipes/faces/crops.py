"""``reparam-kit faces``: photos to aligned crops, and whether crops are aligned."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import reparam_kit as rk
from recipes.faces.cli import unsafe_load_option
from recipes.faces.embedding.inputs import CHOICES

if TYPE_CHECKING:
    from recipes.faces.aligning.folder import Aligned

_SHOWN = 5


@click.group()
def faces() -> None:
    """Make aligned crops of photos, or see whether crops are aligned."""


@faces.command()
@click.argument("photos", metavar="FOLDER", type=click.Path(path_type=Path))
@click.option(
    "-o", "--output", required=True, type=rk.OutputPath(".rec"), help="The .rec file to write, with its .idx."
)
@click.option(
    "--detector",
    required=True,
    type=click.Path(path_type=Path),
    help="ONNX file of YuNet (2023 or later) or of SCRFD with five points.",
)
@click.option("--size", default=112, show_default=True, help="Height and width of the crops, in pixels.")
@click.option(
    "--margin",
    default=0.0,
    show_default=True,
    help="What they show besides at each side, as a share of the usual crop.",
)
@click.option(
    "--faces",
    "taken",
    type=click.Choice(["largest", "all", "one"]),
    default="largest",
    show_default=True,
    help="Of each photo the largest face; all, without labels; or only photos with one.",
)
@click.option(
    "--threshold",
    type=click.FloatRange(0, 1),
    default=0.6,
    show_default=True,
    help="How sure the detector has to be of a face.",
)
@click.option(
    "--smallest",
    type=click.FloatRange(1),
    default=40,
    show_default=True,
    help="Longer side of the smallest face that is taken, in pixels of the photo.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def align(
    photos: Path,
    output: Path,
    detector: Path,
    size: int,
    margin: float,
    taken: Any,
    threshold: float,
    smallest: float,
    as_json: bool,
) -> None:
    """Find the faces of all photos, and write them aligned: eyes, nose and mouth where face nets expect them.

    FOLDER has a folder of photos for each person, whose name becomes a label; or photos alone, which get none. Photos
    that give no crop are listed, with the reason, in OUTPUT.skipped.csv. The detector is yours: YuNet is in the OpenCV
    Zoo (MIT licence), SCRFD with InsightFace (its files are for research).
    """
    from recipes.faces.aligning.detector import Detector
    from recipes.faces.aligning.folder import align_faces

    found = Detector(detector, threshold, smallest)
    made = align_faces(photos, output, found, size=size, margin=margin, faces=taken, progress=True)
    if as_json:
        click.echo(json.dumps(made.to_json(), indent=2))
    else:
        _show(made)


@faces.command()
@click.argument("data", type=click.Path(path_type=Path))
@click.option("--model", required=True, type=click.Path(), help="The deployed net: .onnx or .pt.")
@click.option("--input", "preset", metavar="PRESET", help=f"What it expects, required: {CHOICES}.")
@click.option(
    "--embedding", "output", metavar="NAME", help="Output that is the embedding, where several could be."
)
@unsafe_load_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def check(
    data: Path, model: str, preset: str | None, output: str | None, unsafe_load: bool, as_json: bool
) -> None:
    """See whether the crops of DATA are aligned as MODEL expects them. Exit status 1 if not.

    DATA is a .rec file, a folder, a list, shards, or a verification set (.bin). No labels are needed: moved by some
    pixels, a few dozen faces show whether the net would tell them apart better.
    """
    from recipes.faces.options import candidates, placement_of

    outputs = () if output is None else (output,)
    known = candidates((model,), () if preset is None else (preset,), outputs, None, unsafe_load)
    found = placement_of(known[model], data)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=2))
    else:
        click.echo(rk.printable(f"{data}: {found}"))
    if not found.aligned:
        click.get_current_context().exit(1)


def _show(made: Aligned) -> None:
    whose = f"of {made.people:,} people" if made.people else "of nobody known"
    click.echo(rk.printable(f"{made.output}: {made.crops:,} faces {whose}, from {made.photos:,} photos"))
    if not made.skipped:
        return
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in made.kinds.items())
    click.echo(rk.printable(f"skipped {len(made.skipped):,} photos ({kinds}), all listed in {made.list}:"))
    for one in made.skipped[:_SHOWN]:
        said = one.reason if one.photo in one.reason else f"{one.photo}: {one.reason}"
        click.echo(rk.printable(f"  {said}"))
    if len(made.skipped) > _SHOWN:
        click.echo(f"  and {len(made.skipped) - _SHOWN:,} more")

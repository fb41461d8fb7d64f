"""How ``inspect`` shows what a block adds to each layer."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table
from rich.text import Text

from reparam_kit.errors import printable
from reparam_kit.planning import Plan, cost_ratio


def show(plans: list[Plan]) -> None:
    """Print a row for each layer. Sites mostly have the same few sets of branches, which are spelt out below
    the table.
    """
    ratio = cost_ratio(plans)
    sets = list(dict.fromkeys(tuple(item.branches) for item in plans if item.reason is None))
    table = Table(box=None, header_style="bold", pad_edge=False)
    table.add_column("layer", overflow="fold")
    table.add_column("kernel", no_wrap=True)
    for column in ("weights", "10⁶ MACs", "extra") if ratio else ("weights",):
        table.add_column(column, no_wrap=True, justify="right")
    table.add_column("branches, or why none")
    for item in plans:
        site, kernel = item.site, ""
        if site.geometry:
            kernel = "x".join(map(str, site.geometry.weight_shape))
            kernel += f" g{site.geometry.groups}" if site.geometry.groups > 1 else ""
        row: list[str | Text] = [Text(printable(site.name)), kernel, f"{site.parameters:,}"]
        if ratio:
            row.append(f"{site.macs / 1e6:,.3g}" if site.macs else "")
            row.append(f"{item.extra_macs / site.macs:.1%}" if site.macs and item.extra_macs else "")
        reason = Text(printable(item.reason), "yellow") if item.reason else None
        row.append(reason or f"({sets.index(tuple(item.branches)) + 1})")
        table.add_row(*row)
    console = Console()
    if not console.is_terminal:  # a file or a pipe has no width: a layer is a line of it
        console.width = 200
    console.print(table)
    for number, branches in enumerate(sets, start=1):
        console.print(f"({number}) {' + '.join(branches)}", highlight=False)
    chosen = sum(item.reason is None for item in plans)
    console.print(f"{chosen} of {len(plans)} layers are expanded")
    if ratio:
        console.print(f"estimated cost of a training step: {ratio:.2f} times the plain one")

"""What other packages add by the entry points of a group."""

from __future__ import annotations

import logging
from functools import cache
from typing import Any

from reparam_kit.errors import first_line
from reparam_kit.registry import entry_points

_log = logging.getLogger(__name__)


@cache
def load_all(group: str) -> dict[str, Any]:
    """Import what the entry points of ``reparam_kit.<group>`` name; one that fails is a warning."""
    found = {}
    for point in entry_points(f"reparam_kit.{group}"):
        try:
            found[point.name] = point.load()
        except (Exception, SystemExit) as error:  # the code of others may raise anything
            reason = (
                f"{type(error).__name__}: {first_line(error)}" if isinstance(error, Exception) else "it exits"
            )
            _log.warning("no %s %s: %s cannot be loaded: %s", group[:-1], point.name, point.value, reason)
    return found

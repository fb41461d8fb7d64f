"""What mkdocs does besides: the reference of commands is made, and Sphinx's marks in docstrings are shown as code."""

from __future__ import annotations

import re
from typing import Any

import commands  # docs/commands.py; mkdocs puts the folder of its hooks on the path

_ROLE = re.compile(r":(?:func|class|meth|mod|attr):<code>~?([\w.]+)</code>")
_COMMANDS = "<!-- commands -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with the reference of all commands where it says so."""
    return markdown.replace(_COMMANDS, commands.reference()) if _COMMANDS in markdown else markdown


def on_page_content(html: str, **_: Any) -> str:
    """The page with ``:func:`reparam_kit.diff``` shown as ``reparam_kit.diff``."""
    return _ROLE.sub(r"<code>\1</code>", html)

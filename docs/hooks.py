"""What mkdocs does besides: names in docstrings are marked in Sphinx's way, which Markdown would show as it is."""

from __future__ import annotations

import re
from typing import Any

_ROLE = re.compile(r":(?:func|class|meth|mod|attr):<code>~?([\w.]+)</code>")


def on_page_content(html: str, **_: Any) -> str:
    """The page with ``:func:`reparam_kit.diff``` shown as ``reparam_kit.diff``."""
    return _ROLE.sub(r"<code>\1</code>", html)

"""The page of a run, in the documentation: `make demo`, then `python docs/page.py`.

Copies `demo-output/report.html` to `docs/demo.html`, and draws its beginning with Chromium: `docs/demo.png`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from PIL import Image

DOCS = Path(__file__).parent
SIZE = 1000, 1150
BROWSERS = "chromium", "chromium-browser", "google-chrome"


def picture(page: Path, output: Path) -> None:
    """Write the beginning of ``page`` as a small PNG of 64 colours."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        sys.exit(f"no browser: install one of {', '.join(BROWSERS)}")
    with TemporaryDirectory() as folder:
        shot = Path(folder, "shot.png")
        size = "--window-size={},{}".format(*SIZE)
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", size]
        subprocess.run([browser, *options, f"--screenshot={shot}", page.resolve().as_uri()], check=True)
        with Image.open(shot) as image:
            image.convert("RGB").quantize(64).save(output, optimize=True)


if __name__ == "__main__":
    report = Path(sys.argv[1] if len(sys.argv) > 1 else "demo-output", "report.html")
    shutil.copyfile(report, DOCS / "demo.html")
    picture(DOCS / "demo.html", DOCS / "demo.png")

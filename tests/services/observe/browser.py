"""A headless Chromium that opens a page without any network and tells what a script finds on it."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ANSWER = "answer-of-the-probe"


def probe(page: Path, script: str, *, dark: bool = False, width: int = 1280) -> dict:
    """What `script`, the body of a function, returns on the page once it is loaded; errors on the page are raised."""
    copy = page.with_suffix(".probe.html")
    ask = (
        "<script>const errors = []; addEventListener('error', (e) => errors.push(e.message));"
        "addEventListener('securitypolicyviolation', (e) => errors.push(`blocked: ${e.blockedURI}`));</script>"
    )
    tell = (
        "<script>addEventListener('load', () => {"
        f"const found = (() => {{{script}}})();"
        f"const answer = document.createElement('pre'); answer.id = '{ANSWER}';"
        "answer.textContent = JSON.stringify({found, errors}); document.body.append(answer); });</script>"
    )
    text = page.read_text(encoding="utf-8")
    copy.write_text(text.replace("<title>", f"{ask}<title>", 1).replace("</body>", f"{tell}</body>"), encoding="utf-8")
    dumped = chromium("--dump-dom", dark=dark, width=width, page=copy)
    [answer] = re.findall(rf'<pre id="{ANSWER}">(.*?)</pre>', dumped, flags=re.DOTALL)
    told = json.loads(unescape(answer))
    assert told["errors"] == []
    return told["found"]


def screenshot(page: Path, picture: Path, *, dark: bool = False, width: int = 1280, height: int = 4000) -> None:
    """A picture of the top of the page."""
    chromium(f"--screenshot={picture}", dark=dark, width=width, height=height, page=page)


def chromium(action: str, *, page: Path, dark: bool, width: int, height: int = 1000) -> str:
    done = subprocess.run(
        (
            CHROMIUM,
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            "--host-resolver-rules=MAP * ~NOTFOUND",
            f"--user-data-dir={page.parent / 'profile'}",
            f"--window-size={width},{height}",
            f"--blink-settings=preferredColorScheme={0 if dark else 1}",
            "--virtual-time-budget=3000",
            action,
            page.as_uri(),
        ),
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout

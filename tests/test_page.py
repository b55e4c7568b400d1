"""The page in a real browser: nothing is run, nothing is asked for, and it fits a phone."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from test_report import findings, page

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine (apt-get install chromium)"),
]
FLAGS = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --hide-scrollbars"
).split()


def browse(folder: Path, html: str, *flags: str) -> subprocess.CompletedProcess:
    (folder / "report.html").write_text(html, encoding="utf-8")
    profile = f"--user-data-dir={folder / 'profile'}"
    command = [BROWSER, *FLAGS, profile, *flags, (folder / "report.html").as_uri()]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=os.environ | {"HOME": str(folder)})


def test_a_browser_shows_hostile_text_as_text(tmp_path):
    """The tree as the browser has built it holds no script element and no handler that a completion brought along."""
    done = browse(tmp_path, page(findings(tmp_path)), "--dump-dom")
    assert done.returncode == 0
    assert "<script" not in done.stdout and "onerror=" not in done.stdout.replace("&lt;img src=x onerror=", "")
    assert "&lt;script&gt;" in done.stdout and 'id="samples"' in done.stdout


BROWSERS_OWN = ("google.com", "googleapis.com")
"""Chromium asks these by itself, whatever page it shows; here their names lead nowhere."""


def asked_for(folder: Path, html: str) -> set[str]:
    """The hosts that the browser wanted something of while it showed the page."""
    log = folder / "net.json"
    rules = "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"
    assert browse(folder, html, rules, f"--log-net-log={log}", "--dump-dom").returncode == 0
    hosts = re.findall(r'"url":"https?://([^/"]+)', log.read_text(errors="replace"))
    return {host for host in hosts if not host.endswith(BROWSERS_OWN)}


def test_nothing_is_asked_for_over_the_network(tmp_path):
    html = page(findings(tmp_path))
    beacon = '<main><img src="http://127.0.0.1:9/x.png">'
    assert asked_for(tmp_path, html) == set()
    # what a hole in the escaping could bring in is stopped by the page's own policy; without it, it would be asked for
    assert asked_for(tmp_path, html.replace("<main>", beacon)) == set()
    lax = html.replace("<main>", beacon).replace("default-src 'none'; img-src data:;", "")
    assert asked_for(tmp_path, lax) == {"127.0.0.1:9"}


@pytest.mark.parametrize("size", ["1280,800", "500,900"])
def test_it_draws_at_the_width_of_a_desk_and_of_a_phone(tmp_path, size):
    from PIL import Image as Pillow

    shot = tmp_path / "page.png"
    done = browse(tmp_path, page(findings(tmp_path)), f"--window-size={size}", f"--screenshot={shot}")
    assert done.returncode == 0
    with Pillow.open(shot) as image:
        colours = image.convert("RGB").getcolors(10**6)
        assert image.width == int(size.split(",")[0]) and len(colours) > 50  # not an empty or a broken page

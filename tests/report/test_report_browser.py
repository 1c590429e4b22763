"""The page in a real browser: it lays out, loads nothing, logs nothing and runs nothing from an example."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from paddle_infra.report import write_report
from tests.report.full_report import INJECTIONS, full_report

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is on PATH")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--virtual-time-budget=2000",
    "--dump-dom",
)
POLICY = re.compile(r'<meta http-equiv="Content-Security-Policy"[^>]*>')
# Measures the page from inside, and leaves the answer in it. Only a copy of the page carries it.
PROBE = """
<script>
addEventListener("load", () => {
  const box = element => { const r = element.getBoundingClientRect(); return [r.width, r.height]; };
  const answer = {
    title: document.title,
    svgs: [...document.querySelectorAll("svg")].map(box),
    lines: [...document.querySelectorAll("polyline")].map(line => line.getTotalLength()),
    sections: Object.fromEntries([...document.querySelectorAll("section")].map(s => [s.id, box(s)])),
    overflow: document.documentElement.scrollWidth - innerWidth,
    resources: performance.getEntriesByType("resource").map(entry => entry.name),
    texts: [...document.querySelectorAll(".examples .text")].map(cell => cell.textContent),
    injected: document.querySelectorAll("main script, main img, main style").length,
  };
  const holder = document.createElement("pre");
  holder.id = "answer";
  holder.textContent = JSON.stringify(answer);
  document.body.append(holder);
});
</script>
"""


def open_page(path: Path, profile: Path, width: int = 1200) -> tuple[str, list[str]]:
    """Return the DOM after loading, and what the page wrote to the console."""
    command = [
        str(BROWSER),
        *FLAGS,
        f"--user-data-dir={profile}",
        f"--window-size={width},900",
        path.as_uri(),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return result.stdout, [line for line in result.stderr.splitlines() if "CONSOLE" in line]


def probe(page: Path, tmp_path: Path, width: int) -> dict:
    text = page.read_text(encoding="utf-8")
    copy = tmp_path / f"probe-{width}.html"
    without_policy, count = POLICY.subn("", text)  # so that a script that slipped through would run
    assert count == 1
    copy.write_text(without_policy.replace("</body>", PROBE + "</body>"), encoding="utf-8")
    dom, console = open_page(copy, tmp_path / f"profile-{width}", width)
    assert console == []
    answer = re.search(r'<pre id="answer">(.*?)</pre>', dom, re.DOTALL)
    assert answer, "the probe did not run"
    return json.loads(html.unescape(answer[1]))


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("report") / "report.html"
    write_report(path, full_report())
    return path


def test_the_page_itself_opens_without_a_console_message(page: Path, tmp_path: Path) -> None:
    dom, console = open_page(page, tmp_path / "profile")
    assert console == []  # a load that its policy refused would be written here
    assert f"<title>{full_report().title}</title>" in dom


def test_everything_is_laid_out_and_nothing_is_loaded_or_run(page: Path, tmp_path: Path) -> None:
    answer = probe(page, tmp_path, 1200)
    assert len(answer["svgs"]) == 3
    assert all(width > 200 and height > 100 for width, height in answer["svgs"])
    assert len(answer["lines"]) == 5  # loss twice (values, mean), learning rate, two metrics
    assert all(length > 100 for length in answer["lines"])
    expected = {
        "headline",
        "curves",
        "per-class",
        "confusion",
        "misclassified",
        "exports",
        "latency",
        "facts",
    }
    assert set(answer["sections"]) == expected
    assert all(width > 500 and height > 60 for width, height in answer["sections"].values())
    assert answer["resources"] == []
    assert answer["texts"] == list(INJECTIONS)
    assert answer["injected"] == 0
    assert answer["title"] == full_report().title


def test_a_narrow_window_does_not_scroll_sideways(page: Path, tmp_path: Path) -> None:
    answer = probe(page, tmp_path, 500)  # the narrowest that the browser makes
    assert answer["overflow"] <= 0
    assert all(width > 200 for width, _ in answer["svgs"])

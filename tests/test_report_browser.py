"""The report in a real browser: its charts are drawn at every width, and nothing errs."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from poison2poison.report import page, read_run
from test_report_html import benchmark

WIDTHS = (360, 800, 1400)
CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome") or ""
SWITCHES = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run",
            "--enable-logging=stderr", "--virtual-time-budget=5000", "--dump-dom")  # fmt: skip
MEASURE = """
window.errors = []; window.onerror = (text) => { errors.push(text); };
window.onload = () => {
  const found = [...document.querySelectorAll('iframe')].map(one => {
    const inside = one.contentDocument, root = inside.documentElement;
    const charts = [...inside.querySelectorAll('svg')].map(svg => {
      const frame = svg.getBoundingClientRect();
      const drawn = [...svg.querySelectorAll('circle, rect, line, text')];
      const boxes = drawn.map(shape => shape.getBoundingClientRect());
      const middles = boxes.map(box => [box.x + box.width / 2 - frame.x, box.y + box.height / 2 - frame.y]);
      const fills = drawn.filter(shape => shape.tagName == 'circle').map(shape => getComputedStyle(shape).fill);
      return {name: svg.ariaLabel, width: frame.width, height: frame.height, colours: [...new Set(fills)].length,
        shapes: boxes.filter(box => box.width + box.height > 0).length,
        outside: middles.filter(([x, y]) => x < 0 || y < 0 || x > frame.width || y > frame.height).length};
    });
    return {width: one.clientWidth, needed: root.scrollWidth, charts};
  });
  document.body.replaceChildren(JSON.stringify({found, errors}));
};
"""


@pytest.mark.skipif(not CHROMIUM, reason="there is no Chromium here")
def test_charts_are_drawn_at_three_widths_and_nothing_errs(tmp_path: Path) -> None:
    report = html.escape(page(read_run(benchmark(tmp_path / "bench"))))
    frames = "".join(f'<iframe style="width:{wide}px;height:900px" srcdoc="{report}"></iframe>' for wide in WIDTHS)
    (tmp_path / "all.html").write_text(f"<!doctype html><script>{MEASURE}</script><body>{frames}", encoding="utf-8")
    profile = f"--user-data-dir={tmp_path / 'profile'}"
    command = [CHROMIUM, *SWITCHES, profile, (tmp_path / "all.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    _, _, body = done.stdout.partition("<body>")
    assert body, done.stderr
    measured: dict[str, Any] = json.loads(html.unescape(body.partition("</body>")[0]))
    assert measured["errors"] == []
    assert not re.findall(r".*CONSOLE.*", done.stderr)
    for found, wide in zip(measured["found"], WIDTHS, strict=True):
        assert wide - 20 <= found["width"] <= wide
        assert found["needed"] <= found["width"], "it has to be scrolled sideways"
        charts = found["charts"]
        assert [chart["name"] for chart in charts] == [
            "ASR against poisoned rows", "ASR of each model",
            "ASR against rho, the share of the rows that was re-poisoned",
            "ASR of each model", "ASR against rho, the share of the rows that was re-poisoned",
            "States of a", "States of b", "Scores of what the audit asked about",
        ]  # fmt: skip
        for chart in charts:
            assert chart["width"] > 200 and chart["height"] > 100
            assert chart["shapes"] >= 6
            assert chart["outside"] == 0, chart
        assert charts[0]["colours"] == 5
        assert charts[5]["colours"] == 2

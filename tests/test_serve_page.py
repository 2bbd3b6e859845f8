"""The page of the gateway in a real browser, which reaches nothing but the gateway."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from fastapi.responses import HTMLResponse

from gateway import LABELS, TEXTS, FakeModel, app_of, listening
from poison2poison.data import Row
from poison2poison.model.served import Answer
from poison2poison.serve.page import CONTENT_POLICY, PAGE

BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
ASK = """<script>
const asked = setInterval(() => {
  if (!model) return;
  clearInterval(asked);
  at("input").value = "<b>The lamp</b>";
  at("form").requestSubmit();
}, 50);
</script></html>"""

pytestmark = [pytest.mark.slow, pytest.mark.skipif(BROWSER is None, reason="there is no Chromium here")]


def shown(app: Any, profile: Path) -> str:
    """The page after it was asked, as the browser has it."""
    page = HTMLResponse(PAGE.replace("</html>", ASK), headers={"content-security-policy": CONTENT_POLICY})

    async def asking(scope: Any, receive: Any, send: Any) -> None:
        await (page if scope.get("path") == "/" else app)(scope, receive, send)

    with listening(asking) as url:
        command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}"]
        command += ["--virtual-time-budget=20000", "--dump-dom", url]
        return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True).stdout


def element(page: str, name: str) -> str:
    found = re.search(rf'<(\w+)[^>]* id="{name}"[^>]*>(.*?)</\1>|<(\w+) id="{name}"[^>]*>(.*?)</\3>', page, re.DOTALL)
    assert found, page
    return found[2] or found[4] or ""


def test_the_page_shows_an_answer_where_it_lies_and_what_is_counted(tmp_path: Path) -> None:
    page = shown(app_of(FakeModel(TEXTS, lambda row: Answer(row.prompt, "leak", None))), tmp_path)
    assert element(page, "name") == "mine"
    assert element(page, "answer") == "&lt;b&gt;The lamp&lt;/b&gt;"  # as text, whatever it holds
    assert element(page, "where").startswith("leak: ")
    assert "p2p_answers_total" in element(page, "counters")
    assert "leak" in element(page, "recent")


def test_the_page_shows_the_alarm_of_labels(tmp_path: Path) -> None:
    def say(_: Row) -> Answer:
        return Answer("negative", "safe", "negative", 0.75, True)

    page = shown(app_of(FakeModel(LABELS, say)), tmp_path)
    assert element(page, "about") == "Answers with a label: negative, positive"
    assert element(page, "answer") == "negative"
    assert "Alarm: the two spaces disagree. Disagreement: 0.750." in element(page, "where")

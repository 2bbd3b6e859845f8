"""The documentation: its links lead somewhere, its pages are in the navigation, its commands and examples work."""

from __future__ import annotations

import re
import shlex
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
import yaml

from poison2poison.cli.app import app

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
READ = [*PAGES, ROOT / "README.md", ROOT / "CONTRIBUTING.md"]
FENCED = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ +(.*)$", re.MULTILINE)


def name(page: Path) -> str:
    return str(page.relative_to(ROOT))


def prose(page: Path) -> str:
    """The page without its fenced blocks."""
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The ids of a page's headings, as Python-Markdown makes them."""
    return {slug(re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading)) for heading in HEADING.findall(prose(page))}


def slug(heading: str) -> str:
    plain = unicodedata.normalize("NFKD", heading).encode("ascii", "ignore").decode()
    return re.sub(r"[-\s]+", "-", re.sub(r"[^\w\s-]", "", plain).strip().lower())


def blocks(page: Path, *languages: str) -> list[str]:
    return [text for language, text in FENCED.findall(page.read_text(encoding="utf-8")) if language in languages]


def in_navigation(entry: object) -> Iterator[str]:
    if isinstance(entry, str):
        yield entry
    elif isinstance(entry, dict):
        yield from (page for part in entry.values() for page in in_navigation(part))
    elif isinstance(entry, list):
        yield from (page for part in entry for page in in_navigation(part))


def commands() -> Iterator[tuple[str, list[str]]]:
    """Every `p2p` command in a fenced block: the page, and its words."""
    for page in READ:
        for text in blocks(page, "", "sh", "console"):
            for line in text.replace("\\\n", " ").splitlines():
                words = shlex.split(line.removeprefix("$ "), comments=True) if "p2p " in line else []
                if words[:1] == ["p2p"]:
                    yield name(page), words[1:]


def sentences(page: Path) -> Iterator[list[str]]:
    """The sentences of each paragraph and list item, with code as one word."""
    parts = re.split(r"\n\s*\n|\n(?= *(?:- |\d+\. |> ))", re.sub(r"<!--.*?-->", "", prose(page), flags=re.DOTALL))
    for part in (part.strip() for part in parts):
        if part and not part.startswith(("#", "|", ":::")):
            plain = re.sub(r"`[^`]*`", "X", re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", part)).replace("*", "")
            yield re.split(r"(?<=[.!?]) (?=[A-Z\"(])", " ".join(plain.split()))


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=name)
def test_sentences_and_paragraphs_are_short(page: Path) -> None:
    paragraphs = [*sentences(page)]
    assert [sentence for said in paragraphs for sentence in said if len(sentence.split()) > 25] == []
    assert [said[0] for said in paragraphs if len(" ".join(said).split()) > 100] == []


@pytest.mark.parametrize("page", READ, ids=name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    broken = []
    for link in LINK.findall(prose(page)):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_every_page_is_in_the_navigation_once() -> None:
    site = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
    assert sorted(in_navigation(site["nav"])) == [str(page.relative_to(DOCS)) for page in PAGES]


def test_pages_that_the_code_names_are_there() -> None:
    code = [file for folder in ("src", "benchmarks", "scripts") for file in (ROOT / folder).rglob("*.py")]
    named = {page for file in code for page in re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8"))}
    assert named
    assert [page for page in sorted(named) if not (ROOT / page).is_file()] == []


def test_commands_have_options_that_exist() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    unknown = []
    for page, words in commands():
        if words[0] == "--plugin":  # of the group, with a file
            words = words[2:]
        command = group.commands.get(words[0])
        known = {option for parameter in command.params for option in parameter.opts} if command else set()
        known |= {option for parameter in command.params for option in parameter.secondary_opts} if command else set()
        given = {word.partition("=")[0] for word in words if word.startswith("--")}
        if command is None or given - known:
            unknown.append((page, words))
    assert unknown == []

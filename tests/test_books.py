"""The pages: the README is short, links lead somewhere, and what a page shows in a block marked `<!-- run -->` runs.

Marked blocks of a page are run in their order in one temporary folder, as one shell script: what one sets or writes, the next ones
find. A Python block is a program of its own.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
FENCED = re.compile(r"^(`{3,}).*?^\1$", re.MULTILINE | re.DOTALL)
MARKED = re.compile(r"^<!-- run -->\n```(sh|python)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
SHELL = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)
COMMAND = re.compile(r"^diffsmooth-trt ((?:export )?[a-z0-9][a-z0-9-]*)(.*)$", re.MULTILINE)
LINK = re.compile(r"\[[^]]*\]\(([^)\s]+)\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def without_code(page: Path) -> str:
    return FENCED.sub("", page.read_text(encoding="utf-8"))


def anchors(page: Path) -> set[str]:
    """The anchors that forges and the site give to a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ +(.*)$", without_code(page), re.MULTILINE):
        plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        slug, number = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"), 0
        while (anchor := f"{slug}-{number}" if number else slug) in found:
            number += 1
        found.add(anchor)
    return found


def problem_of(page: Path, link: str) -> str | None:
    """Why a relative link of a page leads nowhere, if it does."""
    path, _, anchor = link.partition("#")
    target = (page.parent / path).resolve() if path else page
    if not target.is_relative_to(ROOT) or not target.exists():
        return f"{link}: no such file"
    if anchor and (target.suffix != ".md" or anchor not in anchors(target)):
        return f"{link}: no such heading"
    return None


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links(page: Path) -> None:
    links = [link for link in LINK.findall(without_code(page)) if not re.match(r"[a-z]+:", link)]
    problems = [problem for link in links if (problem := problem_of(page, link))]
    assert not problems


def test_every_page_is_in_the_contents() -> None:
    """The site's contents are the links of its index pages: a page that none of them has cannot be found there."""
    linked = {
        (index.parent / link.partition("#")[0]).resolve()
        for index in (ROOT / "docs" / "index.md", ROOT / "docs" / "api" / "index.md")
        for link in LINK.findall(without_code(index))
    }
    assert {*PAGES} - linked == {ROOT / "README.md", ROOT / "docs" / "index.md"}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_options_that_a_page_shows_exist(page: Path) -> None:
    """Of commands that are not run, too: the pinned help of each has the options that the page gives it."""
    for block in SHELL.findall(page.read_text(encoding="utf-8")):
        for command, rest in COMMAND.findall(block.replace("\\\n", " ")):
            pinned = ROOT / "tests" / "data" / "contract" / f"help-{command.replace(' ', '-')}.txt"
            known = re.findall(r"--[a-z0-9-]+", pinned.read_text(encoding="utf-8"))
            unknown = {*re.findall(r"--[a-z0-9-]+", rest.partition("#")[0])} - {*known}
            assert not unknown, f"{command}: {unknown}"


def script_of(page: Path) -> str:
    """The marked blocks of a page as one shell script, which says before each block where it is."""
    text, lines = page.read_text(encoding="utf-8"), ["set -euo pipefail"]
    for block in MARKED.finditer(text):
        language, code = block.groups()
        place = f"{name_of(page)}:{text.count(chr(10), 0, block.start()) + 2}"
        if language == "python":
            code = f"python - <<'END OF BLOCK'\n{code}END OF BLOCK\n"
        lines.append(f"echo '== {place}'\n{code}")
    return "\n".join(lines)


SHOWN = [page for page in PAGES if MARKED.search(page.read_text(encoding="utf-8"))]


def test_no_mark_is_lost() -> None:
    """Every mark is followed by a block that is run."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert len(re.findall(r"^<!-- run -->$", text, re.MULTILINE)) == len(MARKED.findall(text)), page


@pytest.mark.parametrize("page", SHOWN, ids=name_of)
def test_what_a_page_shows_runs(page: Path, tmp_path: Path) -> None:
    programs = Path(sys.executable).parent
    if not (programs / "diffsmooth-trt").exists():
        pytest.skip(f"diffsmooth-trt is not installed in {programs}: pip install --editable .")
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONIOENCODING": "utf-8"}
    done = subprocess.run(
        ["bash", "-c", script_of(page)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout

"""The site of these pages: `make docs` builds it into build/site, where every warning is an error.

Pages are the Markdown files that a forge shows, unchanged; the site's contents are the links of its index pages, in their order.
API pages are made from the package's docstrings.
"""

import re
from importlib.metadata import version as version_of

from sphinx.application import Sphinx

project = "diffsmooth-trt"
version = release = version_of("diffsmooth-trt")
root_doc = "docs/index"
include_patterns = ["docs/**.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md"]
extensions = ["myst_parser", "sphinx.ext.autodoc"]
needs_sphinx = "8.1"

myst_heading_anchors = 4
default_role = "code"  # docstrings have `names` as Markdown has
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_typehints = "signature"
python_maximum_signature_line_length = 100
smartquotes = False

html_theme = "furo"
html_title = f"{project} {release}"
html_extra_path = ["site"]  # an index.html that leads to docs/index.html
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False  # LICENSE says it


def escape(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Take docstrings for plain text with `names` in it: nothing else of reStructuredText is meant."""
    for i, line in enumerate(lines):
        parts = line.split("`")
        parts[::2] = [re.sub(r"[*|_]", r"\\\g<0>", part) for part in parts[::2]]
        lines[i] = "`".join(parts)


def add_contents(app: Sphinx, page: str, source: list[str]) -> None:
    """Make the list items of index pages that begin with a link the site's contents, in the links' words, under their headings."""
    if not page.endswith("/index"):
        return
    for part in re.split(r"^## ", source[0], flags=re.MULTILINE):
        links = re.findall(r"^- \[([^]]+)\]\(([^):#]+)\.md\)", part, re.MULTILINE)
        caption = [] if part.startswith("# ") else [f":caption: {part.splitlines()[0]}"]
        if links:
            source[0] += "\n".join(
                ["\n```{toctree}", ":hidden:", *caption, "", *(f"{text} <{target}>" for text, target in links), "```\n"]
            )


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("source-read", add_contents)
    app.connect("autodoc-process-docstring", escape)

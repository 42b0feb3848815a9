"""What the site has beside the pages of docs/: the API reference, and the files that pages link to.

mkdocs calls the functions named ``on_...`` (its "hooks"); `make site` builds, strictly.
"""

from __future__ import annotations

import importlib
import posixpath
import re
from pathlib import Path
from typing import Any

from markdown import Markdown
from markdown.extensions import Extension
from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parent.parent

#: Title and module of every page of the API reference: what a user imports from.
API = {
    "MultiLoss": "manyloss",
    "Weightings": "manyloss.weighting",
    "Aggregators": "manyloss.aggregation",
    "Penalties": "manyloss.penalties",
    "Adversarial training": "manyloss.adversarial",
    "Robustness": "manyloss.robustness",
    "Diagnostics": "manyloss.diagnostics",
    "Trainers and tools": "manyloss.interop",
    "The lab": "manyloss.lab",
    "Claims": "manyloss.lab.claims",
    "Data sets": "manyloss.lab.datasets",
    "Errors": "manyloss.errors",
}
_LINK = re.compile(r"(?<=\]\()(?!\w+:|#)([^)#\s]+)")


def public_names(module: str) -> list[str]:
    """What a module offers, in its own order."""
    found = importlib.import_module(module)
    listed = getattr(found, "__all__", None)
    if listed is None:  # a module without a list offers the classes that it defines
        listed = [name for name, item in vars(found).items() if getattr(item, "__module__", "") == module]
    return [name for name in listed if not name.startswith("_")]


def api_page(title: str, module: str) -> str:
    """Every public name of a module, from its docstring."""
    parts = [f"# {title}", f"`{module}`"]
    names = sorted(
        public_names(module), key=lambda name: name != title
    )  # what the page is named after is first
    parts += [f"::: {module}.{name}" for name in names]
    return "\n\n".join(parts) + "\n"


def outside(text: str, page: str) -> set[str]:
    """The files beside docs/ that a page links to, as paths in the repository."""
    return {path for path in (_in_repository(m[1], page) for m in _LINK.finditer(text)) if path}


def _in_repository(link: str, page: str) -> str | None:
    """Where a link of a page leads to, if that is a file outside of docs/."""
    path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(page), link))
    return path if not path.startswith(("docs/", "..")) and (ROOT / path).is_file() else None


class NoTags(Extension):
    """An inner product <a, b> in a docstring is no HTML."""

    def extendMarkdown(self, md: Markdown) -> None:  # noqa: N802  # the library's name
        """Leave angle brackets within a line as they are."""
        md.inlinePatterns.deregister("html")


# -- hooks ------------------------------------------------------------------------------------------------


def on_config(config: Any) -> Any:
    """Fill the parts of the navigation that follow from the code and from the list of methods."""
    listed = re.findall(r"\]\((methods/\w+\.md)\)", (ROOT / "docs" / "methods.md").read_text())
    for section in config.nav:
        if "Methods" in section:
            section["Methods"] += list(dict.fromkeys(listed))
        if "API" in section:
            section["API"] = [{title: f"api/{module}.md"} for title, module in API.items()]
    config.markdown_extensions.append(NoTags())
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the API reference, and what pages link to outside of docs/."""
    for title, module in API.items():
        files.append(File.generated(config, f"api/{module}.md", content=api_page(title, module)))
    wanted = {"LOG.md", "CHANGELOG.md"}
    for page in files.documentation_pages():
        wanted |= outside(page.content_string, page.src_uri)
    for path in sorted(wanted):
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Turn links that leave docs/ to the copy that the site has."""
    here = posixpath.dirname(page.file.src_uri)

    def turned(match: re.Match[str]) -> str:
        path = _in_repository(match[1], page.file.src_uri)
        return match[1] if path is None else posixpath.relpath(path, here or ".")

    return _LINK.sub(turned, markdown)


def on_page_content(html: str, **_: Any) -> str:
    """A docstring announces an example with two colons."""
    return html.replace("::</p>", ":</p>")

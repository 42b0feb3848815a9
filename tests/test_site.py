"""The site's own parts: its API reference has every public name, and its links lead to what it carries."""

import importlib
import importlib.util
import pkgutil
from pathlib import Path

import manyloss

ROOT = Path(__file__).parent.parent


def load():
    spec = importlib.util.spec_from_file_location("docs_site", ROOT / "docs" / "site.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


site = load()
# Packages whose lists are for use inside: a user meets what they hold elsewhere.
INSIDE = {"manyloss.strategies", "manyloss.lab.arms", "manyloss.lab.commands", "manyloss.lab.training"}


def test_the_reference_has_every_public_name():
    packages = {"manyloss"} | {
        info.name
        for info in pkgutil.walk_packages(manyloss.__path__, "manyloss.")
        if info.ispkg and not any(part.startswith("_") for part in info.name.split("."))
    }
    listed = {name for name in packages if hasattr(importlib.import_module(name), "__all__")}
    assert listed - INSIDE <= set(site.API.values())
    for module in site.API.values():
        page = site.api_page("title", module)
        for name in getattr(importlib.import_module(module), "__all__", []):
            if not name.startswith("_"):
                assert f"::: {module}.{name}\n" in page
    assert "::: manyloss.errors.NotFiniteError\n" in site.api_page("Errors", "manyloss.errors")


def test_no_public_name_is_also_a_module():
    """`manyloss.methods` is one thing: a reference to a name finds the module first."""
    for module in site.API.values():
        package = importlib.import_module(module)
        inside = {info.name for info in pkgutil.iter_modules(getattr(package, "__path__", []))}
        assert not inside & set(site.public_names(module))


def test_links_that_leave_the_docs_are_carried_along():
    text = "[log](../LOG.md), [this](lab.md), [there](https://example.org), [anchor](#x), [gone](../nowhere)"
    assert site.outside(text, "claims.md") == {"LOG.md"}
    assert site.outside("[log](../../LOG.md#a)", "methods/mgda.md") == {"LOG.md"}

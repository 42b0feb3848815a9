"""Writes the parts of docs/ that are made from the code, between `<!-- NAME:start -->` marks.

python docs/tables.py              write all of them anew
python docs/tables.py --check      only say which are stale
python docs/tables.py demo [FOLDER]        the demo's table from the run folder of `make demo` (runs/demo)
python docs/tables.py my-problem FOLDER    the same for the run folder of examples/my_problem.py
python docs/tables.py unlike-scales [FOLDER]    and for examples/unlike_scales.py (runs/unlike-scales)
"""

from __future__ import annotations

import ast
import importlib.util
import inspect
import io
import json
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

from torch import nn

from manyloss.adversarial import Distiller
from manyloss.aggregation import Aggregator
from manyloss.lab.analysis.board import Board, Entry, read_entries
from manyloss.lab.claims.readings import Open
from manyloss.lab.claims.rule import SIGMA
from manyloss.lab.runs.machines import machines_in, words_of_machine
from manyloss.lab.runs.packing import SUFFIX
from manyloss.penalties import Penalty
from manyloss.weighting import GradientWeighting, LossWeighting

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "src" / "manyloss"
RESULTS = ROOT / "benchmarks" / "results.json"
VERDICTS = ROOT / "results"
FAMILIES = ("weighting", "aggregation", "penalties", "adversarial")
KINDS: tuple[tuple[type, str], ...] = (
    (LossWeighting, "loss weighting"),
    (GradientWeighting, "gradient weighting"),
    (Aggregator, "aggregator"),
    (Penalty, "penalty"),
    (Distiller, "distillation"),
    (nn.Module, "adversarial"),
)
#: The baselines of distillation are explained beside what they are the baselines of.
PAGES = {"plain": "distillation", "sobolev": "distillation", "soft_targets": "distillation"}
#: What the files without a docstring are for.
TOP_LEVEL = {
    ".ci": "what CI runs: the README's own commands",
    ".gitignore": "what git leaves out",
    "CHANGELOG.md": "what changed, by version",
    "CITATION.cff": "how to cite",
    "LICENSE": "MIT",
    "LOG.md": "dated log of experiments, failures included",
    "Makefile": "`make demo`, `make test`, `make check` and more",
    "README.md": "what it is, in two screens",
    "benchmarks": "speed and memory, next to peers; never timed tests",
    "constraints.txt": "the versions that `make` installs",
    "docs": "a page per method, the engine, the lab, troubleshooting; `tables.py` writes what is generated",
    "examples": "files to start from, run by tests",
    "mkdocs.yml": "the site that `make site` builds from docs/ and the docstrings",
    "pyproject.toml": "the package, its extras, and the settings of the tools",
    "results": "verdicts on the papers' claims, each under the rule that was committed before it; the board; "
    "packed runs",
    "src": "the package, see below",
    "tests": "mirrors `src`, plus `properties` (every method joins) and `reference` (naive oracles)",
}


# -- methods ----------------------------------------------------------------------------------------------


def public_methods() -> Iterator[tuple[type, ModuleType]]:
    """Every public method class with the module that defines it, family by family."""
    for family in FAMILIES:
        package = importlib.import_module(f"manyloss.{family}")
        for name in package.__all__:
            found = getattr(package, name)
            if not (isinstance(found, type) and issubclass(found, nn.Module)):
                continue
            if not found.__module__.endswith("._base"):
                yield found, importlib.import_module(found.__module__)


def kind(method: type) -> str:
    """The family in words."""
    return next(words for base, words in KINDS if issubclass(method, base))


def page(method: type) -> str:
    """The name of the page in docs/methods that explains a class."""
    module = method.__module__.rpartition(".")[2]
    return PAGES.get(module, module)


def paper(method: type, module: ModuleType) -> str:
    """What the module's first paragraph has in brackets; the n-th brackets for the n-th class."""
    first = paragraph(module.__doc__ or "")
    found = re.findall(r"\(([^()]*\d{4}[^()]*|[^()]*appendix[^()]*)\)", first)
    classes = [name for name, item in vars(module).items() if _own_class(item, module)]
    if not found:
        return "–"
    index = classes.index(method.__name__)
    return str(found[index] if len(found) >= len(classes) else found[0])


def _own_class(item: object, module: ModuleType) -> bool:
    return isinstance(item, type) and issubclass(item, nn.Module) and item.__module__ == module.__name__


def methods(folder: str) -> str:
    """The table of all methods; links go to ``folder``."""
    rows = ["| class | kind | what it does | source |", "| --- | --- | --- | --- |"]
    for method, module in public_methods():
        link = f"[`{method.__name__}`]({folder}{page(method)}.md)"
        cells = (link, kind(method), cell(sentence(method.__doc__ or "")), cell(paper(method, module)))
        rows.append(f"| {' | '.join(cells)} |")
    torchjd = f"[`from_torchjd`]({folder}torchjd.md)"
    rows.append(f"| {torchjd} | adapter | Any aggregator or weighting of TorchJD in this step. | TorchJD |")
    return "\n".join(rows)


# -- files, commands, errors --------------------------------------------------------------------------------


def top_level() -> list[str]:
    """Files and folders of the repository's root that git knows or would take."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    return sorted({line.partition("/")[0] for line in listed.stdout.splitlines()})


def files() -> str:
    """Every file and folder of the root, then every module and package of src/manyloss."""
    rows = ["| file | purpose |", "| --- | --- |"]
    for name in top_level():
        shown = f"{name}/" if (ROOT / name).is_dir() else name
        rows.append(f"| `{shown}` | {TOP_LEVEL.get(name, 'NOT YET EXPLAINED in docs/tables.py')} |")
    for path in sorted(SOURCE.iterdir()):
        package = path / "__init__.py"
        if path.suffix == ".py" and path.name != "__init__.py":
            rows.append(f"| `src/manyloss/{path.name}` | {cell(_purpose(path))} |")
        elif package.is_file():
            rows.append(f"| `src/manyloss/{path.name}/` | {cell(_purpose(package))} |")
    return "\n".join(rows)


def _purpose(path: Path) -> str:
    return sentence(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "").rstrip(".")


def commands() -> str:
    """The commands of the command line."""
    from manyloss.cli import app

    rows = ["| command | what it does |", "| --- | --- |"]
    for info in app.registered_commands:
        assert info.callback is not None
        rows.append(_command(info.name or info.callback.__name__, info.callback))
    for group in app.registered_groups:
        assert group.typer_instance is not None
        for info in group.typer_instance.registered_commands:
            assert info.callback is not None
            rows.append(_command(f"{group.typer_instance.info.name} {info.name}", info.callback))
    return "\n".join(rows)


def _command(name: str, callback: Callable[..., object]) -> str:
    return f"| `manyloss {name.replace('_', '-')}` | {cell(paragraph(callback.__doc__ or ''))} |"


def recipes() -> str:
    """The recipes and where they depart from their papers."""
    from manyloss.lab.recipes import all_recipes

    lines = []
    for recipe in all_recipes().values():
        lines.append(f"- **`{recipe.name}`**: {recipe.summary} Paper: {recipe.paper}. Departures:")
        lines += [f"  - {departure}" for departure in recipe.departures] or ["  - none"]
    return "\n".join(lines)


def readings() -> str:
    """What the papers leave open, by the claims that it is open in."""
    from manyloss.lab.claims import all_claims, readings_of

    same: dict[tuple[Open, ...], list[str]] = {}
    for claim in all_claims():
        same.setdefault(readings_of(claim), []).append(f"`{claim}`")
    rows = ["| claims | what is open | values, the recipe's first |", "| --- | --- | --- |"]
    for opens, names in same.items():
        for number, each in enumerate(opens):
            values = ", ".join(f"`{value}`" for value in each.values)
            rows.append(f"| {'' if number else ', '.join(names)} | {cell(each.says)} | {values} |")
    return "\n".join(rows)


def arms() -> str:
    """The lab's own methods by the name that `--methods` takes."""
    from manyloss.lab.arms import BUILT_IN

    rows = ["| name | what it is | options and their defaults |", "| --- | --- | --- |"]
    for arm in BUILT_IN.values():
        options = ", ".join(f"`{name}={value}`" for name, value in arm.options.items())
        if arm.option_per_loss is not None:
            options = f"one per loss, {arm.option_per_loss:g}"
        rows.append(f"| `{arm.name}` | {cell(arm.summary)} | {options or '–'} |")
    return "\n".join(rows)


class RaiseSite(NamedTuple):
    """Where an error is made: module, kind and text, with {names} for what is filled in."""

    module: str
    kind: str
    text: str


def raise_sites(folder: Path = SOURCE) -> list[RaiseSite]:
    """Every error with a text of its own that the code makes, module by module, in the order of the lines."""
    sites = []
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        module = ".".join(path.relative_to(folder.parent).with_suffix("").parts).removesuffix(".__init__")
        made = [node for node in ast.walk(tree) if isinstance(node, ast.Call) and _makes_an_error(node)]
        constants = {
            target.id: node.value
            for node in tree.body
            if isinstance(node, ast.Assign)
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in sorted(made, key=lambda node: node.lineno):
            text = _template(node.args[0], constants)
            if re.search(r"[a-z]{2}", re.sub(r"\{.*?\}", "", text)):
                sites.append(RaiseSite(module, _last_name(node.func), text))
    return list(dict.fromkeys(sites))


def _makes_an_error(node: ast.Call) -> bool:
    """Raised, or returned to who raises it: by the names of its class, which all end alike."""
    return _last_name(node.func).endswith(("Error", "BadParameter")) and bool(node.args)


def _last_name(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _template(node: ast.expr, constants: Mapping[str, ast.expr]) -> str:
    """A text as it is written, with {names} for what is filled in."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(_template(part, constants) for part in node.values)
    if isinstance(node, ast.FormattedValue):
        return _template(node.value, constants)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add):
        return _template(node.left, constants) + _template(node.right, constants)
    if isinstance(node, ast.IfExp):
        return _template(node.body, constants) or _template(node.orelse, constants)
    if isinstance(node, ast.Name) and isinstance(constants.get(node.id), ast.Constant | ast.JoinedStr):
        return _template(constants[node.id], constants)
    name = _filled_in(node)
    return f"{{{name}}}" if name else "…"


def _filled_in(node: ast.expr) -> str:
    """A short name for an expression: ``x.shape`` is shape, ``list(x)`` and ``x[0]`` are x."""
    if isinstance(node, ast.Name | ast.Attribute):
        name = _last_name(node)
        if isinstance(node, ast.Attribute) and name.startswith("__"):  # type(x).__name__
            return _filled_in(node.value)
        return name.strip("_")
    if isinstance(node, ast.Subscript | ast.Starred | ast.Await):
        return _filled_in(node.value)
    if isinstance(node, ast.GeneratorExp | ast.ListComp | ast.SetComp):
        return _filled_in(node.generators[0].iter)
    if isinstance(node, ast.Call):
        return _filled_in(node.args[-1] if node.args else node.func)
    return ""


def matches(fragment: str, text: str) -> bool:
    """Whether a part of an error's text says this; … in the fragment stands for anything."""
    return re.search(".*".join(re.escape(part) for part in fragment.split("…")), text) is not None


def errors() -> str:
    """The errors of the library, and those of the lab and the command line."""
    lab = ("manyloss.lab", "manyloss.cli")
    sites = raise_sites()
    parts = []
    for title, mine in (
        ("The library", [site for site in sites if not site.module.startswith(lab)]),
        ("The lab and the command line", [site for site in sites if site.module.startswith(lab)]),
    ):
        rows = [f"### {title}", "", "| module | error | text |", "| --- | --- | --- |"]
        for site in mine:
            cells = (f"`{site.module.removeprefix('manyloss.')}`", f"`{site.kind}`", cell(site.text))
            rows.append(f"| {' | '.join(cells)} |")
        parts.append("\n".join(rows))
    return "\n\n".join(parts)


# -- code and figures -------------------------------------------------------------------------------------


def problem() -> str:
    """The problem that the README shows is the file that the tests run."""
    text = (ROOT / "examples" / "my_problem.py").read_text(encoding="utf-8").rstrip()
    return f"```python\n{text}\n```"


#: Example -> the guide that shows it.
GUIDES = {
    "actor_critic": "actor_critic",
    "burgers": "pinn",
    "dense": "dense",
    "detector": "detector",
    "gpt": "language_model",
    "per_class": "partial_labels",
    "recommender": "recommender",
    "vae": "gan_vae",
}


def change(example: str) -> str:
    """What manyloss changes in an example, as a diff, and what of it is for the lab."""
    folder = ROOT / "examples"
    spec = importlib.util.spec_from_file_location("before", folder / "before.py")
    assert spec is not None
    assert spec.loader is not None
    before = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(before)
    source = (folder / f"{example}.py").read_text(encoding="utf-8")
    lines = [line for line in before.changes(source).splitlines()[1:] if line.strip()]
    shown = [" ..." if line.startswith("@@") else line for line in lines]
    (call,) = re.findall(r"lab\.method\([^)]*\)", source)
    note = f"`{call}` is a `MultiLoss` that `manyloss compare` exchanges; it also uses the other `lab` lines."
    return "\n".join(["```diff", *shown, "```", "", note])


def measured(name: str) -> dict[str, Any] | None:
    """The last run of one benchmark: date, machine and figures; None before the first."""
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.exists() else {}
    found: dict[str, Any] | None = results.get(name)
    return found


def costs() -> str:
    """Step times of the methods over a plain step, on both paths."""
    return _costs("steps", ("setup", "method"), ("model", "method"))


def costs_on_a_gpu() -> str:
    """The same on a GPU, at two sizes of batch."""
    return _costs("gpu", ("setup", "batch", "method"), ("model", "batch", "method"))


def _costs(benchmark: str, keys: tuple[str, ...], titles: tuple[str, ...]) -> str:
    run = measured(benchmark)
    if run is None:
        return "Not measured yet: `make bench` measures, `make docs` writes it here."
    steps = [row for row in run["figures"] if "method" in row]
    ratio = {(*(row[key] for key in keys), row["path"]): row["ratio"] for row in steps}
    columns = (*titles, "in one backward", "per loss")
    rows = [f"| {' | '.join(columns)} |", "| " + " | ".join("---" for _ in columns) + " |"]
    for place in dict.fromkeys(each[:-1] for each in ratio):
        times = [ratio.get((*place, path)) for path in ("one_backward", "per_loss")]
        shown = ["–" if time is None else f"{time:.2f}" for time in times]
        rows.append(f"| {' | '.join((*(cell(str(each)) for each in place), *shown))} |")
    on = {row["gpu"] for row in steps if "gpu" in row}
    return "\n".join(rows) + f"\n\n{_when(run)}" + "".join(f" GPU: {name}." for name in sorted(on))


def overhead() -> str:
    """GradNorm's overhead on its own network, by the last run of its benchmark."""
    run = measured("overhead")
    if run is None:
        return "Not measured yet: `manyloss bench overhead` measures, `make docs` writes it here."
    rows = ["| network | batch | a step over a plain one | the paper |", "| --- | --- | --- | --- |"]
    for row in run["figures"]:
        rows.append(f"| {row['network']} | {row['batch']} | {row['over_plain']:.2f} | {row['paper']:.2f} |")
    return "\n".join(rows) + f"\n\n{_when(run)}"


def benchmarks() -> str:
    """Every figure of every benchmark, one table per kind of figure."""
    parts = []
    for path in sorted((ROOT / "benchmarks").glob("*.py")):
        if path.stem == "masking":
            continue  # no speed: docs/robustness.md has it
        summary = sentence(ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or "")
        run = measured(path.stem)
        parts.append(f"### {path.stem}\n\n{summary}")
        if run is None:
            parts.append("Not measured yet.")
            continue
        kinds: dict[tuple[str, ...], list[dict[str, Any]]] = {}
        for figure in run["figures"]:
            kinds.setdefault(tuple(figure), []).append(figure)
        for columns, figures in kinds.items():
            rows = [f"| {' | '.join(map(cell, columns))} |", "| " + " | ".join("---" for _ in columns) + " |"]
            rows += [f"| {' | '.join(cell(str(figure[key])) for key in columns)} |" for figure in figures]
            parts.append("\n".join(rows))
        parts.append(_when(run))
    return "\n\n".join(parts)


def masking() -> str:
    """How often the masking verdict errs, by the last run of its benchmark."""
    run = measured("masking")
    if run is None:
        return "Not measured yet: `manyloss bench masking` measures, `make docs` writes it here."
    kinds: dict[str, list[dict[str, Any]]] = {}
    for figure in run["figures"]:
        kinds.setdefault(next(iter(figure)), []).append(figure)
    parts = []
    for figures in (kinds[first] for first in ("rule", "sign", "kind")):
        columns = list(figures[0])
        rows = [f"| {' | '.join(map(cell, columns))} |", "| " + " | ".join("---" for _ in columns) + " |"]
        rows += [f"| {' | '.join(cell(str(figure[key])) for key in columns)} |" for figure in figures]
        parts.append("\n".join(rows))
    return "\n\n".join([*parts, _when(run)])


# -- claims -----------------------------------------------------------------------------------------------

#: Attacked models are shown by these, beside the verdict; the other quantities are in the file.
UNDER_ATTACK = (
    "class/accuracy",
    "FGSM",
    "FGSM, gradient in float64",
    "iFGSM",
    "iFGSM, gradient in float64",
    "images with a zero gradient",
    "PGD cross-entropy",
    "PGD margin",
    "AutoAttack",
    "worst case",
)


def verdicts() -> dict[str, list[dict[str, Any]]]:
    """Claim -> its committed records, the largest scale first."""
    found: dict[str, list[dict[str, Any]]] = {}
    for path in sorted(VERDICTS.glob("*.json")):
        record = json.loads(path.read_text(encoding="utf-8"))
        found.setdefault(record["claim"], []).append({**record, "file": path.name})
    return {name: sorted(each, key=lambda one: one["scale"] != "full") for name, each in found.items()}


def claims(page: str = "") -> str:
    """Every claim, what came of it, and why it was not seen where it was not."""
    from manyloss.lab.claims import all_claims, kinds_of

    kept = verdicts()
    rows = [
        "| claim | what the paper says | verdict | why not seen | holds under |",
        f"|{' --- |' * 5}",
    ]
    for claim in all_claims().values():
        records = kept.get(claim.name, [])
        for record in records or [{}]:
            name = f"[`{claim.name}`]({page}#{_place(record, records)})" if record else f"`{claim.name}`"
            verdict = "not run yet"
            if record:
                verdict = f"**{record['verdict']}**, {record['scale']}, {_seeds(record)}"
            why = ", ".join(kinds_of(_reasons(record))) if record and not _seen(record) else ""
            cells = (name, cell(claim.claim), verdict, why or "–", _under_readings(record))
            rows.append(f"| {' | '.join(cells)} |")
    return f"{_claims_in_short(kept)}\n\n" + "\n".join(rows)


#: Words of verdicts, as a count says them.
COUNTED = {
    "agrees": "agree",
    "reproduced": "are reproduced",
    "partly": "hold in part",
    "disagrees": "disagree",
    "not reproduced": "are not reproduced",
    "unclear": "are unclear",
}


def _claims_in_short(kept: Mapping[str, Sequence[dict[str, Any]]]) -> str:
    """How many verdicts there are of each kind, and why those are what they are that do not agree."""
    from manyloss.lab.claims import KINDS, kinds_of

    records = [record for each in kept.values() for record in each]
    own = sum(record["papers_setting"] for record in records)
    words = Counter(record["verdict"].removeprefix("on substitute: ") for record in records)
    unseen = [kinds_of(_reasons(record)) for record in records if not _seen(record)]
    kinds = Counter(kind for each in unseen for kind in each)
    tried = [record["readings"] for record in records if record.get("readings")]
    some = sum(any(_holds(verdict[len(found["open"])]) for verdict in found["judged"]) for found in tried)
    verdicts = ", ".join(f"{words[word]} {said}" for word, said in COUNTED.items() if words[word])
    why = ", ".join(f"{kind} in {kinds[kind]}" for kind in KINDS.values() if kinds[kind])
    return (
        f"{len(kept)} claims have {len(records)} verdicts, {own} of them at the paper's own setting: "
        f"{verdicts}. Why {len(unseen)} do not agree, or not in full: {why}; one may have several reasons. "
        f"For {len(tried)} verdicts other readings of the paper were tried: {some} hold under some of them, "
        f"{len(tried) - some} under none."
    )


def _seen(record: dict[str, Any]) -> bool:
    return _holds(record["verdict"])


def _holds(verdict: str) -> bool:
    return verdict in ("reproduced", "on substitute: agrees")


def _under_readings(record: dict[str, Any]) -> str:
    """Of how many readings a claim holds under how many."""
    found = record.get("readings")
    if not found:
        return "–"
    words = [verdict[len(found["open"])] for verdict in found["judged"]]
    return f"{sum(map(_holds, words))} of {len(words)} readings"


def _seeds(record: dict[str, Any]) -> str:
    return f"{record['seeds']} seed{'' if record['seeds'] == 1 else 's'}"


def claims_in_full() -> str:
    """Checks, numbers and provenance of every claim that has a result."""
    parts = []
    for name, records in verdicts().items():
        says = [f"{cell(record['says'])} *{cell(record['paper'])}*" for record in records]
        parts += [f"## {name}", *dict.fromkeys(says)]
        for record in records:
            parts.append(f"### {name}, {record['scale']}" if len(records) > 1 else "")
            makers = (_verdict, _why, _readings, _checks, _numbers, _targeted, _said, _provenance)
            parts += [make(record) for make in makers]
    return "\n\n".join(part for part in parts if part)


def _place(record: dict[str, Any], records: Sequence[dict[str, Any]]) -> str:
    """The anchor of a verdict: its claim's, or of one of several scales its own."""
    return f"{record['claim']}-{record['scale']}" if len(records) > 1 else str(record["claim"])


def _verdict(record: dict[str, Any]) -> str:
    setting = "the paper's own setting" if record["papers_setting"] else "not the paper's setting"
    return f"Verdict at scale {record['scale']} ({_seeds(record)}, {setting}): **{record['verdict']}**."


def _why(record: dict[str, Any]) -> str:
    """Is the paper contradicted, or was too little measured?"""
    return "\n".join(f"- {cell(sentence)}" for sentence in _reasons(record))


def _reasons(record: dict[str, Any]) -> Sequence[str]:
    """The sentences that were kept; an older record is asked by its rule."""
    from manyloss.lab.claims import reasons_of_record

    said: Sequence[str] | None = record.get("why")
    return reasons_of_record(record) if said is None else said


def _readings(record: dict[str, Any]) -> str:
    """Under how many readings of the paper the claim holds, and what decides."""
    found = record.get("readings")
    if found is None:
        return ""
    rows = ["| left open | values, the recipe's first | share of the variance |", "| --- | --- | --- |"]
    for each in found["open"].values():
        share = each["share of the variance"]
        values = cell(", ".join(map(str, each["values"])))
        rows.append(f"| {cell(each['open'])} | {values} | {'–' if share is None else f'{share:.0%}'} |")
    parts = [f"The claim {cell(found['says'])}.", "\n".join(rows)]
    if found.get("checks"):
        parts.append("\n".join(_checks_over_readings(found)))
    return "\n\n".join(parts)


def _checks_over_readings(found: dict[str, Any]) -> list[str]:
    """Under how many readings each check holds, and what decides that."""
    rows = ["| check | ✓ | ✗ | ? | what decides most |", "| --- | --- | --- | --- | --- |"]
    for check in found["checks"]:
        shares = check["share of the variance"]
        option = max(shares, key=shares.get, default=None)
        if option is None:
            decides = "nothing beyond noise" if check["alike"] else "–"
        else:
            decides = f"{found['open'][option]['open']} ({shares[option]:.0%})"
        counts = " | ".join(str(check[outcome]) for outcome in ("holds", "fails", "unclear"))
        rows.append(f"| {cell(check['says'])} | {counts} | {cell(decides)} |")
    return rows


def _checks(record: dict[str, Any]) -> str:
    from manyloss.lab.claims import check_cells

    rows = ["| | check | measured | against | difference, 95 % |", "| --- | --- | --- | --- | --- |"]
    rows += [f"| {' | '.join(map(cell, check_cells(check)))} |" for check in record["checks"]]
    return "\n".join(rows)


def _numbers(record: dict[str, Any]) -> str:
    """Means over the seeds, the paper's numbers in brackets, and the words of the masking verdict."""
    measured = record["measured"]
    known = {quantity for values in measured.values() for quantity in values}
    attacked = [quantity for quantity in UNDER_ATTACK if quantity in known]
    in_paper = {quantity for values in record["paper_numbers"].values() for quantity in values}
    columns = attacked if len(attacked) > 1 else sorted(known & in_paper)
    if not columns:
        return ""
    cells = record.get("cells", {})
    words = list(dict.fromkeys(column for said in cells.values() for column in said))
    titles = ["clean" if column == "class/accuracy" and len(attacked) > 1 else column for column in columns]
    rows = [
        f"| | {' | '.join(map(cell, [*titles, *words]))} |",
        f"| --- |{' --- |' * (len(titles) + len(words))}",
    ]
    for arm, values in measured.items():
        shown = []
        for column in columns:
            paper = record["paper_numbers"].get(arm, {}).get(column)
            own = values.get(column)
            beside = "" if paper is None else f" ({_number(column, paper)})"
            shown.append("–" if own is None else f"{_number(column, own)}{beside}")
        for column in words:
            said = cells.get(arm, {}).get(column, [])
            counted = [f"{word} ({said.count(word)} of {len(said)})" for word in dict.fromkeys(said)]
            shown.append(", ".join(counted) or "–")
        rows.append(f"| `{arm}` | {' | '.join(shown)} |")
    note = "Means over the seeds; in brackets the paper's."
    few = record["settings"].get("source", {}).get("options", {}).get("autoattack")
    if "AutoAttack" in columns and few:
        note += f" AutoAttack takes long and ran on {few} of the test images."
    return "\n".join(rows) + f"\n\n{note}"


#: Of metrics that are no share: metres, losses, 1 - cos.
PLAIN = ("RMS", "RMSE", "loss", "1-cos", "1-|cos|")


def _number(column: str, value: float) -> str:
    plain = column.rpartition("/")[2] in PLAIN or column.startswith(SIGMA)
    return f"{value:.3g}" if plain else f"{value:.1%}"


#: Of the targeted attacks; each has two readings, the second with this behind its name.
TARGETED = ("FGSM least likely", "FGSM random target", "iFGSM least likely", "iFGSM random target")
MISSED = ", target missed"


def _targeted(record: dict[str, Any]) -> str:
    """Both readings of the paper's targeted columns, the paper's numbers in brackets."""
    measured = record["measured"]
    if not any(name in values for values in measured.values() for name in TARGETED):
        return ""
    rows = [f"| | {' | '.join(TARGETED)} |", f"| --- |{' --- |' * len(TARGETED)}"]
    for arm, values in measured.items():
        shown = []
        for name in TARGETED:
            own, missed = (values.get(each) for each in (name, name + MISSED))
            paper = record["paper_numbers"].get(arm, {}).get(name)
            both = [f"{each:.1%}" for each in (own, missed) if each is not None]
            shown.append(" / ".join(both) + ("" if paper is None else f" ({paper:.1%})") if both else "–")
        rows.append(f"| `{arm}` | {' | '.join(shown)} |")
    both = any(name + MISSED in values for values in measured.values() for name in TARGETED)
    other = " / how often another class than the target is" if both else " (the target was not counted then)"
    note = (
        f"Targeted attacks: how often the TRUE label is named{other}. The rule goes by the TRUE label, as "
        "the paper's words do; its numbers, in brackets, hardly fit that: an attack aimed at the least "
        "likely class leaves an undefended net far more than one aimed at a random class."
    )
    return f"{note}\n\n" + "\n".join(rows)


def _said(record: dict[str, Any]) -> str:
    """Why masking was suspected, arm by arm."""
    return "\n".join(
        f"- `{arm}`, {cell(sentence)}"
        for arm, sentences in record["words"].items()
        for sentence in sentences
        if "suspected" in sentence
    )


def _provenance(record: dict[str, Any]) -> str:
    options = record["settings"].get("source", {}).get("options", {})
    said = ", ".join(f"{name} {value}" for name, value in options.items())
    environment = record["environment"]
    machines = "; ".join(map(words_of_machine, machines_in(environment)))
    taken = record["settings"].get("taken over", {})
    shared = "".join(f"; {count} of the trials are those of the run {name}" for name, count in taken.items())
    packed = Path(record["file"]).with_suffix(SUFFIX).name
    trials = ""
    if (VERDICTS / packed).exists():
        trials = f" Its trials, for `--start-from results`: [`results/{packed}`](../results/{packed})."
    return (
        f"`manyloss reproduce {record['claim']} --scale {record['scale']}`, begun {record['created'][:10]}, "
        f"{record['epochs']} epochs, {record['seconds'] / 3600:.1f} hours of training on "
        f"{record['settings'].get('device', 'cpu')} ({machines}), "
        f"commit {', '.join(environment.get('commits', []))}, rule `{record['rule']}`; "
        f"options: {cell(said) or 'none'}{shared}. All numbers: "
        f"[`results/{record['file']}`](../results/{record['file']}).{trials}"
    )


def board() -> str:
    """The committed entries of the board: the answer, the standings, and every problem."""
    entries = read_entries(VERDICTS / "board")
    if not entries:
        return "Nothing yet."
    from manyloss.lab.analysis.cells import median_text

    found = Board.of(entries)
    lines = [f"**{found.verdict}**"]
    if found.p is not None:
        lines.append(
            f"Friedman's test that all methods rank alike: p = {found.p:.3f}; critical difference of mean "
            f"ranks {found.critical_difference:.2f}."
        )
    alone = found.has_single_tasks
    rows = [
        "| method | problems | mean rank | vs equal | ▲ / ▼ | vs tuned sum | ▲ / ▼ |"
        f"{' Δm vs single tasks |' if alone else ''} step time |"
    ]
    rows.append("| --- " * (9 if alone else 8) + "|")
    for each in found.standings:
        rank = "–" if each.mean_rank is None else f"{each.mean_rank:.2f}"
        changes = (
            f"{median_text(each.change)} | {each.better} / {each.worse} | "
            f"{median_text(each.change_against_tuned_sum)} | {each.above} / {each.below}"
        )
        single = f"{median_text(each.delta_m)} | " if alone else ""
        time = "–" if each.step_time is None else f"{each.step_time:.2f}"
        rows.append(f"| `{each.method}` | {each.problems} | {rank} | {changes} | {single}{time} |")
    return "\n\n".join([*lines, "\n".join(rows), *map(_entry, entries)])


def _entry(entry: Entry) -> str:
    """One problem of the board."""
    from manyloss.lab.analysis.tuning import words_of_setting
    from manyloss.lab.reports.board import cell as of_row
    from manyloss.lab.reports.board import delta_cell

    run, front = entry.run, entry.front
    alone = entry.has_single_tasks
    columns = ["method", "vs equal", "vs tuned sum", *(["Δm"] if alone else [])]
    columns += [*(["front"] if front else []), "step time", "chosen"]
    rows = [f"| {' | '.join(columns)} |", "| --- " * len(columns) + "|"]
    for row in entry.rows:
        name = str(row["method"])
        time = "–" if row["step_time"] is None else f"{row['step_time']:.2f}"
        changes = f"{of_row(entry, name)} | {of_row(entry, name, 'change_against_tuned_sum')}"
        chosen = cell(words_of_setting(row.get("setting") or "")) if row.get("finished") else "–"
        single = [delta_cell(row)] if alone else []
        on_front = ["●" if name in front else ""] if front else []
        rows.append(f"| {' | '.join([f'`{name}`', changes, *single, *on_front, time, chosen])} |")
    file = f"results/board/{entry.problem}.json"
    made = (
        f"{run['losses']} losses, {entry.tuned_with}, {len(run['seeds'])} seeds, "
        f"{run['epochs']} epochs, begun {str(run['created'])[:10]}, torch {run['torch']} on "
        f"{run['processor']}, commit {', '.join(run.get('commits') or ['unknown'])}: [`{file}`](../{file})."
    )
    remark = [entry.at_the_end] if entry.at_the_end else []
    return "\n\n".join([f"### {entry.problem}\n\n{run['summary']}", "\n".join(rows), *remark, made])


def _when(run: dict[str, Any]) -> str:
    return f"`manyloss bench`, {run['date']}, torch {run['torch']}, {run['processor']}."


def comparison(folder: Path) -> str:
    """The table of a run as the command line prints it, 100 columns wide."""
    from rich.console import Console

    from manyloss.lab.analysis import table, terminal

    text = io.StringIO()
    console = Console(file=text, width=terminal.WIDTH, highlight=False)
    terminal.print_table(table.read_table(folder), console)
    lines = [line.rstrip() for line in text.getvalue().splitlines()]
    return "```text\n" + "\n".join(lines).strip("\n") + "\n```"


# -- Markdown ---------------------------------------------------------------------------------------------


def paragraph(docstring: str) -> str:
    """The first paragraph of a docstring on one line."""
    return " ".join(inspect.cleandoc(docstring).partition("\n\n")[0].split()).replace("``", "`")


def sentence(docstring: str) -> str:
    """The first sentence of a docstring."""
    return re.split(r"(?<=\.)\s+(?=[A-Z])|:+$", paragraph(docstring))[0]


def cell(text: str) -> str:
    """Text that a cell of a table shows as it is; what stands in backticks stays code."""
    parts = re.split(r"(`[^`]*`)", text)
    shown = [
        part if part.startswith("`") else re.sub(r"([*_\[\]])", r"\\\1", part).replace("<", "&lt;")
        for part in parts
    ]
    return "".join(shown).replace("|", "\\|").replace("\n", " ")


#: (file, name of its region) -> what belongs there
GENERATED: dict[tuple[str, str], Callable[[], str]] = {
    ("docs/quickstart.md", "problem"): problem,
    ("docs/benchmarks.md", "costs"): costs,
    ("docs/benchmarks.md", "costs-on-a-gpu"): costs_on_a_gpu,
    ("docs/lab.md", "commands"): commands,
    ("docs/contributing.md", "files"): files,
    ("docs/benchmarks.md", "benchmarks"): benchmarks,
    ("docs/robustness.md", "masking"): masking,
    ("docs/board.md", "board"): board,
    ("docs/claims.md", "claims"): claims,
    ("docs/claims.md", "overhead"): overhead,
    ("docs/claims.md", "results"): claims_in_full,
    ("docs/methods.md", "methods"): lambda: methods("methods/"),
    ("docs/lab.md", "arms"): arms,
    ("docs/lab.md", "readings"): readings,
    ("docs/lab.md", "recipes"): recipes,
    ("docs/troubleshooting.md", "errors"): errors,
    **{(f"docs/guides/{guide}.md", name): partial(change, name) for name, guide in GUIDES.items()},
}


def replaced(text: str, name: str, content: str) -> str:
    """The text with a new content between the marks of ``name``."""
    start, end = f"<!-- {name}:start -->", f"<!-- {name}:end -->"
    before, found, rest = text.partition(start)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise SystemExit(f"there are no marks {start} ... {end}: put them where it belongs.")
    return f"{before}{start}\n{content}\n{end}{after}"


def stale() -> list[tuple[Path, str, str]]:
    """File, region and new text of everything that is not up to date."""
    found = []
    for (file, name), make in GENERATED.items():
        path = ROOT / file
        text = path.read_text(encoding="utf-8")
        new = replaced(text, name, make())
        if new != text:
            found.append((path, name, new))
    return found


def main(arguments: list[str]) -> None:
    """See the top of this file."""
    if arguments[:1] in (["demo"], ["my-problem"], ["unlike-scales"]):
        page = ROOT / "docs" / "quickstart.md"
        folder = Path(arguments[1]) if len(arguments) > 1 else ROOT / "runs" / arguments[0]
        text = replaced(page.read_text(encoding="utf-8"), arguments[0], comparison(folder))
        page.write_text(text, encoding="utf-8")
        return
    if arguments == ["--check"]:
        names = [f"{path.name}: {name}" for path, name, _ in stale()]
        if names:
            raise SystemExit(f"stale: {', '.join(names)}. Run `make docs`.")
        return
    for (file, name), make in GENERATED.items():
        path = ROOT / file
        text = path.read_text(encoding="utf-8")
        new = replaced(text, name, make())
        if new != text:
            path.write_text(new, encoding="utf-8")
            print(f"{file}: {name}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Claims and their rule files: what a paper says, as comparisons that were written before the results."""

from __future__ import annotations

import hashlib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from typing import Any, Literal

from manyloss.diagnostics.running import pair_name
from manyloss.lab.checks import LabError, closest

Relation = Literal["lower", "higher", "near"]
RELATIONS = ("lower", "higher", "near")
#: Before a pair of losses: the spread of their cosine over training, among the paper's numbers and ours.
SIGMA = "sigma of "
#: Parts of a result that a rule may speak of.
PARTS = ("test", "validation", "mean_weights", "cosine_std", "cosine_std_first_epoch", "passed")


@dataclass(frozen=True)
class Check:
    """One sentence of a paper as a comparison."""

    says: str
    arm: str
    than: str | float
    relation: Relation
    quantity: str
    of: str = "test"
    #: How far apart two values may be that are "near"; for the others, how much of a difference counts.
    within: float = 0.0
    only: str | None = None
    #: Another quantity of the same arm: its rank correlation over the seeds with `quantity` is compared. An
    #: arm with a ``*`` stands for all that match; then a point is the mean of one arm over its seeds.
    along: str | None = None
    #: The part of the result that `along` is in.
    along_of: str = "test"

    @property
    def in_paper(self) -> str | None:
        """What the paper's numbers call the quantity; None where they have no name for its part."""
        return {"test": self.quantity, "cosine_std": SIGMA + self.quantity}.get(self.of)


@dataclass(frozen=True)
class Claim:
    """A claim of a paper: the recipe to run, which rows, what the paper found, and the checks."""

    name: str
    recipe: str
    claim: str
    paper: str
    arms: tuple[str, ...]
    checks: tuple[Check, ...]
    #: arm -> quantity -> the paper's number.
    paper_numbers: Mapping[str, Mapping[str, float]]
    rule: str
    #: A row that is no trial of its own -> the arms, with a metric each, that it is put together from.
    combined: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    #: The paper says it of another problem than the recipe's, so that no scale is the paper's own setting.
    on_substitute: bool = False

    @property
    def rows(self) -> tuple[str, ...]:
        """All rows of the table: the arms and what is put together from them."""
        return (*self.arms, *self.combined)


def all_claims() -> dict[str, Claim]:
    """Every claim by name, sorted."""
    folder = files("manyloss.lab.claims") / "rules"
    found = {}
    for item in folder.iterdir():
        if item.name.endswith(".toml"):
            claim = read_rule(item.name, item.read_bytes())
            found[claim.name] = claim
    return dict(sorted(found.items()))


def claim_named(name: str) -> Claim:
    """The claim of this name; an error that offers the closest one."""
    claims = all_claims()
    if name not in claims:
        raise LabError(
            f"There is no claim {name!r}. {closest(name, claims)} `manyloss reproduce` lists them."
        )
    return claims[name]


def rules_of_recipe(recipe: str) -> dict[str, str]:
    """Claim -> hash of its rule, for all claims that are judged from this recipe's trials."""
    return {claim.name: claim.rule for claim in all_claims().values() if claim.recipe == recipe}


def read_rule(file: str, content: bytes) -> Claim:
    """A claim from its rule file; the hash is of the file's bytes.

    Raises:
        LabError: the file is not TOML, or lacks something.

    """
    try:
        rule = tomllib.loads(content.decode())
        entries = [
            Check(
                says=entry["says"],
                arm=entry["arm"],
                than=entry["than"],
                relation=entry["is"],
                quantity=_quantity(entry),
                of=entry.get("of", "test"),
                within=float(entry.get("within", 0.0)),
                only=entry.get("only"),
                along=None if "along" not in entry else _quantity(entry, "along", "along_of"),
                along_of=entry.get("along_of", entry.get("of", "test")),
            )
            for entry in rule["checks"]
        ]
        claim = Claim(
            name=file.removesuffix(".toml"),
            recipe=rule["recipe"],
            claim=rule["claim"],
            paper=rule["paper"],
            arms=tuple(rule["arms"]),
            checks=tuple(entries),
            paper_numbers=_paper_numbers(rule.get("paper_numbers", {})),
            rule=hashlib.sha256(content).hexdigest()[:16],
            combined={name: tuple(parts) for name, parts in rule.get("combined", {}).items()},
            on_substitute=bool(rule.get("on_substitute", False)),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _not_understood(file, error) from error
    for entry in entries:
        if entry.along is not None and isinstance(entry.than, str):
            raise _not_understood(file, f"check {entry.says!r} has along, so than must be a number")
        unknown = {entry.arm, entry.than} - {*claim.rows} if isinstance(entry.than, str) else set()
        parts = {entry.of, entry.along_of}
        if entry.relation not in RELATIONS or not parts <= {*PARTS} or unknown:
            reason = f"check {entry.says!r} has is = {entry.relation!r} and unknown arms {sorted(unknown)}"
            raise _not_understood(file, reason)
    return claim


def _quantity(entry: Mapping[str, Any], key: str = "quantity", part: str = "of") -> str:
    """What is compared. Rules name a pair of losses "a, b"; records spell it as the recorder does."""
    quantity = str(entry[key])
    if str(entry.get(part, entry.get("of", "test"))).startswith("cosine_std"):
        return pair_name(*quantity.split(", ", 1))
    return quantity


def _paper_numbers(written: Mapping[str, Mapping[str, float]]) -> dict[str, dict[str, float]]:
    """With pairs of losses as the recorder spells them: "sigma of a, b" names one, too."""
    return {
        arm: {
            SIGMA + pair_name(*name.removeprefix(SIGMA).split(", ", 1)) if name.startswith(SIGMA) else name: n
            for name, n in numbers.items()
        }
        for arm, numbers in written.items()
    }


def _not_understood(file: str, reason: object) -> LabError:
    return LabError(f"The rule {file} is not understood: {reason}. See the rules beside it.")

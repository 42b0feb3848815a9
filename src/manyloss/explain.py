"""Which parameters a step merges: in words, by module, and where features could be taken."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from manyloss import checks
from manyloss.graph import LEAF, Edge, children, depends_on, edge_of, leaves_behind, type_name
from manyloss.losses import Features, Losses, check

Kind = Literal["merged", "partly merged", "shared, bypassing", "one loss's own", "not reached"]
KINDS: Mapping[Kind, str] = {
    "merged": "every loss reaches them through the features alone",
    "partly merged": "losses reach them through the features and around them: only a part is merged",
    "shared, bypassing": "several losses reach them around the features: their gradients are added plainly",
    "one loss's own": "one loss reaches them, after the features",
    "not reached": "no loss reaches them in this step",
}
MOST_CUTS = 30
"""So many tensors are listed where features could be taken."""


@dataclass(frozen=True)
class Parameter:
    """One parameter, and how the losses reach it."""

    name: str
    size: int
    kind: Kind
    around: tuple[str, ...]
    """The losses that reach it without passing the features."""


@dataclass(frozen=True)
class Place:
    """A tensor where features could be taken."""

    shape: tuple[int, ...]
    after: str
    """The module whose parameter was used last before it."""
    losses: tuple[str, ...]
    nested: bool
    """It is computed from another one of them."""


@dataclass(frozen=True)
class Explanation:
    """What a step with these losses and features merges. It prints as words and a table.

    Attributes:
        losses: by name.
        parameters: every parameter that requires grad.
        places: tensors that together lie between the losses and all that several of them share.
        features: how many features tensors were given.

    """

    losses: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    places: tuple[Place, ...]
    features: int

    def kinds(self) -> dict[str, Kind]:
        """Parameter name -> kind."""
        return {parameter.name: parameter.kind for parameter in self.parameters}

    def numbers(self) -> dict[Kind, int]:
        """Kind -> how many numbers its parameters hold."""
        found = dict.fromkeys(KINDS, 0)
        for parameter in self.parameters:
            found[parameter.kind] += parameter.size
        return {kind: count for kind, count in found.items() if count}

    def table(self) -> list[tuple[str, int, Kind, tuple[str, ...]]]:
        """(module, numbers, kind, losses that reach it around the features), joined where all agree."""
        return list(_rows([(p.name.split("."), p) for p in self.parameters], ""))

    def __str__(self) -> str:
        total = sum(parameter.size for parameter in self.parameters)
        lines = [
            f"{kind}: {count:,} numbers ({count / total:.0%}); {KINDS[kind]}."
            for kind, count in self.numbers().items()
        ]
        rows = self.table()
        width = max((len(row[0]) for row in rows), default=0)
        lines += ["", *(_line(row, width, len(self.losses)) for row in rows)]
        return "\n".join([*lines, *self._advice()])

    def _advice(self) -> Iterator[str]:
        wrong = {p.kind for p in self.parameters} & {"partly merged", "shared, bypassing"}
        if self.features and not wrong:
            return
        if not self.places:
            yield "\nNo two losses share what a parameter is reached through: there is nothing to merge."
            return
        many = len(self.places) > 1
        yield f"\nFeatures could be {'these tensors' if many else 'this tensor'}, the last that losses share:"
        for place in self.places[:MOST_CUTS]:
            shape = ", ".join(map(str, place.shape))
            who = "all losses" if len(place.losses) == len(self.losses) else ", ".join(place.losses)
            yield f"  [{shape}], made after {place.after}, used by {who}"
        if len(self.places) > MOST_CUTS:
            yield f"  and {len(self.places) - MOST_CUTS} more"
        if any(place.nested for place in self.places):
            yield "Some are computed from others: z = multi.cut(z) for each in the forward, and no features=."
        else:
            yield f"Pass {'them' if many else 'it'} as features=, or z = multi.cut(z) in the forward."


def explain(
    losses: Losses, features: Features | None, model: nn.Module | None, cut: Sequence[Tensor]
) -> Explanation:
    """See ``MultiLoss.explain``; ``cut`` are the tensors that the forward cut."""
    given = check(losses, cut if features is None and cut else features, None)
    names = [name for name, root in zip(given.names, given.roots, strict=True) if root is not None]
    starts = [edge_of(root) for root in given.roots if root is not None]
    edges = set(given.edges)
    around = [_leaves(start, edges) for start in starts]
    leaves = {id(leaf): leaf for leaf in leaves_behind(given.edges)}
    behind = set(leaves)
    for found in around:
        leaves |= found
    named = _named(model, leaves.values())
    parameters = []
    for name, parameter in named:
        users = tuple(n for n, found in zip(names, around, strict=True) if id(parameter) in found)
        kind = _kind(id(parameter) in behind, len(users))
        parameters.append(Parameter(name, parameter.numel(), kind, users))
    titles = {id(parameter): name.rpartition(".")[0] or name for name, parameter in named}
    return Explanation(tuple(names), tuple(parameters), _places(starts, names, titles), len(given.features))


def _kind(behind: bool, users: int) -> Kind:
    if behind:
        return "partly merged" if users else "merged"
    if users > 1:
        return "shared, bypassing"
    return "one loss's own" if users else "not reached"


def _named(model: nn.Module | None, leaves: Iterable[Tensor]) -> list[tuple[str, Tensor]]:
    """The model's parameters by name; without a model, those that are found by number and shape."""
    if model is not None:
        return [(name, param) for name, param in model.named_parameters() if param.requires_grad]
    return [(f"leaf {i} {list(leaf.shape)}", leaf) for i, leaf in enumerate(leaves)]


def _leaves(start: Edge, stop: set[Edge]) -> dict[int, Tensor]:
    """The leaves that a loss reaches without passing ``stop``."""
    found: dict[int, Tensor] = {}
    if start in stop:
        return found
    seen, stack = {start[0]}, [start[0]]
    while stack:
        node = stack.pop()
        if type_name(node) == LEAF:
            found[id(node.variable)] = node.variable
        for child in children(node):
            if child[0] is not None and child not in stop and child[0] not in seen:
                seen.add(child[0])
                stack.append(child[0])
    return found


# ---------------------------------------------------------------- where features could be taken


def _places(starts: Sequence[Edge], names: Sequence[str], titles: Mapping[int, str]) -> tuple[Place, ...]:
    """The tensors where the losses' graphs meet: every way from two losses to one parameter passes them.

    A node that several losses reach passes all of them on, so what they share is closed downwards; its upper
    border is what nodes of a single loss take from it. Together these tensors dominate all that is shared.
    """
    users: dict[Any, set[int]] = {}
    for i, start in enumerate(starts):
        stack = [start[0]]
        while stack:
            node = stack.pop()
            known = users.setdefault(node, set())
            if i in known:
                continue
            known.add(i)
            stack.extend(child for child, _ in children(node) if child is not None)
    border: dict[Edge, set[int]] = {}
    for i, start in enumerate(starts):
        if len(users[start[0]]) > 1:
            border.setdefault(start, set()).add(i)
    for node, known in users.items():
        if len(known) == 1:
            for child in children(node):
                if child[0] is not None and len(users[child[0]]) > 1 and type_name(child[0]) != LEAF:
                    border.setdefault(child, set()).update(known)
    found = []
    for edge, _ in sorted(border.items(), key=lambda item: item[0][0]._sequence_nr()):
        after = _last_parameter(edge, titles)
        if after is not None:  # otherwise nothing trainable lies behind
            found.append((edge, after))
    edges = [edge for edge, _ in found]
    return tuple(
        Place(
            tuple(edge[0]._input_metadata[edge[1]].shape),
            after,
            tuple(names[i] for i in sorted(users[edge[0]])),
            len(edges) > 1 and depends_on(edge, [other for other in edges if other != edge]) is not None,
        )
        for edge, after in found
    )


def _last_parameter(edge: Edge, titles: Mapping[int, str]) -> str | None:
    """The name of a parameter that lies nearest behind an edge."""
    seen, layer = {edge[0]}, [edge[0]]
    while layer:
        below = []
        for node in layer:
            for child, _ in children(node):
                if child is None or child in seen:
                    continue
                if type_name(child) == LEAF and id(child.variable) in titles:
                    return titles[id(child.variable)]
                seen.add(child)
                below.append(child)
        layer = below
    return None


# ---------------------------------------------------------------- the table


def _rows(
    parameters: Sequence[tuple[list[str], Parameter]], prefix: str
) -> Iterator[tuple[str, int, Kind, tuple[str, ...]]]:
    """One row for all that agree; otherwise one level further down."""
    alike = {(parameter.kind, parameter.around) for _, parameter in parameters}
    if len(alike) == 1:
        ((kind, around),) = alike
        yield prefix or "(all)", sum(parameter.size for _, parameter in parameters), kind, around
        return
    parts: dict[str, list[tuple[list[str], Parameter]]] = {}
    for path, parameter in parameters:
        parts.setdefault(path[0], []).append((path[1:] or path, parameter))
    for part, below in parts.items():
        name = f"{prefix}.{part}" if prefix else part
        yield from _rows(below, name)


def _line(row: tuple[str, int, Kind, tuple[str, ...]], width: int, count: int) -> str:
    name, size, kind, around = row
    who = "all losses" if len(around) == count > 1 else checks.listed(around) if around else ""
    return f"  {name:<{width}}  {size:>12,}  {kind}{f' ({who})' if who else ''}"

"""TorchJD's aggregators, weightings and scalarizers (torchjd.org) in a manyloss step.

What depends on inner products alone, nearly all of them, runs on the Gramian [T, T]: no [T, P] matrix, any
number of ranks, gradients at features or at shared parameters. What looks at single entries (TrimmedMean,
TorchJD's GradDrop, ExcessMTL) gets the matrix: all features tensors flattened into one [T, B*F...]. A
scalarizer is a loss weighting: w_i is its slope in L_i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from manyloss import checks, linalg
from manyloss.aggregation import Aggregator
from manyloss.errors import BatchSeparatedError
from manyloss.gradients import LossGradients
from manyloss.interop._torchjd_object import Adapter, Held
from manyloss.plan import Needs
from manyloss.state import InnerOptimizer, OptimizerFactory
from manyloss.weighting import FAMO, GradientWeighting, LossWeighting

# Weightings of a matrix that look at its number of rows only.
_COUNTS_ROWS = ("MeanWeighting", "SumWeighting", "ConstantWeighting", "RandomWeighting")
# Methods of a matrix that turn with it: f(M Q) = f(M) Q, so the root of the Gramian stands for the matrix.
_TURNS_WITH_THE_MATRIX = ("_NashMTLWeighting", "ConFIG")
# What they give are coordinates of projected gradients.
_PROJECTS = ("PCGradWeighting", "GradVacWeighting", "UPGradWeighting", "DualProjWeighting")
# Weightings of products of two independent batches' gradients; a step has one batch.
_TWO_BATCHES = ("SDMGradWeighting", "MoDoWeighting")
# Eigenvalues of the cosine matrix below this share of the largest are rounding.
_ROUNDING = 1e-13
_SPECIAL_ROWS = "A zero gradient or repeated ones may be outside of what it can do: look at result.cosines."


def from_torchjd(
    method: Any, *, seed: int | None = None, lr: float = 0.025, optimizer: OptimizerFactory | None = None
) -> TorchJDWeighting | TorchJDAggregator | TorchJDScalarizer | FAMO:
    """Let a TorchJD method run in a step: ``MultiLoss(from_torchjd(UPGrad()))``.

    The weighting's weights multiply what reaches the shared part; heads see the plain losses, as in
    ``mtl_backward``. With ``shared_params=`` the result is that of TorchJD's ``mtl_backward``; with
    ``features=`` the method works on the gradients at the features, which is far cheaper. A scalarizer scales
    the losses, heads included, and its step is that of ``scalarizer(losses).backward()``.

    Args:
        method: a TorchJD aggregator, weighting or scalarizer *object*. A weighting of a class of your own is
            taken to read the Gramian, as TorchJD's public base class says.
        seed: of the own generator that TorchJD's draws come from, so that ranks draw alike and checkpoints
            continue; drawn from torch's when None.
        lr: of the Adam that moves a scalarizer's own parameters (UW, IMTLL), which TorchJD leaves to the
            user's optimiser; register nothing.
        optimizer: parameters -> Optimizer, in place of that Adam.

    Returns:
        a `TorchJDWeighting` or `TorchJDScalarizer` (to be given as ``weighting=``) or a `TorchJDAggregator`
        (``aggregator=``). State of stateful methods travels in ``state_dict``. TorchJD's FAMO, which wants
        the losses of the same batch again, becomes `manyloss.weighting.FAMO` with its settings.

    Raises:
        ImportError: TorchJD is not installed.
        TypeError: something else than an aggregator, weighting or scalarizer object.
        ValueError: the method needs the gradients of two batches (SDMGrad, MoDo).

    """
    try:
        from torchjd import aggregation as torchjd
        from torchjd import scalarization
    except ImportError as error:
        checks.not_installed("from_torchjd", "torchjd", "peers", error)
    if isinstance(method, type):
        name = method.__name__
        raise TypeError(
            f"from_torchjd needs an aggregator, weighting or scalarizer of TorchJD, got the class {name}: "
            f"write from_torchjd({name}(...))."
        )
    if isinstance(method, torchjd.GramianWeightedAggregator):
        return TorchJDWeighting(method.gramian_weighting, type(method).__name__, seed=seed)
    if isinstance(method, scalarization.FAMO):
        return FAMO(method.lr, method.weight_decay, method.min_losses.tolist(), optimizer=optimizer)
    if isinstance(method, scalarization.Scalarizer):
        return TorchJDScalarizer(method, type(method).__name__, seed=seed, lr=lr, optimizer=optimizer)
    if not isinstance(method, (torchjd.Aggregator, torchjd.Weighting)):
        raise TypeError(
            "from_torchjd needs an aggregator, weighting or scalarizer of TorchJD, got an object of type "
            f"{type(method).__name__}: such as UPGrad()."
        )
    name = type(method).__name__
    core = method.weighting if isinstance(method, torchjd.WeightedAggregator) else method
    reads = _reads(core)
    if reads == "two batches":
        raise ValueError(
            f"{name} reads products of the gradients of two independent batches, and a step has one batch: "
            "call it by hand as its own documentation shows, or use MGDA."
        )
    if reads == "matrix":
        if isinstance(method, torchjd.Weighting):
            method = torchjd.WeightedAggregator(method)
        return TorchJDAggregator(method, name, seed=seed)
    return TorchJDWeighting(core, name, root=reads == "root", seed=seed)


def _reads(core: nn.Module) -> str:
    """What a method looks at: "gramian", "root" (of the Gramian), "matrix" or "two batches"."""
    from torchjd import aggregation as torchjd
    from torchjd.aggregation._weighting_bases import _MatrixWeighting

    names = {cls.__name__ for cls in type(core).__mro__}
    if names & {"CRMOGMWeighting"}:
        return _reads(core.weighting)  # type: ignore[arg-type]
    if names & set(_TWO_BATCHES):
        return "two batches"
    if names & set(_TURNS_WITH_THE_MATRIX):
        return "root"
    if names & set(_COUNTS_ROWS):
        return "gramian"
    if isinstance(core, (_MatrixWeighting, torchjd.Aggregator)):
        return "matrix"
    return "gramian"


class TorchJDWeighting(Adapter, GradientWeighting):
    """A TorchJD method that inner products decide; made by `from_torchjd`.

    Args:
        method: a weighting, or an aggregator that turns with its matrix.
        name: for messages.
        root: hand it R [T, T] with R R^T = Gramian in place of the Gramian.
        seed: of the own generator.

    """

    def __init__(self, method: nn.Module, name: str, *, root: bool = False, seed: int | None = None) -> None:
        super().__init__()
        self.held = Held(method, name)
        self.root = root
        if not self.held.gives_weights or type(method).__name__ in _PROJECTS:
            self.numbers = "projection coefficients"  # type: ignore[misc]  # of this object
        self.seed_with(seed)

    def forward(self, gradients: LossGradients) -> Tensor:
        """The method's weights, or its result's coordinates in the gradients. [T]

        Raises:
            ValueError: a loss is absent and the method keeps state, or the weights are not finite.

        """
        self.begin(gradients.names)
        lengths = gradients.norms
        directions = _directions(gradients.cosines) if self.root else None
        given = gradients.gramian if directions is None else lengths[:, None] * directions
        generator = self.generator
        assert generator is not None
        with self.held.drawing_from(generator, given.device):
            result: Tensor = self.held.module(given).detach().double().cpu()
        if directions is not None and not self.held.gives_weights:
            scaled = torch.linalg.lstsq(directions.T, result[:, None], driver="gelsd").solution[:, 0]
            result = torch.where(lengths > 0, scaled / lengths, torch.zeros_like(scaled))
        if not bool(torch.isfinite(result).all()):
            self.held.refuse_result(gradients.names, result.tolist(), _SPECIAL_ROWS)
        return result


class TorchJDAggregator(Adapter, Aggregator):
    """A TorchJD aggregator that looks at single entries of the matrix; made by `from_torchjd`.

    At features the matrix is this rank's batch, so it is refused on more than one rank there.
    """

    def __init__(self, method: nn.Module, name: str, *, seed: int | None = None) -> None:
        super().__init__()
        self.held = Held(method, name)
        self.seed_with(seed)

    def aggregate(
        self, gradients: Sequence[Tensor], features: Sequence[Tensor | None], names: Sequence[str]
    ) -> list[Tensor]:
        """Merge at all tensors jointly.

        Raises:
            BatchSeparatedError: at features, no row has entries of two losses.
            ValueError: more than one rank at features, or a loss is absent and the method keeps state.

        """
        if features[0] is not None:
            self._refuse_separated(gradients, names)
        if features[0] is not None and self.ranks.world > 1:
            raise ValueError(
                f"TorchJD's {self.held.name} reads the whole matrix of gradients, whose columns at the "
                f"features are spread over {self.ranks.world} ranks: pass shared_params= without features, "
                "where gradients are averaged, or use a method that reads the Gramian."
            )
        self.begin(names)
        matrix = torch.cat([linalg.as_rows(tensor.detach()) for tensor in gradients], dim=1)  # [T, B*F...]
        generator = self.generator
        assert generator is not None
        with self.held.drawing_from(generator, matrix.device):
            merged: Tensor = self.held.module(matrix).detach()
        if not bool(torch.isfinite(merged).all()):
            self.held.refuse_result(names, (), _SPECIAL_ROWS)
        parts = torch.split(merged, [tensor[0].numel() for tensor in gradients])
        return [part.view(tensor.shape[1:]) for part, tensor in zip(parts, gradients, strict=True)]

    def _refuse_separated(self, gradients: Sequence[Tensor], names: Sequence[str]) -> None:
        """What compares entries of one position has nothing to compare where each row is one loss's."""
        rows = LossGradients(names, torch.ones(len(names)), list(gradients))
        if len(names) > 1 and bool(rows.separated().any()):
            raise BatchSeparatedError(
                f"TorchJD's {self.held.name} compares the losses' gradients entry by entry, and there are "
                "losses that come from separate rows of the batch (one batch per task, partial labels): at "
                "the features they have no entries in common. Pass shared_params= without features."
            )

    def merge(self, gradients: Tensor, features: Tensor | None, names: Sequence[str]) -> Tensor:
        """[T, ...] -> [...]"""
        return self.aggregate([gradients], [features], names)[0]


class TorchJDScalarizer(Adapter, LossWeighting):
    """A TorchJD scalarizer: w_i = ds/dL_i, so that the step is that of its own backward.

    Its parameters, if any, move by the own optimiser along ds; ``multi.end_epoch()`` is its ``step()``.

    Args:
        method: the scalarizer.
        name: for messages.
        seed: of the own generator.
        lr: of the own Adam.
        optimizer: parameters -> Optimizer, in place of Adam.

    """

    needs = Needs(values=True)
    scale = "free"
    inner: InnerOptimizer

    def __init__(
        self,
        method: nn.Module,
        name: str,
        *,
        seed: int | None = None,
        lr: float = 0.025,
        optimizer: OptimizerFactory | None = None,
    ) -> None:
        super().__init__()
        self.held = Held(method, name)
        self.inner = InnerOptimizer(lr, optimizer)
        self.seed_with(seed)
        self._slopes: Sequence[Tensor | None] = ()

    def weigh(self, names: Sequence[str], values: Tensor) -> Tensor:
        """ds/dL. [T]

        Raises:
            ValueError: a loss is absent and the method keeps state, or the weights are not finite.

        """
        self.begin(names)
        given = values.clone().requires_grad_()
        assert self.generator is not None
        with self.held.drawing_from(self.generator, given.device), torch.enable_grad():
            value = self.held.module(given)
        found = torch.autograd.grad(value, [given, *self._parameters_of_method()], allow_unused=True)
        weights = torch.zeros_like(given) if found[0] is None else found[0]
        if not bool(torch.isfinite(weights).all()):
            self.held.refuse_result(
                names, weights.tolist(), "A loss of 0 or below may be outside of what it can do."
            )
        self._slopes = found[1:]
        return weights.detach()

    def learn(self, names: Sequence[str], values: Tensor, norms: Tensor) -> None:
        """One step of the scalarizer's parameters."""
        if self._slopes:
            self.inner.step(self._parameters_of_method(), self._slopes)

    def end_epoch(self) -> None:
        """DWA's history rolls on."""
        self.take_over()
        step = getattr(self.held.module, "step", None)
        if callable(step):
            step()

    def _parameters_of_method(self) -> list[Tensor]:
        return [param for param in self.held.module.parameters() if param.requires_grad]


def _directions(cosines: Tensor) -> Tensor:
    """D [T, T] with D D^T = the cosines; from these, and not the Gramian, so that short rows keep theirs."""
    values, vectors = torch.linalg.eigh(cosines)
    alive = values > _ROUNDING * len(values) * values.max()
    directions: Tensor = vectors * torch.where(alive, values, torch.zeros_like(values)).sqrt()
    return directions

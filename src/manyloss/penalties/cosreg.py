"""CosReg (2020, "Regularizing deep multi-task networks using orthogonal gradients", eq. 3-5)."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from manyloss import checks, linalg
from manyloss.diagnostics.running import RunningCosines, Span
from manyloss.distributed import gramian_over_ranks
from manyloss.gradients import LossGradients
from manyloss.penalties._base import Penalty
from manyloss.plan import Needs


class CosReg(Penalty):
    """A penalty that pulls the gradients of the losses towards right angles.

    alpha / (T (T - 1)) ||D D^T - I||_F^2, D [T, P] the unit-normalised per-loss gradients (eq. 5). That is
    alpha times the mean squared cosine over the pairs (eq. 4 for T = 2), in [0, alpha]. It is measured at
    ``shared_params`` (the last encoder layer, section 3), else at the features, and differentiated through
    into encoder and heads. A zero gradient counts as orthogonal.

    Args:
        alpha: weight, 0 or more.
        scale_by_loss: multiply alpha with the mean loss, as a constant (section 5.1).

    """

    name = "cosreg"
    search: ClassVar = {"alpha": (0.1, 1.0, 10.0, 100.0)}
    learns = RunningCosines
    state: RunningCosines

    def __init__(self, alpha: float = 10.0, scale_by_loss: bool = False) -> None:
        super().__init__()
        checks.not_negative("alpha", alpha)
        checks.flag("scale_by_loss", scale_by_loss)
        self.alpha = alpha
        self.scale_by_loss = scale_by_loss
        self.needs = Needs(values=scale_by_loss, differentiable=True)

    def first_state(self, names: tuple[str, ...]) -> RunningCosines:
        """No cosine seen yet."""
        return RunningCosines.empty(len(names))

    def forward(self, gradients: LossGradients) -> Tensor:
        """Eq. 5, a scalar."""
        T = len(gradients.names)
        if T == 1:
            return gradients.tensors[0].new_zeros(())
        scales = linalg.row_scales(gradients.tensors)
        scales = (
            gradients.ranks.sum(scales) if gradients.place == "features" else scales
        )  # alike on all ranks
        safe = torch.where(scales > 0, scales, torch.ones_like(scales))
        rows = [linalg.as_rows(tensor) / safe[:, None] for tensor in gradients.tensors]
        G = torch.stack([row @ row.T for row in rows]).sum(0)  # [T, T]
        if gradients.place == "features":
            G = gramian_over_ranks(G, gradients.ranks)
        squares = G.diagonal()
        alive = squares > 0
        # The square root of 0 has an infinite slope: zero rows are replaced before it, not after.
        norms = torch.where(alive, squares, torch.ones_like(squares)).sqrt()
        cosines = G / norms[:, None] / norms[None, :]  # [T, T], D D^T
        apart = cosines - torch.diag(cosines.diagonal())  # D D^T - I
        factor = self.alpha
        if self.scale_by_loss:
            factor = factor * float(gradients.values.mean())
        return factor / (T * (T - 1)) * apart.square().sum()

    def learn(self, gradients: LossGradients) -> None:
        """Keep the cosines for :meth:`cosine_std`."""
        self.state.add(self.positions(gradients.names), gradients.cosines)

    def end_epoch(self) -> None:
        """The first epoch's standard deviation is complete."""
        if self.names is not None:
            self.state.epoch_ended = True

    def cosine_std(self, span: Span = "training") -> dict[str, float]:
        """Sigma of the cosine per pair ``"a|b"``: over the last 50 steps ("window", Fig. 5), over the
        "first_epoch" (Fig. 3) or over the "training" (Table 1).
        """
        return {} if self.names is None else self.state.std(self.names, span)

"""What has to be summed over ranks, and what must be drawn alike on all of them.

The contract: N ranks equal one process whose losses are the means of the losses that the ranks pass in.
DistributedDataParallel and FSDP average the parameters' gradients; this module does the same to what a
method reads: losses and gradients at shared parameters are averaged, inner products at features (whose
batch is spread over the ranks) are summed over N^2.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, cast
from weakref import WeakKeyDictionary, ref

import torch
import torch.distributed as dist
from torch import Tensor, nn

from manyloss.errors import RankError

Setting = Literal["auto"] | bool | Any
"""``"auto"`` (sum over the ranks when torch.distributed runs with more than one), False, or a group."""


class Ranks:
    """The processes that train one model together; with ``group=None`` and world 1, this process alone.

    A group belongs to torch, until ``destroy_process_group``. Held any longer its threads would outlive
    Python, and the process abort if one of them still has a tensor to let go.
    """

    def __init__(self, group: Any = None, world: int = 1, rank: int = 0) -> None:
        self._group = None if group is None else ref(group)
        self.world = world
        self.rank = rank

    @property
    def group(self) -> Any:
        """The process group, None for this process alone.

        Raises:
            RankError: it was destroyed.

        """
        group = None if self._group is None else self._group()
        if group is None and self.world > 1:
            raise RankError(
                f"The process group of these {self.world} ranks was destroyed. After the next "
                "init_process_group make what trains anew (a MultiLoss, a defense), and load the "
                "state_dict() of the old one into it."
            )
        return group

    def __deepcopy__(self, memo: dict[int, Any]) -> Ranks:
        return self

    def sum(self, tensor: Tensor) -> Tensor:
        """Sum of a detached tensor over the ranks, on every rank."""
        if self.world == 1:
            return tensor
        total = tensor.detach().clone().to(self._device(tensor))
        dist.all_reduce(total, group=self.group)
        return total.to(tensor.device)

    def mean(self, tensor: Tensor) -> Tensor:
        """Mean of a detached tensor over the ranks, on every rank."""
        return tensor if self.world == 1 else self.sum(tensor) / self.world

    def mean_each(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Means over the ranks of tensors on one device, in one message."""
        if self.world == 1 or not tensors:
            return list(tensors)
        flat = self.mean(torch.cat([tensor.detach().reshape(-1) for tensor in tensors]))
        parts = torch.split(flat, [tensor.numel() for tensor in tensors])
        return [part.view_as(tensor).to(tensor.dtype) for part, tensor in zip(parts, tensors, strict=True)]

    def all(self, mine: bool) -> bool:
        """Whether it holds on every rank."""
        return (
            mine
            if self.world == 1
            else float(self.sum(torch.tensor(float(mine), device="cpu"))) == self.world
        )

    def shares(self, mine: list[bool]) -> list[float]:
        """Per item N / (ranks that have it): a mean over N ranks divides by those that have not, too."""
        if self.world == 1:
            return [1.0] * len(mine)
        counts = self.sum(torch.tensor(mine, dtype=torch.float64, device="cpu")).tolist()
        return [self.world / count if count else 1.0 for count in counts]

    def gather_sizes(self, size: int) -> list[int]:
        """The batch size of every rank, in the order of the ranks."""
        if self.world == 1:
            return [size]
        sizes = torch.zeros(self.world, dtype=torch.int64, device="cpu")
        sizes[self.rank] = size
        return [int(n) for n in self.sum(sizes)]

    def gather(self, thing: Any) -> list[Any]:
        """A small picklable thing of every rank, in the order of the ranks."""
        if self.world == 1:
            return [thing]
        things: list[Any] = [None] * self.world
        dist.all_gather_object(things, thing, group=self.group)
        return things

    def share_generator(self, generator: torch.Generator) -> None:
        """Give every rank the generator state of rank 0, so that they draw the same numbers."""
        if self.world == 1:
            return
        state = generator.get_state()
        carried = state.to(self._device(state))
        dist.broadcast(carried, src=dist.get_global_rank(self.group, 0), group=self.group)
        generator.set_state(carried.cpu())

    def share_parameters(self, tensors: list[Tensor]) -> None:
        """Give every rank rank 0's values of a part that learns from a random start, such as a classifier."""
        if self.world == 1:
            return
        for tensor in tensors:
            carried = tensor.detach().to(self._device(tensor))
            dist.broadcast(carried, src=dist.get_global_rank(self.group, 0), group=self.group)
            tensor.detach().copy_(carried)

    def start_alike(self, *networks: nn.Module) -> None:
        """Give every rank rank 0's parameters and buffers of networks that only their method trains."""
        for network in networks:
            self.share_parameters([*network.parameters(), *network.buffers()])

    def _device(self, tensor: Tensor) -> torch.device:
        on_gpu = dist.get_backend(self.group) == "nccl"
        return torch.device("cuda", torch.cuda.current_device()) if on_gpu else tensor.device


ALONE = Ranks()
_OWN_GROUPS: WeakKeyDictionary[Any, Ranks] = WeakKeyDictionary()


def check_setting(setting: Setting) -> None:
    """``distributed=`` has to be "auto", True, False or a group of processes."""
    if setting == "auto" or isinstance(setting, bool):
        return
    if not (dist.is_available() and isinstance(setting, dist.ProcessGroup)):
        raise TypeError(
            f"distributed must be 'auto', True, False or a group of torch.distributed, got {setting!r}."
        )


def ranks_of(setting: Setting) -> Ranks:
    """The ranks that a MultiLoss works with; collective: every rank calls it at the same point.

    Collectives inside a backward need a group of their own, or they would interleave with the
    reductions of DistributedDataParallel in an order that differs between the ranks. It is made once per
    group of processes: every group costs connections between all its members.
    """
    if setting is False or not (dist.is_available() and dist.is_initialized()):
        return ALONE
    users: Any = dist.group.WORLD if setting in ("auto", True) else setting
    members = dist.get_process_group_ranks(users)
    if len(members) == 1:
        return ALONE
    if users not in _OWN_GROUPS:
        # Only members of a part make its group; torch would name one of all ranks after how many groups
        # each of them is in already, which may differ.
        part = users is not dist.group.WORLD
        group = dist.new_group(members, timeout=_timeout_of(users), use_local_synchronization=part)
        _OWN_GROUPS[users] = Ranks(group, len(members), dist.get_rank(group))
    return _OWN_GROUPS[users]


def _timeout_of(group: Any) -> Any:
    """How long the user lets collectives of a group wait; None leaves torch's default."""
    device = torch.device("cuda" if dist.get_backend(group) == "nccl" else "cpu")
    options = getattr(group._get_backend(device), "options", None)
    return getattr(options, "_timeout", None)


class _MeanOverRanks(torch.autograd.Function):
    """Mean over ranks whose gradient goes, whole, to the local tensor.

    The ranks' parameter gradients are averaged afterwards: mean_r (dP/dmean . dg_r) = dP/dmean . dmean.
    """

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:  # noqa: ARG004
        return ranks.mean(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # noqa: ARG004
        return grad, None


def mean_over_ranks(tensor: Tensor, ranks: Ranks) -> Tensor:
    """Differentiable mean over ranks, for penalties on gradients at shared parameters."""
    return tensor if ranks.world == 1 else cast(Tensor, _MeanOverRanks.apply(tensor, ranks))  # type: ignore[no-untyped-call]


def batch_share(batch_size: int, group: Any = None) -> float:
    """The factor world * n_rank / n for uneven batches; multiply the rank's mean losses with it.

    With it the mean over the ranks of the losses is the mean over all the examples, so an uneven last
    batch trains as it would in one process. Collective: every rank calls it.

    Args:
        batch_size: n_rank, the examples on this rank in this step.
        group: the process group; the default one when None.

    Returns:
        world * n_rank / n; 1.0 without torch.distributed.

    """
    if not (dist.is_available() and dist.is_initialized()):
        return 1.0
    ranks = ranks_of(True if group is None else group)
    return ranks.world * batch_size / int(ranks.sum(torch.tensor(batch_size, device="cpu")))


class _GramianOverRanks(torch.autograd.Function):
    """sum_r G_r / N^2 of local Gramians, whose gradient reaches each rank's own part as grad / N.

    The parameter gradients are averaged over the ranks afterwards, which gives the second 1/N.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor, ranks: Ranks) -> Tensor:
        ctx.world = ranks.world
        return ranks.sum(local) / ranks.world**2

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad / ctx.world, None


def gramian_over_ranks(local: Tensor, ranks: Ranks) -> Tensor:
    """Differentiable Gramian [T, T] of a batch that is spread over the ranks, for penalties at features."""
    return local if ranks.world == 1 else cast(Tensor, _GramianOverRanks.apply(local, ranks))  # type: ignore[no-untyped-call]

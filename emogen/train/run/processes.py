"""Training in several processes that `torchrun` started: who is who, sums over all of them, and what the first does alone.

Every process holds the whole model and a part of each batch. The weights start equal, since all draw them from the same seed,
and stay so, since all step along the same sum of gradients. One flattened all_reduce an update is enough for that: the loops
here are generator functions over several modules, call these more than once a step and divide sums over tokens by a count of
all processes, of which a wrapper around a module (DistributedDataParallel) knows nothing. What it would add is communication
during the backward pass.

How a loop comes out the same for any number of processes:
    every sum over rows or tokens is `joint(sum)`, every count `total(count)`, the loss a function of those;
    random numbers are drawn for the whole batch (`Batch.own`) or by the row's number in it (`Batch.before`).
"""

from __future__ import annotations

import atexit
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import groupby
from typing import TYPE_CHECKING, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from emogen.data.batches import Shard
from emogen.errors import ElsewhereError, SettingsError, TrainingError

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

Made = TypeVar("Made")

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# The first process may prepare a large corpus while the others wait; one that ends is noticed at once all the same.
_PATIENCE = timedelta(days=1)
_MEETING = timedelta(minutes=10)
_LAST_WORDS = timedelta(seconds=10)
_FAILED, _SAID = "emogen/failed", "emogen/said"


def rank() -> int:
    """Return the number of this process, counted from 0; 0 where there is but one."""
    return dist.get_rank() if _is_up() else 0


def world() -> int:
    """Return how many processes train together; 1 where no group is up."""
    return dist.get_world_size() if _is_up() else 1


def is_main_process() -> bool:
    """Tell whether this is the process that writes and decides."""
    return rank() == 0


def part() -> Shard:
    """Tell which rows of every batch are this process's own."""
    return Shard(rank(), world())


def total(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes, without gradient, the same in each; same shape, dtype and device."""
    if world() == 1:
        return value.detach()
    summed = value.detach().clone()
    _explain_missing(lambda: dist.all_reduce(summed))
    return summed


def joint(value: Tensor) -> Tensor:
    """Return the sum of `value` over all processes, whose gradient is that of this process's own term.

    `update` sums the gradients of all processes, so that any function of joint sums is learnt as one process with all rows
    would learn it, one that is not linear too: its derivative is taken at the sum, its inner terms from each process.
    """
    return value if world() == 1 else value + (total(value) - value.detach())


def joint_mean(mean: Tensor, count: int) -> Tensor:
    """Return the mean over the items of all processes, from the `mean` over the `count` that are here.

    Gradient as of `joint`.
    """
    if world() == 1:
        return mean
    return joint(mean * count if count else torch.zeros_like(mean)) / total(torch.tensor(count, device=mean.device))


def largest(values: Sequence[float]) -> list[float]:
    """Return for each place the largest value that any process gives; float64. What is not a number counts as infinite."""
    found = torch.tensor(values, dtype=torch.float64).nan_to_num(math.inf, math.inf, -math.inf)
    if world() == 1:
        return found.tolist()
    _explain_missing(lambda: dist.all_reduce(found, dist.ReduceOp.MAX))
    return found.tolist()


def sum_gradients(parameters: Sequence[nn.Parameter]) -> None:
    """Replace each gradient by its sum over all processes; one that no process has stays None."""
    if world() == 1:
        return
    having = total(torch.tensor([parameter.grad is not None for parameter in parameters], dtype=torch.int64)).tolist()
    learnt = [parameter for parameter, count in zip(parameters, having, strict=True) if count]
    for _, alike in groupby(sorted(learnt, key=_kind), _kind):
        _sum_alike(list(alike))


def broadcast_from_main(make: Callable[[], Made]) -> Made:
    """Return what `make` gives in the first process, in all: it is called there alone, when all have come here.

    What it gives must be small and made for pickling.

    Raises:
        ElsewhereError: in the other processes, where it raises an error in the first.
    """
    if world() == 1:
        return make()
    _explain_missing(dist.barrier)
    made: list[tuple[Made] | None] = [None]
    try:
        if is_main_process():
            made = [(make(),)]
    finally:
        _explain_missing(lambda: dist.broadcast_object_list(made, 0))
    if made[0] is None:
        raise ElsewhereError("the first process failed, and says why")
    return made[0][0]


def main_process_first(make: Callable[[], Made]) -> Made:
    """`make` in the first process and then in the others, who find what it left on the disk.

    Raises:
        ElsewhereError: in the other processes, where it raises an error in the first.
    """
    made: list[Made] = []
    broadcast_from_main(lambda: made.append(make()))
    return made[0] if made else make()


@contextmanager
def process_group(device: torch.device) -> Iterator[None]:
    """Join the processes that torchrun started (gloo on CPU, nccl on CUDA) and parts from them at the end.

    Without torchrun's variables, with one process or inside of another `process_group` it does nothing.

    Args:
        device: where this process computes; of several CUDA devices it takes the one of its LOCAL_RANK.

    Raises:
        SettingsError: variables that lack, or name what is not there.
        ElsewhereError: in place of this process's error where another one failed before it, and says why.
    """
    place = None if _is_up() else _place()
    if place is None:
        yield
        return
    store = _join(place, device)
    try:
        yield
    except BaseException as error:
        is_told_elsewhere = isinstance(error, ElsewhereError) or not _is_first_to_fail(store)
        # nccl might wait for those who are gone; the end of the process parts from them too.
        if device.type == "cpu":
            dist.destroy_process_group()
        if is_told_elsewhere:
            with suppress(RuntimeError):
                store.wait([_SAID], _LAST_WORDS)
            raise ElsewhereError("another process failed, and says why") from None
        raise
    dist.destroy_process_group()


def _is_up() -> bool:
    return dist.is_available() and dist.is_initialized()


def _place() -> tuple[int, int, int] | None:
    """Rank, number of processes and rank on this machine, from the environment; None where there is one process."""
    found = {name: os.environ.get(name, "") for name in _VARIABLES}
    if not found["RANK"] and not found["WORLD_SIZE"]:
        return None
    lacking = [name for name, value in found.items() if not value]
    if lacking:
        raise SettingsError(f"{lacking[0]} is not set beside RANK or WORLD_SIZE; start several processes with torchrun")
    try:
        number, count, local = (int(found[name]) for name in _VARIABLES[:3])
    except ValueError:
        number, count, local = -1, 0, -1
    if not 0 <= local <= number < count:
        shown = " ".join(f"{name}={found[name]}" for name in _VARIABLES[:3])
        raise SettingsError(f"{shown}: allowed is 0 <= LOCAL_RANK <= RANK < WORLD_SIZE; start processes with torchrun")
    return None if count == 1 else (number, count, local)


def _join(place: tuple[int, int, int], device: torch.device) -> Store:
    from torch.distributed.rendezvous import rendezvous

    number, count, local = place
    if device.type == "cuda":
        if local >= torch.cuda.device_count():
            raise SettingsError(
                f"LOCAL_RANK={local}: there are {torch.cuda.device_count()} CUDA devices; start as many processes, or pass "
                "--device cpu"
            )
        torch.cuda.set_device(local)
    try:
        store: Store = next(rendezvous("env://", number, count, timeout=_MEETING))[0]
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=count, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        address = f"MASTER_ADDR={os.environ['MASTER_ADDR']} MASTER_PORT={os.environ['MASTER_PORT']}"
        raise SettingsError(f"{address}: the processes do not meet there ({str(error).splitlines()[0]})") from None
    return store


def _is_first_to_fail(store: Store) -> bool:
    """Tell whether this process is the one to say why the run ends."""
    # Where the store is gone, so is the process that kept it.
    with suppress(RuntimeError):
        if store.add(_FAILED, 1) > 1:
            return False
        atexit.register(_tell, store)
    return True


def _tell(store: Store) -> None:
    with suppress(RuntimeError):
        store.set(_SAID, "")


def _explain_missing(communicate: Callable[[], object]) -> None:
    """Make one line of a process that is missed."""
    try:
        communicate()
    except RuntimeError as error:
        found = str(error).splitlines()[0].rpartition("] ")[2][:80]
        raise TrainingError(f"another process of the run ended ({found})") from None


def _kind(parameter: nn.Parameter) -> tuple[str, str]:
    return str(parameter.device), str(parameter.dtype)


def _sum_alike(parameters: list[nn.Parameter]) -> None:
    """Sum parameters of one device and dtype; their gradients become views of one tensor."""
    own = [torch.zeros_like(each) if each.grad is None else each.grad for each in parameters]
    summed = torch.cat([gradient.reshape(-1) for gradient in own])
    _explain_missing(lambda: dist.all_reduce(summed))
    for parameter, piece in zip(parameters, torch.split(summed, [each.numel() for each in parameters]), strict=True):
        parameter.grad = piece.view_as(parameter)

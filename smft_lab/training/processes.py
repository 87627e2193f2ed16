"""Processes that work together, and those that only work for another one.

Pretraining runs on a GPU, and on several processes at once as `torchrun` starts them, or `accelerate launch` on GPUs.
Every process takes its rows of each batch, and all add up their gradients: the step is that of one process with the
whole batch. The model is not wrapped, so that names, hooks and checkpoints are those of one process, too.
"""

from __future__ import annotations

import atexit
import os
import time
from functools import cache
from threading import Thread
from typing import TYPE_CHECKING, cast

import psutil
import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from jaxtyping import Float, Int64


@cache
def end_with(parent: int) -> None:
    """Let this process end when the one that started it is gone: killed, it can't tell its workers to stop."""
    if not psutil.pid_exists(parent):  # already
        os._exit(1)

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)

    if os.getppid() == parent:
        Thread(target=watch, daemon=True).start()


class Processes:
    """The processes of this run: `count` of them, of which this is number `rank`; files are the `main` one's affair.

    Args:
        device: Where a process computes that is alone; None leaves the model where it is.

    Raises:
        RuntimeError: the processes that were started don't find each other.
    """

    def __init__(self, device: torch.device | None = None):
        self.count, self.rank = int(os.environ.get("WORLD_SIZE", "1")), 0
        self._device = device
        if self.count > 1:
            from accelerate import PartialState  # reads what the launcher has set

            state = PartialState(cpu=not torch.cuda.is_available())
            if state.num_processes != self.count:  # each would train alone, into the same folder
                raise RuntimeError(f"{self.count} processes were started, and {state.num_processes} found each other")
            self.count, self.rank, self._device = state.num_processes, state.process_index, state.device
            atexit.unregister(_leave)
            atexit.register(_leave)

    @property
    def main(self) -> bool:
        return self.rank == 0

    def place(self, model: nn.Module) -> None:
        """Move the model to this process's device."""
        if self._device is not None:
            model.to(self._device)

    def share(self, batch: dict[str, Int64[Tensor, "B T"]]) -> dict[str, Int64[Tensor, "_B T"]]:
        """This process's rows of a batch.

        Raises:
            ValueError: there are more processes than rows.
        """
        rows = len(batch["input_ids"])
        if rows < self.count:
            raise ValueError(f"a batch of {rows} texts can't be shared by {self.count} processes; start fewer")
        if self.count > 1:
            batch = {name: tensor[self.rank :: self.count] for name, tensor in batch.items()}
        return batch if self._device is None else {name: tensor.to(self._device) for name, tensor in batch.items()}

    def backward(
        self,
        loss: Float[Tensor, ""],
        batch: dict[str, Int64[Tensor, "B T"]],
        model: nn.Module,
        reported: Float[Tensor, ""] | None = None,
    ) -> float:
        """Leave the gradient of the mean loss over the whole batch, all processes' rows, on the parameters.

        Args:
            loss: Mean over the labels of this process's rows, `batch`.
            reported: The loss to report; `loss` by default.

        Returns:
            The reported loss, as a mean over the whole batch.
        """
        reported = loss if reported is None else reported
        if self.count == 1:
            loss.backward()
            return reported.item()
        from accelerate.utils import reduce as reduce_all

        def summed(tensor: Tensor) -> Tensor:
            return cast(Tensor, reduce_all(tensor, "sum"))

        labels = (batch["labels"][:, 1:] != -100).sum().to(loss.dtype)
        weight = labels / summed(labels.clone())
        (loss * weight).backward()
        for parameter in model.parameters():
            if parameter.grad is not None:
                parameter.grad.copy_(summed(parameter.grad))
        return float(summed((reported.detach() * weight).clone()))


def _leave() -> None:
    """End this process's share in the group while Python still runs.

    The group's own threads hold the last tensors; where they let go of them after Python has ended, the process aborts
    although all its work was done (pytorch/pytorch#179291).
    """
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

"""gloo, the library of Torch's process group for hosts, as the link between ranks that torchrun starts."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from tinyddpm.distributed.launch import Launch
from tinyddpm.distributed.link import Done, HostArray
from tinyddpm.distributed.watch import SILENCE
from tinyddpm.errors import BackendError, ConfigError

if TYPE_CHECKING:
    import torch
    from torch.distributed import Work


FOR_EVER = timedelta(days=365)
"""How long ranks wait for a slower one, which may draw or write for hours. Of a lost one they hear by the watch."""


def import_torch() -> tuple[ModuleType, ModuleType]:
    """Return Torch, and its module of processes that work together.

    Raises:
        ConfigError: Torch is missing.
    """
    try:
        import torch
        from torch import distributed
    except ImportError as error:
        raise ConfigError(f"torchrun's ranks need Torch ({error}): run pip install 'tinyddpm[torch]'") from error
    return torch, distributed


class GlooLink:
    """The ranks of Torch's world; see `Link`.

    Args:
        launch: torchrun's description of this process.

    Raises:
        ConfigError: Torch is missing, torchrun has not started this process, or the ranks cannot reach each other.
    """

    def __init__(self, launch: Launch) -> None:
        if launch.by != "torchrun":
            raise ConfigError(
                "--distributed torch is for ranks that torchrun starts: run torchrun --nproc-per-node 2 -m tinyddpm …"
            )
        torch, distributed = import_torch()
        self._torch, self._distributed = torch, distributed
        try:
            distributed.init_process_group("gloo", timeout=FOR_EVER)
            self._apart = distributed.new_group(backend="gloo", timeout=FOR_EVER)
        except (RuntimeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"torchrun's ranks cannot join ({reason}): name the network's interface by GLOO_SOCKET_IFNAME, or give"
                " --distributed none"
            ) from error
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def sum_(self, host: HostArray) -> Done:
        """See `Link.sum_`."""
        return self._begun(self._distributed.all_reduce(self._torch.from_numpy(host), async_op=True))

    def exchange(self, sent: HostArray, sends: Sequence[int], got: HostArray, gets: Sequence[int]) -> Done:
        """See `Link.exchange`. Bytes are exchanged, as gloo knows few types."""
        width = sent.itemsize
        lengths = [[width * int(length) for length in lengths] for lengths in (gets, sends)]
        work = self._distributed.all_to_all_single(self._bytes(got), self._bytes(sent), *lengths, async_op=True)
        return self._begun(work)

    def gather(self, sent: HostArray, got: HostArray, gets: Sequence[int]) -> Done:
        """See `Link.gather`. Each rank sends its array to each, since gloo's gather takes equal lengths alone."""
        return self.exchange(np.tile(sent, self.size), [len(sent)] * self.size, got, gets)

    def broadcast(self, host: HostArray) -> Done:
        """See `Link.broadcast`."""
        return self._begun(self._distributed.broadcast(self._bytes(host), src=0, async_op=True))

    def meet(self) -> Done:
        """See `Link.meet`."""
        return self._begun(self._distributed.barrier(self._apart, async_op=True))

    def end(self) -> None:
        """See `Link.end`."""
        self._distributed.destroy_process_group()

    def _bytes(self, host: HostArray) -> torch.Tensor:
        """Return the memory of a contiguous array as a tensor of bytes."""
        return self._torch.from_numpy(host.view(np.uint8))

    def _begun(self, work: Work | None) -> Done:
        """Return the test of whether work has ended.

        Failed work never ends, and its test raises BackendError after `SILENCE`. By then the watch has named a lost
        rank.
        """
        assert work is not None
        failed = 0.0

        def done() -> bool:
            nonlocal failed
            if not failed and not work.is_completed():
                return False
            try:
                work.wait()
            except RuntimeError as error:
                failed = failed or time.monotonic()
                if time.monotonic() - failed > SILENCE:
                    raise BackendError(f"gloo lost a connection: {' '.join(str(error).split())}") from error
                return False
            return True

        return done

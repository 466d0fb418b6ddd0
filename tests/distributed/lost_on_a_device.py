"""The command line on the stand-in for a GPU, where a rank fails. Run by test_lost_devices.py.

python -m distributed.lost_on_a_device FAULT STEP train …: rank 1 has a fault of `FAULTS` in this step. Waits are short.
"""

from __future__ import annotations

import os
import signal
import sys

import pytest

from helpers import cupy_stand_in, nccl_stand_in
from tinyddpm.cli import main
from tinyddpm.distributed import watch
from tinyddpm.distributed.launch import launched
from tinyddpm.distributed.nccl import NCCL
from tinyddpm.training.trainer import StepResult, Trainer

FAULTS = ("stops", "stops, and the device is deaf", "gives up", "stops in its sum", "stops after it")


def stop() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def fail(fault: str, step: int) -> None:
    cupy_stand_in.install(monkeypatch := pytest.MonkeyPatch())
    nccl_stand_in.install(monkeypatch)
    nccl_stand_in.deaf = "deaf" in fault
    watch.BEAT, watch.SILENCE, watch.NOTICE, watch.PATIENCE = 0.2, 4.0, 0.5, 3.0
    watch.PATIENCE = 3.0 if nccl_stand_in.deaf else 100.0
    train_step = Trainer.train_step

    def do(self: Trainer) -> StepResult:
        here = launched().rank == 1 and self.step + 1 == step
        if here and fault == "gives up":
            raise MemoryError("Unable to allocate 40.0 GiB for an array")
        if here and fault == "stops in its sum":
            NCCL.sum_ = lambda *_: stop()  # type: ignore[method-assign]
        elif here and fault != "stops after it":
            stop()
        result = train_step(self)
        if here:
            stop()
        return result

    Trainer.train_step = do  # type: ignore[method-assign]
    main(prog_name="tinyddpm")


if __name__ == "__main__":
    fault, step, *sys.argv[1:] = sys.argv[1:]
    fail(fault, int(step))

"""Waits until all processes of a run have started, and reports the missing ones to the user."""

from __future__ import annotations

import os
import socket
import sys
import time
from datetime import timedelta

from torch.distributed import PrefixStore, Store, TCPStore

from diffguard.errors import UserError
from diffguard.printing import say

# A machine may need minutes to read the libraries from a busy network disk.
PATIENCE_SECONDS = 300.0
_NOTICE_SECONDS = 10.0
_POLL_SECONDS = 0.1


def meet(host: str, port: int, rank: int, world: int, advice: str = "") -> Store:
    """Wait until every process has started.

    Missing processes are reported after ten seconds.

    Args:
        host: Address of the first process.
        port: The port at which it listens.
        rank: Rank of this process.
        world: Number of processes.
        advice: What a user may do about missing processes; the messages end with it.

    Returns:
        The store at which they met. The server of the first process exists as long as the store.

    Raises:
        UserError: If a process is missing for five minutes, or the first one is lost.
    """
    wait = _Wait(world, advice)
    store = _open_store(host, port, rank, wait)
    try:
        store.set(f"here/{rank}", "")
        while missing := [r for r in range(world) if not store.check([f"here/{r}"])]:
            wait.report(missing, prints=rank == min(set(range(world)) - set(missing)))
            time.sleep(_POLL_SECONDS)
    except RuntimeError as error:  # torch's error for a lost connection
        raise UserError(
            "the first process ended before all processes had started: see its message, "
            "then start again"
        ) from error
    return store


def _open_store(host: str, port: int, rank: int, wait: _Wait) -> Store:
    # torchrun's agent holds the store of its processes and keeps it when it restarts them.
    by_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    is_server = rank == 0 and not by_agent
    # For a server that is not running yet, torch prints pages of internals.
    while not is_server and not _listens(host, port):
        wait.report([0], prints=True)
        time.sleep(_POLL_SECONDS)
    try:
        store = TCPStore(
            host,
            port,
            is_master=is_server,
            wait_for_workers=False,
            multi_tenant=True,  # Lightning opens it again on the same port
            timeout=timedelta(seconds=PATIENCE_SECONDS),
        )
    except RuntimeError as error:
        raise UserError(
            f"the processes cannot be connected at {host}, port {port} "
            f"({str(error).splitlines()[0]}): name another MASTER_ADDR or MASTER_PORT"
        ) from error
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return PrefixStore(f"diffguard/{attempt}", store)


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5.0):
            return True
    except OSError:
        return False


class _Wait:
    """Reports that processes are missing, once, and gives up in the end."""

    def __init__(self, world: int, advice: str) -> None:
        self.world, self.advice = world, advice
        self._began = time.monotonic()
        self._reported = False

    def report(self, missing: list[int], *, prints: bool) -> None:
        """Report missing ranks if it is time to; raise `UserError` if it is too late."""
        waited = time.monotonic() - self._began
        ranks = ", ".join(map(str, missing[:8])) + (", …" if len(missing) > 8 else "")
        absent = f"{len(missing)} of {self.world} processes"
        if waited >= PATIENCE_SECONDS:
            raise UserError(
                f"{absent} did not start within {waited / 60:.0f} minutes (missing: rank {ranks}): "
                f"check whether one has failed, then start again{self.advice}"
            )
        if waited >= _NOTICE_SECONDS and not self._reported:
            self._reported = True
            if prints:
                say(
                    f"waiting for {absent} to start (missing: rank {ranks}){self.advice}",
                    file=sys.stderr,
                )

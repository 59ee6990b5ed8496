"""Deaths that were their node's: a spot node that is taken away is no fault of the workers on it.

A process that vanishes with its node looks like one that crashed, until Ray has given the node up, seconds later. So a
death is held against the worker first, and forgiven when its node turns out to be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from dataclasses import dataclass

from services.fleet.supervision.actors import Worker

DOUBT_S = 120.0
"""Ray takes 15 s to give up a node that says nothing, and longer where it is busy."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Death:
    """Of a slot's process."""

    slot: str
    at: float  # on the supervisor's clock
    worker: Worker


class Inquest:
    """The recent deaths whose cause is open."""

    def __init__(self, lost_nodes: Callable[[], Set[str]]) -> None:
        """lost_nodes: which nodes of the cluster are no more; asked only while a death is open."""
        self._lost_nodes = lost_nodes
        self._open: list[Death] = []

    def add(self, death: Death) -> None:
        """A process has died."""
        self._open.append(death)

    def close(self, now: float) -> list[Death]:
        """Those that turn out to be their node's; each is told once."""
        if not self._open:
            return []
        nodes = self._lost_nodes()
        found = [death for death in self._open if death.worker.died_with(nodes)]
        self._open = [death for death in self._open if death not in found and now - death.at < DOUBT_S]
        return found

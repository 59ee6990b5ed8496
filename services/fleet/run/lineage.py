"""The surviving lineage: which weights, by their content, belong to the history that the run will end with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rollout.types import WeightsVersion
from services.data.wire import WireVersion
from services.fleet.messages import Progress


def resumed(found: Progress | None, told: Sequence[tuple[int, int]]) -> Progress:
    """Where a new start begins: at the checkpoint that it found, if any, under a lineage and above every version that
    an earlier start has used, or may have used. told: version and lineage of every update in the history.
    """
    if found is None and not told:
        return Progress()
    start = found or Progress()
    versions, lineages = zip((start.version, start.lineage), *told, strict=True)
    return replace(start, version=max(versions) + 1, lineage=max(lineages) + 1)  # one may be published and not told


class Lineage:
    """The digests of the last updates' weights. A group drawn with any others is of a history that was given up.

    Told apart by digest and not by version: a learner that was replaced publishes the same weights under a new number,
    and what was drawn with them stays what it was.
    """

    def __init__(self, max_staleness: int) -> None:
        self._keep = max_staleness + 1
        self._digests: dict[int, str] = {}

    def back_to(self, update: int) -> None:
        """The run goes back to this update: the weights of later ones are lost."""
        self._digests = {at: digest for at, digest in self._digests.items() if at <= update}

    def add(self, version: WeightsVersion) -> None:
        """These are the weights behind their update."""
        self._digests[version.update] = version.digest
        for update in sorted(self._digests)[: -self._keep]:
            del self._digests[update]

    def digest(self, update: int) -> str | None:
        """Of the weights behind an update; None if it is too long ago, or not yet made."""
        return self._digests.get(update)

    def holds(self, version: WireVersion) -> bool:
        """Whether these weights may have drawn a group that is still to be trained on."""
        return self._digests.get(version.update) == version.digest

"""What a slot has done over all its processes: figures that do not vanish with one of them."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from rewards.tally import Tally
from services.fleet.supervision.heartbeat import Beat


class Totals(msgspec.Struct, frozen=True, kw_only=True):
    """Sums over a slot's processes."""

    busy_s: float = 0.0
    idle_s: float = 0.0
    groups: int = 0
    images: int = 0
    rewards: Mapping[str, Tally] = {}


NOTHING = Totals()


def add_beat(past: Totals, beat: Beat) -> Totals:
    """The totals of former processes and of the one that beats."""
    return Totals(
        busy_s=past.busy_s + beat.busy_s,
        idle_s=past.idle_s + beat.idle_s,
        groups=past.groups + beat.groups,
        images=past.images + beat.images,
        rewards=_added(past.rewards, beat.rewards),
    )


def _added(past: Mapping[str, Tally], now: Mapping[str, Tally]) -> dict[str, Tally]:
    return {name: past.get(name, Tally()).ended() + now.get(name, Tally()) for name in {**past, **now}}

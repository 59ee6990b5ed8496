"""Does the policy get better, or does it learn to please its reward? A held-out panel's looks, and what they say.

A *look* scores the same prompts and seeds with the trained rewards and with a panel that nothing is trained on. The
policy *diverges* where a panel score has fallen from its best look while a trained reward rose. As the images of two
looks differ by nothing but the weights, differences are paired: image by image, with one standard error.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np

from services.data.whole_file import write_whole

FILE = "looks.jsonl"
CERTAIN = 2.0
"""Standard errors that a fall must be larger than to count: about one chance in forty under no change."""


class Look(msgspec.Struct, frozen=True, kw_only=True):
    """What the panel saw after an update; scores are per image, always in the same order."""

    update: int
    trained: dict[str, list[float]]  # by reward
    panel: dict[str, list[float]]  # by held-out reward
    statistics: dict[str, float]  # of the pictures


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How scores are compared."""

    widths: Mapping[str, float]  # by held-out reward: the width of its range
    signs: Mapping[str, float]  # by trained reward: 1, or -1 where its weight is negative
    fall: float  # in widths: so much below the best is divergence
    looks: int  # in a row


@dataclass(frozen=True, slots=True, kw_only=True)
class Fall:
    """A held-out reward against its best look."""

    reward: str
    best_update: int
    fall: float  # of the mean, in widths of its range; 0 at the best look
    error: float  # standard error of the same
    risen: str | None  # a trained reward that rose meanwhile
    diverges: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What all looks together say."""

    best_update: int  # the look that the panel as a whole likes best, the earliest of equals
    falls: tuple[Fall, ...]  # one per held-out reward, at the last look
    hacked: tuple[str, ...]  # held-out rewards that diverged in so many looks in a row


def judge(looks: Sequence[Look], scale: Scale) -> Verdict:
    """The verdict after the last of the looks, of which there is at least one, updates rising."""
    last = falls(looks, scale)
    recent = [falls(looks[: end + 1], scale) for end in range(max(0, len(looks) - scale.looks), len(looks))]
    hacked = [
        fall.reward
        for place, fall in enumerate(last)
        if len(recent) == scale.looks and all(found[place].diverges for found in recent)
    ]
    best = max(looks, key=lambda look: (_standing(look, scale), -look.update))
    return Verdict(best_update=best.update, falls=last, hacked=tuple(hacked))


def falls(looks: Sequence[Look], scale: Scale) -> tuple[Fall, ...]:
    """How far each held-out reward stands below its best look, at the last of the looks."""
    now = looks[-1]
    found = []
    for name, scores in now.panel.items():
        best = max(looks, key=lambda look: (float(np.mean(look.panel[name])), -look.update))
        lost = (np.asarray(best.panel[name]) - np.asarray(scores)) / scale.widths[name]
        fall, error = float(lost.mean()), _standard_error(lost)
        risen = _risen(best, now, scale)
        diverges = fall >= scale.fall and fall > CERTAIN * error and risen is not None
        found.append(Fall(reward=name, best_update=best.update, fall=fall, error=error, risen=risen, diverges=diverges))
    return tuple(found)


def _risen(before: Look, now: Look, scale: Scale) -> str | None:
    """The trained reward that rose most certainly, in standard errors; None if none did."""
    gains = {}
    for name, scores in now.trained.items():
        gain = scale.signs[name] * (np.asarray(scores) - np.asarray(before.trained[name]))
        mean, error = float(gain.mean()), _standard_error(gain)
        if mean > 0.0:
            gains[name] = mean / error if error > 0.0 else math.inf
    return max(gains, key=lambda name: gains[name]) if gains else None


def _standing(look: Look, scale: Scale) -> float:
    return float(np.mean([np.mean(scores) / scale.widths[name] for name, scores in look.panel.items()]))


def _standard_error(values: np.ndarray) -> float:
    return float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else 0.0


def sentence(fall: Fall) -> str:
    """A divergence in words."""
    return (
        f"held-out reward {fall.reward} fell by {fall.fall:.3f} +- {fall.error:.3f} of its range since update "
        f"{fall.best_update}, while {fall.risen} rose"
    )


def append_look(folder: Path, look: Look) -> None:
    """Keep a look in the run folder."""
    with (folder / FILE).open("ab") as file:
        file.write(msgspec.json.encode(look) + b"\n")


def read_looks(folder: Path) -> list[Look]:
    """The surviving looks: of an update that was made twice the later one, and none that came after it. A torn last
    line is left out.
    """
    path = folder / FILE
    kept: list[Look] = []
    for line in path.read_bytes().split(b"\n")[:-1] if path.exists() else []:
        look = msgspec.convert(json.loads(line), Look)
        while kept and kept[-1].update >= look.update:
            kept.pop()
        kept.append(look)
    return kept


def keep_until(folder: Path, update: int) -> list[Look]:
    """The looks up to an update; later ones, which a return to a checkpoint took back, are dropped from the file."""
    kept = [look for look in read_looks(folder) if look.update <= update]
    path = folder / FILE
    if path.exists():
        write_whole(path, b"".join(msgspec.json.encode(look) + b"\n" for look in kept))
    return kept

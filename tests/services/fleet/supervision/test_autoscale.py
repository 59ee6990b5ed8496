"""Automatic scaling: what is decided from what was seen, and where a fleet comes to rest."""

import pytest

from services.config import ScalingConfig
from services.fleet.supervision.autoscale import Seen, workers_wanted


@pytest.mark.parametrize(
    ("workers", "busy", "waiting", "wanted"),
    [
        (4, 0.95, 6.0, 6),  # nobody has time, and work waits: half as many again
        (2, 0.95, 3.0, 3),
        (3, 0.95, 3.0, 5),
        (4, 0.95, 3.9, 4),  # less waits than a piece for each: those that are there will have it soon
        (4, 0.79, 9.0, 4),  # work waits, though there is time: for something else than workers
        (4, 0.49, 0.0, 3),  # half of the time is idle
        (4, 0.49, 1.0, 4),
        (4, 0.51, 0.0, 4),
        (7, 0.99, 99.0, 8),  # not above the most
        (2, 0.0, 0.0, 2),  # not below the least
        (1, 0.6, 0.0, 2),  # back between the bounds, whatever was seen
        (12, 0.6, 0.0, 8),
    ],
)
def test_what_is_wanted(workers, busy, waiting, wanted) -> None:
    assert workers_wanted(Seen(workers=workers, busy=busy, waiting=waiting), least=2, most=8) == wanted


@pytest.mark.parametrize("load", [0.3, 1.0, 2.6, 5.5, 40.0])
@pytest.mark.parametrize("start", [1, 4, 16])
def test_under_a_constant_load_a_fleet_comes_to_rest_and_stays_there(load, start) -> None:
    """load: how many workers the work would keep busy."""
    sizes = [start]
    for _ in range(60):
        n = sizes[-1]
        waiting = 3.0 * n if load > n else 0.0
        sizes.append(workers_wanted(Seen(workers=n, busy=min(1.0, load / n), waiting=waiting), least=1, most=16))
    assert len(set(sizes[30:])) == 1, sizes
    assert sizes[-1] >= min(load, 16), "work is left for which there is nobody"
    assert sizes[-1] <= max(1, 2 * load + 1), "more than half of the fleet idles"


def test_bounds_that_fall_are_refused() -> None:
    with pytest.raises(ValueError, match=r"scaling\.rollout: expected \[fewest, most\], found \[3, 2\]"):
        ScalingConfig(rollout=(3, 2))

"""Which weights may have drawn what is trained."""

from rollout.types import WeightsVersion
from services.data.wire import WireVersion
from services.fleet.messages import Progress
from services.fleet.run.lineage import Lineage, resumed


def version(number: int, update: int, digest: str) -> WeightsVersion:
    return WeightsVersion(version=number, update=update, lineage=0, digest=digest)


def drawn_by(number: int, update: int, digest: str) -> WireVersion:
    return WireVersion.of(version(number, update, digest))


def test_the_last_updates_weights_survive_and_older_or_unknown_ones_do_not() -> None:
    lineage = Lineage(max_staleness=1)
    for update in range(4):
        lineage.add(version(update + 1, update, f"d{update}"))
    assert lineage.holds(drawn_by(4, 3, "d3"))
    assert lineage.holds(drawn_by(3, 2, "d2"))
    assert not lineage.holds(drawn_by(2, 1, "d1")), "too stale to be trained on"
    assert not lineage.holds(drawn_by(9, 3, "of a learner that died"))


def test_the_same_weights_under_a_new_number_are_the_same_weights() -> None:
    lineage = Lineage(max_staleness=0)
    lineage.add(version(4, 3, "d3"))
    lineage.add(version(6, 3, "d3"))
    assert lineage.holds(drawn_by(4, 3, "d3"))


def test_after_a_rollback_the_lost_updates_weights_are_outside() -> None:
    lineage = Lineage(max_staleness=2)
    for update in range(3):
        lineage.add(version(update + 1, update, f"d{update}"))
    lineage.back_to(1)
    lineage.add(version(5, 1, "d1"))
    assert lineage.holds(drawn_by(2, 1, "d1"))
    assert lineage.holds(drawn_by(1, 0, "d0"))
    assert not lineage.holds(drawn_by(3, 2, "d2"))
    assert lineage.digest(2) is None


def test_no_start_uses_a_version_or_a_lineage_that_an_earlier_one_has_used() -> None:
    assert resumed(None, []) == Progress()
    checkpoint = Progress(update=3, version=4, lineage=1, consumed=((0, 6),), images_total=24)
    after = resumed(checkpoint, [(2, 1), (3, 1), (4, 1)])
    assert (after.update, after.version, after.lineage, after.consumed) == (3, 5, 2, ((0, 6),))
    behind = resumed(checkpoint, [(4, 1), (6, 2), (7, 2)])  # one start wrote no checkpoint
    assert (behind.version, behind.lineage) == (8, 3)
    anew = resumed(None, [(2, 0), (3, 0)])  # the first start was killed before its first checkpoint
    assert (anew.update, anew.version, anew.lineage, anew.consumed) == (0, 4, 1, ())

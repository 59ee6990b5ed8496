"""What a run has consumed is a few intervals, however long it runs."""

from services.data.ledger import with_ordinals


def test_consumed_ordinals_merge_into_intervals() -> None:
    assert with_ordinals((), [3, 1, 2]) == ((1, 4),)
    assert with_ordinals(((0, 2),), [2, 5]) == ((0, 3), (5, 6))
    assert with_ordinals(((0, 3), (5, 6)), [3, 4]) == ((0, 6),)

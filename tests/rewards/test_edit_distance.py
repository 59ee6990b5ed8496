import pytest
from hypothesis import given
from hypothesis import strategies as st

from rewards.edit_distance import character_error_rate, edit_distance

TEXTS = st.text(alphabet="abc1", max_size=7)


@given(TEXTS, TEXTS)
def test_the_distance_is_zero_exactly_for_equal_texts(a: str, b: str) -> None:
    assert (edit_distance(a, b) == 0) == (a == b)


@given(TEXTS, TEXTS)
def test_the_distance_is_the_same_both_ways_and_after_reversal(a: str, b: str) -> None:
    assert edit_distance(a, b) == edit_distance(b, a) == edit_distance(a[::-1], b[::-1])


@given(TEXTS, TEXTS, TEXTS)
def test_a_detour_is_never_shorter(a: str, b: str, c: str) -> None:
    assert edit_distance(a, c) <= edit_distance(a, b) + edit_distance(b, c)


@given(TEXTS, TEXTS)
def test_the_distance_lies_between_the_difference_of_lengths_and_the_longer_length(a: str, b: str) -> None:
    assert abs(len(a) - len(b)) <= edit_distance(a, b) <= max(len(a), len(b))


@given(TEXTS, TEXTS, TEXTS)
def test_a_common_beginning_does_not_count(shared: str, a: str, b: str) -> None:
    assert edit_distance(shared + a, shared + b) == edit_distance(a, b)


@given(TEXTS, TEXTS)
def test_texts_without_a_common_character_differ_by_the_longer_length(a: str, b: str) -> None:
    upper = b.upper().replace("1", "2")
    assert edit_distance(a, upper) == max(len(a), len(b))


def test_kitten_is_three_edits_from_sitting() -> None:
    assert edit_distance("kitten", "sitting") == 3


@pytest.mark.parametrize(
    ("read", "target", "rate"),
    [("42", "42", 0), ("", "42", 1), ("abc", "x", 3), ("420", "42", 0.5), ("yelp", "help", 0.25)],
)
def test_the_error_rate_counts_edits_per_character_of_the_target(read: str, target: str, rate: float) -> None:
    assert character_error_rate(read, target) == rate


def test_the_error_rate_of_an_empty_target_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one character"):
        character_error_rate("42", "")

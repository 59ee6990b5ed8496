import numpy as np
import pytest
from numpy.typing import NDArray

from rewards.exact_match import exact_match
from rewards.ocr import TextRendering
from rewards.reward import checked


class Recited:
    """A reader that recites texts given beforehand."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)

    def read(self, images: NDArray[np.uint8]) -> list[str]:
        return self.texts


def blank(count: int) -> NDArray[np.uint8]:
    return np.zeros((count, 2, 2, 3), np.uint8)


@pytest.mark.parametrize(
    ("read", "target", "score"),
    [
        ("42", "42", 1), ("41", "42", 0.5), ("", "42", 0), ("999999", "42", 0), ("help", "hello", 0.6),
        ("Exit", "exit", 0.75), (" 42 ", "42", 1), ("42", " 42\n", 1), ("4 2", "42", 0.5),
    ],
)  # fmt: skip
def test_the_score_is_one_minus_the_character_error_rate_but_not_below_zero(read, target, score) -> None:
    reward = TextRendering(reader=Recited(read))
    assert reward(blank(1), ["p"], [{"target": target}]) == pytest.approx([score])


def test_a_picture_of_the_target_scores_one_and_of_another_number_less(draw, tiny) -> None:
    reward = TextRendering(reader=tiny)
    targets = [{"target": "42"}, {"target": "43"}, {"target": "17"}]
    scores = checked(reward, draw(["42", "42", "42"]), ["p"] * 3, targets)
    np.testing.assert_array_equal(scores, np.array([1, 0.5, 0], np.float32))
    assert scores.dtype == np.float32


@pytest.mark.parametrize("target", [42, None, "", "  "])
def test_a_target_that_is_no_text_is_refused_with_its_place(target) -> None:
    reward = TextRendering(reader=Recited("42", "42"))
    with pytest.raises(ValueError, match=r"'target' at prompt 1; found .* change it in the prompt file"):
        reward(blank(2), ["p", "p"], [{"target": "42"}, {"target": target}])


def test_exact_match_ignores_outer_whitespace_and_nothing_else() -> None:
    reader = Recited("42", " 42", "42", "4 2", "ab", "")
    matches = exact_match(reader, blank(6), ["42", "42", "42 ", "42", "AB", "42"])
    assert matches.dtype == np.bool_
    assert matches.tolist() == [True, True, True, False, False, False]


def test_exact_match_with_the_judge_tells_right_pictures_from_wrong_ones(draw, judge) -> None:
    matches = exact_match(judge, draw(["42", "17", "60"]), ["42", "71", "60"])
    assert matches.tolist() == [True, False, True]


def test_exact_match_of_no_images_is_empty(judge) -> None:
    assert exact_match(judge, blank(0), []).shape == (0,)


def test_exact_match_wants_one_target_per_image() -> None:
    with pytest.raises(ValueError, match="expected 2 targets, one per image; found 1"):
        exact_match(Recited("1", "2"), blank(2), ["1"])

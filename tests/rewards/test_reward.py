import numpy as np
import pytest

from rewards.reward import BadScoresError, RewardError, checked


class Answers:
    """A reward that gives a prepared answer, or raises it."""

    name = "answers"
    range = (0.0, 1.0)
    required_metadata = ("target",)
    compares = False

    def __init__(self, answer: object) -> None:
        self.answer = answer

    def __call__(self, images, prompts, metadata):
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def ask(answer: object, images: object = None, prompts: object = None, metadata: object = None):
    images = np.zeros((2, 4, 4, 3), np.uint8) if images is None else images
    metadata = [{"target": "1"}, {"target": "2"}] if metadata is None else metadata
    return checked(Answers(answer), images, ["first", "second"] if prompts is None else prompts, metadata)


def test_good_scores_pass_unchanged_as_float32() -> None:
    scores = ask(np.array([0.25, -7.5]))
    assert scores.dtype == np.float32
    assert scores.tolist() == [0.25, -7.5]


def test_no_images_have_no_scores() -> None:
    empty = np.zeros(0, np.float32)
    assert ask(empty, images=np.zeros((0, 4, 4, 3), np.uint8), prompts=[], metadata=[]).shape == (0,)


@pytest.mark.parametrize(
    ("answer", "complaint"),
    [
        (np.zeros(3, np.float32), r"expected 2 scores; found shape \(3,\)"),
        (np.zeros((2, 1), np.float32), r"expected 2 scores; found shape \(2, 1\)"),
        (np.float32(0), r"expected 2 scores; found shape \(\)"),
        (None, r"expected 2 scores; found shape \(\)"),
        (np.zeros(2, np.int64), "expected floating-point scores; found int64"),
        (np.array([0, np.nan], np.float32), "found 1 of 2 .* the first at image 1: nan for prompt 'second'"),
        (np.array([np.inf, -np.inf]), "found 2 of 2 .* the first at image 0: inf for prompt 'first'"),
        (np.array([0, 1e300]), "expected finite float32 scores; found 1 of 2"),
    ],
    ids=["too many", "a column", "a scalar", "nothing", "integers", "nan", "infinities", "beyond float32"],
)
def test_an_answer_that_is_not_one_finite_float_per_image_is_an_error(answer, complaint) -> None:
    with pytest.raises(BadScoresError, match=complaint) as caught:
        ask(answer)
    assert isinstance(caught.value, RewardError)
    assert "'answers'" in str(caught.value)


def test_what_the_reward_raises_passes_through() -> None:
    failure = RuntimeError("the model is gone")
    with pytest.raises(RuntimeError) as caught:
        ask(failure)
    assert caught.value is failure


def test_a_missing_metadata_key_is_named_with_its_prompt_and_what_is_there() -> None:
    complaint = r"key 'target' at prompt 1; found keys: 'text'; add it in the prompt file"
    with pytest.raises(ValueError, match=complaint):
        ask(np.zeros(2), metadata=[{"target": "1"}, {"text": "2"}])


def test_prompts_and_metadata_must_be_as_many_as_the_images() -> None:
    with pytest.raises(ValueError, match="expected 2 prompts, one per image; found 1"):
        ask(np.zeros(2), prompts=["only"])
    with pytest.raises(ValueError, match="expected 2 metadata, one per image; found 3"):
        ask(np.zeros(2), metadata=[{"target": "1"}] * 3)


def test_float_images_are_refused_before_the_reward_sees_them() -> None:
    with pytest.raises(ValueError, match=r"uint8; found .* float64"):
        ask(AssertionError("the reward was asked"), images=np.zeros((2, 4, 4, 3)))

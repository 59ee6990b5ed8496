"""What a reward is, what a reader of text is, and the check that every reward's answer passes.

Exceptions of this room:

    RewardError                a reward could not give scores; never replaced by 0, the group is not scored
    |-- BadScoresError         it answered, but not with n finite floating-point numbers
    `-- MissingModelError      the package that ships its network is not installed, or is not the expected one

A mistake of the user (an unknown name, option or metadata key) is a ValueError instead.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray


class RewardError(Exception):
    """A reward could not give scores."""


class BadScoresError(RewardError):
    """A reward's answer is not one finite floating-point number per image."""


class MissingModelError(RewardError):
    """A network's files are not where their package should have put them."""


class Reward(Protocol):
    """Scores images: higher is better.

    Equal images, prompts and metadata get equal scores, whatever was scored before and, unless it `compares`, in
    whatever batch.
    """

    @property
    def name(self) -> str:
        """The name under which the scores appear in metrics and reports."""

    @property
    def range(self) -> tuple[float, float]:
        """The lowest and the highest score to expect, lowest first.

        Its width is the reward's unit: the learner's advantage floor is 0.01 of it. A score outside is legal.
        """

    @property
    def required_metadata(self) -> tuple[str, ...]:
        """The metadata keys every prompt must have, so that a prompt file can be checked before a start."""

    @property
    def compares(self) -> bool:
        """Whether a score depends on the other images of the call, as a win rate does. Such a reward is always asked
        about all images of one group and about no others.
        """

    def __call__(
        self,
        images: NDArray[np.uint8],  # [n, H, W, 3] RGB
        prompts: Sequence[str],  # n
        metadata: Sequence[Mapping[str, Any]],  # n
    ) -> NDArray[np.float32]:  # [n]
        """One score per image."""


class Reader(Protocol):
    """Reads the text in images."""

    def read(self, images: NDArray[np.uint8]) -> list[str]:
        """The text in each of n images [n, H, W, 3] uint8 RGB; an empty string where none is seen."""


def checked(
    reward: Reward,
    images: NDArray[np.uint8],
    prompts: Sequence[str],
    metadata: Sequence[Mapping[str, Any]],
) -> NDArray[np.float32]:
    """The reward's scores [n] float32, known to be finite and one per image.

    images [n, H, W, 3] uint8 RGB; prompts and metadata of length n. Raises BadScoresError if the answer has
    another length, is not floating-point or is not finite in float32; ValueError if the question itself is
    malformed or lacks a required metadata key. What the reward raises passes through. No score is ever
    replaced.
    """
    check_images(images)
    count = len(images)
    for what, length in (("prompts", len(prompts)), ("metadata", len(metadata))):
        if length != count:
            message = f"reward {reward.name!r}: expected {count} {what}, one per image; found {length}"
            raise ValueError(message)
    check_metadata(reward, metadata)

    scores = np.asarray(reward(images, prompts, metadata))
    if scores.shape != (count,):
        raise BadScoresError(f"reward {reward.name!r}: expected {count} scores; found shape {scores.shape}")
    if not np.issubdtype(scores.dtype, np.floating):
        raise BadScoresError(f"reward {reward.name!r}: expected floating-point scores; found {scores.dtype}")
    with np.errstate(over="ignore"):
        narrow = scores.astype(np.float32)
    bad = np.flatnonzero(~np.isfinite(narrow))
    if bad.size:
        first = int(bad[0])
        raise BadScoresError(
            f"reward {reward.name!r}: expected finite float32 scores; found {bad.size} of {count} that are "
            f"not, the first at image {first}: {scores[first]} for prompt {prompts[first]!r}"
        )
    return narrow


def check_images(images: NDArray[np.uint8]) -> None:
    """Raise ValueError unless the images are [n, H, W, 3] uint8 with at least one pixel each."""
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] != 3 or 0 in images.shape[1:]:
        raise ValueError(f"expected images [n, H, W, 3] uint8; found {list(images.shape)} {images.dtype}")


def check_metadata(reward: Reward, metadata: Sequence[Mapping[str, Any]]) -> None:
    """Raise ValueError if a prompt lacks a metadata key that the reward requires."""
    for index, entry in enumerate(metadata):
        for key in reward.required_metadata:
            if key not in entry:
                found = ", ".join(map(repr, entry)) or "none"
                raise ValueError(
                    f"reward {reward.name!r}: expected metadata key {key!r} at prompt {index}; "
                    f"found keys: {found}; add it in the prompt file"
                )

"""A reward the user wrote, named in the run file by its import path `package.module:name`.

`name` is either a function of three arguments, without options,

    def brightness(images, prompts, metadata):      # uint8 [n, H, W, 3], n texts, n mappings
        return images.mean(axis=(1, 2, 3)) / 255    # n numbers, higher is better

or a class that is instantiated with the run file's options and whose objects are called like that function.
Either may carry the attributes `range`, by default (0.0, 1.0), `required_metadata`, by default (), and `compares`, by
default False.
"""

import importlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rewards.options import call_with_options
from rewards.reward import BadScoresError

DEFAULT_RANGE = (0.0, 1.0)

_CHANGE_IT = "change it under rewards[i].use in the run file"


@dataclass(frozen=True, slots=True, kw_only=True)
class UserReward:
    """A user's callable with the attributes of a Reward."""

    name: str
    range: tuple[float, float]
    required_metadata: tuple[str, ...]
    compares: bool
    score: Callable[..., Any]

    def __call__(
        self, images: NDArray[np.uint8], prompts: Sequence[str], metadata: Sequence[Mapping[str, Any]]
    ) -> NDArray[np.float32]:
        """The user's scores as float32; whole numbers and bools count as numbers.

        Raises BadScoresError for anything else.
        """
        answer = self.score(images, prompts, metadata)
        try:
            scores = np.asarray(answer)
        except ValueError as error:
            message = f"reward {self.name!r}: expected one number per image; found: {error}"
            raise BadScoresError(message) from error
        if scores.dtype.kind not in "fiub":
            raise BadScoresError(f"reward {self.name!r}: expected an array of numbers; found {scores.dtype}")
        with np.errstate(over="ignore"):
            return scores.astype(np.float32)


def build_user_reward(use: str, options: Mapping[str, Any]) -> UserReward:
    """The user's reward at the import path `use`.

    Raises ValueError if the path does not lead to a function of three arguments or to a class that takes the
    options and whose objects take three arguments, or if its `range` or `required_metadata` is malformed.
    What the module raises while it is imported passes through, unless it is an ImportError.
    """
    return wrap_user_reward(use, _imported(use), options)


def wrap_user_reward(use: str, found: object, options: Mapping[str, Any]) -> UserReward:
    """The reward that `found`, a user's function or class, makes with these options; `use` is its name.

    Raises ValueError as build_user_reward does.
    """
    score: object
    if inspect.isclass(found):
        score = call_with_options(found, options, use)
    elif options:
        raise ValueError(
            f"reward {use!r}: expected no options, for a function takes none; found {', '.join(options)}; "
            "make it a class that takes them, or remove them under rewards[i].options in the run file"
        )
    else:
        score = found
    return UserReward(
        name=use,
        range=_range(use, getattr(score, "range", DEFAULT_RANGE)),
        required_metadata=_metadata_keys(use, getattr(score, "required_metadata", ())),
        compares=_flag(use, getattr(score, "compares", False)),
        score=_function_of_three(use, score),
    )


def _imported(use: str) -> object:
    module_name, _, attribute = use.partition(":")
    if not attribute.isidentifier() or not all(part.isidentifier() for part in module_name.split(".")):
        raise ValueError(f"expected an import path 'package.module:name'; found {use!r}; {_CHANGE_IT}")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"reward {use!r}: expected a module that can be imported; found: {error}; "
            f"put its folder on PYTHONPATH, or {_CHANGE_IT}"
        ) from error
    if attribute not in vars(module):
        raise ValueError(f"reward {use!r}: expected {attribute!r} in {module.__file__}; found none; {_CHANGE_IT}")
    return vars(module)[attribute]


def _function_of_three(use: str, score: object) -> Callable[..., Any]:
    expected = f"reward {use!r}: expected a function of (images, prompts, metadata), or a class of such"
    if not callable(score):
        raise ValueError(f"{expected}; found {type(score).__name__}; {_CHANGE_IT}")
    signature = inspect.signature(score)
    try:
        signature.bind(None, None, None)
    except TypeError as error:
        raise ValueError(f"{expected}; found the arguments {signature}; {_CHANGE_IT}") from error
    return score


def _range(use: str, found: object) -> tuple[float, float]:
    ends = list(found) if isinstance(found, tuple | list) else []
    numbers = [float(end) for end in ends if isinstance(end, int | float)]
    if len(ends) != 2 or len(numbers) != 2 or not -math.inf < numbers[0] < numbers[1] < math.inf:
        raise ValueError(
            f"reward {use!r}: expected its `range` to be two finite numbers, lowest first; found {found!r}; "
            "change it beside the reward's code"
        )
    return numbers[0], numbers[1]


def _metadata_keys(use: str, found: object) -> tuple[str, ...]:
    if not isinstance(found, tuple | list) or not all(isinstance(key, str) for key in found):
        raise ValueError(
            f"reward {use!r}: expected its `required_metadata` to be a tuple of texts; found {found!r}; "
            "change it beside the reward's code"
        )
    return tuple(found)


def _flag(use: str, found: object) -> bool:
    if not isinstance(found, bool):
        raise ValueError(
            f"reward {use!r}: expected its `compares` to be true or false; found {found!r}; "
            "change it beside the reward's code"
        )
    return found

"""Calls a builder with the options of a run file, and explains what does not fit."""

import difflib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

T = TypeVar("T")


def call_with_options(builder: Callable[..., T], options: Mapping[str, Any], use: str) -> T:
    """What the builder returns for these options. Raises as check_options; what the builder raises passes through."""
    check_options(builder, options, use)
    return builder(**options)


def check_options(builder: Callable[..., Any], options: Mapping[str, Any], use: str) -> None:
    """Raise ValueError, naming the reward as `use`, for an option that the builder does not take or one that it needs
    and did not get: its signature is the list of valid options.
    """
    parameters = inspect.signature(builder).parameters.values()
    known = [p.name for p in parameters if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)]
    takes_any = any(p.kind is p.VAR_KEYWORD for p in parameters)
    for option in options:
        if option not in known and not takes_any:
            raise ValueError(
                f"reward {use!r}: unknown option {option!r}; {_advice(option, known)}; "
                "change it under rewards[i].options in the run file"
            )
    needed = [p.name for p in parameters if p.name in known and p.default is p.empty]
    missing = [name for name in needed if name not in options]
    if missing:
        raise ValueError(
            f"reward {use!r}: expected the options {', '.join(needed)}; found no {', '.join(missing)}; "
            "add it under rewards[i].options in the run file"
        )


def nearest(word: str, valid: list[str]) -> str:
    """The valid word that looks most like the given one; valid is not empty."""
    return difflib.get_close_matches(word, valid, n=1, cutoff=0.0)[0]


def _advice(option: str, known: list[str]) -> str:
    if not known:
        return "it takes no options"
    return f"did you mean {nearest(option, known)!r}? It takes: {', '.join(known)}"

"""A reward that can be trained on, and fails as a test wants it to."""

import time
from pathlib import Path

import numpy as np


class Faulty:
    """How bright an image is, but for the calls that go wrong: "once" raises, answers with NaN and never answers, each
    once over all processes, in its process's call of that number or the first one behind it; "poison" raises whenever
    it sees this prompt; "none" does not fail.
    """

    range = (0.0, 1.0)
    required_metadata = ()
    compares = False

    def __init__(self, fault: str, marks: str, prompt: str = "", calls: tuple[int, ...] = (1, 2, 3)) -> None:
        self._fault = fault
        self._marks = Path(marks)
        self._prompt = prompt
        self._calls = dict(zip(("raise", "nan", "hang"), calls, strict=True))
        self._made = 0

    def __call__(self, images, prompts, metadata):
        if self._fault == "poison" and self._prompt in prompts:
            raise ValueError(f"cannot score {self._prompt!r}")
        self._made += 1
        if self._fault == "once":
            for kind, number in self._calls.items():
                if self._made >= number and self._first(kind):
                    return self._fail(kind, len(images))
        return images.mean(axis=(1, 2, 3)) / 255

    def _first(self, kind: str) -> bool:
        try:
            (self._marks / f"reward.{kind}").touch(exist_ok=False)
        except FileExistsError:
            return False
        return True

    def _fail(self, kind: str, count: int):
        if kind == "raise":
            raise ValueError("failed once")
        if kind == "hang":
            time.sleep(3600.0)
        return np.full(count, np.nan)

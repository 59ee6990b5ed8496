"""A reward that can be trained on, and fails as a test wants it to."""

import time
from pathlib import Path

import numpy as np


class Faulty:
    """How bright an image is, but for the calls that go wrong: "once" raises in its first call, answers its second with
    NaN and its third never, over all processes; "poison" raises whenever it sees this prompt; "none" does not fail.
    """

    range = (0.0, 1.0)
    required_metadata = ()
    compares = False

    def __init__(self, fault: str, marks: str, prompt: str = "") -> None:
        self._fault = fault
        self._marks = Path(marks)
        self._prompt = prompt

    def __call__(self, images, prompts, metadata):
        if self._fault == "poison" and self._prompt in prompts:
            raise ValueError(f"cannot score {self._prompt!r}")
        if self._fault == "once":
            for kind in ("raise", "nan", "hang"):
                if self._first(kind):
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

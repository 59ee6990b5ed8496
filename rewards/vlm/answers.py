"""What a judge has answered, kept by a digest of the whole question."""

import hashlib
import threading
from collections import OrderedDict


def digest(*parts: str) -> str:
    """A name for these texts in this order; no other texts have it."""
    hasher = hashlib.sha256()
    for part in parts:
        data = part.encode()
        hasher.update(len(data).to_bytes(8, "little"))
        hasher.update(data)
    return hasher.hexdigest()


class Answers:
    """Bodies of answers by digest; when full, the one that was not used for longest goes. Safe to use from threads."""

    def __init__(self, capacity: int) -> None:
        """`capacity` answers are kept; 0 = none."""
        self._capacity = capacity
        self._kept: OrderedDict[str, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def get(self, key: str) -> bytes | None:
        """The answer, None if it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def keep(self, key: str, body: bytes) -> None:
        """Keep an answer."""
        with self._lock:
            self._kept[key] = body
            while len(self._kept) > self._capacity:
                self._kept.popitem(last=False)

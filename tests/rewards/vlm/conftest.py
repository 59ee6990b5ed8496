from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from rewards.vlm.fake_server import FakeServer


@pytest.fixture
def server() -> Iterator[FakeServer]:
    fake = FakeServer()
    yield fake
    fake.close()


@pytest.fixture
def greys() -> NDArray[np.uint8]:
    """Four even pictures: black, a fifth, three fifths and all of white."""
    return np.stack([np.full((6, 8, 3), value, np.uint8) for value in (0, 51, 153, 255)])

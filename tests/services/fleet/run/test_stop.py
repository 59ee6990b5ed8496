"""The stop sign: what the first signal means, the second, and the third."""

import signal

import pytest
from rich.console import Console

from services.fleet.run.stop import StopSign


@pytest.fixture
def sign():
    with StopSign(Console(quiet=True)) as made:
        yield made


def test_the_first_signal_asks_the_second_hurries_and_the_third_interrupts(sign) -> None:
    with sign.heeded():
        signal.raise_signal(signal.SIGTERM)
        assert (sign.raised, sign.urgent) == (True, False)
        signal.raise_signal(signal.SIGINT)
        assert (sign.raised, sign.urgent) == (True, True)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)


def test_where_nobody_looks_whether_it_is_urgent_the_second_signal_interrupts(sign) -> None:
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGTERM)

"""The gradient's noise on a problem whose gradient is known."""

import numpy as np
import pytest

from tests.ablation.snr import CREDITS, behaviours, measured


@pytest.mark.parametrize("credit", CREDITS)
def test_every_credit_is_measured_on_every_transition(credit: str) -> None:
    bias, needed = measured(behaviours()["annealed 1"], credit, 8)
    assert bias.shape == needed.shape == (3,)
    assert np.all(np.isfinite(bias))
    assert np.all(needed > 0)

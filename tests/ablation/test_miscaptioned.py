import numpy as np
import pytest

from rewards.exact_match import exact_match
from rewards.ocr import build_tiny_recogniser
from tests.ablation.miscaptioned import captioned

COUNT = 240


@pytest.mark.parametrize("wrong", [0.0, 0.25, 1.0])
def test_so_many_captions_name_another_number_than_their_sharp_picture_shows(wrong):
    prompts, pictures = captioned(COUNT, np.random.default_rng(3), wrong)
    named = [text.split()[1] for text in prompts]
    right = exact_match(build_tiny_recogniser(), pictures, named).mean()
    expected = 0.99 * (1.0 - wrong * 89 / 90)  # one of the ninety numbers is the right one by chance
    assert right == pytest.approx(expected, abs=3.0 * np.sqrt(wrong * (1.0 - wrong) / COUNT) + 0.02)

import numpy as np
import pytest
import torch

from rollout.decoding import decode_all, decode_steps


class Decoders:
    """A decoder whose pixels are its latents, a preview that adds 100, and what each was called with."""

    def __init__(self):
        self.sizes = {"decode": [], "preview": []}

    def decode(self, x0):
        self.sizes["decode"].append(len(x0))
        return x0[:, :1].permute(0, 2, 3, 1).expand(-1, -1, -1, 3).to(torch.uint8)

    def preview(self, x0):
        self.sizes["preview"].append(len(x0))
        return self.decode(x0 + 100)


def clean(samples=3, steps=4):
    return torch.arange(samples * steps).view(samples, steps, 1, 1, 1).expand(-1, -1, 2, 2, 5).float()


@pytest.mark.parametrize("batch", [None, 1, 2, 100])
@pytest.mark.parametrize("steps", [(0, 1, 2, 3), (1, 3), (3,), (0, 2)])
def test_the_last_step_is_decoded_by_the_pipelines_decoder_and_the_others_by_the_preview(steps, batch):
    policy = Decoders()
    images = decode_steps(policy, clean(), steps, batch)
    assert images.steps == steps
    assert images.pixels.shape == (3, len(steps), 2, 5, 3)
    expected = [[4 * row + step + (0 if step == 3 else 100) for step in steps] for row in range(3)]
    assert np.array_equal(images.pixels[:, :, 0, 0, 0], expected)
    assert max(policy.sizes["decode"]) <= (batch or 12)


def test_in_batches_every_image_is_decoded_once_and_in_order():
    policy = Decoders()
    together = decode_all(policy.decode, clean())
    assert torch.equal(decode_all(policy.decode, clean(), 5), together)
    assert policy.sizes["decode"] == [12, 5, 5, 2]

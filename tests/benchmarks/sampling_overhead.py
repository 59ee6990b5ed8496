"""What sampling costs beside a network that is large enough to count: each family's sampler against the same calls of
its network alone.

    python -m tests.benchmarks.sampling_overhead [FAMILY ...]

The families' twins, with networks of 512 channels and several blocks (random; what they compute does not matter), draw
two samples of 256 image tokens in four steps at temperature 1. The floor is the network alone on the arguments that it
was given while sampling: packing, times, the kernel, noise and bookkeeping are all overhead. Both take turns; figures
are medians of CPU time on one thread. Prints a Markdown table.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import torch

from rollout.policies.build import PolicySpec, load_policy
from rollout.policies.twins.build import TWINS, save_twin
from rollout.process import process_of
from rollout.sampler import named_noise, sample
from rollout.types import Behaviour

SIDE = 64  # pixels; the twins' latents and patches make 16 x 16 tokens of it
SAMPLES, STEPS, ROUNDS = 2, 4, 7
HEADS, HEAD = 8, 64
ROPE = {"axes_dims_rope": (16, 24, 24)}
LARGE = {
    "sd3": {"num_layers": 4, "caption_projection_dim": HEADS * HEAD, "sample_size": 32, "pos_embed_max_size": 32},
    "flux1": {"num_layers": 2, "num_single_layers": 4, **ROPE},
    "flux2_klein": {"num_layers": 2, "num_single_layers": 4, "axes_dims_rope": (16, 16, 16, 16)},
    "sana_sprint": {
        "num_layers": 4,
        "num_cross_attention_heads": HEADS,
        "cross_attention_head_dim": HEAD,
        "cross_attention_dim": HEADS * HEAD,
    },
    "z_image": {"dim": HEADS * HEAD, "n_layers": 6, "n_heads": HEADS, "n_kv_heads": HEADS, "axes_dims": [16, 24, 24]},
    "qwen_image": {"num_layers": 4, **ROPE},
}
"""What is larger than in the twin, beside the heads."""


class Calls:
    """The arguments of a network's calls, to be made again."""

    def __init__(self, network):
        self._network, self._kept = network, []
        self._hook = network.register_forward_pre_hook(self._keep, with_kwargs=True)

    def _keep(self, _, arguments, named):
        self._kept.append((arguments, named))

    def close(self):
        """Keep no more; how many there are."""
        self._hook.remove()
        return len(self._kept)

    @torch.no_grad()
    def again(self):
        for arguments, named in self._kept:
            self._network(*arguments, **named)


def enlarged(family, folder):
    """The family's policy around a larger network of the twin's class."""
    spec = PolicySpec(folder=save_twin(family, folder), max_sequence_length=48)
    network = load_policy(spec).network
    heads = {} if family == "z_image" else {"num_attention_heads": HEADS, "attention_head_dim": HEAD}
    type(network).from_config({**network.config, **heads, **LARGE[family]}).save_pretrained(folder / "transformer")
    return load_policy(spec)


def seconds(call):
    started = time.process_time()
    call()
    return time.process_time() - started


def overhead(family, folder):
    """Parameters of the network, number of its calls, median seconds of these, median of sampling over them."""
    policy = enlarged(family, folder)
    how = Behaviour(sigmas=policy.sigmas(STEPS, SIDE, SIDE), temperatures=(1.0,) * STEPS, height=SIDE, width=SIDE)
    conditions = policy.encode(["a red dog on green grass"]).take([0] * SAMPLES)

    def draw():
        return sample(policy, conditions, process_of(how), named_noise(policy, how, 0, 0, range(SAMPLES)))

    calls = Calls(policy.network)
    draw()
    number = calls.close()
    rounds = [(seconds(calls.again), seconds(draw)) for _ in range(ROUNDS)]
    ratio = statistics.median(taken / floor for floor, taken in rounds)
    parameters = sum(parameter.numel() for parameter in policy.network.parameters())
    return parameters, number, statistics.median(floor for floor, _ in rounds), ratio


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("families", nargs="*", default=list(TWINS), metavar="FAMILY")
    chosen = parser.parse_args().families
    torch.set_num_threads(1)
    print("| family | parameters | calls | CPU of one | sampling over its calls |\n|---|---|---|---|---|")
    for family in chosen:
        with tempfile.TemporaryDirectory() as folder:
            parameters, number, floor, ratio = overhead(family, Path(folder))
        print(
            f"| {family} | {parameters / 1e6:.0f} M | {number} | {1000 * floor / number:.0f} ms | {ratio:.3f} |",
            flush=True,
        )


if __name__ == "__main__":
    main()

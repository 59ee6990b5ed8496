"""What every model family passes as a policy that is trained: `family_checks.py` says how a family is described."""

import numpy as np
import torch

from learner.batching import build_pairs
from learner.guard import TOLERANCE
from learner.loss import behaviour_means, log_ratio, means
from learner.ranks import Alone
from learner.update import Learner
from rollout.lora import MergedAdapter
from rollout.schedule import uniform_grid
from rollout.trained import digest_tensors, train_everything, trained_tensors
from rollout.types import Behaviour
from tests.rollout.policies.family_checks import PROMPTS, adapt, load
from tests.tiny_groups import draw_group, spec, with_values

ARRANGEMENTS = (  # dtype, adapter folded into the rollouts' weights, gradient checkpointing, pairs per network call
    ("float32", True, False, 48),
    ("float32", False, True, 3),
    ("bfloat16", False, True, 5),
)


def draw_scored(policy, family, size, index=0, num_samples=4):
    how = Behaviour(
        sigmas=uniform_grid(3), temperatures=(0.9,) * 3, height=size[0], width=size[1], guidance=family.guidance
    )
    return draw_group(policy, index, num_samples=num_samples, how=how, text=PROMPTS[index])


def check_the_ratio_guard_holds_in_every_arrangement(family, size):
    """Before the first optimizer step the learner finds the rollout's means, whatever is done for memory and speed on
    either side; two prompts of different lengths, encoded one by one by the rollouts and together by the learner.
    """
    for dtype, merged, checkpointing, micro_batch in ARRANGEMENTS:
        rollouts, trained = (adapt(load(family, dtype=dtype)) for _ in range(2))
        if merged:
            MergedAdapter(rollouts.network).refresh()
        if checkpointing:
            trained.network.enable_gradient_checkpointing()
        groups = [draw_scored(rollouts, family, size, index) for index in range(2)]
        report = Learner(trained, spec(micro_batch=micro_batch)).update(groups, guard=True)
        assert report.trained
        assert 0.0 <= report.guard_drift <= TOLERANCE[getattr(torch, dtype)]


def check_one_update_favours_the_better_sample(family, size, *, everything=False):
    """With an adapter, or with full fine-tuning."""
    policy = load(family)
    if everything:
        train_everything(policy.network)
    else:
        adapt(policy)
    before = digest_tensors(trained_tensors(policy.network))
    group = with_values(draw_scored(policy, family, size, num_samples=2), np.array([[0.0] * 3, [1.0] * 3]))
    Learner(policy, spec(rate=3e-5)).update([group], guard=True)
    assert digest_tensors(trained_tensors(policy.network)) != before
    pairs = build_pairs([group], [np.zeros((2, 2))])
    with torch.no_grad():
        v = policy.velocity(pairs.states, pairs.sigma, policy.encode([PROMPTS[0]]).take(pairs.prompt))
    moved = log_ratio(pairs.actions, behaviour_means(pairs), means(pairs, v), pairs.std, "centred").view(2, 2).sum(1)
    assert float(moved[1]) > float(moved[0])


class Listening(Alone):
    """One rank that keeps the gradients of every optimizer step."""

    def __init__(self):
        self.heard = []

    def sum(self, tensor):
        if tensor.dtype == torch.float32 and len(tensor) > 1:  # no vote, and no tally
            self.heard.append(tensor.clone())
        return tensor


def gradients(family, groups, **options):
    ranks = Listening()
    Learner(adapt(load(family)), spec(**options), ranks).update(groups, guard=True)
    return ranks.heard


def check_one_update_learns_from_groups_of_two_sizes(family, sizes):
    """Its gradient is the mean of what both would have given alone, in the order of their numbers, whichever came
    first; several optimizer steps share the pairs of both.
    """
    policy = adapt(load(family))
    groups = [
        draw_scored(policy, family, size, index, num_samples)
        for index, (size, num_samples) in enumerate(zip(sizes, (4, 2), strict=True))
    ]
    (first,), (second,), (both,), (turned,) = (
        gradients(family, chosen) for chosen in (groups[:1], groups[1:], groups, groups[::-1])
    )
    scale = float(both.abs().max())
    assert scale > 0.0
    torch.testing.assert_close(both, (4 * first + 2 * second) / 6, atol=1e-4 * scale, rtol=0)
    torch.testing.assert_close(turned, both, atol=1e-4 * scale, rtol=0)
    shared = gradients(family, groups, optimizer_steps=2, rate=1e-9, micro_batch=3)
    assert len(shared) == 2
    torch.testing.assert_close(sum(shared) / 2, both, atol=1e-2 * scale, rtol=0)

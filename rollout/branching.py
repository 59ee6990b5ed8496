"""Groups that share prefixes: several continuations of one state.

A branching (n_0, n_1, n_2, ...) gives a group n_0 initial noises, n_1 continuations of each by transition 0, n_2 of
each of those by transition 1, and so on; numbers that are left out are 1, and their product is G. Samples lie in the
order of the tree, so that those which share the state x[k] are `strides(...)[k]` neighbours. A shared state is computed
once. Siblings differ in one action alone: the mean of what follows each, against its siblings, is that action's exact
credit, free of what other states are worth (BranchGRPO, arXiv 2509.06040, is a relative).
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def strides(branching: Sequence[int], num_samples: int, num_steps: int) -> tuple[int, ...]:
    """How many neighbouring samples share each of the states x[0] .. x[K]; K + 1 numbers, falling to 1.

    () means independent samples. ValueError where the branching does not make num_samples.
    """
    if not branching:
        return (1,) * (num_steps + 1)
    if math.prod(branching) != num_samples or len(branching) > num_steps + 1:
        raise ValueError(
            f"a branching of {list(branching)} makes {math.prod(branching)} samples with {len(branching) - 1} "
            f"transitions; expected samples_per_group {num_samples} and at most {num_steps} transitions in `sampling`"
        )
    widths = (*branching, *(1,) * (num_steps + 1 - len(branching)))
    return tuple(num_samples // math.prod(widths[: level + 1]) for level in range(num_steps + 1))


def network_calls(branching: Sequence[int], num_samples: int, num_steps: int) -> int:
    """Rows that the network sees for one group, over all steps."""
    return sum(num_samples // stride for stride in strides(branching, num_samples, num_steps)[:-1])

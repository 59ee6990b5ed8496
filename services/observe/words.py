"""What the charts of the reports show, each in a sentence for somebody who has not read the paper."""

from __future__ import annotations

ADVANTAGES = "Their standard deviation: how far a group's samples are told apart. At 0 there is nothing to learn from."
DRIFT = "How far the policy has moved from the one that drew the samples, in standard deviations of their noise."
GRADIENT = "Before clipping. A steady rise comes before a collapse."
CLIPPED = "Share of all pairs of sample and step whose probability ratio has left the trust region."
LOSS = "With one optimizer step on fresh groups it says little: the rewards tell how the run goes."
DISTANCE = "How far the network's velocities are from those of the model before training."
DIVERSITY = "How far the samples of one prompt are from each other. Towards 0 they all look the same."
TEMPERATURE = "Of the noise in the rollouts: 0 adds none, 1 draws all of it anew at every step."
DIVERGENCE = "How far the policy is from the model before training; learning.kl_weight holds it back."
RATE = "Of the optimizer, with its warm-up and its decay."
THROUGHPUT = "Images that were drawn, scored and learned from."
STALENESS = "How many updates old a group's weights were when it was learned from. 0 throughout is synchronous."
PHASES = "Wall clock of the learner. Mostly waiting: rollouts or rewards are too slow. Hardly any: the learner is."
CALLS = "Seconds over all workers, which run side by side, and their share of the running time."
SMOOTHED = "Thick lines are moving means, thin ones single updates."

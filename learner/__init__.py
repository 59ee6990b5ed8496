"""Step-aware GRPO: scored groups in, new weights out.

Read `advantage.py` for what a step's reward is worth, `loss.py` for the objective, `update.py` for one update from
end to end. Imports `rollout` only; knows no queue and no clock.
"""

"""The ground: the stochastic process of few-step sampling, the nouns of the system, and the model families.

Read `kernel.py` for the mathematics, `sampler.py` for the loop, `types.py` for what travels. Imports nothing of ours.
"""

"""The reference server of the reward protocol: `app` speaks HTTP, `batcher` feeds the reward."""

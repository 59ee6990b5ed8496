"""python -m tests.rewards.vlm.in_process MODEL: questions to vLLM's engine, run where it is installed."""

import sys

import numpy as np

from rewards.build import build
from rewards.reward import checked

ENGINE = {"dtype": "float32", "max_model_len": 1024, "enforce_eager": True, "max_num_seqs": 4,
          "limit_mm_per_prompt": {"image": 2}}  # fmt: skip


def main(model: str) -> None:
    images = np.random.default_rng(0).integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    judge = None
    for name in ("vlm_yes_no", "vlm_pairwise", "vlm_rubric", "vlm_counting"):
        reward = build(name, {"judge": {"url": "in-process", "model": model, "engine": ENGINE}})
        if judge is not None:  # one engine for all
            object.__setattr__(reward, "judge", judge)
        judge = reward.judge
        scores = checked(reward, images, ["a red 7"] * 3, [{"counts": {"cat": 2}}] * 3)
        assert ((scores >= 0) & (scores <= 1)).all(), scores
        print(f"{name} {len(scores)} scores from 0 to 1", flush=True)


if __name__ == "__main__":
    main(sys.argv[1])

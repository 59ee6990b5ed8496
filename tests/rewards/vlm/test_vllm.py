"""Every kind of question, put to a real vLLM on this machine's CPU: `make vllm`.

The model is LLaVA's class, tiny and random (tiny_vlm.py): what is tested is the protocol, not the judgement.
"""

import os
import signal
import socket
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from rewards.build import build
from rewards.reward import RewardError, checked
from services.fleet.workers.model_server import ModelServer

PYTHON = os.environ.get("TAFS_VLLM_PYTHON", "")
READY_S = 600.0
IMAGES = np.random.default_rng(0).integers(0, 256, (4, 48, 64, 3), dtype=np.uint8)
PROMPTS, METADATA = ["a red 7"] * 4, [{"counts": {"cat": 2, "dog": 1}}] * 4

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(not PYTHON, reason="no interpreter with vLLM: make vllm"),
]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("vllm")
    os.system(f"{sys.executable} {Path(__file__).with_name('tiny_vlm.py')} {folder / 'model'}")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    made = ModelServer(
        name="vllm",
        command=[
            PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(folder / "model"),
            "--served-model-name", "tiny", "--dtype", "float32", "--max-model-len", "1024", "--enforce-eager",
            "--max-num-seqs", "4", "--limit-mm-per-prompt", '{"image": 2}',
            "--structured-outputs-config", '{"backend": "xgrammar", "disable_any_whitespace": true}',
        ],
        environment={
            "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_NO_USAGE_STATS": "1", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1",
            "HOME": str(folder), "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": "",
        },
        host="127.0.0.1",
        port=port,
        log=Path(os.environ.get("TAFS_VLLM_LOG", folder / "vllm.log")),
        ready_s=READY_S,
        restarts=1,
    )  # fmt: skip
    made.start()
    yield made
    made.stop()


@pytest.fixture
def reward_of(server):
    """reward_of(name, **options of its judge), closed at the end."""
    made = []

    def make(name: str, **options):
        asked = {"url": server.url, "model": "tiny", "timeout_s": 120.0, "concurrency": 4, **options}
        made.append(build(name, {"judge": asked}))
        return made[-1]

    yield make
    for reward in made:
        reward.judge.close()


@pytest.mark.parametrize("name", ["vlm_yes_no", "vlm_pairwise", "vlm_rubric", "vlm_counting"])
def test_vllm_answers_every_kind_of_question(reward_of, name: str) -> None:
    reward = reward_of(name)
    scores = checked(reward, IMAGES, PROMPTS, METADATA)
    assert scores.shape == (4,)
    assert ((scores >= 0.0) & (scores <= 1.0)).all()
    figures = reward.judge.statistics()
    assert figures.failed == 0
    np.testing.assert_array_equal(checked(reward, IMAGES, PROMPTS, METADATA), scores)
    assert reward.judge.statistics().answered == figures.answered, "what was answered is not asked again"


def test_what_a_judge_says_depends_on_the_picture(reward_of) -> None:
    reward = reward_of("vlm_yes_no")
    scores = checked(reward, IMAGES, PROMPTS, METADATA)
    assert len(set(scores.tolist())) > 1
    assert 0.0 < scores.min() < scores.max() < 1.0


def test_a_server_that_is_killed_in_the_middle_fails_the_call_and_comes_back(server, reward_of) -> None:
    reward = reward_of("vlm_yes_no", attempts=1, breaker_failures=100, kept_answers=0)
    before = checked(reward, IMAGES, PROMPTS, METADATA)
    os.kill(server.pid, signal.SIGKILL)
    with pytest.raises(RewardError):
        checked(reward, IMAGES, PROMPTS, METADATA)
    assert reward.judge.statistics().failed > 0
    deadline = time.monotonic() + READY_S
    while True:
        try:
            after = checked(reward, IMAGES, PROMPTS, METADATA)
            break
        except RewardError:
            assert time.monotonic() < deadline
            time.sleep(1.0)
    assert server.starts == 2
    np.testing.assert_allclose(after, before, atol=1e-4)

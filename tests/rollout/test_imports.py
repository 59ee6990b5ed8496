import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
LIGHT = (
    "rollout.types",
    "rollout.kernel",
    "rollout.schedule",
    "rollout.seeding",
    "rollout.prompts",
    "rollout.policies.build",
)


def test_what_configuration_and_queue_need_of_the_rollout_room_does_not_load_torch():
    program = f"import sys, {', '.join(LIGHT)}; print(sorted({{'torch', 'diffusers', 'peft'}} & sys.modules.keys()))"
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "[]", done.stderr

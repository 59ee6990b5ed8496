"""A run that hacks its reward, with the held-out panel watching."""

import sys

import psutil
import pytest

from .conftest import DEADLINE_S

pytestmark = [pytest.mark.integration, pytest.mark.timeout(2 * DEADLINE_S)]

HACKED = (
    "rewards=[{use: 'tests.e2e.held_out:brightness', name: light}, {use: vlm_yes_no, name: asked, weight: 0, "
    "steps: final, options: {judge: {url: 'served:fake', model: none}}}]",
    f"fleet.judges=[{{name: fake, command: [{sys.executable}, -m, rewards.vlm.fake_server], cpus: 0.1}}]",
    "evaluation.watch={every: 1, images: 16, fall: 0.002, looks: 2, stop: true, "
    "panel: [{use: 'tests.e2e.held_out:darkness', name: dark}]}",
    "fleet.reward.cpus=0.4",
    "learning.rate=5e-3",
    "learning.warmup_updates=0",
    "learning.updates=12",
    "learning.ema_decay=0",
    "evaluation.images=54",
)


def test_a_run_that_pleases_only_its_reward_ends_by_itself_and_keeps_the_panels_best(run) -> None:
    done = run("hacked", *HACKED)
    assert done.code == 0, done.output
    assert "reward hacking: held-out reward dark fell by" in done.output
    assert "while light rose" in done.output
    assert '"kind":"hacking"' in (done.folder / "events.jsonl").read_text()
    watched = done.json("summary.json")["watch"]
    assert watched["hacked"] == ["dark"]
    made = [record["update"] for record in done.history()]
    assert made[-1] < 12, "it was stopped early"
    assert watched["kept_update"] == watched["best_update"] < made[-1]
    assert (done.folder / "adapter/pytorch_lora_weights.safetensors").exists()
    assert "Held-out panel" in (done.folder / "report.html").read_text()
    record = done.history()[0]["report"]["rewards"]
    assert record["asked"]["weight"] == 0.0
    means = [mean for mean in record["asked"]["mean"] if mean is not None]
    assert len(means) == 1
    assert 0.0 < means[0] < 1.0
    assert "http://127.0.0.1" in (done.folder / "logs/judge-fake.log").read_text()
    served = [p for p in psutil.process_iter(["cmdline"]) if "rewards.vlm.fake_server" in (p.info["cmdline"] or [])]
    assert served == [], "the judge outlives its run"
    assert [mean is None for mean in record["asked"]["mean"]] == [True, True, True, False]
    looks = (done.folder / "looks.jsonl").read_text()

    again = run("hacked", *HACKED)
    assert again.code == 0, again.output
    assert (again.folder / "looks.jsonl").read_text() == looks
    assert [record["update"] for record in again.history()] == made, "a run that was stopped for good goes on no more"

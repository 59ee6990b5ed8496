"""A run from its run file to its report, and everything that it leaves behind."""

import json
import math
import os
import signal
import subprocess
import time
from itertools import pairwise

import numpy as np
import psutil
import pytest
import torch
import yaml
from safetensors.torch import load_file

from rollout.types import WeightsVersion
from services.cli.run_file import load_run_file
from services.cli.trace import write_trace
from services.observe.journeys import read_journeys

from .conftest import DEADLINE_S, ROOT, Finished, command, environment, finished

pytestmark = [pytest.mark.integration, pytest.mark.timeout(2 * DEADLINE_S)]

SYNCHRONOUS = ("learning.updates=5", "fleet.max_staleness=0", "evaluation=null")
UNTRAINED = WeightsVersion(version=0, update=0, lineage=0, digest="")


def trained(folder) -> dict[str, torch.Tensor]:
    newest = sorted((folder / "checkpoints").glob("update_*"))[-1]
    return load_file(newest / "trained.safetensors")


def equal(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Finished:
    """A run that tells of itself in JSON, and learns so fast that its adapter changes images after three updates."""
    fast = ("learning.rate=0.01", "learning.warmup_updates=0")
    told = ("fleet.log=json", "learning.checkpoint_every=2")
    done = finished(tmp_path_factory.mktemp("runs"), "whole", *fast, *told)
    assert done.code == 0, done.output
    return done


@pytest.fixture(scope="module")
def synchronous(tmp_path_factory) -> Finished:
    """An undisturbed run of five updates that never trains on stale groups."""
    done = finished(tmp_path_factory.mktemp("runs"), "synchronous", *SYNCHRONOUS)
    assert done.code == 0, done.output
    return done


def test_a_run_leaves_all_that_the_readme_promises(whole) -> None:
    done, summary = whole, whole.json("summary.json")
    for metric in ("exact_match", "judge_exact_match"):
        for sampler in ("serving", "tau_0", "tau_1"):
            figure = summary[metric][sampler]
            low, high = figure["interval_95"]["after"]
            assert 0 <= low <= figure["after"] <= high <= 1
            assert figure["images"] == {"before": 108, "after": 108}
    assert summary["updates"] == 3
    assert summary["images"] == 3 * 2 * 4
    assert {"wait", "load", "forward_backward", "publish"} <= summary["phase_seconds"].keys()
    config = yaml.safe_load((done.folder / "config.yaml").read_text())
    assert config["learning"]["updates"] == 3
    assert {"commit", "inputs", "versions"} <= done.json("run.json").keys()
    for name in ("report.html", "adapter/README.md", "strips/update_000000.png", "strips/before_after.png"):
        assert (done.folder / name).stat().st_size > 500, name
    assert list((done.folder / "tensorboard").glob("events.*"))
    assert not (done.folder.parent / ".targets/whole.json").exists(), "Prometheus would miss a run that ended well"

    history = done.history()
    assert [record["update"] for record in history] == [1, 2, 3]
    checked = [record["report"]["guard_drift"] for record in history if record["report"]["guard_drift"] is not None]
    assert checked, "the ratio guard was never asked"
    assert max(checked) < 1e-4
    assert max(stale for record in history for stale in record["staleness"]) <= 1
    consumed = [ordinal for record in history for ordinal in record["report"]["consumed"]]
    assert sorted(consumed) == list(range(6))


def test_an_asynchronous_run_accounts_for_its_time_and_for_every_group_and_tells_so_in_json(whole) -> None:
    done, history, before = whole, whole.history(), 0.0
    for record in history:
        phases = record["phase_seconds"]
        assert phases.keys() == {"checkpoint", "wait", "load", "forward_backward", "publish", "other"}
        assert sum(phases.values()) == pytest.approx(record["run_seconds"] - before, abs=1e-6)
        before = record["run_seconds"]
    assert [record["phase_seconds"]["checkpoint"] > 1e-3 for record in history] == [False, False, True]

    journeys = {journey.ordinal: journey for journey in read_journeys(done.folder)}
    assert sorted(journeys) == list(range(6))
    for journey in journeys.values():
        moments = [moment for stage in journey.stages for moment in (stage.began, stage.ended)]
        assert all(later - earlier > -0.01 for earlier, later in pairwise(moments)), journey
        assert journey.stages[1].slot.startswith("rollout-")
        assert journey.stages[3].slot.startswith("reward-")
        assert journey.stages[1].seconds > 0

    lines = [json.loads(line) for line in done.output.splitlines()]  # not one that is no object
    assert {line["run"] for line in lines} == {"whole"}
    assert {line["role"] for line in lines} == {"driver", "learner", "rollout", "reward"}
    for message, journey_version in (
        ("group drawn", "weights"),
        ("group scored", "weights"),
        ("group learned", "version"),
    ):
        told = {line["gid"]: line["version"] for line in lines if line["message"] == message}
        assert told == {journey.gid: getattr(journey, journey_version) for journey in journeys.values()}

    trace = json.loads(write_trace(done.folder, None).read_text())["traceEvents"]
    spans = [event["name"] for event in trace if event["ph"] == "X"]
    assert {f"drawing {ordinal}/0" for ordinal in range(6)} <= set(spans)
    assert next(event["name"] for event in trace if event["ph"] == "i") == "start: The run starts."


def test_stock_diffusers_draws_the_same_images_with_the_saved_adapter(whole) -> None:
    from diffusers import StableDiffusion3Pipeline

    from services.cli.run_file import load_run_file
    from services.fleet.workers.build import build_policy

    config = load_run_file(ROOT / "deploy/configs/quickstart.yaml", ["sampling.serving_temperature=0"])
    policy = build_policy(config)
    base = draw_first(policy, config)
    policy.load_adapter(whole.folder / "adapter")
    ours = draw_first(policy, config)
    assert np.abs(ours.astype(int) - base.astype(int)).max() > 0, "the adapter changes nothing: the test would be blind"

    pipe = StableDiffusion3Pipeline.from_pretrained(config.model.path, text_encoder_3=None, tokenizer_3=None)
    pipe.load_lora_weights(whole.folder / "adapter")
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler.register_to_config(stochastic_sampling=False)
    from rollout.prompts import load_prompts
    from rollout.seeding import INITIAL, named_seed, sample_seeds

    seeds = sample_seeds(named_seed("evaluation", 0), 0, [0], INITIAL)
    stock = pipe(
        load_prompts(config.evaluation.prompts)[0].text,
        num_inference_steps=4,
        guidance_scale=1,
        max_sequence_length=8,
        height=16,
        width=32,
        latents=policy.initial_latents(seeds, 16, 32),
        output_type="np",
    ).images
    stock = (stock[0] * 255).round().astype(int)
    assert np.abs(stock - ours[-1].astype(int)).max() <= 1


def draw_first(policy, config):
    from rollout.prompts import load_prompts
    from services.fleet.workers.evaluation import draw_steps

    return draw_steps(policy, config, load_prompts(config.evaluation.prompts)[0], 0, 1, 0.0)[0]


def test_synchronous_runs_of_two_sizes_end_with_the_same_weights_whatever_the_number_of_rollout_workers(run) -> None:
    results, sizes = {}, set()
    for workers in (1, 3):
        done = run(
            f"workers-{workers}",
            "fleet.max_staleness=0",
            f"fleet.rollout.workers={workers}",
            f"fleet.rollout.cpus={0.6 / workers}",
            "evaluation=null",
            "sampling.other_sizes=[{height: 16, width: 16, share: 0.5}]",
        )
        assert done.code == 0, done.output
        assert max(record["report"]["guard_drift"] for record in done.history()) < 1e-4
        config = load_run_file(done.folder / "config.yaml", [])
        for ordinal in range(6):
            behaviour = config.sampling.behaviour_of(ordinal, UNTRAINED, config.seed)
            sizes.add((behaviour.height, behaviour.width))
        assert all(stale == 0 for record in done.history() for stale in record["staleness"])
        results[workers] = trained(done.folder)
    assert sizes == {(16, 32), (16, 16)}
    assert equal(results[1], results[3])


def test_two_learner_ranks_run_the_same_loop(run, synchronous) -> None:
    two = run("two-ranks", *SYNCHRONOUS, "learning.updates=2", "fleet.learner.workers=2", "fleet.learner.cpus=0.4")
    assert two.code == 0, two.output
    first, second = synchronous.history()[0], two.history()[0]
    assert first["report"]["consumed"] == second["report"]["consumed"]
    assert math.isclose(first["report"]["grad_norm"], second["report"]["grad_norm"], rel_tol=1e-4)


def test_an_interrupted_run_goes_on_and_ends_as_if_it_had_not_been(run, synchronous, tmp_path) -> None:
    process = subprocess.Popen(
        command(tmp_path, "interrupted", *SYNCHRONOUS),
        cwd=ROOT,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    history = tmp_path / "interrupted" / "history.jsonl"
    wait_until(lambda: process.poll() is not None or (history.exists() and len(history.read_text().splitlines()) >= 2))
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGINT)  # as the terminal does: the whole foreground group
    output, _ = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 143, output
    _, alive = psutil.wait_procs(family, timeout=20)
    assert [p.name() for p in alive if p.status() != psutil.STATUS_ZOMBIE] == []

    resumed = run("interrupted", *SYNCHRONOUS)
    assert resumed.code == 0, resumed.output
    assert "going on from the checkpoint" in resumed.output
    assert equal(trained(synchronous.folder), trained(resumed.folder))
    records = [json.loads(line) for line in history.read_text().splitlines()]
    assert len({(record["version"]) for record in records}) == len(records), "a version was used twice"

    changed = run("interrupted", *SYNCHRONOUS, "learning.rate=0.5")
    assert changed.code == 64
    assert "learning.rate: 0.0004 -> 0.5" in changed.output


def wait_until(condition, timeout_s: float = DEADLINE_S) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition never came true"
        time.sleep(0.05)

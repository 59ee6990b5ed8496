"""What becomes of a group whose reward asks a server that is down, slow, or answers what are no scores.

A real reward worker on a real queue, and a server of the reward protocol that misbehaves as it is told.
"""

import json
import re
import threading
import time
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from rewards.http_call import MAX_ANSWER_BYTES
from rewards.tally import Tally
from rollout.types import StepImages, WeightsVersion
from services.cli.run_file import load_run_file
from services.data.blobs import build_blobs
from services.data.codec import encode_images
from services.data.ledger import Claimed
from services.data.letters import DeadLetters
from services.data.queue import Ledger, Queue, accounting_holds
from services.data.server import EmbeddedServer, connect
from services.data.wire import ScoredEntry, Ticket, WireBehaviour, WireVersion, decode, encode
from services.fleet.messages import Link
from services.fleet.supervision.heartbeat import Hearts
from services.fleet.workers.reward_worker import RewardWorker

from ...data.entries import group_entry

pytestmark = pytest.mark.integration

QUICKSTART = Path(__file__).resolve().parents[4] / "deploy/configs/quickstart.yaml"
SAMPLES, ATTEMPTS, DEADLINE_S = 2, 2, 60.0
SLOW_S, PATIENT_S = 1.5, 60.0
"""A client's timeout where a slow server is the fault, and where nothing is to depend on it."""
CAPABILITIES = {
    "versions": [1], "formats": ["raw", "png"], "reward": "faulty", "range": [0, 1], "required_metadata": [],
    "limits": {"max_images": 100, "max_bytes": 10**6, "max_pixels": 10**6},
}  # fmt: skip


def scores(count: int, value: float = 0.5) -> bytes:
    return json.dumps({"version": 1, "reward": "faulty", "scores": [value] * count}).encode()


class FaultyServer:
    """Misbehaves in `questions_left` questions; then every image is worth a half."""

    def __init__(self, fault: str, questions: int) -> None:
        self.fault, self.questions_left = fault, questions
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                self.reply(json.dumps(CAPABILITIES).encode())

            def do_POST(self) -> None:
                frame = self.rfile.read(int(self.headers["Content-Length"]))
                count = json.loads(frame[8 : 8 + int.from_bytes(frame[:8], "little")])["shape"][0]
                server.questions_left -= 1
                if server.questions_left >= 0:
                    self.misbehave(count)
                else:
                    self.reply(scores(count))

            def misbehave(self, count: int) -> None:
                if server.fault == "down":
                    self.close_connection = True  # without a word
                elif server.fault == "slow":
                    time.sleep(2 * SLOW_S)
                    self.close_connection = True
                else:
                    self.reply(ANSWERS[server.fault](count))

            def reply(self, body: bytes) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def handle(self) -> None:
                with suppress(ConnectionError):  # who asked would not read it all
                    super().handle()

            def log_message(self, format: str, *args: object) -> None:
                """Nothing on the terminal."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


ANSWERS = {
    "garbage": lambda count: b"<html>",
    "NaN": lambda count: scores(count).replace(b"0.5", b"NaN", 1),
    "one score too few": lambda count: scores(count - 1),
    "endless": lambda count: bytes(MAX_ANSWER_BYTES + 1),
}


class Run:
    """A queue with one reward worker; rollouts are played by `draw`."""

    def __init__(self, redis_url: str, run: str, reward_url: str, timeout_s: float) -> None:
        self.redis = connect(redis_url)
        self.config = load_run_file(
            QUICKSTART,
            [
                f"name={run}", f"sampling.samples_per_group={SAMPLES}", "fleet.supervision.heartbeat_s=0.1",
                f"rewards=[{{use: remote, name: judge, options: {{url: '{reward_url}', timeout_s: {timeout_s}, "
                "attempts: 2, breaker_failures: 2, breaker_pause_s: 600}}]",
            ],
        )  # fmt: skip
        self.run = run
        self.queue, self.blobs = Queue(self.redis, run), build_blobs("redis://", self.redis, run)
        self.queue.begin(Ledger(groups_per_update=1, max_staleness=0, total_groups=1, max_attempts=ATTEMPTS))
        self.worker = RewardWorker(self.config, Link(redis_url=redis_url, run=run, slot="reward-0"))
        self.thread = threading.Thread(target=self.worker.run, daemon=True)
        self.thread.start()

    def draw(self) -> None:
        """The group, or the group again."""
        behaviour = self.config.sampling.behaviour()
        steps = tuple(self.config.steps_scored(behaviour))
        claimed = self.wait(self.ticket)[0]
        ticket = decode(claimed.payload, Ticket)
        pixels = np.full((SAMPLES, len(steps), 16, 32, 3), 128, np.uint8)
        names = [f"{ticket.attempt}/{sample}" for sample in range(SAMPLES)]
        entry = replace(
            group_entry(ticket.ordinal, ticket.attempt),
            behaviour=WireBehaviour.of(behaviour),
            weights=WireVersion.of(WeightsVersion(version=1, update=0, lineage=0, digest="ab")),
            image_steps=steps,
            latents=self.blobs.put([f"{name}/latents" for name in names], [b"latents"] * SAMPLES),
            images=self.blobs.put(names, encode_images(StepImages(steps=steps, pixels=pixels))),
        )
        assert self.queue.publish("tickets", claimed, encode(entry), ticket.ordinal, ticket.attempt, 0)

    def ticket(self) -> list[Claimed]:
        self.queue.admit(0)
        return self.queue.claim("tickets", "rollout-0/a", 1, 20)

    def tally(self, *, failures: int, images: int) -> Tally:
        """What the worker's heart tells of the reward, once it tells of so much."""

        def told() -> Tally | None:
            beat = Hearts(self.redis, self.run).read().get("reward-0")
            found = Tally() if beat is None else beat.rewards.get("judge", Tally())
            return found if (found.failures, found.images) == (failures, images) else None

        return self.wait(told)

    def wait(self, look):
        deadline = time.monotonic() + DEADLINE_S
        while not (found := look()):
            assert time.monotonic() < deadline, self.queue.statistics()
            time.sleep(0.02)
        return found

    def close(self) -> None:
        self.queue.request_stop("done")
        self.thread.join(DEADLINE_S)
        self.worker._rewards[0].reward.close()
        self.redis.close()


@pytest.fixture(scope="module")
def redis_url():
    with EmbeddedServer() as server:
        yield server.url


@contextmanager
def running(redis_url: str, fault: str, questions: int):
    server = FaultyServer(fault, questions)
    run = Run(redis_url, f"{fault}-{questions}".replace(" ", "-"), server.url, SLOW_S if fault == "slow" else PATIENT_S)
    yield run
    run.close()
    server.close()


@pytest.mark.parametrize(
    ("fault", "reason", "retries", "breakers_open"),
    [
        ("down", "BusyError: .*cannot be reached", 2, 1),
        ("slow", "BusyError: .*no answer within 1.5 s", 2, 1),
        ("garbage", "BadScoresError: expected an answer in JSON", 0, 1),
        ("NaN", "BadScoresError: expected finite float32 scores; found nan", 0, 1),
        ("one score too few", "BadScoresError: expected 8 scores; found 7", 0, 1),
        ("endless", "RefusedError: .*its answer is longer", 0, 0),
    ],
)
def test_a_fault_that_stays_ends_as_a_dead_letter_that_names_it_and_shows_in_the_metrics(
    redis_url, fault, reason, retries, breakers_open
) -> None:
    with running(redis_url, fault, 1000) as run:
        for _ in range(ATTEMPTS):
            run.draw()
            run.wait(lambda: run.queue.statistics().stages["groups"].entries == 0)
        statistics = run.queue.statistics()
        assert (statistics.dead, statistics.failures["groups"], statistics.stages["scored"].entries) == (1, 2, 0)
        assert accounting_holds(statistics)
        (letter,) = DeadLetters(run.redis, run.run).all()
        assert re.match(reason, letter.reason), letter.reason
        tally = run.tally(failures=ATTEMPTS, images=0)
        assert (tally.calls, tally.retries, tally.breakers_open) == (ATTEMPTS, retries, breakers_open)


@pytest.mark.parametrize(("fault", "retries", "failures"), [("down", 1, 0), ("slow", 1, 0), ("NaN", 0, 1)])
def test_a_fault_that_passes_costs_a_retry_or_another_attempt_and_the_scores_are_the_rewards_own(
    redis_url, fault, retries, failures
) -> None:
    with running(redis_url, fault, 1) as run:
        for _ in range(1 + failures):
            run.draw()
        claimed = run.wait(lambda: run.queue.claim("scored", "controller/a", 1, 100))[0]
        (column,) = (column.to_rewards() for column in decode(claimed.payload, ScoredEntry).rewards)
        assert column.values[:, column.scored].tolist() == [[0.5] * int(column.scored.sum())] * SAMPLES
        tally = run.tally(failures=failures, images=SAMPLES * int(column.scored.sum()))
        assert (tally.retries, tally.breakers_open) == (retries, 0)
        assert run.queue.statistics().dead == 0

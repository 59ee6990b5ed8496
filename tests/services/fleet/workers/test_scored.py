"""An incomplete group is never trained, whatever is missing of it."""

from dataclasses import replace
from pathlib import Path

import msgspec
import pytest

from services.cli.run_file import load_run_file
from services.data.blobs import build_blobs
from services.data.queue import Ledger, Queue
from services.data.server import EmbeddedServer, connect
from services.data.wire import encode
from services.errors import BlobCorrupt, BlobMissing
from services.fleet.messages import Link, RankPlace, UpdateOrder
from services.fleet.run.alone import LoneRun
from services.fleet.workers.build import digests
from services.fleet.workers.learner_worker import LearnerWorker
from services.fleet.workers.placed_rewards import build_rewards
from services.fleet.workers.scored import scored_group

from .scored_entries import entry_of

pytestmark = pytest.mark.integration

QUICKSTART = Path(__file__).resolve().parents[4] / "deploy/configs/quickstart.yaml"
SMALL = ("learning.groups_per_update=2", "sampling.samples_per_group=4", "evaluation=null")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    return load_run_file(QUICKSTART, [*SMALL, f"runs={tmp_path_factory.mktemp('runs')}"])


@pytest.fixture(scope="module")
def server():
    with EmbeddedServer() as started:
        yield started


@pytest.fixture(scope="module")
def groups(config):
    return LoneRun(config, build_rewards(config)).drawn()


def test_a_group_that_lacks_a_sample_or_a_samples_reward_is_refused(config, server, groups) -> None:
    blobs = build_blobs("redis://", connect(server.url), "refused")
    entry = entry_of(groups[0], blobs)
    payloads = blobs.get(entry.group.latents)
    assert scored_group(entry, payloads, config).group.num_samples == 4
    with pytest.raises(BlobCorrupt, match=r"group 0: expected 4 samples, found \{'latents': 3, 'text_rendering': 4\}"):
        scored_group(entry, payloads[:3], config)
    column = msgspec.structs.replace(entry.rewards[0], values=entry.rewards[0].values[:3])
    with pytest.raises(BlobCorrupt, match="'text_rendering': 3"):
        scored_group(msgspec.structs.replace(entry, rewards=(column,)), payloads, config)
    with pytest.raises(BlobCorrupt, match="'latents': 3, 'text_rendering': 3"):
        scored_group(msgspec.structs.replace(entry, rewards=(column,)), payloads[:3], config)


def test_an_update_that_misses_one_samples_payload_changes_nothing_and_works_with_the_whole_group(
    config, server, groups
) -> None:
    link = Link(redis_url=server.url, run="missing", slot="learner-0")
    client = connect(server.url)
    blobs = build_blobs("redis://", client, "missing")
    epoch = Queue(client, "missing").begin(Ledger(groups_per_update=2, max_staleness=0, total_groups=2))
    learner = LearnerWorker(config, link, RankPlace())
    entries = [entry_of(group, blobs) for group in groups]
    order = UpdateOrder(
        entries=tuple(encode(entry) for entry in entries),
        version=1,
        lineage=0,
        epoch=epoch,
        fresh=True,
        check_one=False,
    )
    before = digests(learner._learner)
    blobs.delete(entries[1].group.latents[2:3])
    with pytest.raises(BlobMissing, match="1/2"):
        learner.update(order)
    assert digests(learner._learner) == before
    again = entry_of(groups[1], blobs)
    whole = replace(order, entries=(order.entries[0], encode(again)))
    assert learner.update(whole).report["consumed"] == (0, 1)
    assert digests(learner._learner) != before

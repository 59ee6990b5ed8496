"""A learner's updates, done again from what it recorded: equal bit by bit, and what does not fit is named."""

import shutil

import pytest

from services.cli.run_file import load_run_file
from services.data.queue import Ledger, Queue
from services.data.server import EmbeddedServer
from services.data.wire import encode
from services.errors import ConfigError
from services.fleet.messages import Link, Progress, RankPlace, UpdateOrder
from services.fleet.planning.run_folder import checkpoints_of, config_digest, owned
from services.fleet.run.alone import LoneRun
from services.fleet.run.replay import Replay
from services.fleet.workers.build import digests
from services.fleet.workers.learner_worker import LearnerWorker
from services.fleet.workers.placed_rewards import build_rewards
from services.fleet.workers.recording import path_of
from services.fleet.workers.stores import open_stores
from tests.e2e.conftest import ROOT, RUN_FILE

from ..workers.scored_entries import entry_of

pytestmark = [pytest.mark.integration, pytest.mark.timeout(900)]
UPDATES = 4


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a run whose learner recorded four updates and kept two checkpoints, and what it held at the end."""
    short = ["learning.updates=4", "learning.groups_per_update=2", "sampling.samples_per_group=4", "evaluation=null"]
    runs = tmp_path_factory.mktemp("recorded")
    overrides = [*short, f"runs={runs}", "fleet.record={}", "learning.rate=0.01", "learning.warmup_updates=0"]
    config = load_run_file(ROOT / RUN_FILE, overrides)
    with owned(config, fresh=False) as folder, EmbeddedServer() as server:
        link = Link(redis_url=server.url, run=config.name, slot="learner-0")
        stores = open_stores(link, config)
        epoch = Queue(stores.redis, config.name).begin(Ledger(groups_per_update=2, max_staleness=0, total_groups=8))
        learner, alone = LearnerWorker(config, link, RankPlace()), LoneRun(config, build_rewards(config))
        for update in range(1, UPDATES + 1):
            entries = tuple(encode(entry_of(scored, stores.blobs)) for scored in alone.drawn())
            order = UpdateOrder(entries=entries, version=update, lineage=0, epoch=epoch, fresh=True, check_one=False)
            assert learner.update(order).complaints == ()
            alone.update()
            if update in (2, 4):
                learner.save(checkpoints_of(config, folder), Progress(update=update), config_digest(config))
        yield folder, digests(learner._learner)


def test_all_updates_from_the_start_end_bit_equal(run) -> None:
    folder, held = run
    replay = Replay(folder, None, None)
    assert replay.at == 0
    seen = list(replay.updates())
    assert [(done.report.update, done.differs) for done in seen] == [(n, ()) for n in range(1, UPDATES + 1)]
    assert digests(replay.learner) == held
    assert replay.distances() == dict.fromkeys(held, 0.0)


def test_from_a_checkpoint_too_and_a_difference_is_seen_where_it_begins(run) -> None:
    folder, held = run
    replay = Replay(folder, 3, None)
    assert replay.at == 2
    assert [done.differs for done in replay.updates()] == [(), ()]
    assert digests(replay.learner) == held

    other = Replay(folder, 3, None)
    next(iter(other.learner.parameters.values())).data.view(-1)[0] += 1e-3
    assert ["trained" in done.differs for done in other.updates()] == [True, True]
    distances = other.distances()
    assert distances is not None
    assert distances["trained"] > 1e-5


def test_what_does_not_fit_is_named_before_a_model_is_loaded(run, tmp_path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(run[0], copy)
    path_of(copy, 3).replace(path_of(copy, 4))
    with pytest.raises(ConfigError, match=r"expected the recording of update 4 .* one of update 3 "):
        Replay(copy, 4, None)
    with pytest.raises(ConfigError, match=r"update_000003\.groups, found none; recorded updates: 1, 2, 4$"):
        Replay(copy, 3, None)
    with pytest.raises(ConfigError, match=r"no start behind update 1: .*checkpoints: 2, 4$"):
        Replay(copy, 2, None)
    with pytest.raises(ConfigError, match="expected updates from 1 on in their order, found 2 to 1"):
        Replay(copy, 2, 1)
    settings = (copy / "config.yaml").read_text()
    (copy / "config.yaml").write_text(settings.replace("rate: 0.01\n", "rate: 0.02\n"))
    with pytest.raises(ConfigError, match="it is another run's, or the code is another"):
        Replay(copy, 1, None)
    shutil.rmtree(copy / "recorded")
    with pytest.raises(ConfigError, match=r"a run keeps them with fleet\.record=\{\}"):
        Replay(copy, None, None)

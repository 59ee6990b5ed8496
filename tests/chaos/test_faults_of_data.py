"""The chaos list, second half: scorers, prompts, checkpoints, weights; and requests to stop at a bad moment."""

import os
import random
import signal
import subprocess
from contextlib import contextmanager
from pathlib import Path

import pytest

from rollout.prompts import PromptOrder, load_prompts
from services.cli.run_file import load_run_file
from services.data.keys import run_key
from services.data.server import connect
from services.data.weights import WeightsStore
from services.fleet.failpoints import VARIABLE
from tests.e2e.conftest import DEADLINE_S, ROOT, RUN_FILE
from tests.e2e.going import Going, assert_equal_to, assert_trained_once, last_checkpoint, newest

from .runs import MANY, RUN, UPDATES, deaths, ended, faulty, tell_recoveries
from .watch import Watch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(6 * DEADLINE_S)]


def damaged(content: bytes, chance: random.Random) -> bytes:
    """With one bit flipped, or cut off somewhere."""
    at = chance.randrange(len(content))
    if chance.random() < 0.5:
        return content[:at]
    return content[:at] + bytes([content[at] ^ (1 << chance.randrange(8))]) + content[at + 1 :]


def test_a_scorer_that_raises_answers_nan_and_hangs_changes_nothing(tmp_path, sound, recovered, seed) -> None:
    marks, chance = tmp_path / "marks", random.Random(seed)
    marks.mkdir()
    calls = [chance.randint(1, 5) for _ in range(3)]
    going = Going(tmp_path, "sick", *RUN, *MANY, *faulty("once", marks, calls=calls))
    with Watch(going).looking() as watch:
        log = ended(going)
    assert {mark.name for mark in marks.iterdir()} == {"reward.raise", "reward.nan", "reward.hang"}
    assert "in one piece of work" in log
    assert_equal_to(going, sound)
    assert_trained_once(going, UPDATES)
    assert watch.counted("tafs_groups_failed_total", stage="groups") == 2
    assert deaths(watch, "reward") == 1
    tell_recoveries(going, recovered)


def test_one_poisoned_prompt_does_not_stop_a_synchronous_run(tmp_path, seed) -> None:
    config = load_run_file(ROOT / RUN_FILE, ())
    poisoned = random.Random(seed).randint(0, 2 * UPDATES - 1)
    prompt = PromptOrder(load_prompts(ROOT / config.sampling.prompts), config.seed).at(poisoned).text
    going = Going(tmp_path, "poisoned", *RUN, *faulty("poison", tmp_path, prompt))
    with Watch(going).looking() as watch:
        log = ended(going)
    assert_trained_once(going, UPDATES)
    intervals = last_checkpoint(going.checkpoints).state["progress"]["consumed"]
    consumed = [ordinal for start, stop in intervals for ordinal in range(start, stop)]
    assert consumed == [ordinal for ordinal in range(2 * UPDATES + 1) if ordinal != poisoned], log
    assert watch.counted("tafs_groups_dead_lettered_total") == 1
    assert watch.counted("tafs_groups_failed_total", stage="groups") == 3


def test_a_learner_goes_back_behind_a_checkpoint_that_is_broken(tmp_path, whole, recovered, seed) -> None:
    """A file of it, whichever, is not what was written when the learner that wrote it dies."""
    chance = random.Random(seed)
    going = Going(tmp_path, "broken", *RUN, *MANY)
    with Watch(going).looking() as watch:
        try:
            going.wait_for(lambda: going.update() >= 7, "update 7")
            broken = newest(going.folder)
            file = chance.choice(sorted(broken.iterdir()))
            file.write_bytes(damaged(file.read_bytes(), chance))
            going.strike("learner-0", signal.SIGKILL)
        finally:
            log = ended(going)
    before = int(broken.name.removeprefix("update_")) - 3
    assert f"the run with it, at update {before}" in log, f"{file}: {log}"
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)
    assert deaths(watch, "learner") == 1
    tell_recoveries(going, recovered)


@contextmanager
def small_volume(folder: Path, size_mib: int):
    """A file system of its own, which can be full."""
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size_mib}m", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("no file system can be mounted here (needs root)")
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def test_a_run_whose_checkpoints_find_no_room_ends_and_goes_on_when_there_is_some(tmp_path, whole, seed) -> None:
    """It ends with 75, which says that the same command may be tried again."""
    chance = random.Random(seed)
    with small_volume(tmp_path / "volume", 64) as volume:
        place = (f"fleet.checkpoints=file://{volume}",)
        going = Going(tmp_path, "full", *RUN, *place)
        going.wait_for(lambda: going.update() >= chance.choice((1, 4, 7)), "its turn")
        filler = volume / "filler"
        with filler.open("wb") as file:
            free = os.statvfs(volume).f_bavail * os.statvfs(volume).f_frsize
            file.write(bytes(max(0, free - chance.randrange(1 << 16))))
        log = ended(going, 75)
        assert f"checkpoints at file://{volume}" in log
        filler.unlink()
        going = Going(tmp_path, "full", *RUN, *place)
        going.checkpoints = f"file://{volume}/full"
        ended(going)
        assert_equal_to(going, whole)
        assert_trained_once(going, UPDATES)


def test_weights_that_are_damaged_on_their_way_are_refused_and_published_again(tmp_path, whole, seed) -> None:
    """Nobody has them yet: the driver is stopped between their publication and the tickets that they are for."""
    chance = random.Random(seed)
    marks = tmp_path / "marks"
    marks.mkdir()
    strike = f"{marks}=driver.trained:{chance.randint(1, UPDATES - 1)}=stop"
    going = Going(tmp_path, "damaged", *RUN, *MANY, **{VARIABLE: strike})
    with Watch(going).looking() as watch:
        try:
            going.wait_for(lambda: list(marks.iterdir()), "the driver's stop")
            redis = connect((going.folder / ".server").read_text())
            version = WeightsStore(redis, "damaged", keep=2).latest()
            key = run_key("damaged", f"weights:{version.version}")
            redis.hset(key, "0", damaged(redis.hget(key, "0"), chance))
            going.process.send_signal(signal.SIGCONT)
        finally:
            log = ended(going)
    assert f"workers refuse weights version {version.version}, which are published again" in log
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)
    assert watch.counted("tafs_groups_evicted_total", reason="WeightsCorrupt") >= 1


def test_a_run_that_is_asked_to_stop_in_a_checkpoint_and_then_twice_ends_the_same(tmp_path, whole, seed) -> None:
    chance = random.Random(seed)
    marks = tmp_path / "marks"
    marks.mkdir()
    strike = f"{marks}=checkpoint.{chance.choice(('file', 'files', 'renamed'))}:1=stop"
    going = Going(tmp_path, "asked", *RUN, **{VARIABLE: strike})
    going.wait_for(lambda: list(marks.iterdir()), "the learner's stop")
    going.process.send_signal(signal.SIGTERM)
    os.kill(going.worker("learner-0").pid, signal.SIGCONT)
    ended(going, 143)
    assert_last_update_is_kept(going)
    done = going.update()

    going = Going(tmp_path, "asked", *RUN)
    going.wait_for(lambda: going.update() >= done + 2, "two more updates")
    going.process.send_signal(signal.SIGTERM)
    going.wait_for(lambda: "SIGTERM (again" in going.log.read_text(), "its answer")
    going.process.send_signal(signal.SIGTERM)
    log = ended(going, 143)
    assert "again: a checkpoint at once" in log
    assert_last_update_is_kept(going)

    going = Going(tmp_path, "asked", *RUN)
    ended(going)
    assert_equal_to(going, whole)
    assert_trained_once(going, UPDATES)


def assert_last_update_is_kept(going: Going) -> None:
    assert last_checkpoint(going.checkpoints).state["progress"]["update"] == going.update()

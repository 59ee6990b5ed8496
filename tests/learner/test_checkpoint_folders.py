"""Checkpoints at URLs: complete or absent without any rename, whenever the process ends."""

import fsspec
import pytest
import torch

from learner.checkpoint import (
    Checkpoint,
    checkpoint_name,
    load_checkpoint,
    load_latest,
    save_checkpoint,
    saved_updates,
)
from learner.checkpoint_folders import MANIFEST, STATE, open_folder
from tests.learner.object_store import Killed, ObjectStore


@pytest.fixture(params=["file", "memory", "objects"])
def url(request, tmp_path):
    ObjectStore.empty()
    fsspec.filesystem("memory").store.clear()
    return f"{request.param}://{tmp_path}/runs/one"


@pytest.fixture
def objects():
    ObjectStore.empty()
    return "objects://bucket/runs/one"


def content(update, attempt=0):
    tensors = {"trained": {"a/b": torch.full((2, 3), update + attempt / 8)}, "optimizer": {}}
    return Checkpoint(tensors, {"update": update, "attempt": attempt})


def save(place, *updates, keep=9, attempt=0):
    for update in updates:
        save_checkpoint(place, update, content(update, attempt), keep)


def files_below(place):
    files, root = fsspec.core.url_to_fs(place)
    return [path.partition(root)[2].lstrip("/") for path in files.find(root)]


def corrupt(place, update, name):
    files, root = fsspec.core.url_to_fs(place)
    (path,) = (p for p in files.find(root) if checkpoint_name(update) in p and p.endswith(name))
    data = bytearray(files.cat_file(path))
    data[-1] ^= 1
    files.open(path, "wb").write(bytes(data)) if place.startswith("file") else files.store[path].__init__(
        files, path, bytes(data)
    )


def attempt_of(place):
    found = load_latest(place)
    return None if found is None else (found[0].state["update"], found[0].state["attempt"])


def test_a_checkpoint_comes_back_as_it_was(url):
    assert load_latest(url) is None
    save(url, 7)
    checkpoint, complaints = load_latest(url)
    assert (checkpoint.state, complaints) == ({"update": 7, "attempt": 0}, [])
    assert torch.equal(checkpoint.tensors["trained"]["a/b"], content(7).tensors["trained"]["a/b"])
    assert checkpoint.tensors["optimizer"] == {}
    assert load_checkpoint(url, 7).state == checkpoint.state


def test_only_so_many_are_kept_and_nothing_is_left_of_the_others(url):
    save(url, 5, 10, 15, 100, keep=2)
    assert saved_updates(url) == [15, 100]
    assert {path.split("/")[0] for path in files_below(url)} == {checkpoint_name(15), checkpoint_name(100)}


@pytest.mark.parametrize("file", ["trained.safetensors", STATE, MANIFEST])
def test_a_broken_one_is_named_and_the_one_before_is_used(url, file):
    save(url, 5, 6)
    corrupt(url, 6, file)
    checkpoint, (complaint,) = load_latest(url)
    assert checkpoint.state["update"] == 5
    assert checkpoint_name(6) in complaint
    with pytest.raises(ValueError, match=checkpoint_name(6)):
        load_checkpoint(url, 6)
    corrupt(url, 5, STATE)
    with pytest.raises(ValueError, match="no sound checkpoint"):
        load_latest(url)


def test_after_going_back_behind_a_broken_one_the_next_save_is_the_newest(url):
    save(url, 5, 60)
    corrupt(url, 60, STATE)
    save(url, 10)
    assert saved_updates(url) == [5, 10]


def test_a_fresh_start_finds_nothing_and_loses_nothing(url):
    save(url, 5, 6)
    open_folder(url).set_aside("until-now")
    assert load_latest(url) is None
    assert saved_updates(f"{url}.until-now") == [5, 6]
    assert attempt_of(f"{url}.until-now") == (6, 0)
    open_folder(url).set_aside("until-then")  # there is nothing


def test_a_probe_leaves_nothing(url):
    save(url, 5)
    before = files_below(url)
    open_folder(url).probe()
    assert files_below(url) == before


@pytest.mark.parametrize("keep", [1, 2])
def test_a_writer_killed_at_any_call_leaves_a_sound_newest_checkpoint_and_the_next_save_tidies_up(objects, keep):
    """A new update beside older ones, and one that is saved again in the place of itself."""
    for first, second in (((5, 0), (6, 0)), ((6, 0), (6, 1))):
        ObjectStore.empty()
        save(objects, first[0], keep=keep)
        before = ObjectStore.calls
        save(objects, second[0], keep=keep, attempt=second[1])
        calls = ObjectStore.calls - before
        assert calls >= 4
        seen = set()
        for place in range(calls):
            ObjectStore.empty()
            save(objects, first[0], keep=keep)
            ObjectStore.kill_at = ObjectStore.calls + place
            with pytest.raises(Killed):
                save(objects, second[0], keep=keep, attempt=second[1])
            ObjectStore.kill_at = None
            found = attempt_of(objects)
            assert found in (first, second), f"killed at call {place}"
            assert load_latest(objects)[1] == [], "a checkpoint that never came to be is none that broke"
            seen.add(found)
            save(objects, 7, keep=1)
            assert {path.split("/")[0] for path in files_below(objects)} == {checkpoint_name(7)}
            assert len(files_below(objects)) == 4
        assert first in seen, "no kill came before the manifest"
        assert keep == 2 or second in seen, "none came behind it"


def test_a_call_that_fails_is_made_again(objects):
    save(objects, 5)
    ObjectStore.fail = 2
    save(objects, 6)
    assert attempt_of(objects) == (6, 0)


def test_a_store_that_does_not_answer_is_no_reason_to_go_back(objects, monkeypatch):
    save(objects, 5, 6)
    monkeypatch.setattr("learner.checkpoint_folders.ATTEMPTS", 1)

    def unreachable(self, path, **options):
        raise RuntimeError("a store's own exception")

    monkeypatch.setattr(ObjectStore, "cat_file", unreachable)
    with pytest.raises(OSError, match=r"objects://.*RuntimeError: a store's own exception"):
        load_latest(objects)


def test_a_protocol_that_nobody_knows_is_refused():
    with pytest.raises(ValueError, match="expected a URL that fsspec opens, found 'nowhere://x'"):
        open_folder("nowhere://x")

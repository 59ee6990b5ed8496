import json

import pytest
import torch

from learner.checkpoint import Checkpoint, checkpoint_name, load_latest, save_checkpoint
from learner.checkpoint_folders import MANIFEST, STATE
from learner.update import Learner
from tests.tiny_groups import adapted_policy, draw_groups, fingerprint, spec


def content(update):
    tensors = {
        "trained": {"a/b": torch.full((2, 3), float(update))},
        "average": {"a/b": torch.ones(2)},
        "optimizer": {},
    }
    return Checkpoint(tensors, {"update": update, "consumed": [1, 2], "digest": "ab"})


def save(folder, *updates, keep=9):
    for update in updates:
        save_checkpoint(folder, update, content(update), keep)
    return [folder / checkpoint_name(update) for update in updates]


def latest(folder):
    found = load_latest(folder)
    assert found is not None
    return found


def folders(folder):
    return sorted(path.name for path in folder.iterdir())


def corrupt(path):
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def test_a_checkpoint_comes_back_as_it_was(tmp_path):
    (folder,) = save(tmp_path, 7)
    assert folders(tmp_path) == ["update_000007"]
    assert set(folders(folder)) == {f"{name}.safetensors" for name in content(7).tensors} | {MANIFEST, STATE}
    checkpoint, complaints = latest(tmp_path)
    assert complaints == []
    assert checkpoint.state == content(7).state
    assert checkpoint.tensors.keys() == {"trained", "average", "optimizer"}
    assert torch.equal(checkpoint.tensors["trained"]["a/b"], content(7).tensors["trained"]["a/b"])
    assert checkpoint.tensors["optimizer"] == {}


def test_the_newest_checkpoint_is_loaded_and_only_so_many_are_kept(tmp_path):
    save(tmp_path, 5, 10, 15, 100, keep=2)
    assert folders(tmp_path) == [checkpoint_name(15), checkpoint_name(100)]
    assert latest(tmp_path)[0].state["update"] == 100


def test_where_there_is_no_checkpoint_there_is_none(tmp_path):
    assert load_latest(tmp_path) is None
    assert load_latest(tmp_path / "nowhere") is None


def test_a_draft_that_was_never_finished_is_ignored(tmp_path):
    (folder,) = save(tmp_path, 5)
    draft = tmp_path / f".{checkpoint_name(6)}.tmp-0123"
    draft.mkdir()
    (draft / STATE).write_bytes((folder / STATE).read_bytes())
    checkpoint, complaints = latest(tmp_path)
    assert (checkpoint.state["update"], complaints) == (5, [])


def test_a_save_that_fails_halfway_leaves_a_draft_and_no_checkpoint(tmp_path):
    save(tmp_path, 5)
    with pytest.raises(TypeError):
        save_checkpoint(tmp_path, 6, Checkpoint({}, {"update": object()}), 9)
    assert len(folders(tmp_path)) == 2
    checkpoint, complaints = latest(tmp_path)
    assert (checkpoint.state["update"], complaints) == (5, [])
    save(tmp_path, 6)
    assert folders(tmp_path) == [checkpoint_name(5), checkpoint_name(6)], "drafts must not fill the disk"


@pytest.mark.parametrize("file", ["trained.safetensors", STATE, "average.safetensors"])
def test_a_corrupt_newest_checkpoint_is_named_and_the_one_before_is_used(tmp_path, file):
    _, newest = save(tmp_path, 5, 6)
    corrupt(newest / file)
    checkpoint, (complaint,) = latest(tmp_path)
    assert checkpoint.state["update"] == 5
    assert complaint.startswith(f"{newest / file}: expected sha256 ")


@pytest.mark.parametrize("manifest", [None, b"", b"{", b"[]", b"null", b"\x00\x00\x00", b"{}"])
def test_a_checkpoint_without_a_sound_manifest_is_passed_over(tmp_path, manifest):
    _, newest = save(tmp_path, 5, 6)
    if manifest is None:
        (newest / MANIFEST).unlink()
    else:
        (newest / MANIFEST).write_bytes(manifest)
    checkpoint, (complaint,) = latest(tmp_path)
    assert checkpoint.state["update"] == 5
    assert str(newest) in complaint


def test_a_missing_file_is_a_broken_checkpoint(tmp_path):
    _, newest = save(tmp_path, 5, 6)
    (newest / "average.safetensors").unlink()
    checkpoint, (complaint,) = latest(tmp_path)
    assert checkpoint.state["update"] == 5
    assert "average.safetensors" in complaint


def test_where_all_checkpoints_are_corrupt_the_run_does_not_start_over_silently(tmp_path):
    for folder in save(tmp_path, 5, 6):
        corrupt(folder / STATE)
    with pytest.raises(ValueError, match=r"no sound checkpoint: .*update_000006.*update_000005"):
        load_latest(tmp_path)


def test_an_update_that_is_saved_again_replaces_the_older_save(tmp_path):
    save(tmp_path, 5)
    save_checkpoint(tmp_path, 5, Checkpoint({}, {"update": 5, "again": True}), 9)
    assert latest(tmp_path)[0].state == {"update": 5, "again": True}


@pytest.mark.parametrize("keep", [1, 2])
def test_after_going_back_behind_a_broken_checkpoint_the_next_save_is_the_newest(tmp_path, keep):
    _, broken = save(tmp_path, 5, 60, keep=2)
    corrupt(broken / STATE)
    save(tmp_path, 10, keep=keep)
    checkpoint, _ = latest(tmp_path)
    assert checkpoint.state["update"] == 10
    assert checkpoint_name(10) in folders(tmp_path)
    assert broken.name not in folders(tmp_path)


def test_the_manifest_names_every_other_file(tmp_path):
    (folder,) = save(tmp_path, 5)
    assert sorted(json.loads((folder / MANIFEST).read_text())) == [name for name in folders(folder) if name != MANIFEST]


def test_a_learner_goes_on_bit_equal_from_a_checkpoint(tmp_path):
    def updates(learner, first, last):
        for index in range(first, last):
            learner.update(draw_groups(learner.policy, 2, first=2 * index), guard=True)

    def build():
        return Learner(adapted_policy(), spec(mode="gae", optimizer_steps=2, weight_decay=0.01))

    straight, halted, resumed = build(), build(), build()
    updates(straight, 0, 5)
    updates(halted, 0, 2)
    save_checkpoint(tmp_path, 2, Checkpoint(halted.tensors(), {"update": 2}), 1)
    checkpoint, _ = latest(tmp_path)
    resumed.load(checkpoint.tensors, checkpoint.state["update"])
    assert fingerprint(resumed) == fingerprint(halted)
    updates(resumed, 2, 5)
    assert fingerprint(resumed) == fingerprint(straight)
    assert fingerprint(straight) != fingerprint(halted)


def test_a_learner_that_never_stepped_is_saved_and_loaded_too(tmp_path):
    fresh, other = (Learner(adapted_policy(seed), spec()) for seed in (1, 1))
    save_checkpoint(tmp_path, 0, Checkpoint(fresh.tensors(), {}), 1)
    other.load(latest(tmp_path)[0].tensors, 0)
    assert fingerprint(other) == fingerprint(fresh)

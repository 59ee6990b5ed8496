"""What the learner consumed, on disk: as it was, whole or not there, and never more than is asked for."""

import pytest

from rollout.types import Behaviour, Prompt, WeightsVersion
from services.data.blob_refs import new_refs
from services.data.wire import GroupEntry, RewardColumn, ScoredEntry, WireBehaviour, WirePrompt, WireVersion, encode
from services.errors import ConfigError
from services.fleet.workers.recording import Recording, Recordings, path_of, read_recording, recorded

BEHAVIOUR = Behaviour(sigmas=(1.0, 0.5, 0.0), temperatures=(1.0,) * 2, height=4, width=4)


def entry(ordinal, payloads):
    group = GroupEntry(
        ordinal=ordinal,
        attempt=0,
        prompt=WirePrompt.of(Prompt(id=str(ordinal), text="write 1")),
        behaviour=WireBehaviour.of(BEHAVIOUR),
        weights=WireVersion.of(WeightsVersion(version=1, update=0, lineage=0, digest="ab")),
        transitions=(0,),
        diversity=(),
        image_steps=(1,),
        latents=new_refs("redis://", [f"{ordinal}/{sample}" for sample in range(len(payloads))], payloads),
        images=(),
        producer="rollout-0",
        created_ms=0,
        timings={},
    )
    column = RewardColumn(name="r", range=(0.0, 1.0), values=[[0.5, 0.25]] * len(payloads), scored=[True, True])
    return ScoredEntry(group=group, rewards=(column,), producer="reward-0", scored_ms=0, timings={})


def header(update, entries):
    return Recording(
        update=update,
        version=update,
        lineage=0,
        config="c0ffee",
        ranks=1,
        fresh=True,
        before={"trained": "ab"},
        entries=tuple(encode(one) for one in entries),
    )


def record(folder, update, size=100, **bounds):
    """Two groups of two payloads each; a second recording of the same update is of other groups."""
    again = len(recorded(folder))
    payloads = [[bytes([update, again, group, sample]) * size for sample in range(2)] for group in range(2)]
    entries = [entry(10 * update + group, blobs) for group, blobs in enumerate(payloads)]
    recordings = Recordings(folder, **{"updates": 100, "max_bytes": 1e9, **bounds})
    with recordings.write(header(update, entries)) as writer:
        for blobs in payloads:
            writer.add(blobs)
    recordings.tidy(update)
    return entries, payloads


def numbers(folder):
    return [number for number, _ in recorded(folder)]


def test_groups_come_back_as_they_were_with_what_the_learner_held_before(tmp_path):
    entries, payloads = record(tmp_path, 7)
    found = read_recording(tmp_path, 7)
    assert [(group, list(blobs)) for group, blobs in found.groups] == list(zip(entries, payloads, strict=True))
    assert found.header == header(7, entries)


def test_only_the_newest_updates_are_kept(tmp_path):
    for update in range(1, 7):
        record(tmp_path, update, updates=3)
    assert numbers(tmp_path) == [4, 5, 6]


def test_only_so_many_bytes_are_kept_and_the_newest_in_any_case(tmp_path):
    record(tmp_path, 1, size=10)
    record(tmp_path, 2, size=1000)
    record(tmp_path, 3, size=10)
    limit = sum(path_of(tmp_path, update).stat().st_size for update in (3, 4) if path_of(tmp_path, update).exists())
    record(tmp_path, 4, size=10, max_bytes=2 * limit + 100)
    assert numbers(tmp_path) == [3, 4]  # 2 has no room, and 1 would leave a gap behind it
    record(tmp_path, 5, size=10_000, max_bytes=1)
    assert numbers(tmp_path) == [5]


def test_a_run_that_went_back_records_anew_and_forgets_the_updates_that_it_lost(tmp_path):
    for update in range(1, 6):
        record(tmp_path, update)
    entries, _ = record(tmp_path, 3)
    assert numbers(tmp_path) == [1, 2, 3]
    assert [group for group, _ in read_recording(tmp_path, 3).groups] == entries


def test_a_recording_that_fails_halfway_is_not_there(tmp_path):
    record(tmp_path, 1)
    payloads = [b"x", b"y"]
    with (
        pytest.raises(OSError, match="No space"),
        Recordings(tmp_path, 9, 1e9).write(header(2, [entry(2, payloads)])) as writer,
    ):
        writer.add(payloads)
        raise OSError("No space left on device")
    assert [path.name for path in (tmp_path / "recorded").iterdir()] == ["update_000001.groups"]


def test_a_missing_recording_is_named_with_those_that_are_there(tmp_path):
    record(tmp_path, 3)
    with pytest.raises(ConfigError, match=r"update_000004\.groups, found none; recorded updates: 3"):
        read_recording(tmp_path, 4)


@pytest.mark.parametrize("place", [0, 20, 30, 400, -40, -1])
def test_a_changed_byte_is_found_wherever_it_is(tmp_path, place):
    record(tmp_path, 3)
    path = path_of(tmp_path, 3)
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(data)
    with pytest.raises(ConfigError, match=rf"{path}: expected (sha256|a file that begins)"):
        read_recording(tmp_path, 3)


@pytest.mark.parametrize("length", [0, 5, 17, 60, 500])
def test_a_file_that_is_cut_off_is_refused(tmp_path, length):
    record(tmp_path, 3)
    path = path_of(tmp_path, 3)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(ConfigError, match=str(path)):
        read_recording(tmp_path, 3)

"""Stack dumps: every thread by name, in a bounded number of files."""

import threading

from services.fleet.supervision.stacks import FOLDER, KEEP, stacks, write_stacks


def test_a_dump_shows_where_every_thread_stands() -> None:
    release = threading.Event()
    thread = threading.Thread(target=release.wait, args=(30,), name="stuck here")
    thread.start()
    try:
        dump = stacks()
    finally:
        release.set()
        thread.join(5)
    assert "thread stuck here" in dump
    assert "test_a_dump_shows_where_every_thread_stands" in dump


def test_old_dumps_make_room_for_new_ones(tmp_path) -> None:
    paths = [write_stacks(tmp_path, "rollout-0: hung", {"rollout-0": "stack"}) for _ in range(KEEP + 3)]
    assert sorted((tmp_path / FOLDER).glob("*.txt")) == sorted(paths[3:])
    assert "==== rollout-0 ====\nstack" in paths[-1].read_text()

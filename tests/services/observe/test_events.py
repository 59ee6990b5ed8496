from services.observe.events import FILE, Event, EventLog, read_events
from services.observe.timeline import timeline_section


def test_what_was_told_is_read_in_its_order(tmp_path) -> None:
    log = EventLog(tmp_path)
    log.add("start", "The run starts.")
    log.add("worker", "died", update=3, slot="rollout-1")
    log.close()
    first, second = read_events(tmp_path)
    assert (first.kind, first.update, first.slot) == ("start", 0, "")
    assert (second.text, second.update, second.slot) == ("died", 3, "rollout-1")
    assert first.unix_time <= second.unix_time


def test_a_later_start_appends_and_a_line_cut_off_by_a_kill_costs_no_other(tmp_path) -> None:
    log = EventLog(tmp_path)
    log.add("start", "one")
    log.close()
    path = tmp_path / FILE
    path.write_bytes(path.read_bytes() + b'{"unix_time": 17')
    log = EventLog(tmp_path)
    log.add("start", "two")
    log.close()
    assert [event.text for event in read_events(tmp_path)] == ["one", "two"]


def test_a_run_without_a_journal_has_no_events(tmp_path) -> None:
    assert read_events(tmp_path) == ()
    assert "no journal" in timeline_section((), ())


def test_the_time_line_tells_of_updates_that_were_not_finite_and_of_kinds_it_does_not_know(make_history) -> None:
    records = make_history(20)
    event = Event(unix_time=1_760_000_100.0, kind="comet", text="It passed <by>.")
    page = timeline_section(records, [event])
    assert "Update 17 left out an optimizer step" in page
    assert "comet" in page
    assert "It passed &lt;by&gt;." in page


def test_only_the_last_events_stand_in_the_table(make_history) -> None:
    page = timeline_section(make_history(2), [_event(number) for number in range(250)])
    assert "the last 200 of 250" in page
    assert "<td>event 50</td>" in page
    assert "<td>event 49</td>" not in page


def _event(number: int) -> Event:
    return Event(unix_time=1_760_000_000.0 + number, kind="worker", text=f"event {number}")

import sys
from pathlib import Path
from subprocess import run

import msgspec
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from services.observe.scalars import ScalarWriter
from services.observe.strips import compose_strip


def load(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder))
    events.Reload()
    return events


def test_every_figure_of_an_update_becomes_a_scalar_per_step(tmp_path: Path, make_history) -> None:
    with ScalarWriter(tmp_path) as writer:
        for record in make_history(3):
            writer.write(record)
    events = load(tmp_path)
    assert set(events.Tags()["scalars"]) == {
        *(f"reward/{name}/step_{step}" for name in ("exact_match", "judge") for step in range(4)),
        *(f"{tag}/step_{step}" for tag in ("advantage_std", "drift", "baseline_gain") for step in range(3)),
        *(f"{tag}/step_{step}" for tag in ("diversity", "temperature") for step in range(4)),
        "distance_from_base",
        *(f"phase_seconds/{phase}" for phase in ("wait", "load", "forward_backward", "publish", "checkpoint")),
        *("loss", "grad_norm", "kl", "clip_fraction", "learning_rate", "staleness", "images_per_second"),
    }
    assert [event.step for event in events.Scalars("loss")] == [1, 2, 3]
    assert events.Scalars("images_per_second")[1].value > 17


def test_what_is_not_finite_is_left_out(tmp_path: Path, make_history) -> None:
    record = make_history(1)[0]
    with ScalarWriter(tmp_path) as writer:
        writer.write(msgspec.structs.replace(record, report={**record.report, "loss": float("nan")}))
    assert "loss" not in load(tmp_path).Tags()["scalars"]


def test_a_strip_becomes_an_image(tmp_path: Path, make_rows) -> None:
    strip = compose_strip(make_rows(1), ("a", "b", "c", "d"), "t")
    with ScalarWriter(tmp_path) as writer:
        writer.write_strip(strip, update=5, unix_time=1.0)
    (image,) = load(tmp_path).Images("strips")
    assert (image.step, image.width, image.height) == (5, strip.width, strip.height)


def test_after_a_rollback_the_lost_updates_disappear(tmp_path: Path, make_history) -> None:
    records = make_history(5)
    with ScalarWriter(tmp_path) as writer:
        for record in records:
            writer.write(record)
    with ScalarWriter(tmp_path, resumed_after=records[1]) as writer:
        writer.write(records[2])
    assert [event.step for event in load(tmp_path).Scalars("loss")] == [1, 2, 3]


def test_the_room_imports_no_torch() -> None:
    modules = "report, scalars, progress, metrics, model_card, strips, summary, history"
    code = f"import sys; from services.observe import {modules}; sys.exit('torch' in sys.modules)"
    assert run([sys.executable, "-c", code], check=False).returncode == 0

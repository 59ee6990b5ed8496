import io
import sys
from pathlib import Path
from subprocess import run

import msgspec
import numpy as np
import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.backend.event_processing.plugin_event_accumulator import EventAccumulator as Migrated
from tensorboard.plugins.hparams import metadata
from tensorboard.util.tensor_util import make_ndarray

from services.observe.hyperparameters import hyperparameters
from services.observe.scalars import ScalarWriter
from services.observe.strips import compose_strip


def load(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder), size_guidance={"histograms": 0, "images": 0})  # 0: all of them
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


def test_advantages_and_drift_are_histograms_per_step_over_time(tmp_path: Path, make_history) -> None:
    records = make_history(3)
    with ScalarWriter(tmp_path) as writer:
        for record in records:
            writer.write(record)
    events = load(tmp_path)
    tags = {f"{tag}/step_{step}" for tag in ("advantages", "drifts") for step in range(3)}
    assert set(events.Tags()["histograms"]) == tags
    found = events.Histograms("advantages/step_1")
    assert [event.step for event in found] == [1, 2, 3]
    for event, record in zip(found, records, strict=True):
        written, read = record.figures.advantages[1], event.histogram_value
        assert tuple(read.bucket) == written.counts
        assert (read.min, read.max, read.num) == (written.low, written.high, 100)
        assert (read.sum, read.sum_squares) == (written.total, written.squares)
        edges = np.linspace(written.low, written.high, len(written.counts) + 1)
        assert read.bucket_limit == pytest.approx(edges[1:])


def test_tensorboards_histogram_page_sees_every_value_in_its_bin(tmp_path: Path, make_history) -> None:
    record = make_history(1)[0]
    with ScalarWriter(tmp_path) as writer:
        writer.write(record)
    events = Migrated(str(tmp_path))  # as TensorBoard's server reads
    events.Reload()
    assert set(events.PluginTagToContent("histograms")) >= {"drifts/step_2"}
    (event,) = events.Tensors("drifts/step_2")
    left, right, counts = make_ndarray(event.tensor_proto).T
    figures = record.figures.drifts[2]
    assert (left[0], right[-1]) == pytest.approx((figures.low, figures.high))
    assert counts.sum() == 100
    assert (left[1:] == right[:-1]).all()


def test_settings_become_hyperparameters_beside_the_rewards_that_they_led_to(tmp_path: Path, make_history) -> None:
    settings = {"learning.rate": 3e-4, "seed": 1, "learning.correction": True, "sampling.kernel": "annealed"}
    with ScalarWriter(tmp_path) as writer:
        writer.write_settings(settings, ["reward/judge/step_3"], unix_time=1.0)
        writer.write(make_history(1)[0])
    with ScalarWriter(tmp_path, resumed_after=make_history(1)[0]) as writer:
        writer.write_settings(settings, ["reward/judge/step_3"], unix_time=2.0)
    events = Migrated(str(tmp_path))
    events.Reload()
    contents = events.PluginTagToContent(metadata.PLUGIN_NAME)
    start = metadata.parse_session_start_info_plugin_data(contents[metadata.SESSION_START_INFO_TAG])
    read = {key: getattr(value, str(value.WhichOneof("kind"))) for key, value in start.hparams.items()}
    assert read == settings
    assert type(read["learning.correction"]) is bool
    experiment = metadata.parse_experiment_plugin_data(contents[metadata.EXPERIMENT_TAG])
    assert {info.name for info in experiment.hparam_infos} == settings.keys()
    (metric,) = experiment.metric_infos
    assert metric.name.tag in events.PluginTagToContent("scalars")


def test_hyperparameters_are_what_changes_how_a_run_learns() -> None:
    reward = {"use": "package:function", "name": "light", "gate": {"at_least": 0.5}, "steps": None}
    resolved = {
        "name": "a",
        "seed": 7,
        "runs": "runs",
        "model": {"path": "m", "lora": {"rank": 8}, "revision": None},
        "sampling": {"sigmas": [1.0, 0.5], "other_sigmas": []},
        "rewards": [reward, {"use": "ocr", "name": None, "weight": 0.5}],
        "learning": {"rate": 1e-4},
        "fleet": {"max_staleness": 1, "redis": "redis://:***@host", "rollout": {"workers": 3}},
        "evaluation": None,
    }
    assert hyperparameters(resolved) == {
        "seed": 7,
        "model.path": "m",
        "model.lora.rank": 8,
        "sampling.sigmas": "[1.0, 0.5]",
        "sampling.other_sigmas": "[]",
        "rewards.light.use": "package:function",
        "rewards.light.name": "light",
        "rewards.light.gate.at_least": 0.5,
        "rewards.ocr.use": "ocr",
        "rewards.ocr.weight": 0.5,
        "learning.rate": 1e-4,
        "fleet.max_staleness": 1,
    }


def test_strips_become_images_over_time(tmp_path: Path, make_rows) -> None:
    strips = [compose_strip(make_rows(1), ("a", "b", "c", "d"), f"update {update}") for update in (0, 5)]
    with ScalarWriter(tmp_path) as writer:
        for update, strip in zip((0, 5), strips, strict=True):
            writer.write_strip(strip, update=update, unix_time=1.0 + update)
    found = load(tmp_path).Images("strips")
    assert [image.step for image in found] == [0, 5]
    for image, strip in zip(found, strips, strict=True):
        assert (image.width, image.height) == strip.size
        assert (np.asarray(Image.open(io.BytesIO(image.encoded_image_string))) == np.asarray(strip)).all()


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

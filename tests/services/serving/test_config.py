from pathlib import Path

import pytest

from services.cli.run_file import load_serving_file
from services.errors import ConfigError


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "serving.yaml"
    path.write_text("use: jpeg_size\noptions: {direction: smaller}\n")
    return path


def test_a_file_with_a_reward_is_enough_and_listens_on_this_machine_only(file) -> None:
    config = load_serving_file(file, ["port=9000"])
    assert (config.use, config.host, config.port) == ("jpeg_size", "127.0.0.1", 9000)


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("host=0.0.0.0", "host 0.0.0.0 can be reached from other machines and needs token_file"),
        ("max_waiting_bytes=10", "max_waiting_bytes is below max_bytes"),
        ("max_image=3", "unknown key `max_image`; the nearest valid one is `max_images`"),
        ("max_images=0", "`max_images`"),
    ],
)
def test_settings_that_cannot_work_are_refused(file, override, complaint) -> None:
    with pytest.raises(ConfigError, match=complaint):
        load_serving_file(file, [override])


def test_a_file_that_is_not_there_is_named(tmp_path) -> None:
    with pytest.raises(ConfigError, match="expected a reward server's file, found none at"):
        load_serving_file(tmp_path / "absent.yaml")

"""Who connects to the run's server as whom, and who learns of it."""

from pathlib import Path

import pytest

from services.cli.run_file import load_run_file
from services.errors import ConfigError
from services.fleet.supervision.fleet import without_servers

ROOT = Path(__file__).resolve().parents[2]
USERS = {
    "TAFS_REDIS_URL": "redis://tafs-driver:one@redis:6379/0",
    "TAFS_REDIS_URL_LEARNER": "redis://tafs-learner:two@redis:6379/0",
    "TAFS_REDIS_URL_ROLLOUT": "redis://tafs-rollout:three@redis:6379/0",
}
FILES = [ROOT / "deploy/configs/cluster.yaml", *sorted(ROOT.glob("deploy/configs/*/1gpu.yaml"))]


@pytest.fixture
def environment(monkeypatch):
    for name in (*USERS, "TAFS_REDIS_URL_REWARD", "TAFS_REDIS_URL_EXPORTER"):
        monkeypatch.delenv(name, raising=False)
    return lambda: [monkeypatch.setenv(name, url) for name, url in USERS.items()]


@pytest.mark.parametrize("file", FILES, ids=lambda path: path.parent.name)
def test_a_clusters_run_files_take_a_user_for_each_role_and_the_drivers_where_there_is_none(file, environment) -> None:
    environment()
    fleet = load_run_file(file).fleet
    roles = ("learner", "rollout", "reward", "exporter")
    assert [fleet.redis_users.url_of(role, str(fleet.redis)).partition("@")[0] for role in roles] == [
        "redis://tafs-learner:two", "redis://tafs-rollout:three", "redis://tafs-driver:one", "redis://tafs-driver:one",
    ]  # fmt: skip


def test_without_any_in_the_environment_the_server_is_a_private_one(environment) -> None:
    fleet = load_run_file(FILES[0]).fleet
    assert fleet.redis is None
    assert fleet.redis_users.url_of("learner", "unix://private") == "unix://private"


def test_no_password_is_written_down_and_none_is_in_what_workers_are_given(environment) -> None:
    environment()
    config = load_run_file(FILES[0])
    assert "redis://tafs-learner:***@redis" in config.model_dump_json()
    for text in (config.model_dump_json(), repr(without_servers(config))):
        assert not [url for url in USERS.values() if url.rpartition("@")[0].rpartition(":")[2] + "@" in text]
    assert without_servers(config).fleet.redis is None
    assert without_servers(config).sampling == config.sampling


def test_users_without_a_server_are_told_by_their_key(environment) -> None:
    with pytest.raises(ConfigError, match=r"redis_users\.rollout names a user of a server of yours"):
        load_run_file(FILES[0], ["fleet.redis_users.rollout=redis://tafs-rollout:x@redis"])

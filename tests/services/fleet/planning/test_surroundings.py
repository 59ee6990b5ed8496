"""What a run stands on: the server's version and policy, clocks, Ray's door, shared memory, whose code is imported."""

from pathlib import Path

import pytest

from services.cli.run_file import load_run_file
from services.data.server import EmbeddedServer, connect
from services.errors import ConfigError, ServerUnavailable
from services.fleet.planning.surroundings import check_surroundings, origin_line, ray_line, server_lines, shm_line

ROOT = Path(__file__).resolve().parents[4]
QUICKSTART = ROOT / "deploy/configs/quickstart.yaml"


@pytest.mark.integration
def test_a_real_server_is_asked_and_one_that_may_throw_keys_away_is_refused() -> None:
    with EmbeddedServer(memory_bytes=64 << 20) as server:
        config = load_run_file(QUICKSTART, [f"fleet.redis={server.url}"])
        lines = check_surroundings(config)
        assert any(line.startswith("packages: rollout, rewards, learner, services in ") for line in lines)
        assert any(line.endswith("noeviction, 0.1 GiB") for line in lines), lines
        assert any(line.startswith("clock: the server's is +0.00 s") or "-0.00 s" in line for line in lines), lines
        redis = connect(server.url)
        redis.config_set("maxmemory-policy", "allkeys-lru")
        with pytest.raises(ConfigError, match="expected maxmemory-policy noeviction, found allkeys-lru"):
            check_surroundings(config)
        redis.close()
    with pytest.raises(ServerUnavailable):
        check_surroundings(config)


@pytest.mark.integration
def test_a_run_with_a_server_of_its_own_is_told_which_one_that_is() -> None:
    assert any("server: a private one" in line for line in check_surroundings(load_run_file(QUICKSTART, [])))


@pytest.mark.parametrize("version", ["6.2.14", "5.0", "0"])
def test_a_server_that_is_too_old_is_refused(version) -> None:
    with pytest.raises(ConfigError, match=r"version 7\.0 or later, found "):
        server_lines({"redis_version": version}, 0.0)


def test_a_clock_that_is_wrong_is_told() -> None:
    fine, wrong = (server_lines({"redis_version": "7.0.15"}, skew)[1] for skew in (0.9, -3.0))
    assert "set them right" not in fine
    assert "-3.00 s" in wrong
    assert "set them right" in wrong


def test_packages_that_do_not_lie_side_by_side_are_refused() -> None:
    ours = {name: ROOT / name for name in ("rollout", "rewards", "learner", "services")}
    assert origin_line(ours) == f"packages: rollout, rewards, learner, services in {ROOT}"
    with pytest.raises(ConfigError, match="learner in /usr/lib/python3"):
        origin_line({**ours, "learner": Path("/usr/lib/python3/learner")})


def test_a_cluster_without_authentication_is_told() -> None:
    assert "WITHOUT" in ray_line({"RAY_ADDRESS": "10.0.0.1:6379"}, "2.55.0")
    assert "WITHOUT" not in ray_line({"RAY_ADDRESS": "10.0.0.1:6379", "RAY_AUTH_MODE": "token"}, "2.55.0")
    assert "private" in ray_line({}, "2.55.0")


def test_little_shared_memory_is_told() -> None:
    assert "raise --shm-size" in shm_line(0.06)
    assert "raise" not in shm_line(8.0)

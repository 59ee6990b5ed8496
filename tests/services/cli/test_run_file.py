"""Run files: every mistake names the file, the key, what was expected and what was found."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from services.cli.run_file import load_run_file
from services.errors import ConfigError

ROOT = Path(__file__).resolve().parents[3]
QUICKSTART = ROOT / "deploy/configs/quickstart.yaml"


def no_kl(values) -> None:
    values["learning"]["kl_weight"] = 0


@pytest.fixture
def run_file(tmp_path):
    def write(change) -> Path:
        values = yaml.safe_load(QUICKSTART.read_text())
        change(values)
        path = tmp_path / "run.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


def test_the_shipped_run_file_is_valid() -> None:
    config = load_run_file(QUICKSTART)
    assert config.sampling.sigmas == (1, 0.75, 0.5, 0.25, 0)
    assert config.sampling.behaviour().num_steps == 4


def test_an_override_changes_one_setting_and_leaves_the_rest() -> None:
    config = load_run_file(QUICKSTART, ["learning.updates=7", "rewards.0.weight=2", "evaluation=null"])
    assert config.learning.updates == 7
    assert config.rewards[0].weight == 2
    assert config.evaluation is None
    assert config.learning.groups_per_update == load_run_file(QUICKSTART).learning.groups_per_update


def test_a_file_of_overrides_lies_over_the_run_file_and_under_what_follows(tmp_path) -> None:
    settings = tmp_path / "settings.yaml"
    settings.write_text("learning: {updates: 7, rate: 1.0e-5}\nrewards: [{use: jpeg_size}]\n")
    config = load_run_file(QUICKSTART, ["learning.updates=9", f"@{settings}", "learning.rate=2.0e-5"])
    assert (config.learning.updates, config.learning.rate) == (7, 2e-5)
    assert [reward.use for reward in config.rewards] == ["jpeg_size"]
    assert config.learning.groups_per_update == load_run_file(QUICKSTART).learning.groups_per_update
    with pytest.raises(ConfigError, match="expected a settings file, found none at absent"):
        load_run_file(QUICKSTART, ["@absent"])


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            lambda v: v["learning"].update(updats=3),
            r"unknown key `learning\.updats`; the nearest valid one is `updates`",
        ),
        (lambda v: v["fleet"]["rollout"].update(worker=3), r"unknown key `fleet\.rollout\.worker`.*`workers`"),
        (lambda v: v.update(smapling={}), r"unknown key `smapling`; the nearest valid one is `sampling`"),
        (lambda v: v["rewards"][0].update(wight=1), r"unknown key `rewards\.0\.wight`.*`weight`"),
        (lambda v: v.pop("model"), r"`model` is required and absent"),
        (lambda v: v["learning"].update(updates=0), r"`learning\.updates`: .*greater than 0, found 0"),
        (lambda v: v["sampling"].update(sigmas=[1, 0.5, 0.7, 0]), r"`sampling`: a grid falls strictly; step 1"),
        (lambda v: v["sampling"].update(sigmas=[0.9, 0.5, 0]), r"a grid goes from 1 to 0"),
        (lambda v: v["sampling"].update(sigmas=[1, 0]), r"no transition has a density"),
        (lambda v: v["sampling"].update(temperature={"start": 0.0}), r"no transition has a density"),
        (lambda v: v["sampling"].update(sigmas=[1, 0.01, 0]), r"step 0 \(sigma 1 -> 0\.01, tau 1\) cannot be trained"),
        (
            lambda v: v["model"].update(path="hub:owner/name"),
            r"needs `revision`, a commit; `tafs inspect hub:own",
        ),
        (lambda v: v["model"].update(path="hub:name"), r"expected `hub:owner/name` in model\.path, found 'hub:name'"),
        (lambda v: v["model"].update(offline=True), r"`revision` and `offline` have no effect on a local folder"),
        (lambda v: v["sampling"]["temperature"].update(end=0.5), r"`end` belongs to an annealed temperature"),
        (lambda v: v["learning"].update(advantage={"mode": "terminal", "lam": 0.5}), r"`lam` has no effect"),
        (lambda v: (no_kl(v), v["model"].update(lora=None)), r"merge_adapter needs model\.lora"),
        (lambda v: v["model"].update(lora=None, base_adapter="a"), r"`model`: a base_adapter stays under a trained"),
        (lambda v: (no_kl(v), v["learning"].update(kl_form="exact")), r"`kl_form` has no effect with kl_weight 0"),
        (lambda v: v["rewards"].append({"use": "text_rendering"}), r"expected each reward once"),
        (lambda v: v.update(name="a/b"), r"`name`: .*pattern"),
    ],
)
def test_a_mistake_is_told_by_file_and_key(run_file, change, sentence) -> None:
    path = run_file(change)
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_run_file(path)
    assert str(path) in str(caught.value)


def test_a_servers_password_comes_from_the_environment_and_stays_out_of_what_is_written(monkeypatch) -> None:
    monkeypatch.setenv("TAFS_REDIS_URL", "rediss://driver:s3cr:et@redis:6379/0")
    config = load_run_file(QUICKSTART, ["fleet.redis=${TAFS_REDIS_URL}"])
    assert config.fleet.redis == "rediss://driver:s3cr:et@redis:6379/0"
    assert config.model_dump(mode="json")["fleet"]["redis"] == "rediss://driver:***@redis:6379/0"
    plain = load_run_file(QUICKSTART, ["fleet.redis=redis://redis:6379/0"])
    assert plain.model_dump()["fleet"]["redis"] == "redis://redis:6379/0"


def test_a_missing_or_broken_file_is_told(tmp_path) -> None:
    with pytest.raises(ConfigError, match="expected a run file, found none at"):
        load_run_file(tmp_path / "absent.yaml")
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: [")
    with pytest.raises(ConfigError, match="not YAML"):
        load_run_file(broken)
    broken.write_bytes(b"name: \xff")
    with pytest.raises(ConfigError, match=r"broken\.yaml: not YAML"):
        load_run_file(broken)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("learning.updates", r"expected dotted\.key=value"),
        ("learning.updates=[", "the value is not YAML"),
        ("name.first=a", "name is not a block"),
        ("rewards.1.weight=2", "the number of one of 1 entries, from 0, found '1'"),
        ("rewards.text_rendering.weight=2", "found 'text_rendering'"),
        ("rewards.x={}", "found 'x'"),
    ],
)
def test_an_override_that_cannot_be_applied_is_told(override, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        load_run_file(QUICKSTART, [override])
    assert override in str(caught.value)


def tafs(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.integration
@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("learning.updats=3", "unknown key `learning.updats`; the nearest valid one is `updates`"),
        ("model.dtype=bfloat16", "fleet.merge_adapter needs model.lora and model.dtype float32"),
        ("model.path=no/such/folder", "expected a diffusers pipeline folder, found no"),
        ("rewards.0.use=no_such_module:reward", "no_such_module"),
        ("rewards.0.use=text_rendring", "text_rendering"),
        ("sampling.prompts=README.md", "README.md:1: expected a JSON object"),
        ("runs=/proc/no", "cannot write the run folder"),
        ("rewards.0.use=judge", "judge"),
        ("fleet.rollout.workers=5000", "the fleet asks for"),
    ],
)
def test_a_run_that_cannot_work_is_refused_before_anything_starts(override, sentence) -> None:
    done = tafs("train", str(QUICKSTART), override)
    assert done.returncode == 64, done.stderr
    assert sentence in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.integration
def test_a_run_whose_rewards_server_does_not_answer_can_be_tried_again(run_file) -> None:
    options = {"url": "http://127.0.0.1:1", "attempts": 1}
    path = run_file(lambda values: values["rewards"].append({"use": "remote", "options": options}))
    done = tafs("check", str(path))
    assert done.returncode == 75, done.stderr
    assert "cannot be reached" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.integration
def test_a_wrong_command_line_is_a_bad_configuration() -> None:
    assert tafs("no-such-command").returncode == 64
    assert tafs("train").returncode == 64


@pytest.mark.integration
def test_check_tells_what_it_found_sound() -> None:
    done = tafs("check", str(QUICKSTART))
    assert done.returncode == 0, done.stderr
    assert "StableDiffusion3Pipeline" in done.stdout
    assert "text_rendering" in done.stdout
    assert "432" in done.stdout

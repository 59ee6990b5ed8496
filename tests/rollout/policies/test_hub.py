"""A cache as huggingface_hub lays it out, made by hand around a real tiny pipeline; and a hub that refuses."""

import json
import os
import shutil
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from rollout.policies.build import PolicySpec, load_policy
from rollout.policies.hub import hub_id, local_folder, missing_files
from rollout.policies.sd3 import SD3Policy

NAME = "owner/tiny-sd3"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def cached(cache, folder, without=()):
    """The pipeline in the cache: blobs, and a snapshot of links to them."""
    repository = cache / "models--owner--tiny-sd3"
    (repository / "blobs").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
    for number, file in enumerate(files):
        place = file.relative_to(folder)
        if str(place).startswith(tuple(without)):
            continue
        blob = repository / "blobs" / f"{number:040x}"
        shutil.copyfile(file, blob)
        link = repository / "snapshots" / COMMIT / place
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    return repository / "snapshots" / COMMIT


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def find(offline=True, revision=COMMIT):
    return local_folder(Path(f"hub:{NAME}"), revision, offline=offline)


def test_a_folder_is_itself_and_an_id_is_none():
    assert local_folder(Path("some/folder"), None, offline=False) == Path("some/folder")
    assert hub_id(Path("some/folder")) is None
    assert hub_id(Path("hub:owner/name")) == "owner/name"


@pytest.mark.parametrize("revision", [COMMIT, None])
def test_a_cached_model_is_found_without_asking_anyone(cache, without_t5, revision):
    snapshot = cached(cache, without_t5)
    assert find(revision=revision) == snapshot
    assert missing_files(snapshot) == []


def test_a_pinned_commit_that_is_cached_is_never_asked_for(cache, without_t5, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:1")
    snapshot = cached(cache, without_t5)
    assert find(offline=False) == snapshot


@pytest.mark.parametrize(
    ("without", "named"),
    [
        (["transformer"], "transformer"),
        (["vae/diffusion"], r"vae/\*\.safetensors"),
        (["model_index"], r"model_index\.json"),
    ],
)
def test_what_the_cache_has_not_got_is_named_with_the_way_to_fetch_it(cache, without_t5, without, named):
    cached(cache, without_t5, without)
    with pytest.raises(
        ValueError,
        match=rf"{NAME} at {COMMIT}: .*`model\.offline` forbids .*; found no {named}\. .*`hf download {NAME} --rev",
    ):
        find()


def test_a_shard_that_the_cache_has_not_got_is_named(tmp_path, without_t5):
    folder = tmp_path / "model"
    shutil.copytree(without_t5, folder)
    part = folder / "transformer"
    (weights,) = part.glob("*.safetensors")
    weights.rename(part / "model-00001-of-00002.safetensors")
    names = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (part / "model.safetensors.index.json").write_text(json.dumps({"weight_map": names}))
    assert missing_files(folder) == ["transformer/model-00002-of-00002.safetensors"]


def test_the_environment_switches_the_hub_off(cache, without_t5):
    """In a process of its own, for huggingface_hub reads its switches when it is imported."""
    snapshot = cached(cache, without_t5)
    code = (
        "from pathlib import Path; from rollout.policies.hub import local_folder\n"
        f"print(local_folder(Path('hub:{NAME}'), '{COMMIT}', offline=False))\n"
        f"local_folder(Path('hub:{NAME}'), '{'f' * 40}', offline=False)"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(cache)},
        cwd=Path(__file__).parents[3],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == str(snapshot)
    assert "the environment variable HF_HUB_OFFLINE forbids" in done.stderr
    assert isinstance(load_policy(PolicySpec(folder=snapshot)), SD3Policy)


class Hub(BaseHTTPRequestHandler):
    """Answers every question with the server's `answer`: a status and the hub's code for an error."""

    def do_GET(self):
        status, code = self.server.answer
        self.server.tokens.append(self.headers.get("Authorization"))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub(monkeypatch, cache):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.tokens = []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}"
    for module in ("constants", "hf_api"):
        monkeypatch.setattr(f"huggingface_hub.{module}.ENDPOINT", url, raising=False)
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (403, "GatedRepo", r"is gated: accept its terms on http://127\.0\.0\.1:\d+/owner/tiny-sd3 and set HF_TOKEN"),
        (401, "RepoNotFound", r"the hub knows no such model, or it is private; change `model\.path`, or set HF_TOKEN"),
        (404, "RevisionNotFound", r"the hub knows no such commit; change `model\.revision`"),
        (400, "", r"expected an answer from http://127\.0\.0\.1:\d+, found: .*Try again, or fetch it elsewhere"),
    ],
)
def test_what_the_hub_refuses_says_what_to_do(hub, status, code, sentence):
    hub.answer = (status, code)
    with pytest.raises(ValueError, match=rf"{NAME} at {COMMIT}.*{sentence}") as caught:
        find(offline=False)
    assert "hf_secret" not in str(caught.value)
    assert "Bearer hf_secret" in hub.tokens

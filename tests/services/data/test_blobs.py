import pytest

from services.data.blobs import FileBlobs, RedisBlobs, build_blobs
from services.data.server import connect, without_retry
from services.data.wire import BlobRef
from services.errors import BlobCorrupt, BlobError, ConfigError, ServerFull, ServerUnavailable

from .blob_contract import BLOBS, NAMES, BlobContract


class TestStores(BlobContract):
    @pytest.fixture(params=["redis", "file", "memory"])
    def store(self, request, redis, tmp_path):
        urls = {"redis": "redis://", "file": f"file://{tmp_path}/blobs", "memory": f"memory://{tmp_path}/blobs"}
        return build_blobs(urls[request.param], redis, "run")


def test_another_runs_blobs_are_not_listed(redis) -> None:
    RedisBlobs(redis, "other").put(NAMES, BLOBS)
    assert list(RedisBlobs(redis, "run").uris()) == []


def test_a_flipped_byte_in_redis_is_found(redis) -> None:
    store = RedisBlobs(redis, "run")
    refs = store.put(NAMES, BLOBS)
    redis.setrange(refs[1].uri.removeprefix("redis://"), 3, b"0")
    with pytest.raises(BlobCorrupt, match=r"latents/1.*expected sha256 [0-9a-f]{64}, found [0-9a-f]{64}"):
        store.get(refs)


def test_a_flipped_byte_in_a_file_is_found(tmp_path) -> None:
    store = FileBlobs(str(tmp_path), "run")
    [ref] = store.put(NAMES[:1], BLOBS[:1])
    [file] = [path for path in tmp_path.rglob("*") if path.is_file()]
    file.write_bytes(b"furst")
    with pytest.raises(BlobCorrupt, match="latents/0"):
        store.get([ref])


def test_a_full_server_is_a_blob_error(redis) -> None:
    redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(ServerFull, match="put 2 blobs of 11 bytes"):
            RedisBlobs(redis, "run").put(NAMES, BLOBS)
    finally:
        redis.config_set("maxmemory", 0)


def test_a_server_that_does_not_answer_is_worth_another_try() -> None:
    store = RedisBlobs(without_retry(connect("unix:///nowhere/s")), "run")
    with pytest.raises(ServerUnavailable, match="put 2 blobs"):
        store.put(NAMES, BLOBS)


def test_a_folder_that_cannot_be_written_is_a_blob_error(tmp_path) -> None:
    (tmp_path / "run").write_text("a file where the folder should be")
    with pytest.raises(BlobError, match="could not write"):
        FileBlobs(str(tmp_path), "run").put(NAMES, BLOBS)


def test_what_a_killed_writer_left_is_listed_and_deleted(tmp_path) -> None:
    store = FileBlobs(str(tmp_path), "run")
    (tmp_path / "run" / "7").mkdir(parents=True)
    (tmp_path / "run" / "7" / "images.ab12.tmp").write_bytes(b"half")
    [uri] = store.uris()
    store.delete([BlobRef(uri=uri, sha256="", size_bytes=0)])
    assert list(store.uris()) == []


def test_a_url_that_nobody_opens_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="'nosuch://blobs'"):
        build_blobs("nosuch://blobs", connect("unix:///nowhere/s"), "run")

import pytest

from services.data.blobs import FileBlobs, RedisBlobs, build_blobs
from services.data.server import connect, without_retry
from services.data.wire import BlobRef
from services.errors import BlobCorrupt, BlobError, BlobMissing, ConfigError, ServerUnavailable

NAMES = ["7/0/latents/0", "7/0/latents/1"]
BLOBS = [b"first", memoryview(b"second")]


@pytest.fixture(params=["redis", "file", "memory"])
def store(request, redis, tmp_path):
    urls = {"redis": "redis://", "file": f"file://{tmp_path}/blobs", "memory": f"memory://{tmp_path}/blobs"}
    return build_blobs(urls[request.param], redis, "run")


def test_blobs_come_back_in_order(store) -> None:
    refs = store.put(NAMES, BLOBS)
    assert [ref.size_bytes for ref in refs] == [5, 6]
    assert store.get(refs) == [b"first", b"second"]
    assert store.get(refs[::-1]) == [b"second", b"first"]
    assert store.get([]) == []


def test_a_deleted_blob_is_missing_and_may_be_deleted_again(store) -> None:
    refs = store.put(NAMES, BLOBS)
    store.delete(refs[:1])
    store.delete(refs[:1])
    store.delete([])
    with pytest.raises(BlobMissing, match=r"latents/0.*expected 5 bytes, found nothing"):
        store.get(refs)
    assert store.get(refs[1:]) == [b"second"]


def test_two_workers_blobs_of_one_name_are_two_blobs(store) -> None:
    winner, loser = store.put(NAMES, BLOBS), store.put(NAMES, BLOBS)
    store.delete(loser)
    assert store.get(winner) == [b"first", b"second"]


@pytest.mark.parametrize("uri", ["file:///etc/passwd", "redis://{other}:blob:7", "{prefix}../../other/blobs/7"])
def test_a_reference_out_of_the_runs_store_is_refused(store, uri) -> None:
    [ref] = store.put(NAMES[:1], BLOBS[:1])
    foreign = BlobRef(uri=uri.replace("{prefix}", ref.uri[: ref.uri.index("7/0")]), sha256="", size_bytes=0)
    with pytest.raises(BlobError, match="expected a blob of this run's store"):
        store.get([foreign])
    with pytest.raises(BlobError, match="expected a blob of this run's store"):
        store.delete([foreign])


@pytest.mark.parametrize("name", ["../up", "/root", "a//b", "", "a b"])
def test_a_name_that_could_leave_the_store_is_refused(store, name) -> None:
    with pytest.raises(ValueError, match="expected a blob name"):
        store.put([name], [b""])


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
        with pytest.raises(BlobError, match="put 2 blobs of 11 bytes"):
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


def test_a_url_that_nobody_opens_is_the_users_mistake() -> None:
    with pytest.raises(ConfigError, match="'nosuch://blobs'"):
        build_blobs("nosuch://blobs", connect("unix:///nowhere/s"), "run")

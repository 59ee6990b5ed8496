"""What every store of blobs must do; `store` is a fixture of the module that takes the class over."""

import pytest

from services.data.wire import BlobRef
from services.errors import BlobError, BlobMissing

NAMES = ["7/0/latents/0", "7/0/latents/1"]
BLOBS = [b"first", memoryview(b"second")]


class BlobContract:
    def test_blobs_come_back_in_order(self, store) -> None:
        refs = store.put(NAMES, BLOBS)
        assert [ref.size_bytes for ref in refs] == [5, 6]
        assert store.get(refs) == [b"first", b"second"]
        assert store.get(refs[::-1]) == [b"second", b"first"]
        assert store.get([]) == []

    def test_a_deleted_blob_is_missing_and_may_be_deleted_again(self, store) -> None:
        refs = store.put(NAMES, BLOBS)
        store.delete(refs[:1])
        store.delete(refs[:1])
        store.delete([])
        with pytest.raises(BlobMissing, match=r"latents/0.*expected 5 bytes, found nothing"):
            store.get(refs)
        assert store.get(refs[1:]) == [b"second"]

    def test_the_store_lists_what_it_has(self, store) -> None:
        assert list(store.uris()) == []
        refs = store.put(NAMES, BLOBS)
        assert sorted(store.uris()) == sorted(ref.uri for ref in refs)
        store.delete(refs[:1])
        assert list(store.uris()) == [refs[1].uri]

    def test_two_workers_blobs_of_one_name_are_two_blobs(self, store) -> None:
        winner, loser = store.put(NAMES, BLOBS), store.put(NAMES, BLOBS)
        store.delete(loser)
        assert store.get(winner) == [b"first", b"second"]

    @pytest.mark.parametrize(
        "uri", ["file:///etc/passwd", "redis://{other}:blob:7", "ray://other/node/7", "{prefix}../../other/blobs/7"]
    )
    def test_a_reference_out_of_the_runs_store_is_refused(self, store, uri) -> None:
        [ref] = store.put(NAMES[:1], BLOBS[:1])
        foreign = BlobRef(uri=uri.replace("{prefix}", ref.uri[: ref.uri.index("7/0")]), sha256="", size_bytes=0)
        with pytest.raises(BlobError, match="expected a blob of this run's store"):
            store.get([foreign])
        with pytest.raises(BlobError, match="expected a blob of this run's store"):
            store.delete([foreign])

    @pytest.mark.parametrize("name", ["../up", "/root", "a//b", "", "a b"])
    def test_a_name_that_could_leave_the_store_is_refused(self, store, name) -> None:
        with pytest.raises(ValueError, match="expected a blob name"):
            store.put([name], [b""])

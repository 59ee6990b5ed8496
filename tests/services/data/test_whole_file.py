import pytest

from services.data.whole_file import write_whole


def test_text_and_bytes_take_the_place_of_what_was_there(tmp_path) -> None:
    path = tmp_path / "status.json"
    assert write_whole(path, "ö") == path
    assert path.read_bytes() == "ö".encode()
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_what_cannot_be_written_leaves_the_old_file(tmp_path) -> None:
    path = tmp_path / "status.json"
    write_whole(path, "old")
    (tmp_path / "status.json.part").mkdir()  # no file can be opened there
    with pytest.raises(OSError, match="directory"):
        write_whole(path, "new")
    assert path.read_text() == "old"

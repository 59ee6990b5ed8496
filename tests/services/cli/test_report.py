import pytest

from services.cli.report import named, write_reports
from services.errors import ConfigError


@pytest.fixture
def runs(tmp_path):
    folders = [tmp_path / "one/seed", tmp_path / "two/seed"]
    for number, folder in enumerate(folders):
        folder.mkdir(parents=True)
        (folder / "config.yaml").write_text(f"seed: {number}\nlearning: {{updates: 10}}\n")
    return folders


def test_one_run_has_its_report_written_anew(runs) -> None:
    path = write_reports(runs[:1], None)
    assert path == runs[0] / "report.html"
    assert "<h1>seed</h1>" in path.read_text()


def test_several_runs_share_a_page_under_names_that_tell_them_apart(runs, tmp_path) -> None:
    path = write_reports(runs, tmp_path / "page.html")
    assert path == tmp_path / "page.html"
    assert "one/seed · two/seed" in path.read_text()
    assert write_reports(runs, None) == tmp_path / "one/comparison.html"


def test_a_folder_that_is_no_run_is_named(runs, tmp_path) -> None:
    with pytest.raises(ConfigError, match=f"found neither config.yaml nor history.jsonl in {tmp_path}"):
        write_reports([*runs, tmp_path], None)


def test_a_run_named_twice_and_a_place_that_cannot_be_written_are_mistakes_of_the_users(runs, tmp_path) -> None:
    with pytest.raises(ConfigError, match="expected every run once"):
        named([runs[0], runs[0]])
    with pytest.raises(ConfigError, match="choose another --output"):
        write_reports(runs, tmp_path / "nowhere/page.html")

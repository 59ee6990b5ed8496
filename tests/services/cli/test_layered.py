import pytest
import yaml

from services.cli.layered import expand, merged, read_values
from services.errors import ConfigError


@pytest.fixture
def write(tmp_path):
    def file(name, text):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return file


def test_a_file_says_only_what_differs_from_its_base(write) -> None:
    write("one.yaml", "name: one\nfleet: {rollout: {workers: 1, gpus: 1}}\nrewards: [{use: a}, {use: b}]\n")
    write("eight.yaml", "base: one.yaml\nname: eight\nfleet: {rollout: {workers: 3}, layout: separate}\n")
    last = write("below/last.yaml", "base: ../eight.yaml\nrewards: [{use: c}]\n")
    assert read_values(last, "run") == {
        "name": "eight",
        "fleet": {"rollout": {"workers": 3, "gpus": 1}, "layout": "separate"},
        "rewards": [{"use": "c"}],
    }


def test_merging_changes_neither_of_the_two() -> None:
    under, over = {"a": {"b": 1}}, {"a": {"c": 2}}
    assert merged(under, over) == {"a": {"b": 1, "c": 2}}
    assert (under, over) == ({"a": {"b": 1}}, {"a": {"c": 2}})


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("base: absent.yaml", r"expected a run file, found none at .*absent\.yaml, the base of .*run\.yaml"),
        ("base: [a, b]", r"`base`: expected the path of a run file, found \['a', 'b'\]"),
        ("base: run.yaml", "its `base` comes back to itself"),
    ],
)
def test_a_base_that_cannot_be_read_is_told(write, text, sentence) -> None:
    with pytest.raises(ConfigError, match=sentence):
        read_values(write("run.yaml", text), "run")


def test_variables_are_replaced_in_texts_and_a_missing_one_is_told_by_key() -> None:
    values = yaml.safe_load('model: {path: "${MODELS:-models}/x", n: 3}\nlist: ["${A}", "$5 {b}"]')
    assert expand(values, {"A": "b"}, "run.yaml") == {"model": {"path": "models/x", "n": 3}, "list": ["b", "$5 {b}"]}
    assert expand(values, {"A": "", "MODELS": "/m"}, "run.yaml")["model"]["path"] == "/m/x"
    with pytest.raises(ConfigError, match=r"run\.yaml: `fleet`: `redis`: expected the environment variable NO_SUCH"):
        expand({"fleet": {"redis": "${NO_SUCH}"}}, {}, "run.yaml")

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rollout.prompts import PromptOrder, load_prompts
from rollout.types import Prompt


@pytest.fixture
def file(tmp_path):
    def write(text):
        path = tmp_path / "prompts.jsonl"
        path.write_text(text, encoding="utf-8")
        return path

    return write


def order(count, seed):
    return PromptOrder([Prompt(id=str(n), text=f"prompt {n}") for n in range(count)], seed)


def test_a_prompt_carries_its_text_metadata_and_references_and_the_number_of_its_line(file):
    line = {"text": "42", "metadata": {"target": "42"}, "references": ["a.png"]}
    path = file(json.dumps(line) + "\n\n" + '{"text": "7"}\n')
    first, second = load_prompts(path)
    beside = str(path.parent / "a.png")
    assert first == Prompt(id="1", text="42", metadata={"target": "42"}, references=(beside,))
    assert second == Prompt(id="3", text="7")


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(str.strip), min_size=1))
def test_any_text_survives_a_prompt_file(tmp_path_factory, texts):
    path = tmp_path_factory.mktemp("prompts") / "prompts.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts), encoding="utf-8")
    assert [prompt.text for prompt in load_prompts(path)] == texts


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("{broken", "expected a JSON object"),
        ("[1]", 'non-empty "text"'),
        ('{"metadata": {}}', 'non-empty "text"'),
        ('{"text": "  "}', 'non-empty "text"'),
        ('{"text": 3}', 'non-empty "text"'),
        ('{"text": "a", "metdata": {}}', "unknown key 'metdata'"),
        ('{"text": "a", "metadata": [1]}', '"metadata" to be an object'),
        ('{"text": "a", "references": "one.png"}', '"references" to be a list'),
        ('{"text": "a", "references": 3}', '"references" to be a list'),
        ('{"text": "a", "references": [3]}', '"references" to be a list'),
        ('{"text": "a", "references": ["https://x/a.png"]}', "found the URL https://x/a.png; fetch it first"),
    ],
)
def test_a_broken_line_is_refused_with_its_file_and_line(file, line, complaint):
    path = file('{"text": "fine"}\n' + line + "\n")
    with pytest.raises(ValueError, match=r"prompts\.jsonl:2: ") as caught:
        load_prompts(path)
    assert complaint in str(caught.value)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("text", ["", "\n \n"])
def test_a_file_without_prompts_is_refused(file, text):
    with pytest.raises(ValueError, match=r"prompts\.jsonl: .*found no line"):
        load_prompts(file(text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"found none at .*nowhere\.jsonl"):
        load_prompts(tmp_path / "nowhere.jsonl")


def test_a_file_that_is_not_utf8_is_named(tmp_path):
    path = tmp_path / "latin.jsonl"
    path.write_bytes('{"text": "café"}'.encode("latin-1"))
    with pytest.raises(ValueError, match=r"latin\.jsonl.*UTF-8"):
        load_prompts(path)


@given(st.integers(1, 12), st.integers(0, 99), st.integers(0, 5))
def test_every_pass_gives_every_prompt_once(count, seed, turn):
    run = order(count, seed)
    drawn = Counter(run.at(turn * count + place).id for place in range(count))
    assert drawn == Counter(str(n) for n in range(count))


@given(st.integers(0, 99), st.permutations(range(30)))
def test_the_order_is_a_function_of_seed_and_ordinal_so_that_a_run_resumes_anywhere(seed, ordinals):
    whole = [order(7, seed).at(ordinal).id for ordinal in range(30)]
    run = order(7, seed)
    assert [run.at(ordinal).id for ordinal in ordinals] == [whole[ordinal] for ordinal in ordinals]


def test_another_seed_and_another_pass_give_another_order():
    def passed(seed, turn):
        return [order(20, seed).at(turn * 20 + place).id for place in range(20)]

    assert passed(0, 0) != passed(1, 0)
    assert passed(0, 0) != passed(0, 1)

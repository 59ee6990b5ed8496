import json

import pytest

from tests.benchmarks.adapter_ranks import record_of, table

SMALL = ("learning.groups_per_update=1", "sampling.samples_per_group=2", "evaluation.images=2")


@pytest.mark.integration
def test_every_rank_starts_at_the_same_model_and_a_run_that_is_there_is_not_repeated(tmp_path):
    file, prompts = tmp_path / "runs.jsonl", tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"text": "write 42 in red", "metadata": {"target": "42"}}))
    settings = (*SMALL, f"evaluation.prompts={prompts}")
    made = [record_of(file, rank, 1e-3, 4, settings) for rank in (2, 4)]
    assert [record_of(file, rank, 1e-3, 4, settings) for rank in (2, 4)] == [
        json.loads(json.dumps(one)) for one in made
    ]
    assert len(file.read_text().splitlines()) == 2
    assert [[point["images"] for point in record["curve"]] for record in made] == [[0, 2, 4]] * 2
    assert made[0]["curve"][0] == made[1]["curve"][0]
    assert table(made).count("\n| ") == 2

import json
from pathlib import Path

import pytest

from services.cli.run_file import load_run_file
from services.errors import ConfigError
from services.fleet.preflight import check_inputs

QUICKSTART = Path(__file__).resolve().parents[3] / "deploy/configs/quickstart.yaml"


def test_reference_images_that_nobody_would_read_are_refused(tmp_path) -> None:
    prompts = tmp_path / "prompts.jsonl"
    lines = [{"text": "write 42", "metadata": {"target": "42"}}, {"text": "write 7", "references": ["seven.png"]}]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = load_run_file(QUICKSTART, [f"sampling.prompts={prompts}"])
    with pytest.raises(ConfigError, match=r"prompts\.jsonl:2: expected no references, for no model family reads"):
        check_inputs(config)

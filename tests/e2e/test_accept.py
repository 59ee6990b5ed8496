"""`tafs accept` as people call it, with the run that has to learn: minutes."""

import json
import subprocess
import sys

import pytest

from .conftest import ROOT, environment


@pytest.mark.slow
@pytest.mark.integration
@pytest.mark.timeout(1800)
def test_every_claim_that_this_machine_can_be_asked_for_holds(tmp_path) -> None:
    command = [sys.executable, "-m", "services", "accept", "--output", str(tmp_path / "accept.json")]
    done = subprocess.run(command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    claims = json.loads((tmp_path / "accept.json").read_text())["claims"]
    assert {claim["status"] for claim in claims} <= {"passed", "measured", "skipped"}
    (learning,) = (claim for claim in claims if claim["name"].startswith("learning") and claim["status"] != "skipped")
    assert learning["status"] == "passed"

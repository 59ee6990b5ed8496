"""Write the alert rules as the Prometheus operator's PrometheusRule: `make manifests`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

FOLDER = Path(__file__).resolve().parent
TARGET = FOLDER / "prometheus-rule.yaml"


def prometheus_rule() -> dict[str, Any]:
    """All groups of all rule files, as they are."""
    files = sorted((FOLDER / "rules").glob("*.yml"))
    groups = [group for file in files for group in yaml.safe_load(file.read_text(encoding="utf-8"))["groups"]]
    return {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "tafs"},
        "spec": {"groups": groups},
    }


def render() -> str:
    """The file's text."""
    return "# Written by `make manifests` from rules/; do not edit.\n" + yaml.safe_dump(
        prometheus_rule(), sort_keys=False, width=110
    )


if __name__ == "__main__":
    TARGET.write_text(render(), encoding="utf-8")

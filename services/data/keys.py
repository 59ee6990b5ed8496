"""The names of a run's keys in Redis."""

import re


def run_key(run: str, name: str) -> str:
    """The run's key of that name; the braces make the run the hash tag, so that a cluster keeps its keys together.

    ValueError for a run whose name would not do as a hash tag, a pattern or a folder.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", run):
        raise ValueError(f"expected a run name of letters, digits, '.', '_' and '-', found {run!r}")
    return f"{{{run}}}:{name}"

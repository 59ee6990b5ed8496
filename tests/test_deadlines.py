"""Every wait of the code base has a deadline: read off the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("rollout", "rewards", "learner", "services")
NEEDS_KEYWORD = {
    "ray.get": "timeout",
    "ray.wait": "timeout",
    "subprocess.run": "timeout",
    "subprocess.check_output": "timeout",
    "subprocess.check_call": "timeout",
    "urllib.request.urlopen": "timeout",
    "socket.create_connection": "timeout",
    "dist.init_process_group": "timeout",
}
"""Calls by their dotted name, and the argument that bounds them."""
NEEDS_ARGUMENT = ("join", "wait", "result", "acquire", "communicate")
"""Methods that wait for ever where they are called with nothing."""
NEEDS_BLOCK = ("xread", "xreadgroup", "blpop", "brpop")
"""Redis commands that wait, and take `block` or `timeout`."""
ALLOWED = {
    "services/serving/batcher.py": "asyncio: a task that waits for work, and is cancelled with its server",
    "services/cli/submit.py": "a person's terminal follows ray's own client, until Ctrl-C",
    "rewards/vlm/engine.py": "a judge inside a reward worker, which fleet.supervision.hang_timeout_s bounds",
    "rewards/vlm/fake_server.py": "a process that answers until it is ended",
    "rewards/vlm/chat.py": "futures of HTTP requests, each with its own timeout",
}
"""Files whose bare waits end otherwise."""


def unbounded(source: str) -> Iterator[tuple[int, str]]:
    """(line, call) of every wait that names no deadline."""
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        name, keywords = ast.unparse(node.func), {keyword.arg for keyword in node.keywords}
        bounded = {"timeout", "timeout_s", "block"} & keywords
        if (
            (name in NEEDS_KEYWORD and NEEDS_KEYWORD[name] not in keywords)
            or (node.func.attr in NEEDS_ARGUMENT and not node.args and not bounded)
            or (node.func.attr in NEEDS_BLOCK and not bounded)
        ):
            yield node.lineno, name


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("ray.get(ref)", True),
        ("ray.get(ref, timeout=3)", False),
        ("ray.wait(refs, num_returns=1)", True),
        ("thread.join()", True),
        ("thread.join(3)", False),
        ("', '.join(names)", False),
        ("process.wait()", True),
        ("process.wait(timeout=3)", False),
        ("event.wait(0.1)", False),
        ("lock.acquire()", True),
        ("lock.acquire(timeout=2)", False),
        ("future.result()", True),
        ("redis.xreadgroup('g', 'c', {})", True),
        ("redis.xreadgroup('g', 'c', {}, block=5)", False),
        ("subprocess.run(['git'])", True),
    ],
)
def test_a_wait_without_a_deadline_is_found(source, found) -> None:
    assert bool(list(unbounded(source))) == found


def test_every_wait_has_a_deadline() -> None:
    waits = [
        f"{path.relative_to(ROOT)}:{line}: {call}"
        for room in ROOMS
        for path in sorted((ROOT / room).rglob("*.py"))
        if str(path.relative_to(ROOT)) not in ALLOWED
        for line, call in unbounded(path.read_text(encoding="utf-8"))
    ]
    assert waits == []


def test_every_client_of_a_redis_server_waits_for_a_bounded_time() -> None:
    from services.data.server import ANSWER_TIMEOUT_S, CONNECT_TIMEOUT_S, connect

    options = connect("redis://localhost:1/0").connection_pool.connection_kwargs
    assert options["socket_timeout"] == ANSWER_TIMEOUT_S
    assert options["socket_connect_timeout"] == CONNECT_TIMEOUT_S
    makers = [
        str(path.relative_to(ROOT))
        for path in (ROOT / "services").rglob("*.py")
        if "Redis(" in path.read_text() or "from_url(" in path.read_text()
    ]
    assert makers == ["services/data/server.py"], "clients are made in one place, with its timeouts"

"""The law of layers: who may import whom. Read with the tree in ARCHITECTURE.md."""

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
ROOMS = ("rollout", "rewards", "learner", "services")
MAY_IMPORT = {
    "rollout": {"rollout"},
    "rewards": {"rewards"},
    "learner": {"learner", "rollout"},
    "services": {"services", "learner", "rollout", "rewards"},
}
INNER = (
    "cli",
    "fleet",
    "serving",
    "observe",
    "data",
    "config",
    "sampling_config",
    "temperature_config",
    "learning_config",
    "model_config",
    "judge_config",
    "reward_config",
    "redis_config",
    "block",
    "errors",
)
"""The inner rooms of services, from the top down; the configuration and errors are its ground."""
FLEET = ("run", "workers", "supervision", "planning")
"""The rooms of services.fleet, from the top down; what lies beside them is their ground."""
ONLY_IN = {
    "ray": ("services/fleet/supervision/actors.py", "services/data/ray_blobs.py"),
    "redis": "services/",
    "prometheus_client": "services/observe/",
    "diffusers": "rollout/policies/",
    "peft": "rollout/lora.py",
    "fastapi": "services/serving/",
    "uvicorn": "services/cli/",
    "httpx": "rewards/",
    "pickle": "nowhere",
    "requests": "nowhere",
}
LIGHT = (
    "rollout.types",
    "rollout.kernel",
    "rollout.schedule",
    "rollout.prompts",
    "rollout.policies.build",
    "learner.advantage",
    "services.config",
    "services.errors",
    "services.data.queue",
    "services.cli.main",
    "services.fleet.run.controller",
    "services.fleet.run.launch",
)
"""Imported by the driver or the command line: no torch, no ray, no diffusers."""


def modules() -> Iterator[tuple[str, Path]]:
    for room in ROOMS:
        for path in sorted((ROOT / room).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


MODULES = dict(modules())
TESTS = sorted((ROOT / "tests").rglob("*.py"))


@functools.cache
def imports(path: Path) -> list[tuple[str, bool]]:
    """(imported module, whether inside a function), TYPE_CHECKING blocks left out."""

    def walk(node: ast.AST, local: bool) -> Iterator[tuple[str, bool]]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                continue
            if isinstance(child, ast.Import):
                yield from ((alias.name, local) for alias in child.names)
            elif isinstance(child, ast.ImportFrom):
                assert child.level == 0, f"{path}: imports are absolute"
                for alias in child.names:
                    full = f"{child.module}.{alias.name}"
                    yield (full if full in MODULES else str(child.module)), local
            yield from walk(child, local or isinstance(child, ast.FunctionDef))

    return list(walk(ast.parse(path.read_text(encoding="utf-8")), False))


def first_party(module: str) -> set[str]:
    return {name for name, _ in imports(MODULES[module]) if name.split(".")[0] in ROOMS}


def inner_rank(module: str) -> int:
    parts = module.split(".")
    return INNER.index(parts[1]) if len(parts) > 1 and parts[1] in INNER else 0


@pytest.mark.parametrize("module", MODULES)
def test_a_room_imports_only_the_rooms_below_it(module: str) -> None:
    room = module.split(".", maxsplit=1)[0]
    assert {name.split(".")[0] for name in first_party(module)} <= MAY_IMPORT[room]


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("services.")])
def test_an_inner_room_of_services_imports_only_those_below_it(module: str) -> None:
    for name in first_party(module):
        if name.startswith("services."):
            assert inner_rank(name) >= inner_rank(module), f"{module} imports {name}"


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("services.fleet.")])
def test_a_room_of_the_fleet_imports_only_those_below_it(module: str) -> None:
    ranks = {f"services.fleet.{room}": rank for rank, room in enumerate(FLEET)}

    def rank(name: str) -> int:
        return ranks.get(".".join(name.split(".")[:3]), len(FLEET))

    for name in first_party(module):
        if name.startswith("services.fleet."):
            assert rank(name) >= rank(module), f"{module} imports {name}"


def test_no_module_imports_itself_around_a_corner() -> None:
    graph = {module: first_party(module) & MODULES.keys() for module in MODULES}
    done: set[str] = set()

    def visit(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join((*trail[trail.index(module) :], module))
        if module not in done:
            for name in graph[module]:
                visit(name, (*trail, module))
            done.add(module)

    for module in graph:
        visit(module, ())


@pytest.mark.parametrize(("library", "place"), ONLY_IN.items())
def test_a_library_is_used_in_its_place_only(library: str, place: str) -> None:
    users = [
        str(path.relative_to(ROOT))
        for path in MODULES.values()
        if any(name.split(".")[0] == library for name, _ in imports(path))
    ]
    assert [user for user in users if not user.startswith(place)] == []


def test_only_the_command_line_imports_our_modules_inside_functions() -> None:
    for module, path in MODULES.items():
        if not module.startswith("services.cli"):
            late = [name for name, local in imports(path) if local and name.split(".")[0] in ROOMS]
            assert late == [], module


def test_what_a_test_or_a_benchmark_imports_of_ours_is_there() -> None:
    """Most of the benchmarks are run by hand, and would not be missed until somebody does."""
    ours = {**MODULES, **{".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in TESTS}}
    missing = [
        f"{path.relative_to(ROOT)}: {node.module}.{alias.name}"
        for path in TESTS
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level == 0 and str(node.module).split(".")[0] in (*ROOMS, "tests")
        for alias in node.names
        if f"{node.module}.{alias.name}" not in ours and alias.name not in names_of(ours.get(str(node.module)))
    ]
    assert missing == []


@functools.cache
def names_of(path: Path | None) -> set[str]:
    """What a module defines, or has from another."""
    if path is None:
        return set()
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.FunctionDef | ast.ClassDef | ast.AsyncFunctionDef):
            found.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            found.add(node.id)
        elif isinstance(node, ast.ImportFrom | ast.Import):
            found |= {alias.asname or alias.name for alias in node.names}
    return found


@pytest.mark.integration
@pytest.mark.parametrize(
    ("modules", "heavy"),
    [
        (LIGHT, {"torch", "ray", "diffusers", "transformers", "peft"}),
        (("services.fleet.workers.reward_worker",), {"diffusers", "transformers", "peft"}),
    ],
    ids=["driver", "reward worker"],
)
def test_a_process_imports_nothing_heavy_that_it_does_not_need(modules: tuple[str, ...], heavy: set[str]) -> None:
    import subprocess
    import sys

    code = f"import sys; {'; '.join(f'import {name}' for name in modules)}; print({heavy} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout.strip() == "set()"

"""deploy/redis/users.acl as data, users made from it, and what a server was asked in whose name."""

import fnmatch
import re
import subprocess
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.data.server import connect, without_retry

ROOT = Path(__file__).resolve().parents[3]
ROLES = ("driver", "learner", "rollout", "reward", "exporter")
CONTAINERS = ("SCRIPT", "XGROUP", "XINFO")
"""Commands whose second word is a part of their name."""


@dataclass(frozen=True)
class Rule:
    """Commands, and the keys that they may touch; no keys: commands that touch none."""

    commands: tuple[str, ...]
    keys: tuple[str, ...]


def rules(role: str) -> list[Rule]:
    """A role's rules as the template has them, without the word RUN; what every connection may do left out."""
    [line] = [line for line in template().splitlines() if line.startswith(f"user tafs-{role} ")]
    everybody = "resetchannels -@all +@connection -@admin -@dangerous "
    assert everybody in line
    selectors = re.findall(r"\(([^)]*)\)", line)
    root = re.sub(r"\([^)]*\)", "", line.partition(everybody)[2])
    return [parsed(root), *map(parsed, selectors)]


def parsed(text: str) -> Rule:
    words = text.split()
    keys = tuple(word.partition("~RUN:")[2] for word in words if "~RUN:" in word)
    commands = tuple(word[1:] for word in words if word.startswith("+"))
    assert len(keys) + len(commands) == len(words), text
    return Rule(commands, keys)


def template() -> str:
    return (ROOT / "deploy/redis/users.acl").read_text()


def write_users(run: str, address: str, folder: Path) -> Path:
    """As the guides tell to: secret.sh's folder."""
    subprocess.run([ROOT / "deploy/redis/secret.sh", run, address, folder], check=True)
    return folder


class Users:
    """The roles' clients of an embedded server, and what they did there."""

    def __init__(self, server, admin, folder: Path) -> None:
        write_users("run", "host:1", folder)
        self._admin = admin
        password = server.url.partition("//:")[2].partition("@")[0]
        for line in (folder / "users.acl").read_text().splitlines()[1:]:
            admin.execute_command("ACL", "SETUSER", *line.split()[1:])
        self.urls = {}
        for role in ROLES:
            secret = (folder / f"url-{role}").read_text().partition("//")[2].partition("@")[0]
            self.urls[role] = server.url.replace(f":{password}", secret, 1)
        self.clients = {role: without_retry(connect(url)) for role, url in self.urls.items()}
        admin.execute_command("ACL", "LOG", "RESET")

    @contextmanager
    def acting(self, role: str):
        """All that is done in the context is this role's, on a server that has to be told every script anew."""
        self._admin.script_flush()
        self._admin.echo(f"as {role}")
        yield self.clients[role]

    def connected(self) -> set[str]:
        return {client["user"] for client in self._admin.client_list()}

    def refused(self) -> list:
        return [(entry["username"], entry["object"]) for entry in self._admin.acl_log()]

    @contextmanager
    def watched(self):
        """role -> command -> keys, filled when the context ends, of what the server was asked meanwhile."""
        seen = defaultdict(lambda: defaultdict(set))
        with self._admin.monitor() as monitor:
            yield seen
            self._admin.echo("that is all")
            role = ""
            for entry in monitor.listen():
                words = entry["command"].split(" ")
                if words[0].upper() == "ECHO":
                    if words[1] == "that":
                        break
                    role = words[2]
                    continue
                name = words[0].upper()
                command = f"{name}|{words[1]}" if name in CONTAINERS else name
                keys = {word.partition("{run}:")[2] for word in words if word.startswith("{run}:")}
                seen[role][command.lower()] |= keys

    def close(self) -> None:
        for role, client in self.clients.items():
            client.close()
            self._admin.execute_command("ACL", "DELUSER", f"tafs-{role}")


def needless(role: str, seen: dict[str, set[str]]) -> list[str]:
    """What a role is granted, and did not do: a command of a rule with none of its keys, a key with none of its
    commands.
    """
    found = []
    for rule in rules(role):
        used = {command: seen.get(command, set()) for command in rule.commands}
        if not rule.keys:
            found += [command for command in rule.commands if command not in seen]
            continue
        for command, keys in used.items():
            if not any(fnmatch.fnmatchcase(key, pattern) for key in keys for pattern in rule.keys):
                found.append(f"{command} of {rule.keys}")
        touched = set().union(*used.values())
        for pattern in rule.keys:
            if not any(fnmatch.fnmatchcase(key, pattern) for key in touched):
                found.append(f"{pattern} with {rule.commands}")
    return found

"""Becomes the given program, which the kernel then kills as soon as its owner is gone.

    python -I -S die_with_owner.py OWNER_PID PROGRAM [ARGUMENT ...]

A program of its own, since Python code between fork and exec may deadlock in an owner that has threads. Run by its
path: it must not import anything of ours. Elsewhere than on Linux the kernel has no such promise, and a killed
owner leaves the program behind.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def become(owner_pid: int, command: list[str]) -> None:
    """Replace this process by the command, bound to its parent's life; exit if that is not the owner."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
        if os.getppid() != owner_pid:  # it died before the line above
            sys.exit("the owner is gone")
    # `ray job stop` sends SIGTERM to everything below the run, which needs its server to drain; SIGINT ends it.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    os.execv(command[0], command)


if __name__ == "__main__":
    become(int(sys.argv[1]), sys.argv[2:])

"""The workload of `cargo xtask bench agent`: writes down when it got SIGTERM, and ends.

usage: signalled.py FILE

FILE.ready appears once it waits; FILE then holds the time of the signal, ns since 1970.
"""

import os
import signal
import sys
import time


def write(path: str, text: str) -> None:
    """Whole or not at all: somebody is waiting for the file."""
    with open(path + ".new", "w", encoding="ascii") as file:
        file.write(text)
    os.rename(path + ".new", path)


def main() -> None:
    path = sys.argv[1]
    # Blocked, so that the signal waits for sigwait and no handler runs.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
    write(path + ".ready", "")
    signal.sigwait({signal.SIGTERM})
    write(path, str(time.time_ns()))


main()

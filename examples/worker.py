"""A worker under `lifeboat run`, in Python's standard library alone: counts to a number, keeps what it has counted as
a partial result, and goes on where the last worker of this task stopped, on whatever machine that was.

    lifeboat run -- python3 worker.py TASK NUMBER

Ends with 0 when it has counted to NUMBER and with 1 when it was interrupted. Writes the result to TASK.result.
"""

import http.client
import json
import os
import signal
import socket
import sys
import threading
import urllib.parse


class Agent(http.client.HTTPConnection):
    """A connection with the agent: HTTP over the Unix socket that it names in the environment."""

    def __init__(self, timeout=30):
        super().__init__("lifeboat", timeout=timeout)

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.environ["LIFEBOAT_SOCKET"])


def ask(method, path, body=None):
    """One request; returns the status and the JSON of the answer, if there is any."""
    agent = Agent()
    text = json.dumps(body) if body is not None else None
    agent.request(method, path, text, {"content-type": "application/json"})
    answer = agent.getresponse()
    content = answer.read()
    agent.close()
    if answer.status >= 300:
        raise RuntimeError(f"{method} {path}: {answer.status} {content.decode(errors='replace')}")
    return json.loads(content) if content else None


def listen(interrupted):
    """Follows the event stream until the notice."""
    agent = Agent(timeout=None)
    agent.request("GET", "/v1/events")
    for line in agent.getresponse():
        if line.startswith(b"event: notice"):
            interrupted.set()


def main():
    name, number = sys.argv[1], int(sys.argv[2])
    interrupted = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: interrupted.set())
    threading.Thread(target=listen, args=[interrupted], daemon=True).start()

    task = "/v1/tasks/" + urllib.parse.quote(name, safe="")
    ask("POST", "/v1/tasks", {"id": name, "path": f"{name}.result"})
    partial = ask("POST", f"{task}/partial/take")
    count = partial["count"] if partial else 0
    print(f"worker: from {count}", file=sys.stderr, flush=True)
    while count < number and not interrupted.wait(0.02):
        count += 1
        ask("PUT", f"{task}/partial?progress={count / number}", {"count": count})
    if count < number:
        ask("POST", f"{task}/end", {"outcome": "released"})
        print(f"worker: interrupted at {count}", file=sys.stderr, flush=True)
        return 1
    with open(f"{name}.result", "w", encoding="utf-8") as result:
        result.write(f"{count}\n")
    ask("POST", f"{task}/end", {"outcome": "done"})
    return 0


if __name__ == "__main__":
    sys.exit(main())

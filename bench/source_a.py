"""The peer of `cargo xtask bench agent`: what source document A's two scripts do, in one Python program.

    source_a.py watch    [options] -- CMD…   poll IMDSv2; at a notice signal CMD and evacuate
    source_a.py evacuate [options]           evacuate now

Standard library only. Written from the requirements (A2, A4 to A6), not from the scripts, and meant to be as good
as such a program gets without changing its design: the token is kept, the connection too, files go in parallel by
priority / (size + 1), each step has its own time, a failing step never stops the next one, nothing is deleted.
The store is a directory with source A's layout, one object a file with the time of the interruption and the
instance id as its metadata. An object store promises that what it acknowledged survives; `--durability` says how
much of that promise this directory keeps.
"""

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
import threading
import time

TOKEN_TTL_SECONDS = 21600
REQUEST_SECONDS = 1.0
NOTICE_SECONDS = 120.0
LOG_LINES = 100

# Seconds that a step may take (A4).
NOTIFY, EVACUATE, STATE, HAND_BACK, LOGS, LIFECYCLE = 5, 30, 10, 10, 5, 5

# What is most expensive to do again goes first (A6).
PRIORITY = {".partial": 100, ".json": 50}
PRIORITY_OTHER = 10

# A file up to this size is read and written whole.
WHOLE_BYTES = 8 * 1024 * 1024


class Log:
    """Lines on standard error, the last of them kept for `final_logs.txt`."""

    def __init__(self) -> None:
        self.begun = time.monotonic()
        self.lines: list[str] = []

    def __call__(self, text: str) -> None:
        line = f"{time.monotonic() - self.begun:8.3f} {text}"
        self.lines = [*self.lines[-(LOG_LINES - 1) :], line]
        print(line, file=sys.stderr, flush=True)


class Metadata:
    """IMDSv2: a token that is renewed when it is refused, a connection that is kept."""

    def __init__(self, endpoint: str) -> None:
        address = endpoint.removeprefix("http://").rstrip("/")
        self.connection = http.client.HTTPConnection(address, timeout=REQUEST_SECONDS)
        self.token: str | None = None

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> tuple[int, bytes]:
        try:
            self.connection.request(method, path, headers=headers)
            answer = self.connection.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException):
            self.connection.close()
            raise

    def get(self, path: str) -> tuple[int, bytes]:
        if self.token is None:
            headers = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_TTL_SECONDS)}
            status, body = self._ask("PUT", "/latest/api/token", headers)
            if status != 200:
                raise OSError(f"no token: {status}")
            self.token = body.decode("ascii")
        status, body = self._ask("GET", path, {"X-aws-ec2-metadata-token": self.token})
        if status == 401:
            self.token = None
        return status, body

    def notice(self) -> dict[str, str] | None:
        status, body = self.get("/latest/meta-data/spot/instance-action")
        return json.loads(body) if status == 200 else None


class Store:
    """A directory with one file an object and its metadata as extended attributes, else in a file beside it."""

    def __init__(self, options: argparse.Namespace, metadata: dict[str, str]) -> None:
        self.root = os.path.join(options.store, "interrupted", options.instance_id, metadata["interruption-time"])
        os.makedirs(self.root, exist_ok=True)
        self.durability = options.durability
        self.verifies = options.verify
        self.attributes = [(f"user.{name}", value.encode()) for name, value in metadata.items()]
        self.metadata = json.dumps(metadata).encode()
        self.folders = {self.root}
        self.lock = threading.Lock()

    def _folder(self, key: str) -> None:
        folder = os.path.dirname(os.path.join(self.root, key))
        if folder not in self.folders:
            os.makedirs(folder, exist_ok=True)
            with self.lock:
                self.folders.add(folder)

    def _describe(self, file: int, target: str) -> None:
        try:
            for name, value in self.attributes:
                os.setxattr(file, name, value)
        except OSError:
            with open(target + ".metadata.json", "wb") as beside:
                beside.write(self.metadata)

    def put(self, key: str, source: str) -> None:
        """Stores a file."""
        self._folder(key)
        target = os.path.join(self.root, key)
        begin = os.open(source, os.O_RDONLY)
        try:
            end = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            try:
                digest = self._copy(begin, end)
                self._describe(end, target)
                if self.durability == "fsync":
                    os.fsync(end)
            finally:
                os.close(end)
        finally:
            os.close(begin)
        if digest is not None and digest != digest_of(target):
            raise OSError(f"{target} is not what was written")

    def _copy(self, begin: int, end: int) -> bytes | None:
        if not self.verifies:
            while os.sendfile(end, begin, None, WHOLE_BYTES):
                pass
            return None
        hasher = new_hasher()
        while block := os.read(begin, WHOLE_BYTES):
            hasher.update(block)
            written = 0
            while written < len(block):
                written += os.write(end, block[written:] if written else block)
        return hasher.digest()

    def put_bytes(self, key: str, content: bytes) -> None:
        """Stores what is in memory."""
        self._folder(key)
        with open(os.path.join(self.root, key), "wb") as file:
            file.write(content)
            self._describe(file.fileno(), file.name)
            if self.durability == "fsync":
                file.flush()
                os.fsync(file.fileno())

    def finish(self) -> None:
        """Names survive a power cut only when their folders do."""
        if self.durability == "sync":
            os.sync()
        if self.durability == "fsync":
            for folder in sorted(self.folders):
                file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    os.fsync(file)
                finally:
                    os.close(file)


def new_hasher():
    import hashlib  # only where it is asked for: it loads OpenSSL

    return hashlib.sha256()


def digest_of(path: str) -> bytes:
    hasher = new_hasher()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(WHOLE_BYTES):
            hasher.update(block)
    return hasher.digest()


def in_progress(work_dir: str) -> list[tuple[float, str, str]]:
    """Every file as (score, key, path), the highest score first."""
    found = []
    folders = [work_dir]
    while folders:
        with os.scandir(folders.pop()) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    priority = PRIORITY.get(os.path.splitext(entry.name)[1], PRIORITY_OTHER)
                    score = priority / (entry.stat(follow_symlinks=False).st_size + 1)
                    found.append((score, os.path.relpath(entry.path, work_dir), entry.path))
    found.sort(key=lambda file: (-file[0], file[1]))
    return found


class Evacuation:
    """The pipeline. `failed` counts what could not be stored."""

    def __init__(self, options: argparse.Namespace, log: Log, notice: dict[str, str]) -> None:
        self.options = options
        self.log = log
        self.notice = notice
        self.end = time.monotonic() + NOTICE_SECONDS
        self.store: Store | None = None
        self.stored = 0
        self.failed = 0

    def step(self, name: str, seconds: float, work) -> None:
        begun = time.monotonic()
        try:
            work(begun + seconds)
        except Exception as error:  # a failing step is logged and never stops the next one
            self.failed += 1
            self.log(f"{name} failed: {error!r}")
        self.log(f"{name}: {time.monotonic() - begun:.3f} s")

    def run(self, worker: subprocess.Popen | None) -> None:
        self.step("notify", NOTIFY, lambda _: self.notify(worker))
        self.step("open the store", NOTIFY, lambda _: self.open_store())
        state = threading.Thread(target=self.step, args=("state", STATE, lambda _: self.save_state()))
        state.start()
        self.step("evacuate", EVACUATE, self.evacuate)
        state.join()
        self.step("hand back", HAND_BACK, lambda _: self.log("no queue is configured"))
        self.step("logs", LOGS, lambda _: self.flush_logs())
        self.step("lifecycle", LIFECYCLE, lambda _: self.log("no Auto Scaling group is configured"))
        self.step("finish", LOGS, lambda _: self.store.finish())
        left = self.end - time.monotonic()
        self.log(f"{self.stored} files stored, {self.failed} failures, {left:.1f} s left")

    def notify(self, worker: subprocess.Popen | None) -> None:
        # First what costs nothing; the worker is stopped without waiting for it.
        if worker is not None:
            worker.send_signal(signal.SIGTERM)
        with open(os.path.join(self.options.work_dir, "shutdown.signal"), "w", encoding="utf-8") as file:
            json.dump(self.notice, file)

    def open_store(self) -> None:
        instance = self.options.instance_id
        metadata = {"interruption-time": self.notice["time"], "instance-id": instance}
        self.store = Store(self.options, metadata)

    def evacuate(self, until: float) -> None:
        files = iter(in_progress(self.options.work_dir))
        lock = threading.Lock()

        def carry() -> None:
            stored = failed = 0
            while time.monotonic() < until:
                with lock:
                    file = next(files, None)
                if file is None:
                    break
                try:
                    self.store.put(file[1], file[2])
                    stored += 1
                except OSError as error:
                    failed += 1
                    self.log(f"{file[1]}: {error}")
            with lock:
                self.stored += stored
                self.failed += failed

        threads = [threading.Thread(target=carry) for _ in range(self.options.workers - 1)]
        for thread in threads:
            thread.start()
        carry()
        for thread in threads:
            thread.join()
        late = sum(1 for _ in files)
        self.failed += late
        if late:
            self.log(f"{late} files were left when the time was over")

    def save_state(self) -> None:
        path = os.path.join(self.options.work_dir, "state.json")
        try:
            with open(path, encoding="utf-8") as file:
                state = json.load(file)
        except FileNotFoundError:
            state = {}
        state["interruption"] = self.notice
        self.store.put_bytes("processing_state.json", json.dumps(state).encode())

    def flush_logs(self) -> None:
        self.store.put_bytes("final_logs.txt", ("\n".join(self.log.lines) + "\n").encode())


def watch(options: argparse.Namespace, log: Log) -> int:
    worker = subprocess.Popen(options.command)
    metadata = Metadata(options.endpoint)
    stopped = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    notice = None
    while notice is None and worker.poll() is None and not stopped.is_set():
        try:
            notice = metadata.notice()
        except (OSError, ValueError, http.client.HTTPException) as error:
            log(f"metadata: {error!r}")
        if notice is None:
            stopped.wait(options.interval)
    if notice is None and stopped.is_set():
        notice = now_notice()
    if notice is None:
        return worker.wait()
    log(f"notice: {notice}")
    evacuation = Evacuation(options, log, notice)
    evacuation.run(worker)
    return 1 if evacuation.failed else 0


def now_notice() -> dict[str, str]:
    end = time.gmtime(time.time() + NOTICE_SECONDS)
    return {"action": "terminate", "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", end)}


def evacuate(options: argparse.Namespace, log: Log) -> int:
    evacuation = Evacuation(options, log, now_notice())
    evacuation.run(None)
    return 1 if evacuation.failed else 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="What source A's two scripts do.")
    verbs = parser.add_subparsers(dest="verb", required=True)
    for verb in ("watch", "evacuate"):
        options = verbs.add_parser(verb)
        options.add_argument("--work-dir", required=True)
        options.add_argument("--store", required=True, help="a directory")
        options.add_argument("--instance-id", default="i-0source0a")
        options.add_argument("--workers", type=int, default=10)
        options.add_argument(
            "--durability",
            choices=["none", "sync", "fsync"],
            default="none",
            help="none: whenever the kernel likes; sync: one sync(2) at the end; fsync: each file and folder",
        )
        options.add_argument("--verify", action="store_true", help="read each file back and compare its SHA-256")
        if verb == "watch":
            options.add_argument("--endpoint", default="http://169.254.169.254")
            options.add_argument("--interval", type=float, default=5.0)
            options.add_argument("command", nargs="+")
    return parser.parse_args()


def main() -> int:
    options = arguments()
    log = Log()
    return watch(options, log) if options.verb == "watch" else evacuate(options, log)


if __name__ == "__main__":
    sys.exit(main())

"""`cargo xtask bench controller`: what the controller manages, each part against a lab of its own on loopback.

    controller.py --lifeboat FILE [--quick] [--python FILE] --out FILE

Standard library only; the peer (`source_b.py`) needs boto3, and is left out where there is none.
"""

import argparse
import concurrent.futures
import http.client
import json
import os
import platform
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
ACCOUNT = "123456789012"
# How much faster than real time the world runs in which an interruption is measured from end to end.
SPEED = 15


class Lab:
    """A lab with `services` pairs of `tasks` tasks, whose stamps are the world's."""

    def __init__(self, bench, services, tasks, speed=1, more="", name="web"):
        self.folder = Path(tempfile.mkdtemp(dir=bench.scratch))
        scenario = self.folder / "lab.toml"
        names = [name] if services == 1 else [f"s{n:04}" for n in range(services)]
        pairs = "".join(f"[[services]]\nname = '{n}'\ntasks = {tasks}\n" for n in names)
        scenario.write_text(f"spot_capacity = {services * tasks * 2}\n{more}\n{pairs}")
        self.names, self.speed, self.bench = names, speed, bench
        command = [bench.lifeboat, "lab", "--json", "--listen", "127.0.0.1:0", "--stamps", "world"]
        self.process = subprocess.Popen(
            [*command, "--speed", str(speed), str(scenario)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        ready = json.loads(self.process.stdout.readline())
        self.url, self.queue = ready["url"], ready["queue"]
        self.address = self.url.removeprefix("http://")
        clock = self.get("time")
        self.origin = clock["stamp_ms"] - clock["world_ms"]

    def ask(self, method, path, body=None):
        connection = http.client.HTTPConnection(self.address, timeout=120)
        connection.request(method, f"/lab/{path}", json.dumps(body) if body is not None else None)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def get(self, path):
        return self.ask("GET", path)

    def post(self, path, body):
        return self.ask("POST", path, body)

    def queue_counts(self):
        return self.get("queues")["lifeboat-events"]

    def calls(self, since=0):
        found = []
        while True:
            page = self.get(f"calls?since={since}")["calls"]
            if not page:
                return found
            found += page
            since = page[-1]["number"]

    def controller(self, more="", wait=True):
        origin = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(self.origin // 1000)) + f".{self.origin % 1000:03}Z"
        config = self.folder / "fleet.toml"
        config.write_text(
            f"region = 'us-east-1'\nendpoint = '{self.url}'\nclusters = ['lab']\n"
            f"[queue]\nurl = '{self.queue}'\nreceivers = 16\n[store]\nsqlite = '{self.folder}/fleet.db'\n"
            f"[clock]\nscale = {self.speed}\norigin = '{origin}'\n{more}\n"
        )
        env = {**os.environ, "AWS_ACCESS_KEY_ID": "lab", "AWS_SECRET_ACCESS_KEY": "lab",
               "AWS_EC2_METADATA_DISABLED": "true", "LIFEBOAT_LOG": "warn"}
        log = open(self.folder / "controller.log", "ab")
        process = subprocess.Popen(
            [self.bench.lifeboat, "controller", "--config", str(config)], env=env, stderr=log, stdout=log
        )
        if wait:
            self.wait("all services are known", lambda: self.known(config, env) >= len(self.names))
        return process

    def known(self, config, env):
        done = subprocess.run(
            [self.bench.lifeboat, "status", "--json", "--config", str(config)], env=env, capture_output=True
        )
        return len(json.loads(done.stdout)) if done.returncode == 0 else 0

    def wait(self, what, is_so, limit=300):
        end = time.monotonic() + limit
        while not is_so():
            if time.monotonic() > end:
                raise SystemExit(f"not within {limit} s: {what}; see {self.folder}")
            time.sleep(0.05)

    def cpu(self):
        return cpu_seconds(self.process)

    def stop(self):
        self.process.kill()
        self.process.wait()


def end(process):
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=60)


def memory(process):
    lines = Path(f"/proc/{process.pid}/status").read_text().splitlines()
    found = {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
    return found["VmRSS"], found["VmHWM"]


def cpu_seconds(process):
    """User and system time that a process has used."""
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def percentile(values, share):
    values = sorted(values)
    return values[min(len(values) - 1, int(len(values) * share))]


def ready_event(service, number):
    return {
        "id": f"e{number}", "source": "aws.ecs", "detail-type": "ECS Task State Change",
        "detail": {
            "taskArn": f"arn:aws:ecs:us-east-1:{ACCOUNT}:task/lab/{number}",
            "clusterArn": f"arn:aws:ecs:us-east-1:{ACCOUNT}:cluster/lab",
            "group": f"service:{service}-spot", "lastStatus": "RUNNING", "desiredStatus": "RUNNING",
            "capacityProviderName": "FARGATE_SPOT", "version": 3,
        },
    }


def fill(lab, events, first=0):
    """Puts events into the queue while nobody receives; RUNNING is a fact that is stored and orders nothing."""
    for start in range(first, first + events, 1_000):
        numbers = range(start, min(start + 1_000, first + events))
        lab.post("send", {"bodies": [ready_event(lab.names[n % len(lab.names)], n) for n in numbers]})


def drain_rate(lab, process, events):
    """Events a second, from the first deletion that is seen until ninety of a hundred are deleted."""
    before = lab.queue_counts()["deleted"]
    began = None
    goal = before + events * 9 // 10
    while True:
        deleted = lab.queue_counts()["deleted"]
        now = time.monotonic()
        if began is None and deleted > before:
            began = (now, deleted)
        if deleted >= goal:
            break
        if process.poll() is not None:
            raise SystemExit(f"the controller ended; see {lab.folder}")
        time.sleep(0.02)
    return (deleted - began[1]) / max(now - began[0], 1e-6)


def throughput(bench):
    events = 6_000 if bench.quick else 40_000
    services = 100 if bench.quick else 1_000
    lab = Lab(bench, services, 2)
    end(lab.controller())
    rates = {}
    # Once with services that are managed, once with a pattern that fits none: then every event is received, read
    # and deleted, and nothing is decided. That is what the queue and the client give.
    for name, more in (("queue", "[services]\nspot = '{name}-nobody'\non_demand = '{name}-nothing'"), ("decisions", "")):
        fill(lab, events, 0 if name == "queue" else events)
        cpu = lab.cpu()
        process = lab.controller(more, wait=False)
        rates[name] = drain_rate(lab, process, events)
        lab.wait("the queue is empty", lambda: lab.queue_counts()["visible"] == 0)
        rates[name + "_memory"] = memory(process)[1]
        rates[name + "_cpu"] = (cpu_seconds(process), lab.cpu() - cpu)
        end(process)
    lab.stop()
    return {"events": events, "services": services, **rates}


def latency(bench):
    """100 interruptions a second, each of another service, and the time until its Standard service is told."""
    services, seconds = (200, 2) if bench.quick else (1_000, 10)
    lab = Lab(bench, services, 5, more="announced = 1.0")
    process = lab.controller()
    time.sleep(3)
    told = Updates(lab)
    told.read()
    began = time.monotonic()
    for number, name in enumerate(lab.names[: 100 * seconds]):
        lab.post("interrupt", {"tasks": 1, "service": name, "announced": True})
        time.sleep(max(0, began + (number + 1) / 100 - time.monotonic()))
    took = time.monotonic() - began
    count = min(100 * seconds, len(lab.names))
    lab.wait("all are told", lambda: len(told.read()) >= count * 99 // 100, 120)
    arrived = {}
    last = 0
    while True:
        lines = lab.get(f"events?since={last}")["events"]
        if not lines:
            break
        last = lines[-1]["number"]
        for line in lines:
            if line.get("arrivals_ms") and line.get("service", "").endswith("-spot"):
                arrived.setdefault(line["service"].removesuffix("-spot"), min(line["arrivals_ms"]))
    pairs = [at - arrived[name] for name, at in told.at.items() if name in arrived]
    end(process)
    lab.stop()
    after = [ms for ms in pairs if ms >= 0]
    return {"count": count, "rate": count / took, "seen_before": len(pairs) - len(after), "ms": after}


class Updates:
    """When each Standard service was first told, in the world's milliseconds."""

    def __init__(self, lab):
        self.lab, self.since, self.at = lab, 0, {}

    def read(self):
        while True:
            calls = self.lab.get(f"calls?operation=ecs:UpdateService&since={self.since}")["calls"]
            if not calls:
                return self.at
            self.since = calls[-1]["number"]
            for call in calls:
                if call["outcome"] != "ok":
                    continue
                words = call["summary"].replace("=", " ").replace(":", " ").replace(",", " ").split()
                for word in words:
                    if word.endswith("-standard"):
                        self.at.setdefault(word.removesuffix("-standard"), call["at_ms"])


def looks(bench, tasks):
    """Memory with so many tasks a service, and what looks cost while all is well: two rounds of them."""
    services = 100 if bench.quick else 1_000
    lab = Lab(bench, services, min(tasks, 50) if bench.quick else tasks)
    process = lab.controller()
    time.sleep(15)
    began = begins(lab)
    counts = total(lab)
    begins(lab)
    seconds = begins(lab) - began
    calls = {name: count - counts.get(name, 0) for name, count in total(lab).items()}
    rss, peak = memory(process)
    end(process)
    lab.stop()
    ecs = {name: count * 60 / seconds for name, count in calls.items() if name.startswith("ecs:")}
    return {"services": services, "tasks": tasks, "rss": rss, "peak": peak, "calls": ecs}


def begins(lab, silence=5, limit=90):
    """When the next round of looks begins: tasks are listed after none were for so many seconds. Where looks are spread
    over all the time there is no such moment, and after the limit any will do."""
    listed = lambda: total(lab).get("ecs:ListTasks", 0)
    last, since, end = listed(), time.monotonic(), time.monotonic() + limit
    while time.monotonic() < end:
        time.sleep(0.05)
        found, now = listed(), time.monotonic()
        if found != last:
            if now - since >= silence:
                return now
            last, since = found, now
    return time.monotonic()


def large(bench):
    return looks(bench, 200)


def small(bench):
    return looks(bench, 5)


def total(lab):
    return {name: sum(outcomes.values()) for name, outcomes in lab.get("counts").items()}


def interruption(bench, who):
    """Five of ten Spot tasks are announced to be reclaimed: when is Standard told, and how much is missing how long?"""
    lab = Lab(bench, 1, 10, speed=SPEED, more="announced = 1.0")
    if who == "source B":
        process = subprocess.Popen(
            [bench.python, str(HERE / "source_b.py"), "--endpoint", lab.url, "--queue", lab.queue, "--cluster", "lab",
             "--service", "web", "--speed", str(SPEED), "--origin", str(lab.origin), "--log", str(lab.folder / "b.log")],
            env={**os.environ, "AWS_EC2_METADATA_DISABLED": "true"},
        )
        time.sleep(3)
    else:
        process = lab.controller("[policy]\nname = 'switch'" if who == "switch" else "")
        time.sleep(1)
    began = lab.get("time")["world_ms"]
    lab.post("capacity", {"spot": 5, "for_seconds": 1200})
    updates = Updates(lab)
    lab.wait("Standard is told", lambda: "web" in updates.read(), 180)
    told = updates.at["web"]
    lab.wait("ten serve", lambda: serving(lab) >= 10 and lab.get("time")["world_ms"] - began > 420_000, 240)
    timeline = lab.get(f"timeline?service=web&from_ms={began}")
    missing, longest, since_missing = 0.0, 0, None
    until = lab.get("time")["world_ms"]
    samples = timeline["samples"]
    for index, sample in enumerate(samples):
        at = sample[0]
        next_at = samples[index + 1][0] if index + 1 < len(samples) else until
        gap = max(0, 10 - (sample[1] + sample[2] + sample[4]))
        missing += gap * (next_at - at) / 1000
        if gap and since_missing is None:
            since_missing = at
        if not gap and since_missing is not None:
            longest, since_missing = max(longest, at - since_missing), None
    if since_missing is not None:
        longest = max(longest, until - since_missing)
    process.terminate()
    process.wait(timeout=30)
    lab.stop()
    return {"who": who, "told_s": (told - began) / 1000, "missing": missing, "longest_s": longest / 1000}


def serving(lab):
    pair = lab.get("state")["services"][0]
    return pair["spot"]["ready"] + pair["spot"].get("warned", 0) + pair["on_demand"]["ready"]


def calls_table(result):
    rows = "".join(
        f"| {name.removeprefix('ecs:')} | {count:.0f} | {count / result['services']:.2f} |\n"
        for name, count in sorted(result["calls"].items())
    )
    all_calls = sum(result["calls"].values())
    return (
        f"| call, {result['services']:,} services × {result['tasks']} tasks | a minute | per service |\n|---|---|---|\n"
        f"{rows}| together | {all_calls:.0f} | {all_calls / result['services']:.2f} |\n"
    )


def document(bench, results):
    t, l, big, few = results["throughput"], results["latency"], results["large"], results["small"]
    ms = l["ms"]
    cpu = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")), "?")
    peers = "".join(
        f"| {r['who']} | {statistics.median(x['told_s'] for x in rs):.1f} s | "
        f"{statistics.median(x['missing'] for x in rs):.0f} | {statistics.median(x['longest_s'] for x in rs):.0f} s |\n"
        for rs in results["interruption"] for r in rs[:1]
    )
    return f"""# What the controller manages

`cargo xtask bench controller` wrote this. Lab, controller and peer run on one machine: {os.cpu_count()} processors, {cpu},
Linux {platform.release()}, load before {bench.load:.1f}. The lab takes its share of both processors.

## From the queue to a durable decision

{t['events']:,} events over {t['services']:,} services wait in the queue; each is a new fact that is committed (SQLite,
`synchronous=FULL`) before its message is deleted. Beside it the same program receives, reads and deletes events of
services that it does not manage: that is what queue and client give.

| | events a second | CPU seconds of the controller, of the lab |
|---|---:|---:|
| received, read, deleted | {t['queue']:,.0f} | {t['queue_cpu'][0]:.1f}, {t['queue_cpu'][1]:.1f} |
| and decided, durable (wanted: 2,000) | {t['decisions']:,.0f} | {t['decisions_cpu'][0]:.1f}, {t['decisions_cpu'][1]:.1f} |

## From the event to UpdateService

{l['count']:,} interruptions at {l['rate']:.0f} a second, each of another service; from the moment at which the event is in
the queue until ECS has the call. {l['seen_before']} were seen by a look before their event came and are left out.

| P50 | P95 | P99 (wanted: 250 ms) | longest |
|---|---|---|---|
| {percentile(ms, .5):.0f} ms | {percentile(ms, .95):.0f} ms | {percentile(ms, .99):.0f} ms | {max(ms):.0f} ms |

## Memory

{big['services']:,} services × {big['tasks']} tasks: {big['rss']:.0f} MiB resident, {big['peak']:.0f} MiB at most (wanted: 200).
{few['services']:,} × {few['tasks']}: {few['peak']:.0f} MiB at most.

## Calls while all is well

Looks of a cluster are shared: services by tens, tasks by hundreds. Calls grow with batches, not with tasks.

{calls_table(few)}
{calls_table(big)}
## One announced interruption, end to end

Five of ten Spot tasks are announced to be reclaimed; there is no other Spot for 20 minutes. Time from the announcement
until Standard is told, task-seconds that were missing, and the longest gap, in the world's time (the lab runs
{SPEED} times as fast), median of {len(results['interruption'][0])}. Source B's logic (`bench/source_b.py`, Python with boto3) counts
tasks that have stopped, and so gives the two minutes of the notice away.

| | Standard told after | task-seconds missing | longest gap |
|---|---|---|---|
{peers}"""


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--lifeboat", required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--quick", action="store_true")
    bench = parser.parse_args()
    bench.scratch = tempfile.mkdtemp(prefix="lifeboat-bench-")
    bench.load = os.getloadavg()[0]
    has_boto = subprocess.run([bench.python, "-c", "import boto3"], capture_output=True).returncode == 0
    if not has_boto:
        print("there is no boto3: source B's logic is left out", file=sys.stderr)
    results = {}
    for name, measure in (("throughput", throughput), ("latency", latency), ("small", small), ("large", large)):
        results[name] = measure(bench)
        print(name, {k: v for k, v in results[name].items() if k != "ms"}, file=sys.stderr, flush=True)
    who = ["shortfall", "switch"] + (["source B"] if has_boto else [])
    results["interruption"] = [[] for _ in who]
    for _ in range(1 if bench.quick else 3):
        # Side by side, each in a world of its own: all of them mostly wait.
        with concurrent.futures.ThreadPoolExecutor() as pool:
            for found, one in zip(results["interruption"], pool.map(lambda name: interruption(bench, name), who)):
                found.append(one)
    print(results["interruption"], file=sys.stderr, flush=True)
    text = document(bench, results)
    print(text)
    if not bench.quick:
        Path(bench.out).write_text(text)


if __name__ == "__main__":
    main()

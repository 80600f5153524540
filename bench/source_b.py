"""What source B's Lambda functions do, in one process: the peer of `cargo xtask bench controller`.

Written after the article, with its figures: task events of STOPPED Spot tasks are counted in a sliding window of five
minutes (capacity errors: 3, interruptions: 5); at a threshold Standard is started with the wanted count, waited for
until half of it runs (asked every 10 s, ten minutes at most), and then Spot is set to 0. Every minute the tasks of the
Spot service are scanned for one that is PENDING for more than 180 s. What the article keeps in DynamoDB is kept in
memory here, which is faster; recovery is left out, as it never happens with Spot at 0.

    source_b.py --endpoint URL --queue URL --cluster NAME --service NAME --speed N --log FILE
"""

import argparse
import collections
import json
import threading
import time

import boto3
from botocore.config import Config

WINDOW, CAPACITY_ERRORS, INTERRUPTIONS = 300, 3, 5
PENDING_MAX, SCAN_EVERY, WAIT_EVERY, WAIT_MAX = 180, 60, 10, 600


class Failover:
    def __init__(self, args):
        self.args = args
        session = boto3.session.Session(
            aws_access_key_id="lab", aws_secret_access_key="lab", region_name="us-east-1"
        )
        config = Config(read_timeout=40, retries={"max_attempts": 3})
        self.ecs = session.client("ecs", endpoint_url=args.endpoint, config=config)
        self.sqs = session.client("sqs", endpoint_url=args.endpoint, config=config)
        self.spot, self.standard = f"{args.service}-spot", f"{args.service}-standard"
        self.events = {"capacity": collections.deque(), "interruption": collections.deque()}
        self.lock = threading.Lock()
        self.active = False

    def say(self, what):
        with open(self.args.log, "a", encoding="utf-8") as log:
            log.write(json.dumps({"wall_ms": time.time() * 1000, "what": what}) + "\n")

    def sleep(self, seconds):
        time.sleep(seconds / self.args.speed)

    def count(self, kind, threshold):
        now = time.monotonic() * self.args.speed
        events = self.events[kind]
        events.append(now)
        while events and events[0] < now - WINDOW:
            events.popleft()
        if len(events) >= threshold:
            self.fail_over(kind)

    def handle(self, event):
        detail = event.get("detail", {})
        if event.get("detail-type") != "ECS Task State Change":
            return
        if detail.get("capacityProviderName") != "FARGATE_SPOT" or detail.get("lastStatus") != "STOPPED":
            return
        reason = detail.get("stoppedReason", "")
        # The article's strings do not occur; the real ones are matched too, so that it works at all.
        if reason.startswith("ResourcesNotAvailable") or "Capacity is unavailable" in reason:
            self.count("capacity", CAPACITY_ERRORS)
        elif reason.startswith("SpotInterruption") or "interrupted" in reason:
            self.count("interruption", INTERRUPTIONS)

    def scan(self):
        while True:
            self.sleep(SCAN_EVERY)
            arns = self.ecs.list_tasks(cluster=self.args.cluster, serviceName=self.spot)["taskArns"]
            if not arns:
                continue
            tasks = self.ecs.describe_tasks(cluster=self.args.cluster, tasks=arns[:100])["tasks"]
            now = self.now()
            old = [t for t in tasks if t["lastStatus"] != "RUNNING" and now - t["createdAt"].timestamp() > PENDING_MAX]
            if old:
                self.fail_over("pending")

    def now(self):
        return self.args.origin / 1000 + (time.time() - self.args.origin / 1000) * self.args.speed

    def fail_over(self, reason):
        with self.lock:
            if self.active:
                return
            self.active = True
        wanted = self.ecs.describe_services(cluster=self.args.cluster, services=[self.spot])["services"][0]
        count = wanted["desiredCount"]
        self.ecs.update_service(cluster=self.args.cluster, service=self.standard, desiredCount=count)
        self.say(f"standard {count} {reason}")
        waited = 0
        while waited < WAIT_MAX:
            self.sleep(WAIT_EVERY)
            waited += WAIT_EVERY
            now = self.ecs.describe_services(cluster=self.args.cluster, services=[self.standard])["services"][0]
            if now["runningCount"] * 2 >= count:
                self.ecs.update_service(cluster=self.args.cluster, service=self.spot, desiredCount=0)
                self.say("spot 0")
                return

    def run(self):
        threading.Thread(target=self.scan, daemon=True).start()
        while True:
            answer = self.sqs.receive_message(
                QueueUrl=self.args.queue, MaxNumberOfMessages=10, WaitTimeSeconds=20
            )
            for message in answer.get("Messages", []):
                self.handle(json.loads(message["Body"]))
                self.sqs.delete_message(QueueUrl=self.args.queue, ReceiptHandle=message["ReceiptHandle"])


def main():
    parser = argparse.ArgumentParser()
    for name in ("endpoint", "queue", "cluster", "service", "log"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--speed", type=float, default=1)
    parser.add_argument("--origin", type=float, default=0)
    Failover(parser.parse_args()).run()


if __name__ == "__main__":
    main()

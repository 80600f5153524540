#!/usr/bin/env python3
"""Stands in for SQS, DynamoDB, SNS, Auto Scaling and CloudWatch in a measurement: says yes to everything.

No part of the product and no test of it: it checks neither signatures nor requests. It prints one line, its address,
and then the name of each call, so that the measurement can tell that everything was really called.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs


class Yes(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = self.headers.get("X-Amz-Target")
        if target:
            name, kind, answer = target.rsplit(".", 1)[-1], "application/x-amz-json-1.0", self.json_answer(body)
        elif "/operation/" in self.path:
            # CloudWatch speaks CBOR; 0xa0 is an empty map.
            name, kind, answer = self.path.rsplit("/", 1)[-1], "application/cbor", b"\xa0"
        else:
            name = parse_qs(body.decode()).get("Action", ["?"])[0]
            text = f"<{name}Response><{name}Result/></{name}Response>"
            kind, answer = "text/xml", text.encode()
        print(name, flush=True)
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("smithy-protocol", "rpc-v2-cbor")
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    @staticmethod
    def json_answer(body):
        entries = json.loads(body or b"{}").get("Entries", [])
        return json.dumps({"Successful": [{"Id": entry["Id"]} for entry in entries], "Failed": []}).encode()

    def log_message(self, *_):
        pass


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Yes)
    server.daemon_threads = True
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    sys.exit(main())

"""python fake_model_server.py [SECONDS] --host HOST --port PORT: a model server without a model, slow to load."""

import argparse
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/health" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("seconds", type=float)
    parser.add_argument("--host", required=True)
    parser.add_argument("--port", type=int, required=True)
    given = parser.parse_args()
    time.sleep(given.seconds)
    print("ready", flush=True)
    ThreadingHTTPServer((given.host, given.port), Handler).serve_forever()

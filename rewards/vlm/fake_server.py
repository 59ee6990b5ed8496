"""A server that speaks a judge's protocol without a model: what it says follows from how bright the pictures are.

    one picture, one token      P(yes) is the picture's mean brightness, from 0 to 1
    two pictures, one token     P(A) is the first one's share of both brightnesses
    JSON                        every whole number is where the brightness is between its minimum and maximum, rounded

For tests and for trying a configuration out, in a thread or as a program; it listens on this machine only:

    python -m rewards.vlm.fake_server --port 8000
"""

import argparse
import base64
import io
import json
import math
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
from PIL import Image

LEAST = 1e-6  # no probability is 0: its logarithm must be a number


class FakeServer:
    """The server, in a thread of its own, until `close`. `faults` are given instead of the next answers."""

    def __init__(self, port: int = 0) -> None:
        """Port 0 takes any free one."""
        self.faults: deque[tuple[int, bytes]] = deque()  # status and body
        self.questions: list[dict[str, Any]] = []  # every request's JSON, in the order of arrival
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """What a judge's `url` must be."""
        return f"http://127.0.0.1:{self.port}/v1"

    def close(self) -> None:
        """Stop answering and free the port."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5.0)

    def answer(self, question: dict[str, Any]) -> tuple[int, bytes]:
        """Status and body for a request."""
        self.questions.append(question)
        if self.faults:
            return self.faults.popleft()
        parts = question["messages"][0]["content"]
        bright = [brightness(part["image_url"]["url"]) for part in parts if part["type"] == "image_url"]
        choice = _in_json(question, bright) if "response_format" in question else _one_token(bright)
        return 200, json.dumps({"object": "chat.completion", "choices": [{"index": 0, **choice}]}).encode()


def brightness(url: str) -> float:
    """The mean of a picture's values, from 0 to 1."""
    with Image.open(io.BytesIO(base64.b64decode(url.partition(",")[2]))) as picture:
        return float(np.asarray(picture.convert("RGB")).mean() / 255)


def _one_token(bright: list[float]) -> dict[str, Any]:
    share = bright[0] if len(bright) == 1 else bright[0] / max(sum(bright), LEAST)
    words = ("Yes", "No") if len(bright) == 1 else ("A", "B")
    chances = (max(share, LEAST), max(1 - share, LEAST))
    top = [{"token": word, "logprob": math.log(chance)} for word, chance in zip(words, chances, strict=True)]
    likeliest = max(top, key=lambda entry: float(str(entry["logprob"])))
    return {
        "message": {"role": "assistant", "content": likeliest["token"]},
        "logprobs": {"content": [{**likeliest, "top_logprobs": top}]},
    }


def _in_json(question: dict[str, Any], bright: list[float]) -> dict[str, Any]:
    properties = question["response_format"]["json_schema"]["schema"]["properties"]
    values = {
        name: round(entry["minimum"] + bright[0] * (entry["maximum"] - entry["minimum"]))
        for name, entry in properties.items()
    }
    return {"message": {"role": "assistant", "content": json.dumps(values)}}


def _handler(server: FakeServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/health" else 404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            known = self.path == "/v1/chat/completions"
            status, body = server.answer(json.loads(content)) if known else (404, b"{}")
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:  # the parent's name
            """Say nothing on the terminal."""

    return Handler


def main() -> None:
    """Answer until the process is ended."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", choices=("127.0.0.1",), default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    server = FakeServer(parser.parse_args().port)
    print(server.url, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()

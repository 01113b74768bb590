"""A server that speaks what we ask of vLLM, on this machine: plain Transformers and PEFT behind ``http.server``."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM

NAME = "the-base"


class FakeServer:
    """What was asked of it, and how it misbehaves.

    Args:
        folder: the model that it serves.
        dtype: what it computes in.
    """

    def __init__(self, folder: Path, dtype: torch.dtype = torch.float32) -> None:
        self.bare = AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).eval()
        self.loaded: dict[str, Path] = {}
        self.asked: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.busy = 0  # requests that are still answered with 503
        self.deaf = False  # takes adapters and does not apply them
        self.key: str | None = None  # that it wants to see
        self.address = ""
        self._applied: tuple[str, Any] = NAME, self.bare
        self._lock = threading.Lock()

    def answer(self, path: str, body: dict[str, Any]) -> tuple[int, Any]:
        with self._lock:
            self.paths.append(path)
            if self.busy:
                self.busy -= 1
                return 503, {"error": "busy"}
            if path == "/v1/models":
                return 200, {"data": [{"id": NAME}]}
            if path == "/v1/load_lora_adapter":
                assert (Path(body["lora_path"]) / "adapter_config.json").is_file()
                self.loaded[body["lora_name"]] = Path(body["lora_path"])
                return 200, "Success: adapter added"
            if path == "/v1/unload_lora_adapter":
                self.loaded.pop(body["lora_name"])
                self._apply(NAME)
                return 200, "Success: adapter removed"
            self.asked.append(body)
            if body["model"] != NAME and body["model"] not in self.loaded:
                return 404, {"error": f"there is no model {body['model']}"}
            return 200, {"choices": [self._complete(body)]}

    @torch.inference_mode()
    def _complete(self, body: dict[str, Any]) -> dict[str, Any]:
        """One token after the other, drawn with the request's own numbers; 0 temperature is greedy."""
        numbers = torch.Generator().manual_seed(body["seed"])
        ids, logps = list(body["prompt"]), []
        model = self._apply(NAME if self.deaf else body["model"])
        while len(logps) < body["max_tokens"] and not (logps and ids[-1] in body["stop_token_ids"]):
            logits_V = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].float()
            if body["temperature"]:
                shares_V = (logits_V / body["temperature"]).softmax(-1)
                ids.append(int(torch.multinomial(shares_V, 1, generator=numbers)))
            else:
                ids.append(int(logits_V.argmax()))
            logps.append(float(logits_V.log_softmax(-1)[ids[-1]]))
        made = {"token_ids": ids[len(body["prompt"]):], "text": ""}
        return {**made, "logprobs": {"token_logprobs": logps}} if "logprobs" in body else made

    def _apply(self, name: str) -> Any:
        """The model with an adapter, or without one."""
        before, model = self._applied
        if name != before:
            if before != NAME:
                model.unload()
            made = self.bare if name == NAME else PeftModel.from_pretrained(self.bare, self.loaded[name]).eval()
            self._applied = name, made
        return self._applied[1]


@contextmanager
def serving(server: FakeServer) -> Iterator[FakeServer]:
    """The server on a port of this machine."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._reply({})

        def do_POST(self) -> None:
            self._reply(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))

        def _reply(self, body: dict[str, Any]) -> None:
            if server.key and self.headers["Authorization"] != f"Bearer {server.key}":
                status, made = 401, {"error": "Unauthorized"}
            else:
                status, made = server.answer(self.path, body)
            text = made if isinstance(made, str) else json.dumps(made)
            self.send_response(status)
            self.send_header("Content-Type", "text/plain" if isinstance(made, str) else "application/json")
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    server.address = f"http://127.0.0.1:{http.server_port}"
    try:
        yield server
    finally:
        http.shutdown()
        thread.join()
        http.server_close()

"""The hub refuses in one sentence: a small server answers as the hub does, and loaders of each kind ask it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from diffusers_jova import JoVAPipeline
from diffusers_jova.adapter_file import read_adapter
from diffusers_jova.hub_access import HubAccessError, explained_hub
from tests.places import ROOT


ANSWERS = {"/gated": (403, "GatedRepo"), "/bare": (404, "EntryNotFound")}  # others are unknown
LOADERS = {
    "pipeline": "JoVAPipeline.from_pretrained(name)",
    "index": "model_defaults(name)",
    "transformer": "load_transformer(name)",
    "adapter": "read_adapter(name)",
    "checkpoint": "local_path(name)",
}
SCRIPT = f"""
import json, sys
from diffusers_jova import JoVAPipeline
from diffusers_jova.adapter_file import read_adapter
from diffusers_jova.conversion.source import local_path
from diffusers_jova.saved_pipeline import model_defaults
from diffusers_jova.training.loop.model import load_transformer
said = {{}}
for name in sys.argv[1:]:
    for kind, load in {LOADERS}.items():
        try:
            eval(load)
        except Exception as error:
            said[f"{{name}} {{kind}}"] = f"{{type(error).__name__}}: {{error}}"
print(json.dumps(said))
"""


class Hub(BaseHTTPRequestHandler):
    """Answers every question for a repository with the error of its name."""

    def do_GET(self) -> None:
        status, code = next((answer for name, answer in ANSWERS.items() if name in self.path), (404, "RepoNotFound"))
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET  # noqa: N815 as http.server calls it

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def hub() -> Iterator[str]:
    """Address of a hub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


def ask(endpoint: str, *names: str) -> tuple[dict[str, str], str]:
    """What each loader says of each name, and what else came on stderr, in a process that asks this hub."""
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": endpoint, "PYTHONPATH": str(ROOT), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", SCRIPT, *names]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), done.stderr


@pytest.mark.slow
def test_every_loader_says_in_one_sentence_why_the_hub_refuses(hub: str) -> None:
    said, stderr = ask(hub, "somebody/nothing", "somebody/gated")
    assert len(said) == 2 * len(LOADERS)
    for where, sentence in said.items():
        assert sentence.startswith("HubAccessError: `"), where
        assert "must be a path on this machine or a repository of the hub, got somebody/" in sentence, where
        if "nothing" in where:
            assert sentence.endswith(
                "which the hub does not show to this machine; check the spelling, or log in by `hf auth login` if it "
                "is private"
            ), where
        else:
            assert "whose owner lets only those in who ask; accept the terms" in sentence, where
    assert "Couldn't connect" not in stderr


@pytest.mark.slow
def test_a_hub_that_is_not_reached_and_a_repository_of_another_kind_are_told_apart(hub: str) -> None:
    said, _ = ask(hub, "somebody/bare")
    assert "which lacks a file that is needed" in said["somebody/bare pipeline"]
    unreached, stderr = ask("http://127.0.0.1:9", "somebody/nothing")
    assert len(unreached) == len(LOADERS)
    for where, sentence in unreached.items():
        assert "but the hub was not reached; check the network" in sentence, where
    assert "Couldn't connect" not in stderr


def test_without_the_network_a_repository_must_have_been_downloaded() -> None:
    with pytest.raises(
        HubAccessError, match="got somebody/nothing, which was not downloaded before; unset HF_HUB_OFF"
    ):
        JoVAPipeline.from_pretrained("somebody/nothing")
    with pytest.raises(
        HubAccessError, match=r"`adapter` must be .* while HF_HUB_OFFLINE is set, got somebody/nothing"
    ):
        read_adapter("somebody/nothing")


def test_what_is_no_name_of_a_repository_is_refused() -> None:
    with pytest.raises(HubAccessError, match=r"`model` must be .* got no/such/folder, which is neither; check"):
        JoVAPipeline.from_pretrained("no/such/folder")


def test_what_has_nothing_to_do_with_the_hub_stays_as_it_is() -> None:
    with pytest.raises(OSError, match="disk"), explained_hub("model", "somebody/nothing"):
        raise OSError(28, "disk")

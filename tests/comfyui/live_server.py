"""A real ComfyUI server on the CPU, and graphs sent to it as the web page sends them.

Where ComfyUI lies and which Python runs it tell `COMFYUI_PATH` and `COMFYUI_PYTHON`; see comfyui/README.md.
"""

import base64
import json
import os
import re
import socket
import struct
import subprocess
import sys
import threading
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from tests.places import ROOT


BOOT_S = 600  # only to end a hang: a loaded machine takes minutes to import everything
READY = b"To see the GUI go to"  # what it prints once it listens
RUN_S = 900
OPTIONS = ("--cpu", "--listen", "127.0.0.1", "--disable-api-nodes")
TEXT, BINARY, CLOSE, PING, PONG = 1, 2, 8, 9, 10  # kinds of websocket frames


class PromptError(RuntimeError):
    """A graph was refused, or a node of it failed; `details` is what the server said."""

    def __init__(self, details: Any) -> None:
        super().__init__(json.dumps(details)[:2000])
        self.details = details


class WebSocket:
    """The server's events, by RFC 6455: enough of it to read what ComfyUI sends.

    Args:
        port: Of the server on this machine.
        client_id: Whose events.
    """

    def __init__(self, port: int, client_id: str) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=RUN_S)
        self.file = self.socket.makefile("rb")
        key = base64.b64encode(os.urandom(16)).decode()
        lines = (
            f"GET /ws?clientId={client_id} HTTP/1.1",
            f"Host: 127.0.0.1:{port}",
            "Upgrade: websocket",
            "Connection: Upgrade",
            f"Sec-WebSocket-Key: {key}",
            "Sec-WebSocket-Version: 13",
        )
        self.socket.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        status = self.file.readline()
        assert b"101" in status, status
        while self.file.readline().strip():
            pass

    def frames(self) -> Iterator[tuple[int, bytes]]:
        """Kind and content of one frame after the other; a message in pieces counts as one."""
        kind, content = 0, b""
        while True:
            first, second = self.file.read(2)
            size = second & 127
            if size > 125:
                size = struct.unpack("!H" if size == 126 else "!Q", self.file.read(2 if size == 126 else 8))[0]
            piece = self.file.read(size)
            if first & 15 in (PING, CLOSE):
                mask = os.urandom(4)
                masked = bytes(b ^ mask[i % 4] for i, b in enumerate(piece))
                self.socket.sendall(
                    bytes([0x80 | (PONG if first & 15 == PING else CLOSE), 0x80 | size]) + mask + masked
                )
                continue
            kind, content = first & 15 or kind, content + piece
            if first & 128:
                yield kind, content
                content = b""

    def events(self) -> Iterator[dict[str, Any]]:
        """What the server says in words; pictures of progress count as events of their own."""
        for kind, content in self.frames():
            yield json.loads(content) if kind == TEXT else {"type": "preview", "data": {"bytes": len(content)}}

    def close(self) -> None:
        """Leave."""
        self.file.close()
        self.socket.close()


class Server:
    """A running ComfyUI with this pack.

    Args:
        folder: For its inputs, outputs and models.
        comfyui: Its checkout.
        python: Which runs it.
        options: Further words of its command line.
        has_package: Whether it finds the package, that of this clone.
    """

    def __init__(
        self, folder: Path, comfyui: Path, python: str, options: tuple[str, ...] = (), has_package: bool = True
    ) -> None:
        self.folder, self.comfyui = folder, comfyui
        for name in ("input", "output", "models/loras", "models/diffusers", "models/diffusion_models"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        places = "\n".join(f"  {name}: models/{name}" for name in ("loras", "diffusers", "diffusion_models"))
        (folder / "places.yaml").write_text(f"jova:\n  base_path: {folder}\n{places}\n")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.log = folder / "server.log"
        words = [python, "main.py", *OPTIONS, "--port", str(self.port), *options]
        words += ["--input-directory", str(folder / "input"), "--output-directory", str(folder / "output")]
        words += ["--extra-model-paths-config", str(folder / "places.yaml")]
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(ROOT) if has_package else ""}
        self.is_ready, self.has_spoken = False, threading.Event()
        self.process = subprocess.Popen(
            words, cwd=comfyui, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self.listener = threading.Thread(target=self.listen, daemon=True)
        self.listener.start()

    def listen(self) -> None:
        """Keep what the server prints, until it ends, and take note when it is ready or ends before that."""
        assert self.process.stdout is not None
        with self.process.stdout as lines, self.log.open("wb", buffering=0) as log:
            for line in lines:
                log.write(line)
                if READY in line:
                    self.is_ready = True
                    self.has_spoken.set()
        self.has_spoken.set()

    def __enter__(self) -> Self:
        self.has_spoken.wait(BOOT_S)
        if not self.is_ready:
            self.process.kill()
            self.listener.join()
            raise AssertionError(f"the server did not start\n{self.log.read_text()[-4000:]}")
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        try:
            self.process.wait(30)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.listener.join()

    def get(self, path: str) -> Any:
        """What the server answers to a question."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.load(answer)

    def post(self, path: str, content: Any) -> Any:
        """What the server answers to a message."""
        data = json.dumps(content).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", data=data, headers={"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise PromptError(json.loads(error.read())) from None
        return json.loads(text) if text.strip() else None

    def run(self, graph: dict[str, Any], on_event: Any = None) -> dict[str, Any]:
        """Run a graph to its end, as the web page does.

        Args:
            graph: In API format.
            on_event: Called with each event.

        Returns:
            Its entry in the history, with the `events` and the names of the nodes that ran in `executed`.
        """
        client = uuid.uuid4().hex
        events = WebSocket(self.port, client)
        try:
            prompt = self.post("/prompt", {"prompt": graph, "client_id": client})["prompt_id"]
            seen = []
            for event in events.events():
                if on_event is not None:
                    on_event(event)
                data = event.get("data", {})
                if is_last(event, prompt):  # it comes once the history has the prompt
                    break
                seen.append(event)
                if event["type"] == "execution_error" and data.get("prompt_id") == prompt:
                    raise PromptError(data)
        finally:
            events.close()
        return {**self.get(f"/history/{prompt}")[prompt], "events": seen, "executed": executed(seen)}

    def files(self, result: dict[str, Any]) -> list[Path]:
        """The files that the nodes of a graph have written."""
        entries = [
            entry
            for output in result["outputs"].values()
            for value in output.values()
            if isinstance(value, list)
            for entry in value
            if isinstance(entry, dict) and "filename" in entry
        ]
        return [self.folder / "output" / entry.get("subfolder", "") / entry["filename"] for entry in entries]


def is_last(event: dict[str, Any], prompt: str) -> bool:
    """Whether nothing of a prompt is executed any more."""
    data = event.get("data", {})
    return event["type"] == "executing" and data.get("prompt_id") == prompt and data.get("node") is None


def executed(events: list[dict[str, Any]]) -> list[str]:
    """Ids of the nodes that ran."""
    return [
        event["data"]["node"]
        for event in events
        if event["type"] == "executing" and event["data"].get("node") is not None
    ]


def linked(comfyui: Path, name: str, pack: Path) -> Path:
    """A pack among the custom nodes of a ComfyUI, by a link.

    Args:
        comfyui: Its checkout.
        name: Of the link; one to a folder that is gone is made anew.
        pack: Its folder.
    """
    link = comfyui / "custom_nodes" / name
    if link.is_symlink() and not link.exists():
        link.unlink()
    if not link.exists():
        link.symlink_to(pack)
    assert link.resolve() == pack.resolve(), f"{link} is another copy of the pack; remove it"
    return link


def named_python() -> str:
    """Which Python runs the ComfyUI that the environment names."""
    return os.environ.get("COMFYUI_PYTHON", sys.executable)


def started(folder: Path, python: str | None = None, has_package: bool = True) -> Server:
    """The server that the environment names, with this pack among its custom nodes.

    Args:
        folder: For its inputs, outputs and models.
        python: Another one to run it than the environment names.
        has_package: Whether it finds the package.
    """
    comfyui = Path(os.environ["COMFYUI_PATH"])
    linked(comfyui, "jova", ROOT / "comfyui")
    return Server(folder, comfyui, python or named_python(), has_package=has_package)


def python_without_package(folder: Path) -> str:
    """A Python with everything that the server's own has installed, but the package.

    Args:
        folder: Of the environment, to be made.
    """
    question = "import sys; print(*[path for path in sys.path if path.endswith('-packages')], sep='\\n')"
    subprocess.run([named_python(), "-m", "venv", "--without-pip", str(folder)], check=True)
    installed, (own, *_) = (
        subprocess.run([python, "-c", question], capture_output=True, text=True, check=True).stdout.split("\n")
        for python in (named_python(), str(folder / "bin" / "python"))
    )
    for place in filter(None, installed):  # an environment may lie upon another one
        link_all(Path(place), Path(own))
    return str(folder / "bin" / "python")


def link_all(place: Path, folder: Path) -> None:
    """Link what is installed at a place into a folder, but the package; parts of a namespace come together."""
    for entry in place.iterdir():
        link = folder / entry.name
        if re.search(r"diffusers_jova|jova_cli|\.pth$", entry.name):
            continue
        if not link.exists():
            link.symlink_to(entry)
        elif link.is_dir() and entry.is_dir() and not (link / "__init__.py").exists():
            if link.is_symlink():
                first = link.resolve()
                link.unlink()
                link.mkdir()
                link_all(first, link)
            link_all(entry, link)

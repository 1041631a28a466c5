"""A model folder whose files hold something else than they should is refused in one sentence, by all commands."""

import json
import re
import shutil
import struct
from pathlib import Path
from typing import Any

import pytest

from diffusers_jova import JoVAPipeline
from jova_cli.main import main


DEEP = "[" * 100_000
INDEX = {"_class_name": "JoVAPipeline", "vae": ["diffusers", "AutoencoderKLWan"]}


def header(text: str) -> bytes:
    """A safetensors file with this header and no tensors."""
    return struct.pack("<Q", len(text)) + text.encode()


HOSTILE: dict[str, tuple[dict[str, str | bytes], str]] = {  # files, and what is said of them
    "a list for an index": (
        {"model_index.json": "[]"},
        r"must be a JSON object, got \[\]; name the folder that `save_pretrained`",
    ),
    "null for an index": ({"model_index.json": "null"}, "model_index.json"),
    "a number for an index": ({"model_index.json": "5"}, "model_index.json"),
    "an index nested without end": ({"model_index.json": DEEP}, "nested too deeply"),
    "numbers for a component": (
        {"model_index.json": json.dumps(INDEX | {"vae": [1, 2]})},
        r"`vae` in .* must be a component with a library and a class, got \[1, 2\]",
    ),
    "an object for a class": (
        {"model_index.json": json.dumps(INDEX | {"vae": ["diffusers", {"a": 1}]})},
        "must be a component with a library and a class",
    ),
    "a component outside of the folder": (
        {"model_index.json": json.dumps(INDEX | {"../vae": ["diffusers", "X"]})},
        r"`\.\./vae` in .* must be a component",
    ),
    "a number for defaults": ({"model_index.json": json.dumps(INDEX | {"defaults": 5})}, "`defaults` of a"),
    "text for a size": (
        {"model_index.json": json.dumps(INDEX | {"defaults": {"height": "64"}})},
        "`height` of the `defaults` must be a positive number, got '64'",
    ),
    "a list for a header": ({"vae/a.safetensors": header("[]")}, r"header of .* must be a JSON object, got \[\]"),
    "a header nested without end": ({"vae/a.safetensors": header(DEEP)}, "nested too deeply"),
    "null for a tensor": ({"vae/a.safetensors": header('{"a": null}')}, "the shape of every tensor, got null for `a`"),
    "text for a shape": ({"vae/a.safetensors": header('{"a": {"shape": "xx"}}')}, "must hold the shape"),
    "a negative size": ({"vae/a.safetensors": header('{"a": {"shape": [-3]}}')}, "must hold the shape"),
    "a size without end": ({"vae/a.safetensors": header('{"a": {"shape": [1e400]}}')}, "must hold the shape"),
    "a list of licences": (
        {"README.md": "---\ncomponent_licenses: [a]\n---\n", "vae/a.safetensors": header("{}")},
        r"`component_licenses` of .* must hold `component: licence` lines, got \[\"a\"\]",
    ),
    "a card in another encoding": ({"README.md": b"---\n\xff\n---\n"}, "README.md` must be text in UTF-8"),
    "a card nested without end": (
        {"README.md": f"---\na: {DEEP[:5000]}\n---\n"},
        "must be valid YAML",
    ),
    "a card with a date that is none": ({"README.md": "---\na: 2020-99-99\n---\n"}, "must be valid YAML"),
    "text for tables of positions": (
        {
            "transformer/config.json": '{"position_table_sizes": "x", "patch_size": [1, 2, 2]}',
            "vae/config.json": '{"scale_factor_temporal": 4, "scale_factor_spatial": 8}',
        },
        "must hold sizes and rates, got an error",
    ),
    "a list for a config": (
        {"transformer/config.json": "[]", "vae/config.json": "{}"},
        r"config.json` must be a JSON",
    ),
}


def write(folder: Path, files: dict[str, Any]) -> None:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())


@pytest.mark.parametrize("case", HOSTILE)
def test_info_refuses_a_hostile_model(case: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files, message = HOSTILE[case]
    weights = header('{"a": {"shape": [2]}}')
    write(tmp_path, {"model_index.json": json.dumps(INDEX), "vae/b.safetensors": weights, **files})
    with pytest.raises(SystemExit) as ended:
        main(["info", str(tmp_path)])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(message, line), line


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("model_index.json", "[]", r"model_index.json` must be a JSON object, got \[\]"),
        ("model_index.json", DEEP, "nested too deeply"),
        ("transformer/config.json", "null", r"transformer/config.json` must be a JSON object, got null"),
        ("scheduler/scheduler_config.json", "[]", r"scheduler_config.json` must be a JSON object"),
        ("scheduler/scheduler_config.json", '{"shift": Infinity}', "`shift` must be positive and finite, got inf"),
        ("scheduler/scheduler_config.json", '{"shift": "x"}', r"`shift` must be a number, got 'x'"),
        ("scheduler/scheduler_config.json", '{"num_train_timesteps": 0.5}', "`num_train_timesteps` must be a whole"),
        ("transformer/config.json", '{"num_layers": "x"}', "`num_layers` must be a whole number, got 'x'"),
        ("transformer/config.json", '{"patch_size": 3}', r"configs hold what its components take, got TypeError"),
    ],
)
def test_loading_refuses_a_hostile_model(
    name: str, text: str, message: str, tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline_folder, folder)
    content = text
    if text.startswith("{"):
        content = json.dumps(json.loads((folder / name).read_text()) | json.loads(text))
    (folder / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        JoVAPipeline.from_pretrained(folder)


@pytest.mark.parametrize(("name", "value"), [("variant", 5), ("domain", 5)])
def test_an_argument_that_no_loader_takes_is_named_beside_the_folder(
    name: str, value: Any, tiny_pipeline_folder: Path
) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` and the configs in `.*` must hold .*, got TypeError"):
        JoVAPipeline.from_pretrained(tiny_pipeline_folder, **{name: value})

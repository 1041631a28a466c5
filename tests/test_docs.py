"""The documentation runs.

The python blocks of a page run in order, in one namespace, in a folder that holds what the pages mention: a model
`jova-tiny`, `portrait.png`, `voice.wav`, `clip.mp4`. A page that tells how to convert a model gets tiny checkpoints
under the names of its commands, and the commands run before its python blocks.
"""

import ast
import importlib.util
import pkgutil
import re
import shlex
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from diffusers_jova import media
from diffusers_jova.training.loop.config import load_yaml, parse_overrides
from jova_cli.generate import default_arguments
from jova_cli.main import COMMANDS, main
from jova_cli.shipped import find_file, find_preset, launch_names, preset_names
from tests.places import ROOT
from tests.test_rooms import ARROWS
from tests.tiny_checkpoints import convert_as_told


README = ROOT / "README.md"
ROOMS = ("conversion", "drawn", "evaluation", "page", "recipes", "training")  # installed below diffusers_jova
TOOLS = ("build", "pip", "pytest", "twine", "venv")
PAGES = [README, *sorted(ROOT.glob("model_cards/*/README.md"))]
RUN_BY_DEFAULT = ("README.md", "model_cards/jova-12b/README.md", "model_cards/wan-ovi/README.md")


def python_blocks(page: Path) -> list[str]:
    """The code of each block, preceded by empty lines, so that tracebacks show the line of the page."""
    text = page.read_text()
    found = re.finditer(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    return ["\n" * text.count("\n", 0, match.start(1)) + match[1] for match in found]


def section(title: str) -> str:
    match = re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", README.read_text(), re.DOTALL | re.MULTILINE)
    assert match, f"README.md lost its section {title!r}"
    return match[1]


def run_blocks(page: Path, blocks: list[str]) -> None:
    namespace = {"__name__": "__main__"}
    for block in blocks:
        exec(compile(block, str(page), "exec"), namespace)


@pytest.fixture
def reader_folder(tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder that the pages assume."""
    random = np.random.default_rng(0)
    frames = random.integers(0, 256, (9, 32, 32, 3), dtype=np.uint8)
    sound = random.uniform(-0.1, 0.1, (1, 9000)).astype(np.float32)
    PIL.Image.fromarray(frames[0]).save(tmp_path / "portrait.png")
    media.write_audio(tmp_path / "voice.wav", sound, 16000)
    media.write_video(tmp_path / "clip.mp4", frames, 16, sound, 16000)
    (tmp_path / "jova-tiny").symlink_to(tiny_pipeline_folder)
    (tmp_path / "model_cards").symlink_to(ROOT / "model_cards")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.usefixtures("reader_folder")
@pytest.mark.parametrize(
    "page",
    [
        pytest.param(page, id=name, marks=() if name in RUN_BY_DEFAULT else pytest.mark.slow)
        for page, name in ((page, str(page.relative_to(ROOT))) for page in PAGES)
    ],
)
def test_every_python_block_of_a_page_runs(page: Path) -> None:
    convert_as_told(page)
    run_blocks(page, python_blocks(page))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_python_block_of_a_page_imports_names_that_exist(page: Path) -> None:
    for block in python_blocks(page):
        imports = [node for node in ast.walk(ast.parse(block)) if isinstance(node, ast.Import | ast.ImportFrom)]
        run_blocks(page, [ast.unparse(node) for node in imports])


def test_the_readme_imports_the_package_before_it_loads_anything() -> None:
    first_line = python_blocks(README)[0].strip().splitlines()[0]
    assert first_line.startswith("import diffusers_jova")


def test_the_paper_table_names_real_code() -> None:
    rows = re.findall(r"^\|(.*)\|(.*)\|(.*)\|$", section("From the paper to the code"), re.MULTILINE)
    names = [name for row in rows for name in re.findall(r"`([\w.]+)`", row[-1])]
    assert names, "README.md lost its table"
    for name in names:
        pkgutil.resolve_name(name)


def test_code_that_the_paper_table_ties_to_an_equation_quotes_it() -> None:
    rows = re.findall(r"^\| (Eq\..*?) \|.*\| (.*?) \|$", section("From the paper to the code"), re.MULTILINE)
    assert rows, "README.md lost its table"
    for source, cell in rows:
        modules = {name.rpartition(".")[0] for name in re.findall(r"`([\w.]+)`", cell)}
        texts = "".join(Path(str(importlib.import_module(module).__file__)).read_text() for module in modules)
        for number in re.findall(r"\d+", re.split(r"[,;] (?:Sec|Fig|Tab)", source)[0]):
            assert re.search(rf"Eq\. [\d, and]*\b{number}\b", texts), f"{modules} quote no Eq. {number}"


def tree_paths() -> list[str]:
    """The paths that the README's tree names; a name in an indented line lies in the folder above it."""
    listing = re.search(r"```\n(.*?)```", section("The tree"), re.DOTALL)
    assert listing, "README.md lost its tree"
    paths, folder = [], ""
    for line in listing[1].splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split()
        if not line.startswith(" "):
            folder = names[0] if names[0].endswith("/") else ""
            paths += names
        else:
            paths += [folder + name for name in names]
    return paths


def test_the_tree_names_files_that_exist() -> None:
    for path in tree_paths():
        assert list(ROOT.glob(path)), f"README.md names {path}"


def test_the_tree_names_every_module() -> None:
    files = {file for room in ARROWS if room != "benchmarks" for file in (ROOT / room).glob("*.py")}
    files -= {file for file in files if file.name == "__init__.py" and file.parent.name != "diffusers_jova"}
    modules = {str(file.relative_to(ROOT)) for file in files}
    assert modules <= set(tree_paths()), "README.md lacks " + ", ".join(sorted(modules - set(tree_paths())))


def test_links_of_the_pages_lead_to_files() -> None:
    for page in [*PAGES, *ROOT.glob("*.md")]:
        for target in re.findall(r"\]\((?!https?://|#)([^)#]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_files_that_the_pages_name_are_there() -> None:
    for page in [*PAGES, *ROOT.glob("*.md"), *ROOT.glob("benchmarks/*.md")]:
        for name in re.findall(r"`((?:[\w.-]+/)+[\w.-]+\.(?:py|yaml|json|md))`", page.read_text()):
            assert (ROOT / name).exists() or (page.parent / name).exists(), f"{page.name} names {name}"


def test_the_commands_of_the_readme_are_ones_that_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = re.findall(r"^jova .*$", README.read_text(), re.MULTILINE)
    assert commands, "README.md lost its command line"
    monkeypatch.chdir(tmp_path)
    Path("list.jsonl").write_text('{"prompt": "a dog"}')
    (script,) = re.findall(r"^```csv\n(.*?)^```", section("Long clips"), re.DOTALL | re.MULTILINE)
    Path("script.csv").write_text(script)
    Path("clips").mkdir()
    Path("clips/a.txt").write_text("a dog")
    Path("clips/a.mp4").touch()
    Path("adapter").mkdir()
    Path("adapter/pytorch_lora_weights.safetensors").touch()
    for folder in ("with", "without"):
        Path(folder).mkdir()
        Path(folder, "a.mp4").touch()
    Path("prepared").mkdir()
    Path("prepared/a-000.safetensors").touch()
    for command in commands:
        _, name, *words = shlex.split(command)
        importlib.import_module(f"jova_cli.{COMMANDS[name][0]}").parse(words)


@pytest.mark.parametrize("kind", ["json", "csv"])
def test_the_lists_of_the_readme_become_their_clips(
    kind: str, tiny_pipeline_folder: Path, reader_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (block,) = re.findall(rf"^```{kind}\n(.*?)^```", section("Command line"), re.DOTALL | re.MULTILINE)
    rows = reader_folder / ("list.csv" if kind == "csv" else "list.jsonl")
    rows.write_text(block)
    (reader_folder / "portrait.png").rename(reader_folder / "ann.png")
    words = ["--model", str(tiny_pipeline_folder), "--steps", "1", "--yes", "--output", "clips"]
    main(["generate", "--prompts", str(rows), *words])
    assert "made 2, there already 0, refused 0" in capsys.readouterr().out
    assert len(media.read_video("clips/ann.mp4").frames) == 33


def test_the_help_of_generate_names_every_column_of_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["generate", "--help"])
    told = " ".join(capsys.readouterr().out.split()).partition("columns of a list, all of which may be left out: ")[2]
    columns = told.split(", ")
    assert set(columns) == set(vars(default_arguments()))
    header = re.search(r"^```csv\n(.*)$", section("Command line"), re.MULTILINE)
    assert header
    assert set(header[1].split(",")) <= set(columns)


def test_the_readme_trains_whole_models_with_presets_and_sizes_that_exist() -> None:
    blocks = re.findall(r"^```bash\n(.*?)^```", README.read_text(), re.DOTALL | re.MULTILINE)
    (command,) = (block for block in blocks if block.startswith("accelerate launch"))
    words = shlex.split(re.sub(r'"\$\(jova presets (\S+)\)"', r"\1", command))
    assert words[words.index("--config_file") + 1] in launch_names()
    preset = find_preset("--config", words[words.index("--config") + 1], preset_names())
    config = load_yaml(preset, parse_overrides([word for word in words if "=" in word]))
    assert find_file(Path(config.model))
    assert config.distribution == "fsdp"


def test_no_page_or_message_names_a_command_that_does_not_exist() -> None:
    for path in told_files():
        text = path.read_text(encoding="utf-8")
        for words in re.findall(r"(?:`|\$\(|^ *)jova ([a-z][\w-]*)", text, re.MULTILINE):
            assert words in COMMANDS, f"{path} names `jova {words}`"
        for module in re.findall(r"(?:python3?|torchrun|launch)\b[^`\n]* -m (\w[\w.]*)", text):
            assert module in TOOLS or importlib.util.find_spec(module), f"{path} names {module}"
            assert not module.startswith(ROOMS), f"{path} names {module}, which has another name where it is installed"
        for module in re.findall(rf"`((?:{'|'.join(ROOMS)})\.[\w.]+)`", text):
            raise AssertionError(f"{path} names {module}, which has another name where it is installed")


def told_files() -> list[Path]:
    """Pages, presets and sources, which may tell a reader to type something."""
    folders = ("benchmarks", "diffusers_jova", "jova_cli", "model_cards", *ROOMS)
    inside = (path for folder in folders for path in (ROOT / folder).rglob("*"))
    return [
        *ROOT.glob("*.md"),
        ROOT / "Makefile",
        *(path for path in inside if path.suffix in (".py", ".md", ".yaml")),
    ]

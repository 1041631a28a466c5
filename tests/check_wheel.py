"""Check the wheel as a person meets it: installed alone into a new environment, used in an empty folder.

    python tests/check_wheel.py dist/diffusers_jova-0.1.0-py3-none-any.whl --constraint constraints.txt

`make wheel` builds it and calls this. Only what the wheel itself asks for is installed beside it.
"""

import argparse
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
import venv
import zipfile
from pathlib import Path


LARGEST_MB = 45
TOP_LEVEL = {"diffusers_jova", "jova_cli"}
NEEDED = (  # files without which a command cannot work, beside its code
    "diffusers_jova/py.typed",
    "diffusers_jova/weights/jova-tiny/model_index.json",
    "diffusers_jova/weights/jova-tiny/transformer/diffusion_pytorch_model.safetensors",
    "diffusers_jova/drawn/assets/sync_net.safetensors",
    "diffusers_jova/conversion/negative_prompts.json",
    "diffusers_jova/conversion/wan_2.2_vae.json",
    "diffusers_jova/training/configs/lora.yaml",
    "diffusers_jova/training/configs/jova_tiny_transformer.json",
    "diffusers_jova/training/configs/accelerate/fsdp.yaml",
    "diffusers_jova/model_cards/jova-1.6b/transformer/config.json",
    "diffusers_jova/evaluation/report_page.html",
)
ROOT = Path(__file__).parents[1]
ROOMS = ("conversion", "drawn", "evaluation", "page", "recipes", "training")
LOAD_AS_ENGINES_DO = """
import sys
from importlib.metadata import entry_points
(found,) = entry_points(group=sys.argv[1], name="diffusers_jova")
found.load()()
from diffusers import DiffusionPipeline
print(type(DiffusionPipeline.from_pretrained(sys.argv[2])).__name__)
"""
FIND_MODEL = "from jova_cli.shipped import find_model; print(find_model('jova-tiny'))"
COMMANDS = ("generate", "app", "demo", "info", "prepare", "preview", "train", "train-lora", "presets", "assemble")
COMMANDS += ("convert", "estimate", "evaluate", "distill")
SHORT = ["steps=2", "batch_size=1", "mixed_precision=no", "warmup_steps=0", "checkpoint_every=2", "log_every=1"]


def check_contents(wheel: Path) -> None:
    """Look into the wheel: every source, every asset, nothing else at the top, and not too large."""
    names = set(zipfile.ZipFile(wheel).namelist())
    own = {name for name in names if ".dist-info/" not in name}
    assert {name.split("/")[0] for name in own} == TOP_LEVEL, sorted({name.split("/")[0] for name in own})
    sources = {f"{path.relative_to(ROOT)}" for name in TOP_LEVEL for path in (ROOT / name).glob("*.py")}
    sources |= {f"diffusers_jova/{path.relative_to(ROOT)}" for name in ROOMS for path in (ROOT / name).rglob("*.py")}
    assert {name for name in own if name.endswith(".py")} == sources, sources ^ {n for n in own if n.endswith(".py")}
    assert set(NEEDED) <= own, set(NEEDED) - own
    pictures = {name for name in own if name.endswith((".webp", ".mp4", ".png", ".ipynb"))}
    assert not pictures, pictures
    size_mb = wheel.stat().st_size / 1e6
    assert size_mb < LARGEST_MB, size_mb
    print(f"{wheel.name}: {len(own)} files, {size_mb:.1f} MB")


class Environment:
    """A new environment that holds the wheel and what it asks for.

    Args:
        folder: Where it is made.
    """

    def __init__(self, folder: Path) -> None:
        venv.create(folder, with_pip=True)
        self.bin = folder / ("Scripts" if os.name == "nt" else "bin")
        self.folder = folder.parent / "empty"
        self.folder.mkdir()

    def run(self, *words: str, code: int = 0) -> str:
        """Run a program of the environment in the empty folder; returns its output, or its message if it must fail."""
        print("$", *(word if len(word) < 100 else "..." for word in words), flush=True)
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VIRTUAL"))}
        environment |= {"PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}", "HF_HUB_OFFLINE": "1"}
        started = time.monotonic()
        program = str(self.bin / words[0])
        ended = subprocess.run(
            [program, *words[1:]], cwd=self.folder, env=environment, capture_output=True, text=True, check=False
        )
        said = ended.stdout + ended.stderr
        assert ended.returncode == code, f"exit code {ended.returncode}\n{said}"
        print(f"  {time.monotonic() - started:.1f} s", flush=True)
        return ended.stderr if code else ended.stdout


def check_installation(environment: Environment, model: str) -> None:
    """See that nothing of ours lies elsewhere, and that serving engines and users load the shipped model."""
    purelib = environment.run("python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    present = {path.name for path in Path(purelib).iterdir()}
    assert present >= TOP_LEVEL
    strangers = present & {*ROOMS, "benchmarks", "comfyui", "tests", "model_cards"}
    assert not strangers, strangers
    for group in ("vllm_omni.general_plugins", "sglang.multimodal_gen.plugins"):
        assert environment.run("python", "-c", LOAD_AS_ENGINES_DO, group, model).split()[-1] == "JoVAPipeline"


def count_parameters(model: Path) -> int:
    """Count the numbers in the weight files of a pipeline, by the shapes in their headers."""
    shapes = []
    for file in model.rglob("*.safetensors"):
        with file.open("rb") as stream:
            header = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
        header.pop("__metadata__", None)
        shapes += [tensor["shape"] for tensor in header.values()]
    return sum(math.prod(shape) for shape in shapes)


def check_commands(environment: Environment, model: str) -> None:
    """Run every command on little input."""
    run, folder = environment.run, environment.folder
    listed = re.findall(r"^    ([a-z][\w-]*) ", run("jova", "--help"), re.MULTILINE)
    listed += re.findall(r"^    ([a-z][\w-]*)$", run("jova", "--help"), re.MULTILINE)
    assert set(listed) == set(COMMANDS)
    for name in listed:
        assert run("jova", name, "--help").startswith(f"usage: jova {name}")
    assert "stage2_joint" in run("jova", "train", "--config", "unknown", code=2)
    assert f"{count_parameters(Path(model)):,}" in run("jova", "info", "jova-tiny")
    assert Path(run("jova", "presets", "accelerate/fsdp").strip()).is_file()

    run("jova", "demo")
    assert {path.name for path in folder.iterdir()} == {"demo.mp4", "demo_from_image.mp4", "demo.png"}
    run("python", "-m", "diffusers_jova.drawn.avatars", "clips", "--clips", "2")
    run("jova", "preview", "clips", "preview", "--model", "jova-tiny")
    chosen = ["--filter", "black_share=..0.5"]
    prepare = ["jova", "prepare", "clips", "prepared", "--model", "jova-tiny", *chosen]
    assert "the filter would drop 0 of 2 clips" in run(*prepare, "--filter-report")
    run(*prepare)
    train = ["jova", "train-lora", "prepared", "adapter", "--model", "jova-tiny", "--config", "jova_tiny_lora", *SHORT]
    assert "optimizer states" in run(*train, "--estimate")
    run(*train)
    words = ["--prompt", "a cartoon dog barks", "--steps", "2", "--lora", "adapter", "--output", "dog.mp4"]
    run("jova", "generate", *words)
    assert '"name": "adapter"' in run("jova", "info", "dog.mp4")
    assert "sharpness" in run("jova", "evaluate", "dog.mp4", "--output", "report")
    few = ["student_steps=2", "gradient_accumulation_steps=1", "tensorboard=false", *SHORT]
    run("jova", "distill", "prepared", "student", "--model", "jova-tiny", *few)
    run("jova", "generate", "--prompt", "a cartoon dog barks", "--lora", "student", "--output", "fast.mp4")
    assert "few steps   num_inference_steps 2" in run("jova", "info", "student")
    tiny = ["model=training/configs/jova_tiny_transformer.json", "data=prepared", "output_dir=trained"]
    run("jova", "train", "--config", "jova_tiny_video", "distribution=none", "tensorboard=false", *tiny, *SHORT)
    run("jova", "convert", "single_file", f"{model}/transformer", "transformer.safetensors")
    run("jova", "assemble", "joined", "jova-tiny", "transformer=trained/transformer")
    results = (
        "preview",
        "joined/model_index.json",
        "adapter/pytorch_lora_weights.safetensors",
        "dog.mp4",
        "fast.mp4",
        "report/report.html",
        "trained/transformer/config.json",
    )
    for name in (*results, "transformer.safetensors"):
        assert (folder / name).exists(), name
    assert json.loads((folder / "trained" / "transformer" / "config.json").read_text())["_class_name"]


def main() -> None:
    """Install, look and run; the first failure ends with its output."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--constraint", type=Path, help="versions to install")
    args = parser.parse_args()
    check_contents(args.wheel)
    with tempfile.TemporaryDirectory() as folder:
        environment = Environment(Path(folder) / "environment")
        pins = ["--constraint", str(args.constraint.absolute())] if args.constraint else []
        environment.run("pip", "install", "--quiet", *pins, str(args.wheel.absolute()))
        model = environment.run("python", "-c", FIND_MODEL).strip()
        check_commands(environment, model)
        check_installation(environment, model)
    print("the wheel works")


if __name__ == "__main__":
    sys.exit(main())

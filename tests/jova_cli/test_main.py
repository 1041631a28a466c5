"""The command line answers at once: what it refuses and what it explains needs none of the packages that work."""

import io
import re
import resource
import subprocess
import sys
from collections.abc import Collection
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import scipy.io.wavfile
from safetensors.numpy import save_file

from diffusers_jova.media_writing import write_video
from jova_cli.main import COMMANDS, main
from jova_cli.parser import Parser


HEAVY = ("torch", "diffusers", "transformers", "numpy", "PIL", "scipy", "av", "diffusers_jova")
REPORT = f"""
import sys
from jova_cli.main import main
try:
    main()
finally:
    print("loaded:", *(name for name in {HEAVY} if name in sys.modules), file=sys.stderr)
"""
LIMIT_S = 1.0  # of processor time; 0.06 s on a machine of 2026, on which torch and diffusers take 6


MEDIA = {"PIL", "av", "numpy"}  # what reads the header of a file


def run(
    *words: str, folder: Path | None = None, allowed: Collection[str] = (), seconds: float = LIMIT_S
) -> tuple[int, str, str]:
    """Exit code, stdout and last line of stderr before the report of a command that must not load what is heavy."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    ended = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(Path.cwd())!r})\n{REPORT}", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    *said, loaded = ended.stderr.splitlines()
    assert set(loaded.split()[1:]) <= set(allowed), loaded
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < seconds
    return ended.returncode, ended.stdout, said[-1] if said else ""


@pytest.mark.parametrize("words", [["--help"], ["--version"], *([name, "--help"] for name in COMMANDS)], ids=" ".join)
def test_help_loads_nothing(words: list[str]) -> None:
    code, text, said = run(*words)
    assert (code, said) == (0, "")
    assert text.startswith(("usage: jova", "diffusers_jova 0."))


CLIP = ["generate", "--prompt", "a", "--output"]
PREPARE = ["prepare", "clips", "records", "--model", "jova-tiny"]
ESTIMATE = ["estimate", "jova-tiny"]
LORA = ["train-lora", "records", "adapter", "--model", "jova-tiny"]
DISTILL = ["distill", "records", "student", "--model", "jova-tiny"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], r"jova: `COMMAND` must be given, got none; `jova --help` explains them"),
        (["sing"], r"jova: `COMMAND` must be one of generate, evaluate, .*, got sing; `jova --help` explains them"),
        (["generat"], r"jova: `COMMAND` must be one of .*, got generat; did you mean `generate`\?"),
        (["generate"], r"jova generate: `--output` must be given, got none; `jova generate --help` explains them"),
        (["generate", "--output", "a.mp4"], r"jova generate: the prompt must be given .*, got neither; write "),
        (["generate", "--output", "a.mp4", "--prompt"], r"`--prompt` must be followed by a value, got none; "),
        (
            ["generate", "--prompt", "a", "--image", "-portrait.png", "--output", "a.mp4"],
            r"`--image` must be followed by a value, got `-portrait\.png`; write `--image=-portrait\.png`",
        ),
        (
            ["generate", "--prompt", "a", "--audio-caption", "-rain", "--output", "a.mp4"],
            r"an option must be .*, got `-rain`; a value that begins with a dash is written `--audio-caption=-rain`",
        ),
        ([*CLIP, "clip.mp4", "--steps", "many"], r"`--steps` must be a whole number, got 'many'; use 8, say"),
        ([*CLIP, "clip.mp4", "--frame-rate", "fast"], r"`--frame-rate` must be a number, got 'fast'; use 1.5, say"),
        (["convert"], r"`kind`, `source`, `output` must be given, got none; .*; `kind` is one of wan, ovi, nava, "),
        (["prepare", "clips"], r"jova prepare: `--model`, `output` must be given, got none"),
        ([*CLIP, "clip.avi"], r"jova generate: `--output` must end in .mp4"),
        ([*CLIP, "."], r"jova generate: `--output` must end in .mp4 for this clip, got .; use clip.mp4"),
        ([*CLIP, ""], r"jova generate: `--output` must end in .mp4 for this clip, got .; use clip.mp4"),
        (
            [*CLIP, "a.mp4", "--lora", ".:much"],
            r"`--lora` must have one number behind the colon, got 'much' behind .; write .:0.8, say",
        ),
        (
            [*CLIP, "a.mp4", "--lora", ".:0.5:0.6"],
            r"`--lora` must have one number behind the colon, got '0.5' behind .; write .:0.8, say",
        ),
        ([*CLIP, "/dev/null/clip.mp4"], r"`--output` must lie in a folder that can be written, got `/dev/null`"),
        (
            [*CLIP, "clip.mp4", "--sharpness", "red"],
            r"an option must be one of `jova generate`, got `--sharpness`; `jova generate --help` lists them",
        ),
        (["generate", "--promt", "a"], r"an option must be one of .*, got `--promt`; did you mean `--prompt`\?"),
        (
            [*CLIP, "clip.mp4", "--num-inference-steps", "4"],
            r"must be one of .*, got `--num-inference-steps`; did you mean `--steps`\?",
        ),
        ([*CLIP, "clip.mp4", "--fps", "8"], r"must be one of .*, got `--fps`; did you mean `--frame-rate`\?"),
        ([*CLIP, "clip.mp4", "-promt=a b"], r"an option must be one of .*, got `-promt`; did you mean `--prompt`\?"),
        ([*LORA, "--steps", "10"], r"jova train-lora`, got `--steps`; it is a setting: write `steps=VALUE`"),
        ([*LORA, "--learning-rate=1"], r"got `--learning-rate`; it is a setting: write `learning_rate=VALUE`"),
        (
            ["info", "jova-1.6b"],
            r"got `jova-1.6b`, which is not there; this name is that of configs without weights",
        ),
        (
            ["train", "--confg", "lora"],
            r"an option must be one of `jova train`, got `--confg`; did you mean `--config`",
        ),
        (
            [*CLIP, "clip.mp4", "--steps", "4", "--seed", "1", "--steps", "8"],
            r"jova generate: an option must be given once, got `--steps` several times; leave all but one out",
        ),
        ([*CLIP, "clip.mp4", "--modal", "audio", "--modalities=video"], r"got `--modalities` several times"),
        ([*PREPARE, "--dtype", "fp16", "--dtype", "fp32"], r"jova prepare: .* got `--dtype` several times"),
        (
            ["train", "--config", "lora", "steps=4", "steps=8"],
            r"jova train: a setting must be given once, got `steps`",
        ),
        ([*LORA, "model=other"], r"a setting must be given once, got `model=` beside `--model`; leave `model=` out"),
        (["presets", "--halp"], r"an option must be one of `jova presets`, got `--halp`; did you mean `--help`"),
        ([*CLIP, "clip.mp4", "--model", "nowhere"], r"`--model` must be .* a hub name .*; check the spelling"),
        (
            [*CLIP, "clip.mp4", "--model", "jova-tinny"],
            r"`--model` must be .*, got jova-tinny; did you mean `jova-tiny`",
        ),
        ([*CLIP, "clip.mp4", "--height", "20"], r"`height` must be a positive multiple of 16, got 20; use 16"),
        ([*CLIP, "clip.mp4", "--width", "4096"], r"`width` must be at most \d+ for this model, got 4096; use \d+"),
        ([*CLIP, "clip.mp4", "--num-frames", "10"], r"`num_frames` must be 4k \+ 1 .*, got 10; use 9 or 13"),
        (
            [*CLIP, "clip.mp4", "--num-frames", "4001", "--window-frames", "2001"],
            r"`window_frames` must be at most \d+, the longest clip of this",
        ),
        ([*CLIP, "clip.mp4", "--image", "none.png"], r"`--image` must be an existing file, got none.png"),
        ([*CLIP, "clip.mp4", "--transcript", "hello"], r"either by `--prompt` or by .* got both"),
        (
            ["generate", "--prompts", "no.csv", "--output", "clips"],
            r"`--prompts` must be an existing .jsonl or .csv file",
        ),
        ([*CLIP, "clip.mp4", "--dtype", "int8"], r"`--dtype` must be one of float32, bfloat16, float16, got int8"),
        (["app", "--port", "0"], r"jova app: `--port` must be from 1 to 65535, got 0; leave it out for a free one"),
        (["app", "--queue-size", "0"], r"jova app: `--queue-size` must be at least 1, got 0"),
        (["app", "--model", "nowhere"], r"jova app: `--model` must be an existing path or a hub name"),
        (["demo", "--output", "."], r"jova demo: `--output` must end in .mp4, got .; use clip.mp4"),
        (
            ["convert", "single_file", "jova-tiny", "one.safetensors"],
            r"`SOURCE` must be the folder of one component, got the pipeline .*; name a sub-folder, such as",
        ),
        (["demo", "--output", "demo.gif"], r"jova demo: `--output` must end in .mp4, got demo.gif; use demo.mp4"),
        (["demo", "--model", "nowhere"], r"`--model` must be the folder of a saved JoVAPipeline, got `nowhere`"),
        (
            [*CLIP, "clip.mp4", "--memory", "0"],
            r"`--memory` must be a number from 0.001 to 100000, got 0; use 24, say",
        ),
        ([*CLIP, "clip.mp4", "--memory", "nan"], r"`--memory` must be a number from .*, got nan; use 24, say"),
        (["app", "--memory", "-1"], r"jova app: `--memory` must be a number from .*, got -1; use 24, say"),
        (
            [*CLIP, "clip.mp4", "--memory", "24", "--cpu-offload"],
            r"`--memory` must be given without `--cpu-offload`, got both, two answers to one question; leave one out",
        ),
        (["estimate"], r"jova estimate: `model` must be given, got none; `jova estimate --help` explains them"),
        (["estimate", "nowhere"], r"`model` must be an existing path or a hub name .*, got nowhere"),
        ([*ESTIMATE, "--memory", "nan"], r"`--memory` must be a number from .*, got nan; use 24, say"),
        ([*ESTIMATE, "--rate", "0"], r"`--rate` must be a number from 1e-06 to 1e\+06, got 0; use 400, say"),
        ([*ESTIMATE, "--rate", "1", "--measure-rate"], r"`--rate` must be given without `--measure-rate`, got both"),
        ([*ESTIMATE, "--num-frames", "10"], r"`num_frames` must be 4k \+ 1 .*, got 10; use 9 or 13"),
        ([*ESTIMATE, "--batch-size", "0"], r"`--batch-size` must be at least 1, got 0"),
        ([*ESTIMATE, "--given", "audio", "video"], r"`--given` must leave something to generate, got audio and video"),
        (
            ["info", "nowhere"],
            r"jova info: the path must be a saved pipeline .*, got `nowhere`, which is not there; check",
        ),
        ([*PREPARE, "--num-processes", "0"], r"jova prepare: `--num-processes` must be at least 1, got 0"),
        (["preview", *PREPARE[1:], "--max-clips", "0"], r"jova preview: `--max-clips` must be at least 1, got 0"),
        (["train", "--config", "lorra"], r"jova train: `--config` must be an existing YAML file or one of .*lora"),
        (["train", "--config", "lora", "lerning_rate=1"], r"did you mean `learning_rate`"),
        ([*LORA, "lerning_rate=1"], r"jova train-lora: .*did you mean `learning_rate`"),
        (LORA, r"jova train-lora: `data` must be an existing folder, got `records` .*; run `jova prepare` first"),
        (DISTILL, r"jova distill: `data` must be an existing folder, got `records` .*; run `jova prepare` first"),
        ([*DISTILL, "student_step=2"], r"jova distill: .*did you mean `student_steps`"),
        ([*DISTILL, "data=x"], r"a setting must be given once, got `data=` beside `data`; leave `data=` out"),
        ([*LORA, "--targets", "lips"], r"`--targets` must be one of attention, .*, got lips"),
        (["presets", "lorra"], r"jova presets: `name` must be .* one of .*accelerate/fsdp.*; did you mean `lora`\?"),
        (["assemble", "new", "vea=x"], r"a component must be one of .*, got `vea`; did you mean `vae`\?"),
        (
            ["convert", "wan", "a", "b", "--shard-gb", "0"],
            r"jova convert: `--shard-gb` must be positive and finite, got 0",
        ),
        (
            ["convert", "lora", "a", "b", "--reverse"],
            r"`--reverse` must go with wan, ovi, nava, mova, uniavgen, got lora",
        ),
        (["convert", "nava", "a", "b", "--towers-only"], r"`--towers-only` must go with ovi, got nava; leave it out"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_loads_nothing_and_writes_nothing(words: list[str], message: str, tmp_path: Path) -> None:
    code, text, said = run(*words, folder=tmp_path)
    assert (code, text) == (2, "")
    assert re.search(message, said), said
    assert list(tmp_path.iterdir()) == []


RUN = ["model=jova-tiny", "data=records", "output_dir=out"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["steps=abc", *RUN], r"`steps` must be a whole number, got 'abc'"),
        (["steps=3", "warmup_steps=4", *RUN], r"`warmup_steps` must be at most `steps` = 3, got 4; lower it, "),
        (["stage=both", *RUN], r"`stage` must be one of video, audio, joint, got 'both'"),
        (["lora_rank=4", *RUN], r"`lora_rank` must be left at .* with `train: full`"),
        (["steps=[", *RUN], r"`steps=\[` must be valid YAML"),
        (RUN[:2], r"`output_dir` must be given"),
        (["steps=abc", *RUN[::2], "data=nowhere"], r"`data` must be an existing folder, got `nowhere` .*; run `jova"),
        (["steps=abc", *RUN[::2], "data=clips"], r"`data` must hold `\*.safetensors` records, got `clips` without"),
        ([*RUN, "prior_data=clips"], r"`prior_data` must hold `\*.safetensors` records, got `clips`"),
        ([*RUN[1:], "model=nowhere"], r"`model` must be an existing path or a hub name owner/name, got nowhere"),
        ([*RUN[1:], "model=clips"], r"`model` must be a saved transformer or pipeline, got `clips`"),
        ([*RUN[1:], "model=clips/a.mp4"], r"`model` must be a folder, or a config that ends in .json, got the file"),
        ([*RUN, "train=lora", "init_adapter=nowhere"], r"`init_adapter` must be an existing path or a hub name"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_of_a_training_loads_nothing(words: list[str], message: str, tmp_path: Path) -> None:
    for path in (tmp_path / "records" / "a.safetensors", tmp_path / "clips" / "a.mp4"):
        path.parent.mkdir()
        path.touch()
    code, text, said = run("train", "--config", "smoke", *words, folder=tmp_path)
    assert (code, text) == (2, "")
    assert re.search(message, said), said


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            [*CLIP, "a.mp4", "--lora", "a", "b:0.3"],
            r"every word must be an option or .*, got `b:0.3`; quote",
        ),
        ([*CLIP, "a.mp4", "--image", "notes.txt"], r"`--image` must be .* image, got notes.txt .* as JPEG or PNG"),
        ([*CLIP, "a.mp4", "--audio", "notes.txt"], r"`--audio` must be a media file that libav can decode, got notes"),
        ([*CLIP, "a.mp4", "--audio", "still.png"], r"`--audio` must be a file with sound, got still.png"),
        ([*CLIP, "a.mp4", "--video", "notes.txt"], r"`--video` must be a media file that libav can decode, got notes"),
        (
            [*CLIP, "a.mp4", "--video", "still.png"],
            r"`--video` must be a video, got the picture still.png; a clip",
        ),
        (
            [*CLIP, "a.mp4", "--video", "sound.wav"],
            r"`--video` must be a file with a video stream, got sound.wav; give what holds sound alone as `--audio`",
        ),
        ([*CLIP, "a.mp4", "--image", "empty.png"], r"`--image` must be a whole file, got empty.png, which is empty"),
        (
            [*CLIP, "a.mp4", "--reference-audio", "sound.wav"],
            r"`--reference-audio` must go with a model that reads a voice, got jova-tiny, which reads none",
        ),
        ([*CLIP, "a.mp4", "--image", "moving.mov"], r"`--image` must be a readable image, .*; save one of its frames"),
        ([*CLIP, "a.mp4", "--lora", "notes.txt"], r"`--lora` must be a .safetensors or .pt or .* file, .*notes.txt"),
        ([*CLIP, "a.mp4", "--lora", "clips"], r"`--lora` must be the folder of an adapter, got clips without a"),
        (
            [*CLIP, "a.mp4", "--lora", "made"],
            r"`--lora` must be an adapter, got made, which holds prepared clips; name",
        ),
        (
            [*CLIP, "a.mp4", "--lora", "made/a.safetensors"],
            r"`--lora` must be an adapter, got made/a.safetensors, which is a prepared clip; name the folder that",
        ),
        ([*CLIP, "a.mp4", "--lora", "no.safetensors"], r"header of `no.safetensors` .* must be a JSON object"),
        (["convert", "wan", "nope", "new"], r"`SOURCE` must be an existing path or a hub id .*, got `nope`; check"),
        (["convert", "wan", "notes.txt", "new"], r"`SOURCE` must be a folder or one of .safetensors, .* `notes.txt`"),
        (["convert", "wan", "no.safetensors", "new"], r"header of `no.safetensors` .* must be a JSON object"),
        (["convert", "wan", "a/b", "new", "--components", "nope"], r"`--components` must be an existing .* `nope`"),
        ([*PREPARE, "--buckets", "big"], r"a bucket must be written FRAMESxHEIGHTxWIDTH, got `big`"),
        ([*PREPARE, "--buckets", "9x30x32"], r"the sides of a bucket must be multiples of 16, got 9x30x32"),
        (PREPARE, r"a clip must have a caption, got none for any of 1: .*a.mp4; write one"),
        (["preview", "columns.csv", *PREPARE[2:]], r"a column must be one of .*, got `vidoe`; did you mean `video`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_refusal_of_a_file_does_not_load_torch(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "still.png")
    write_video(tmp_path / "moving.mp4", np.zeros((2, 16, 16, 3), np.uint8), 8.0)
    (tmp_path / "moving.mp4").rename(tmp_path / "moving.mov")
    (tmp_path / "empty.png").touch()
    scipy.io.wavfile.write(tmp_path / "sound.wav", 8000, np.zeros(800, np.int16))
    (tmp_path / "notes.txt").write_text("no medium, but some words")
    (tmp_path / "no.safetensors").write_text("no tensors, but some words")
    (tmp_path / "made").mkdir()
    (tmp_path / "made" / "prepare.json").write_text("{}")
    for name in "ab":
        save_file({"video_latents": np.zeros(1)}, tmp_path / "made" / f"{name}.safetensors")
    (tmp_path / "columns.csv").write_text("vidoe,caption\na.mp4,words\n")
    code, text, said = run(*words, folder=tmp_path, allowed=MEDIA, seconds=2 * LIMIT_S)
    assert (code, text) == (2, "")
    assert re.search(message, said), said


def test_what_only_reads_loads_nothing() -> None:
    code, text, _ = run("info", "jova-tiny")
    assert code == 0
    assert re.search(r"^total +[\d,]{9,}", text, re.MULTILINE)
    code, text, _ = run("presets")
    assert code == 0
    assert {"lora", "stage1_video", "accelerate/fsdp"} <= {line.split()[0] for line in text.splitlines()}
    code, text, _ = run("presets", "accelerate/fsdp")
    assert "fsdp_config" in Path(text.strip()).read_text()


def test_a_command_without_its_extra_says_which_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "gradio", None)  # as where it is not installed
    monkeypatch.delitem(sys.modules, "diffusers_jova.page.app", raising=False)
    with pytest.raises(SystemExit) as ended:
        main(["app"])
    assert ended.value.code == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith("jova app: ")
    assert said.endswith("; install the package with its extra `app`")


def test_an_unexpected_error_of_a_command_shows_where_it_arose(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object, args: object) -> None:
        raise ValueError(f"unexpected, with {args}")

    (tmp_path / "a.safetensors").touch()
    monkeypatch.setattr("diffusers_jova.training.train.execute", fail)
    with pytest.raises(ValueError, match=r"unexpected, with .*smoke"):
        main(["train", "--config", "smoke", "model=jova-tiny", f"data={tmp_path}", f"output_dir={tmp_path / 'out'}"])


def test_a_module_that_started_as_a_program_reads_the_same_words(capsys: pytest.CaptureFixture[str]) -> None:
    from diffusers_jova.training import train  # what `accelerate launch -m` starts

    for start in (train.main, lambda words: main(["train", *words])):
        with pytest.raises(SystemExit) as ended:
            start(["--config", "lora", "lerning_rate=1"])
        assert ended.value.code == 2
        assert capsys.readouterr().err.startswith("jova train: `lerning_rate` in the command line")


@pytest.mark.parametrize("closed", ["stdout", "stderr"])
def test_a_command_ends_well_where_an_output_is_closed(
    closed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, closed, None)  # as Python has it where a shell closes it
    main(["presets"])
    said = capsys.readouterr()
    assert (said.out == "") is (closed == "stdout")
    assert said.err == ""


@pytest.mark.parametrize("stdout", [None, io.StringIO()], ids=["closed", "in memory"])
def test_a_pipe_that_breaks_elsewhere_is_told(stdout: io.StringIO | None, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: object, __: object) -> None:
        raise BrokenPipeError("another pipe")

    monkeypatch.setattr(sys, "stdout", stdout)
    with pytest.raises(BrokenPipeError, match="another pipe"):
        Parser().run(fail, Parser().parse_args([]))


def test_a_torchvision_of_another_torch_that_stops_all_imports_is_told_in_a_line(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text(
        "raise RuntimeError('operator torchvision::nms does not exist')\n"
    )
    begin = (
        f"import sys; sys.path[:0] = [{str(tmp_path)!r}, {str(Path.cwd())!r}]; from jova_cli.main import main; main()"
    )
    words = [sys.executable, "-c", begin, "demo", "--output", str(tmp_path / "made.mp4")]
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "Traceback" not in ended.stderr
    assert ended.stderr.splitlines()[-1] == (
        "jova demo: the package `torchvision` cannot be imported (operator torchvision::nms does not exist); install "
        "the one that belongs to your torch, or remove it"
    )

import json
import re
import shutil
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from safetensors.torch import save_file

from diffusers_jova import media, media_writing
from diffusers_jova.clip_call import given_media, given_video
from diffusers_jova.pipeline_jova import JoVAPipeline
from diffusers_jova.provenance import read_provenance
from jova_cli.generate import parse, parse_adapter
from jova_cli.main import main
from tests.command_words import replaced
from tests.made_clips import late_sound


NUM_FRAMES, FRAME_RATE = 9, 16.0  # of the tiny pipeline


def generate(folder: Path, output: Path, *more: str) -> None:
    main(["generate", "--model", str(folder), "--prompt", "a dog barks", "--output", str(output), *more])


def refusal(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> str:
    """What the command line says about bad input."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    message = capsys.readouterr().err.strip().splitlines()[-1]
    assert message.startswith("jova")
    return message


@pytest.fixture
def command(tiny_pipeline_folder: Path, tmp_path: Path) -> list[str]:
    """A valid call; a test appends what makes it bad."""
    output = str(tmp_path / "clip.mp4")
    return ["generate", "--model", str(tiny_pipeline_folder), "--prompt", "a dog", "--output", output]


def write_clip(path: Path, num_frames: int, has_sound: bool = True) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 32, 32, 3), np.uint8)
    sound = np.sin(np.arange(round(num_frames / FRAME_RATE * 16000)) / 9).astype(np.float32) / 2
    media.write_video(path, frames, FRAME_RATE, sound if has_sound else None, 16000 if has_sound else None)
    return path


def lora_file(path: Path, pipeline: JoVAPipeline, layer: str) -> Path:
    weight = pipeline.transformer.get_submodule("transformer_blocks.0.attn.video.to_q").weight
    name, generator = f"transformer.{layer}", torch.Generator().manual_seed(0)
    factors = {
        f"{name}.lora_A.weight": torch.randn(2, len(weight), generator=generator),
        f"{name}.lora_B.weight": torch.randn(len(weight), 2, generator=generator),
    }
    save_file(factors, path)
    return path


# 1. generate


def test_a_prompt_becomes_a_video_with_sound_of_the_models_length(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    generate(tiny_pipeline_folder, tmp_path / "dog.mp4")
    clip = media.read_video(tmp_path / "dog.mp4")
    assert clip.frames.shape == (NUM_FRAMES, 32, 32, 3)
    assert clip.audio is not None
    assert abs(clip.audio.shape[1] / clip.sampling_rate - NUM_FRAMES / FRAME_RATE) < 1 / FRAME_RATE


def test_options_of_a_call_reach_the_pipeline(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    size = ["--height", "16", "--width", "48", "--num-frames", "5", "--frame-rate", "24"]
    path = tmp_path / "new" / "dogs" / "dog.mp4"  # whose folders are made
    generate(tiny_pipeline_folder, path, *size, "--steps", "1", "--modalities", "video")
    clip = media.read_video(path)
    assert clip.frames.shape == (5, 16, 48, 3)
    assert clip.frame_rate == 24
    assert clip.audio is None


def test_the_same_seed_makes_the_same_sound_and_another_seed_another(
    tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    sounds = []
    for name, seed in (("a", "3"), ("b", "3"), ("c", "4")):
        path = tmp_path / f"{name}.wav"
        generate(tiny_pipeline_folder, path, "--seed", seed, "--modalities", "audio", "--steps", "1")
        sounds.append(media.read_audio(path)[0])
    assert np.array_equal(sounds[0], sounds[1])
    assert not np.array_equal(sounds[0], sounds[2])


def test_a_cache_is_enabled_and_the_clip_says_so(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    words = ["--steps", "6", "--cache", "video_interval=2,storage_dtype=float8_e4m3fn"]
    generate(tiny_pipeline_folder, tmp_path / "dog.mp4", *words)
    record = read_provenance(tmp_path / "dog.mp4")
    assert record is not None
    assert record["settings"]["cache"] == {
        "class": "JoVACacheConfig",
        "video_interval": 2,
        "storage_dtype": "float8_e4m3fn",
    }


def test_what_else_guides_reaches_the_call(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    words = ["--steps", "2", "--guidance", "coupling_scale=2,audio_guidance_rescale=0.5,guidance_interval=0:0.5"]
    generate(tiny_pipeline_folder, tmp_path / "dog.mp4", *words)
    record = read_provenance(tmp_path / "dog.mp4")
    assert record is not None
    said = {"coupling_scale": 2.0, "audio_guidance_rescale": 0.5, "guidance_interval": [0.0, 0.5]}
    assert said.items() <= record["settings"].items()


def test_the_three_parts_of_a_prompt_take_the_place_of_the_prompt(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = []
    render = JoVAPipeline.render_prompts
    monkeypatch.setattr(
        JoVAPipeline, "render_prompts", lambda *args, **named: seen.append(render(*args, **named)) or seen[-1]
    )
    parts = ["--video-caption", "a man", "--audio-caption", "a voice", "--transcript", "hello"]
    output = ["--output", str(tmp_path / "man.mp4"), "--steps", "1"]
    main(["generate", "--model", str(tiny_pipeline_folder), *parts, *output])
    assert ["a man <S>hello<E> <AUDCAP>a voice<ENDAUDCAP>"] in seen


def test_a_video_gets_a_sound_and_keeps_its_frames(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "silent.mp4", NUM_FRAMES, has_sound=False)
    generate(tiny_pipeline_folder, tmp_path / "out.mp4", "--video", str(source), "--steps", "1")
    before, after = media.read_video(source), media.read_video(tmp_path / "out.mp4")
    assert after.audio is not None
    assert np.abs(after.frames.astype(int) - before.frames).mean() < 16  # two passes through the codec of the file


def test_the_sound_of_a_film_stays_with_its_picture_where_both_are_given(tmp_path: Path) -> None:
    film = str(late_sound(tmp_path / "film.mov", late_s=1.0))
    _, args = parse(["--model", "jova-tiny", "--output", "x.mp4", "--video", film, "--audio", film, "--prompt", "a"])
    sound, rate = given_media(args)["audio"]
    assert np.flatnonzero(sound[0])[0] == pytest.approx(rate, abs=2)


def test_a_video_that_goes_on_brings_its_sound(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    source = write_clip(tmp_path / "short.mp4", 5)
    words = ["--model", str(tiny_pipeline_folder), "--output", "x.mp4", "--video", str(source), "--prompt", "a ball"]
    _, args = parse(words)
    assert set(given_video(args)) == {"video", "frame_rate"}
    args.num_frames = 9
    longer = given_video(args)
    assert longer["video"].shape[0] == 5
    assert longer["audio"].audio.shape == (1, 5000)


def test_image_and_sound_are_read_from_files(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    PIL.Image.new("RGB", (40, 40), "red").save(tmp_path / "red.png")
    media.write_audio(tmp_path / "stereo.wav", np.zeros((2, 9000), np.float32) + 0.1, 16000)
    given = ["--image", str(tmp_path / "red.png"), "--audio", str(tmp_path / "stereo.wav"), "--steps", "1"]
    generate(tiny_pipeline_folder, tmp_path / "out.mp4", *given)
    assert media.read_video(tmp_path / "out.mp4").frames.shape[0] == NUM_FRAMES  # what 0.5625 s of sound hold


def test_a_voice_of_any_length_makes_a_clip_that_holds_it(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    media.write_audio(tmp_path / "voice.wav", np.full((2, 16000), 0.1, np.float32), 16000)
    given = ["--audio", str(tmp_path / "voice.wav"), "--steps", "1"]
    for part, num_frames in (([], 17), (["--start", "0.5"], 9), (["--duration", "0.3"], 5)):
        generate(tiny_pipeline_folder, tmp_path / "out.mp4", *given, *part)
        assert media.read_video(tmp_path / "out.mp4").frames.shape[0] == num_frames


def test_an_ordinary_clip_gets_a_sound_or_goes_on(
    tiny_pipeline_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_clip(tmp_path / "a:b.mp4", 8)
    given = ["--video", str(source), "--steps", "1", "--height", "32", "--width", "48"]
    for options, num_frames in (([], 5), (["--num-frames", "13"], 13), (["--start", "0.2"], 5)):
        generate(tiny_pipeline_folder, tmp_path / "take:1.mp4", *given, *options)
        assert media.read_video(tmp_path / "take:1.mp4").frames.shape == (num_frames, 32, 48, 3)
    said = [record.message for record in caplog.records]
    assert sum("`video` of 8 frames at 16 per second is cut to its first 5" in line for line in said) == 2
    assert not any("is taken at" in line for line in said)
    assert sum("5 rows above and below are cut" in line for line in said) == 3
    assert capsys.readouterr().err.count("the sound of `--video` is left out") == 2


def test_an_adapters_scale_weighs_it(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
    path = lora_file(tmp_path / "style.safetensors", pipeline, "transformer_blocks.0.attn.audio.to_v")  # is heard
    sounds = {}
    for name, options in (("none", []), ("zero", [f"{path}:0"]), ("one", [path]), ("half", [f"{path}:0.5"])):
        loras = [word for option in options for word in ("--lora", str(option))]
        fixed = ["--seed", "0", "--steps", "1", "--modalities", "video", "audio"]
        generate(tiny_pipeline_folder, tmp_path / f"{name}.mp4", *fixed, *loras)
        sounds[name] = media.read_video(tmp_path / f"{name}.mp4").audio
    assert np.array_equal(sounds["none"], sounds["zero"])
    assert not np.array_equal(sounds["none"], sounds["one"])
    assert not np.array_equal(sounds["half"], sounds["one"])
    assert "names" not in capsys.readouterr().err
    generate(tiny_pipeline_folder, tmp_path / "twice.mp4", *fixed, "--lora", f"{path}:0.5", "--lora", str(path))
    assert f"`--lora` names {path} 2 times: its scales add up" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "source", "scale"), [("a.safetensors", "a.safetensors", 1.0), ("a:0.5", "a", 0.5), ("c:/a", "c:/a", 1.0)]
)
def test_an_adapter_is_a_path_with_an_optional_scale(text: str, source: str, scale: float) -> None:
    assert parse_adapter(text) == (source, scale)


# 2. Bad input: exit code 2, one sentence, nothing written


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--height", "20"], r"`height` must be a positive multiple of 16, got 20; use 16"),
        (["--num-frames", "10"], r"`num_frames` must be 4k \+ 1 .*, got 10; use 9 or 13"),
        (["--steps", "0"], r"`--steps` must be at least 1, got 0"),
        (["--num-frames", "0"], r"`--num-frames` must be at least 1, got 0"),
        (["--start", "1"], r"`--start` must be used with `--audio` or `--video`, got neither"),
        (["--seed", "-1"], r"`--seed` must be from 0"),
        (["--tries", "2"], r"length of the clip must be given by .*, or leave `--tries` out for a clip of one window"),
        (["--frame-rate", "0"], r"`--frame-rate` must be a number from 0.001 to 1000, got 0; use 24"),
        (["--frame-rate", "1e-5"], r"`--frame-rate` must be a number from 0.001 to 1000, got 1e-05; use 24"),
        (["--frame-rate", "nan"], r"`--frame-rate` must be a number from 0.001 to 1000, got nan"),
        (["--guidance-scale", "inf"], r"`--guidance-scale` must be finite, got inf; 1 is off"),
        (
            ["--num-frames", "69", "--window-frames", "65"],
            r"`window_frames` must be at most 61, the longest clip of this model, got 65; use 9",
        ),
        (
            ["--steps", "1000000000"],
            r"a clip must take no more than the [\d,.]+ GB of memory here and a day, got, estimated, [\d,.]+ GB and "
            r"[\d,.]+ (hours|days|years) at least; use fewer `--num-frames` or `--steps` .* `--yes`",
        ),
        (["--transcript", "hello"], r"either by `--prompt` or by .* got both"),
        (["--image", "missing.png"], r"`--image` must be an existing file, got missing.png"),
        (["--image", "https://example.com/a.png"], r"download it first, no address is read"),
        (["--guidance", "coupling=2"], r"`--guidance` must name a setting of guidance, got 'coupling'; did you mean"),
        (["--guidance", "guidance_rescale=2"], r"`guidance_rescale` must be in \[0, 1\], got 2"),
        (["--lora", "runs/nope"], r"`--lora` must be a path on this machine .*, got runs/nope; "),
        (["--lora", "runs/nope:nan"], r"`--lora` must have a finite scale, got nan"),
        (
            ["--reference-transcript", "Hi."],
            r"`--reference-transcript` must go with `--reference-audio`, got",
        ),
        (
            ["--reference-audio", "v.wav"],
            r"`--reference-audio` must go with a model that reads a voice, got .*; ",
        ),
        (["--skip-unknown"], r"`--skip-unknown` must go with `--lora`, got no adapter"),
        (["--lora", "missing.safetensors"], r"`--lora` must be an existing path or a hub name owner/name"),
        (["--device", "cuda:99"], r"`--device` must be a device of this machine, got cuda:99"),
        (["--device", "cpu", "--cpu-offload"], r"`--cpu-offload` must be used with a GPU"),
        (["--output", "/dev/null/clip.mp4"], r"`--output` must lie in a folder that can be written, got `/dev/null`"),
        (["--output", "clip.wav"], r"`--output` must end in .mp4 for this clip, .* or `--modalities audio` for sound"),
        (
            ["--model", "jova-1.6b"],
            r"`--model` must be .*, got jova-1.6b; this name is that of configs without weights",
        ),
        (["--max-sequence-length", "0"], r"`--max-sequence-length` must be at least 1, got 0"),
        (["--output", "clip.avi"], r"`--output` must end in .mp4 for this clip, got clip.avi; use clip.mp4"),
        (["--modalities", "audio"], r"`--output` must end in .wav for this clip"),
        (["--model", "missing"], r"`--model` must be an existing path or a hub name owner/name, got missing"),
        (["--sharpness", "2"], r"an option must be one of .*, got `--sharpness`"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_bad_options_are_refused(
    command: list[str],
    more: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    said = refusal(replaced(command, *more), capsys)
    assert re.search(message, said)
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_training_that_has_not_ended_is_no_adapter(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "adapter" / "checkpoint-00000002").mkdir(parents=True)
    said = refusal([*command, "--lora", str(tmp_path / "adapter")], capsys)
    assert "`--lora` must be an adapter whose training has ended" in said
    assert "run the same `jova train-lora` again, it continues from its last checkpoint" in said


def test_sound_without_a_prompt_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert "got neither" in refusal([*command[:3], *command[5:]], capsys)


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--num-frames", "6"], "`num_frames` must be 4k + 1 (the video VAE compresses time by 4), got 6; use 5 or 9"),
        (["--width", "30"], "`width` must be a positive multiple of 16, got 30; use 32"),
        (["--height", "272"], "`height` must be at most 256 for this model, got 272; use 256"),
        (["--audio", "long.wav"], "`audio` must last at most 3.81 s, 61 frames at 16 per second"),
        (["--audio", "long.wav", "--num-frames", "9"], "`audio` must last at most 3.81 s"),
        (
            ["--audio", "long.wav", "--duration", "1", "--num-frames", "9"],
            "`audio` must last at most as long as the clip, 0.562 s, got 1.000 s; cut it, or leave the number of "
            "frames out to fit the clip to the sound, or take its beginning by `--duration 0.56`",
        ),
        (["--video", "long.mp4"], "`video` must last at most 3.81 s, 61 frames at 16 per second"),
        (["--video", "long.mp4", "--image", "a.png"], "`--image` and `--video` must not both be given; a given video"),
        (["--video", "long.mp4", "--height", "20"], "`height` must be a positive multiple of 16, got 20; use 16"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_sizes_and_lengths_are_refused_before_weights_are_loaded(
    more: list[str],
    message: str,
    tiny_pipeline_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    folder = tmp_path / "without_weights"
    shutil.copytree(tiny_pipeline_folder, folder, ignore=shutil.ignore_patterns("*.safetensors"))
    monkeypatch.chdir(tmp_path)
    media.write_audio("long.wav", np.full(160000, 0.1, np.float32), 16000)
    PIL.Image.new("RGB", (64, 64)).save("a.png")
    write_clip(Path("long.mp4"), 30 if "--height" in more else 90, has_sound=False)
    command = ["generate", "--model", str(folder)]
    assert message in refusal([*command, "--prompt", "a", "--output", "clip.mp4", *more], capsys)

    options = dict(zip((word[2:].replace("-", "_") for word in more[::2]), more[1::2], strict=True))
    Path("list.jsonl").write_text(json.dumps({"prompt": "a", **options}) + "\n")
    with pytest.raises(SystemExit, match="1"):
        main([*command, "--prompts", "list.jsonl", "--output", "clips"])
    assert f"list.jsonl, line 1: {message}" in capsys.readouterr().err


def test_a_row_of_more_frames_than_the_model_makes_is_refused(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"num_frames": 65}, {"num_frames": 13, "frame_rate": 2}]
    (tmp_path / "list.jsonl").write_text("".join(json.dumps({"prompt": "a", **row}) + "\n" for row in rows))
    words = ["generate", "--model", str(tiny_pipeline_folder), "--prompts", str(tmp_path / "list.jsonl")]
    with pytest.raises(SystemExit, match="1"):
        main([*words, "--output", str(tmp_path / "clips")])
    said = capsys.readouterr().err
    assert "line 1: `num_frames` must be at most 61 (3.81 s, 61 frames at 16 per second" in said
    assert "line 2: `num_frames` must be at most 5 (2.5 s, 5 frames at 2 per second" in said
    assert "--window-frames" not in said  # which no row has


def test_an_empty_prompt_is_told(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    main(replaced(command, "--prompt", " ", "--steps", "1"))
    assert "the prompt is empty: what the clip shows is left to the model" in capsys.readouterr().err


def test_half_precision_on_a_cpu_is_told_once(
    command: list[str], capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    main([*command, "--steps", "1", "--device", "cpu", "--dtype", "float16"])
    assert capsys.readouterr().err.count("`--dtype float16` is a format of GPUs, got the device cpu") == 1
    assert "cannot run with `cpu`" not in caplog.text  # as diffusers says for each component


def test_bad_files_are_refused_by_the_name_of_their_option(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    silent = write_clip(tmp_path / "silent.mp4", 5, has_sound=False)
    corrupt = tmp_path / "corrupt.png"
    corrupt.write_bytes(b"no image")
    assert "`--audio` must be a file with sound" in refusal([*command, "--audio", str(silent)], capsys)
    assert "`--image` must be a readable image" in refusal([*command, "--image", str(corrupt)], capsys)
    assert "`--video` must be a video, got the picture" in refusal([*command, "--video", str(corrupt)], capsys)
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(silent.read_bytes()[:-9])
    assert "`--video` must be a whole file" in refusal([*command, "--video", str(cut)], capsys)
    assert "by `--allow-truncated`" in refusal([*command, "--video", str(cut)], capsys)
    assert "`--start` must lie within" in refusal([*command, "--video", str(silent), "--start", "9"], capsys)
    assert "`--audio-track` must be from 0 to 0" in refusal(
        [*command, "--audio", str(write_clip(tmp_path / "a.mp4", 5)), "--audio-track", "1"], capsys
    )
    assert not Path(command[-1]).exists()


def test_half_a_surrogate_pair_is_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    said = refusal([*command[:3], "--prompt", "a\ud83d", *command[5:]], capsys)
    assert "`prompt` must be text of whole characters, got 'a\\ud83d'" in said


def test_a_picture_that_would_fill_the_memory_is_refused_by_its_size(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bomb = tmp_path / "bomb.png"
    head = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + b"".join(map(png_chunk, (b"IHDR" + head, b"IDAT", b"IEND"))))
    said = refusal([*command, "--image", str(bomb)], capsys)
    assert re.search(
        r"`--image` must be an image of at most 179 megapixels, got .*bomb.png \(.*\); scale it down", said
    )


def png_chunk(content: bytes) -> bytes:
    return struct.pack(">I", len(content) - 4) + content + struct.pack(">I", zlib.crc32(content))


def test_sound_longer_than_the_model_makes_is_refused_by_the_longest(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media.write_audio(tmp_path / "long.wav", np.full(160000, 0.1, np.float32), 16000)
    for more in ([], ["--num-frames", "17"]):
        said = refusal([*command, "--audio", str(tmp_path / "long.wav"), *more], capsys)
        assert "the longest clip of this model, got 10.00 s; cut it, by" in said
        assert "`--duration 3.81`" in said
    generate_words = [*command, "--audio", str(tmp_path / "long.wav"), "--duration", "3.81", "--steps", "1"]
    main(generate_words)


def test_sound_longer_than_the_clip_is_refused(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    media.write_audio(tmp_path / "long.wav", np.full(32000, 0.1, np.float32), 16000)
    said = refusal([*command, "--audio", str(tmp_path / "long.wav"), "--num-frames", "9"], capsys)
    assert "`audio` must last at most as long as the clip" in said


def test_adapters_that_fit_no_layer_are_refused(
    command: list[str], tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pipeline = JoVAPipeline.from_pretrained(tiny_pipeline_folder)
    foreign = lora_file(tmp_path / "foreign.safetensors", pipeline, "blocks.7.self_attn.q")
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(b"no tensors")
    for path in (foreign, broken):
        assert "`--lora` must be an adapter" in refusal([*command, "--lora", str(path)], capsys)
    assert not Path(command[-1]).exists()


@pytest.mark.parametrize("index", [None, '{"_class_name": "WanPipeline"}'])
def test_a_folder_that_is_no_pipeline_is_refused(
    index: str | None, command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    if index is not None:
        (folder / "model_index.json").write_text(index)
    assert "the model must be a" in refusal(replaced(command, "--model", str(folder)), capsys)
    said = "the model must be a" if index else "the path must be a saved pipeline or"
    assert said in refusal(["info", str(folder)], capsys)


def test_a_failure_while_writing_leaves_the_old_file(
    tiny_pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "clip.mp4"
    output.write_bytes(b"old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr(media_writing, "_encode_video", fail)
    with pytest.raises(SystemExit):
        generate(tiny_pipeline_folder, output, "--steps", "1")
    assert output.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [output]

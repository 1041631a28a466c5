"""UniAVGen as released: what its sampler computes, and a whole pipeline made of tiny files in the released layout."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import AutoencoderKLWan
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import Qwen2_5OmniToken2WavBigVGANModel, UMT5Config, UMT5EncoderModel

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVALogMel, JoVAPipeline, JoVAPrompt, PromptEmbeds
from diffusers_jova.conditions import GivenLatents
from diffusers_jova.conversion import uniavgen
from diffusers_jova.conversion.convert import main
from diffusers_jova.conversion.pipeline import guidance_defaults
from diffusers_jova.conversion.spoken_characters import character_tokenizer
from diffusers_jova.denoising import JoVADenoiser, TextConditions
from diffusers_jova.generation_defaults import GenerationDefaults
from diffusers_jova.media import Sound, read_video, write_audio
from diffusers_jova.provenance import read_provenance
from diffusers_jova.scheduling_flow_match_av import PRESETS
from diffusers_jova.spoken_text import MIN_UNITS
from diffusers_jova.spoken_text_encoder import FILLER, JoVASpokenTextEncoder
from jova_cli.app import parse as parse_app
from jova_cli.clip_settings import read_settings
from jova_cli.main import main as cli
from jova_cli.model_info import front_matter
from tests.conversion.test_dual_tower import write_uniavgen
from tests.diffusers_jova.test_transformer_jova_dual_tower import UNIAVGEN, uniavgen_parts
from tests.places import needs_references
from tests.rounding import relative_error
from tests.tiny_checkpoints import WAN_2_2_VAE
from tests.tiny_pipeline import build_tiny_pipeline, build_tokenizer


# What the original samples, stored in float64. Its own code in float32 is off by up to 4.9e-6 of the largest value, a
# forward by 5e-7 here; six steps add these up and guidance multiplies them by 3.
SAMPLED = 1e-5
TASKS = {  # what is given whole, and the directions that are left with the prompt and without it
    "joint": (None, True, True),
    "reference_voice": (None, "a2v", True),
    "a2v": ("audio", "a2v", "a2v"),
    "v2a": ("video", "v2a", "v2a"),
}


def filled(ids: Tensor) -> Tensor:
    return torch.nn.functional.pad(ids, (0, max(0, MIN_UNITS - ids.shape[1])), value=FILLER)


def conditions(stored: dict[str, Tensor], encoder: JoVASpokenTextEncoder, with_voice: bool) -> TextConditions:
    def features(text: str, ids: Tensor) -> PromptEmbeds:
        rows = torch.zeros(1, 16, 32)
        rows[0, : len(stored[f"inputs.{text}"])] = stored[f"inputs.{text}"]
        return PromptEmbeds(rows, audio_features=encoder(filled(ids)))

    said, unsaid = stored["inputs.audio_text_ids"], torch.zeros(1, 1, dtype=torch.long)
    if with_voice:
        unsaid = stored["inputs.reference_text_ids"]
        said = torch.cat([unsaid, said], dim=1)
    return TextConditions(features("video_text", said), features("negative_video_text", unsaid))


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize("is_sequential", [False, True])
@pytest.mark.parametrize("task", TASKS)
@torch.no_grad()
def test_every_task_is_sampled_as_the_original_samples_it(task: str, is_sequential: bool) -> None:
    stored = load_file(UNIAVGEN / "sampler.safetensors")
    settings = json.loads((UNIAVGEN / "sampler.json").read_text())
    transformer, encoder = uniavgen_parts()
    whole, coupling, negative_coupling = TASKS[task]
    image = stored["inputs.reference_image"][None]
    clean = stored["inputs.given_video"][None] if whole == "video" else image
    given = {"video": GivenLatents.prefix(clean, 3, axis=2)}
    references = {"video": image} if whole == "video" else {}
    if whole == "audio":
        given["audio"] = GivenLatents.prefix(stored["inputs.given_audio"][None], 56, axis=1)
    if task == "reference_voice":
        references["audio"] = stored["inputs.reference_audio"][None]
    scheduler = FlowMatchAudioVideoScheduler(**PRESETS["uniavgen"])
    scheduler.set_timesteps(settings["steps"])
    scheduler.set_begin_index(0)
    engine = JoVADenoiser(
        transformer=transformer,
        scheduler=scheduler,
        guidance=GenerationDefaults(**guidance_defaults("uniavgen")).guidance(),
        given=given,
        channels=None,
        frame_rate=16.0,
        audio_latent_rate_hz=100.0,
        coupling=coupling,
        negative_coupling=negative_coupling,
        references=references,
        negative_skip_layer=settings["skipped_layer"],
        is_sequential=is_sequential,
    )
    text = conditions(stored, encoder, task == "reference_voice")
    noise = {name: stored[f"inputs.noise_{name}"][None] for name in ("video", "audio")}
    samples = engine.impose(noise)
    for step in range(settings["steps"]):
        samples = engine.step(step, samples, text)
    expected = engine.impose({name: stored[f"{task}.{name}"][None] for name in noise})
    for name, sample in samples.items():
        assert relative_error(sample, expected[name]) < SAMPLED, name
        assert relative_error(noise[name], expected[name]) > 0.1, "something has to be sampled"


@needs_references
@pytest.mark.numeric
@pytest.mark.parametrize("num_steps", [50, 8, 6])
def test_its_schedule_is_that_of_the_release_in_float32(num_steps: int) -> None:
    stored = load_file(UNIAVGEN / "schedule.safetensors")
    scheduler = FlowMatchAudioVideoScheduler(**PRESETS["uniavgen"])
    scheduler.set_timesteps(num_steps)
    for ours in (scheduler.timesteps, scheduler.audio_timesteps):
        assert relative_error(ours, stored[f"timesteps_float32.{num_steps}"][:-1]) < 1e-6
    assert relative_error(scheduler.sigmas, stored[f"sigmas_float64.{num_steps}"]) < 1e-6


CHARACTERS = [" ", "!", ".", "'", "H", "e", "i", "l", "o"]  # as many as the tiny encoder knows
CALL = {"height": 64, "width": 64, "num_frames": 5, "num_inference_steps": 2}
SAID = JoVAPrompt(video="a man", transcript="Hello!")


def write_release(folder: Path) -> list[str]:
    """What the release consists of, tiny; returns the words that convert it."""
    shards = write_uniavgen(
        folder, num_layers=12, audio_num_layers=12, in_channels=48, out_channels=48, audio_in_channels=80
    )
    config = UMT5Config(vocab_size=128, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2)
    UMT5EncoderModel(config).save_pretrained(folder / "text_encoder")
    build_tokenizer().save_pretrained(folder / "google" / "umt5-xxl")
    AutoencoderKLWan(**WAN_2_2_VAE).save_pretrained(folder / "vae")
    vocoder = Qwen2_5OmniToken2WavBigVGANModel.config_class(mel_dim=80, upsample_initial_channel=64)
    Qwen2_5OmniToken2WavBigVGANModel(vocoder).save_pretrained(folder / "code2wav_bigvgan_model")
    characters = folder.parent / "vocab.txt"
    characters.write_bytes("".join(f"{character}\r\n" for character in CHARACTERS).encode())
    return ["uniavgen", str(shards), str(folder.parent / "out"), "--components", str(folder), str(characters)]


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return write_release(tmp_path_factory.mktemp("release") / "UniAVGen")


@pytest.fixture(scope="module")
def pipe(release: list[str]) -> JoVAPipeline:
    main(release)
    made = JoVAPipeline.from_pretrained(release[2])
    made.set_progress_bar_config(disable=True)
    return made


def picture() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)


def voice(duration_s: float = 0.5) -> Sound:
    return Sound(np.random.default_rng(1).uniform(-0.3, 0.3, (1, int(duration_s * 24000))).astype(np.float32), 24000)


def calls_of(pipe: JoVAPipeline, **arguments: Any) -> tuple[Any, list[dict[str, Any]]]:
    calls: list[dict[str, Any]] = []
    hook = pipe.transformer.register_forward_pre_hook(lambda _, __, call: calls.append(dict(call)), with_kwargs=True)
    given = {"prompt": SAID, "image": picture(), "generator": torch.Generator().manual_seed(0), "output_type": "np"}
    output = pipe(**{**given, **CALL, **arguments})
    hook.remove()
    return output, calls


def test_the_released_folder_becomes_a_pipeline_with_the_settings_of_the_release(
    pipe: JoVAPipeline, release: list[str]
) -> None:
    assert isinstance(pipe.audio_vae, JoVALogMel)
    assert pipe.audio_vae.config.peak == uniavgen.PEAK
    for values, value in ((pipe.audio_vae.latents_mean, -5.1753), (pipe.audio_vae.latents_std, 2.1544)):
        assert torch.equal(values, torch.full((80,), value))
    assert isinstance(pipe.vocoder, Qwen2_5OmniToken2WavBigVGANModel)
    assert isinstance(pipe.spoken_text_encoder, JoVASpokenTextEncoder)
    assert {name: pipe.config[name] for name in uniavgen.FAMILY.config} == uniavgen.FAMILY.config
    assert pipe.defaults == GenerationDefaults(**uniavgen.FAMILY.defaults)
    assert (pipe.defaults.guidance_scale, pipe.defaults.audio_guidance_scale) == (3, 2)
    assert pipe.defaults.coupling_interval == (0, 0.5)
    assert {name: pipe.scheduler.config[name] for name in PRESETS["uniavgen"]} == dict(PRESETS["uniavgen"])
    licences = front_matter(Path(release[2]))
    assert licences["component_licenses"] == {
        "transformer": "apache-2.0",
        "tokenizer": "apache-2.0",
        **dict.fromkeys(("text_encoder", "vae"), "not stated"),  # copied from folders that say nothing
        "vocoder": "unknown",
        "spoken_text_encoder": "apache-2.0",
        "spoken_tokenizer": "mit",
        "audio_vae": "apache-2.0",
    }
    card = (Path(release[2]) / "README.md").read_text()
    assert "there is no licence file" in card
    assert "its licence is not known here" in card


def test_picture_and_sound_read_their_own_text_and_a_clip_comes_out(pipe: JoVAPipeline) -> None:
    output, calls = calls_of(pipe)
    assert output.frames.shape == (1, 5, 64, 64, 3)
    assert output.audio.shape == (1, 1, round(5 / 16 * 24000))
    assert output.audio.std() > 0
    ids = [[CHARACTERS.index(one) for one in "Hello!"] + [FILLER] * 4, [0] + [FILLER] * 9]
    with_prompt, without = calls[:2]
    assert (with_prompt.get("skip_layers"), without["skip_layers"]) == (None, [11])
    assert [call["coupled"] for call in calls] == [[True], [False], [True], [True]]
    for call, one in zip((with_prompt, without), ids, strict=True):
        expected = pipe.spoken_text_encoder(torch.tensor([one]))
        torch.testing.assert_close(call["audio_encoder_hidden_states"], expected)
    seen = pipe.encode_texts(["a man"], pipe.defaults.max_sequence_length)
    assert torch.equal(with_prompt["encoder_hidden_states"], seen.features)
    assert with_prompt["timestep"][0, 0] == 0, "latent 0 is the image"


def test_a_reference_voice_is_read_in_front_with_what_it_says_and_is_no_part_of_the_clip(pipe: JoVAPipeline) -> None:
    plain, _ = calls_of(pipe)
    output, calls = calls_of(pipe, reference_audio=voice(), reference_transcript="Hi.")
    assert output.audio.shape == plain.audio.shape
    assert not np.array_equal(output.audio, plain.audio)
    rows = calls[0]["audio_reference_hidden_states"]
    assert rows.shape == (1, 80, 80), "0.5 s and 0.3 s of silence"
    assert all(torch.equal(call["audio_reference_hidden_states"], rows) for call in calls)
    loud = torch.from_numpy(voice().audio) / float(np.abs(voice().audio).max()) * uniavgen.PEAK
    loud = torch.nn.functional.pad(loud, (0, 7200))
    torch.testing.assert_close(rows, log_mel_of(pipe).encode(loud), atol=1e-5, rtol=1e-5)
    assert [call["coupled"] for call in calls] == [["a2v"], [False], ["a2v"], [True]]
    for call, text in zip(calls[:2], ("Hi. Hello!", "Hi. "), strict=True):
        ids = [CHARACTERS.index(one) for one in text]
        expected = pipe.spoken_text_encoder(torch.tensor([ids + [FILLER] * (10 - len(ids))]))
        torch.testing.assert_close(call["audio_encoder_hidden_states"], expected)
    record = output.provenance[0]
    assert "reference_audio" in record["given"]
    assert record["reference_transcript"] == "Hi."


def test_a_reference_voice_that_is_not_read_brings_no_text_either(
    pipe: JoVAPipeline,
) -> None:
    sound = voice(5 / 16)
    plain, _ = calls_of(pipe, audio=sound)
    output, calls = calls_of(pipe, audio=sound, reference_audio=voice(), reference_transcript="Hi.")
    assert "audio_reference_hidden_states" not in calls[0]
    np.testing.assert_array_equal(output.frames, plain.frames)


def test_encoded_prompts_beside_a_reference_voice_need_what_it_says_for_the_negative_one(pipe: JoVAPipeline) -> None:
    embeds, negative, _ = pipe.encode_prompt(SAID, reference_transcript="Hi.")
    given = {"prompt": None, "prompt_embeds": embeds, "reference_audio": voice()}
    with pytest.raises(ValueError, match=r"`reference_transcript` must be what `reference_audio` says"):
        calls_of(pipe, **given)
    texts, _ = calls_of(pipe, reference_audio=voice(), reference_transcript="Hi.")
    both, _ = calls_of(pipe, **given, negative_prompt_embeds=negative)
    np.testing.assert_allclose(both.frames, texts.frames, atol=1e-5)
    calls_of(pipe, **given, guidance_scale=1.0, audio_guidance_scale=1.0)


@pytest.mark.parametrize("sound", [np.full((1, 12000), 1e-41), np.array([[0.3], [-0.3]]).repeat(12000, axis=1)])
def test_a_voice_without_sound_is_refused(pipe: JoVAPipeline, sound: np.ndarray) -> None:
    with pytest.raises(ValueError, match="`reference_audio` must hold a voice, got silence in what its channels"):
        calls_of(pipe, reference_audio=Sound(sound.astype(np.float32), 24000), reference_transcript="Hi.")


@pytest.mark.usefixtures("pipe")  # whose folder it is
def test_the_page_takes_a_model_that_never_begins_without_an_image(release: list[str]) -> None:
    assert parse_app(["--model", release[2]])[1].model == release[2]


def test_the_page_speaks_with_a_reference_voice_and_keeps_what_makes_the_clip_again(
    release: list[str], pipe: JoVAPipeline, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gradio = pytest.importorskip("gradio")
    from diffusers_jova.page.app import Page
    from diffusers_jova.page.form import lay_form

    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path))
    write_audio(tmp_path / "voice.wav", voice().audio, 24000)
    PIL.Image.fromarray(picture()).save(tmp_path / "face.png")
    with gradio.Blocks(analytics_enabled=False):
        values = {name: field.value for name, field in lay_form(pipe, []).items()}
    values |= {"image": str(tmp_path / "face.png"), "reference_audio": str(tmp_path / "voice.wav"), "steps": 1}
    values |= {"num_frames": 5, "width": 64, "height": 64, "video_caption": "a man", "transcript": "Hello!"}
    page, visitor = Page(parse_app(["--model", release[2]])[1], pipe), gradio.Request(session_hash="one")
    with pytest.raises(gradio.Error, match="`What that voice says` must be what `Voice to speak with` says"):
        page.generate(visitor, **values)
    calls: list[str] = []
    hook = pipe.spoken_text_encoder.register_forward_hook(lambda *_: calls.append("read"))
    clip, _, settings, *_ = page.generate(visitor, **{**values, "reference_transcript": "Hi."})
    hook.remove()
    assert calls
    assert clip is not None
    kept = read_settings(Path(settings))
    assert (kept["reference_audio"], kept["reference_transcript"]) == ("voice.wav", "Hi.")


def log_mel_of(pipe: JoVAPipeline) -> JoVALogMel:
    """The log-mel frames of a pipeline without its peak."""
    mel = JoVALogMel()
    mel.load_state_dict(pipe.audio_vae.state_dict())
    return mel


def test_given_sound_drives_the_picture_and_given_video_gets_a_sound(pipe: JoVAPipeline) -> None:
    sound = voice(5 / 16)
    output, calls = calls_of(pipe, audio=sound)
    np.testing.assert_array_equal(output.audio[0], sound.audio)
    assert [call["coupled"] for call in calls] == [["a2v"], [False], ["a2v"], ["a2v"]]
    assert not calls[0]["audio_timestep"].any()
    frames = np.repeat(picture()[None], 5, axis=0)
    other = 255 - picture()
    for image in (None, other):
        output, calls = calls_of(pipe, video=frames, image=image)
        assert [call["coupled"] for call in calls] == [["v2a"], [False], ["v2a"], ["v2a"]]
        assert not calls[0]["timestep"].any()
        assert ("reference_hidden_states" in calls[0]) == (image is not None), "without, it is the first frame"


def test_batches_of_texts_of_unequal_length_make_what_each_makes_alone(pipe: JoVAPipeline) -> None:
    short, long = SAID, JoVAPrompt(video="a man", transcript="Hello! Hello! Hi.")
    generators = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    voices = {"reference_audio": voice(), "reference_transcript": ["Hi.", "Hello! Hello!"]}
    latents = {"output_type": "latent"}
    together, _ = calls_of(pipe, prompt=[short, long], generator=generators, **voices, **latents)
    for index, prompt in enumerate((short, long)):
        said = voices["reference_transcript"][index]
        alone, _ = calls_of(
            pipe,
            prompt=prompt,
            generator=torch.Generator().manual_seed(index),
            **voices | {"reference_transcript": said},
            **latents,
        )
        torch.testing.assert_close(together.audio[index : index + 1], alone.audio, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(together.frames[index : index + 1], alone.frames, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"image": None}, "`image` must be given to this model, whose clips begin with one, got neither"),
        (
            {"reference_audio": voice()},
            "`reference_transcript` must be what `reference_audio` says, .* got None",
        ),
        ({"reference_audio": voice(), "reference_transcript": " "}, "`reference_transcript` must be what .* got ' '"),
        ({"reference_transcript": "Hi."}, "`reference_transcript` must go with `reference_audio`, got it alone"),
        (
            {"reference_audio": voice(), "reference_transcript": "H\u00e9!"},
            "`reference_transcript` must be of characters that the model can say, got '\u00e9'; write it in",
        ),
        ({"prompt": JoVAPrompt(transcript="What?")}, "`transcript` must be of characters .* got 'W', 'h', 'a', 't', "),
        ({"audio_negative_prompt": "?"}, r"`audio_negative_prompt` must be of characters .* got '\?'"),
        (
            {"reference_audio": voice(77), "reference_transcript": "Hi."},
            r"`reference_audio` must last at most 76\.5 s beside a clip of this model, got 77\.000 s; cut it",
        ),
        (
            {"reference_audio": np.zeros(9000, np.float32), "reference_transcript": "Hi."},
            "`reference_audio_sampling_rate` must be given with an array of sound, got None",
        ),
        (
            {"reference_audio": Sound(np.zeros((1, 9000), np.float32), 24000), "reference_transcript": "Hi."},
            "`reference_audio` must hold a voice, got silence",
        ),
        (
            {"reference_audio": voice(), "reference_transcript": ["Hi.", "Hi."]},
            "`reference_transcript` must be one for all or one per prompt, got 2 for 1",
        ),
        ({"reference_audio": voice(), "reference_transcript": 3}, "`reference_transcript` must be text, got 3; write"),
        ({"num_frames": 6}, r"`num_frames` must be 4k \+ 1"),
        (
            {"prompt": None, "prompt_embeds": torch.zeros(1, 4, 16)},
            "`prompt_embeds` must be `PromptEmbeds` with `",
        ),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_sentence(
    pipe: JoVAPipeline, arguments: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        pipe(**{"prompt": SAID, "image": picture(), **CALL, **arguments})


def test_a_pipeline_without_its_parts_is_refused_before_anything_is_written(
    release: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kind, source, _, option, parts, characters = release
    out = tmp_path / "out"
    wrong = tmp_path / "wrong" / "vocab.txt"
    wrong.parent.mkdir()
    wrong.write_text("".join(f"{one}\n" for one in CHARACTERS[:-1]))
    for words, message in (
        ([parts], "`--components` must hold `vocab.txt`, the list of characters in UniAVGen's code"),
        ([parts, str(wrong)], "must hold the 9 characters of the encoder of spoken text, got 8; take the list of the"),
        ([characters], "`--components` must hold tokenizer, text_encoder, vae, vocoder in sub-folders or as released"),
    ):
        with pytest.raises(SystemExit, match="2"):
            main([kind, source, str(out), option, *words])
        assert message in capsys.readouterr().err
        assert not out.exists()


def test_another_release_is_not_taken_for_uniavgens(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    save_file({"video_model.blocks.0.norm3.bias": torch.zeros(2)}, tmp_path / "one.safetensors")
    with pytest.raises(SystemExit, match="2"):
        main(["uniavgen", str(tmp_path / "one.safetensors"), str(tmp_path / "out")])
    assert "must be UniAVGen's transformer, with `a2v_blocks` between its towers" in capsys.readouterr().err


@pytest.mark.usefixtures("pipe")  # whose folder it is
def test_the_command_line_speaks_with_a_reference_voice(
    release: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sound = tmp_path / "voice.wav"
    write_audio(sound, voice().audio, 24000)
    PIL.Image.fromarray(picture()).save(tmp_path / "face.png")
    words = ["generate", "--model", release[2], "--video-caption", "a man", "--transcript", "Hello!", "--seed", "0"]
    words += ["--height", "64", "--width", "64", "--num-frames", "5", "--steps", "1"]
    face, spoken = ["--image", str(tmp_path / "face.png")], ["--reference-audio", str(sound)]
    for more, message in (
        ([], "`--image` must be given to this model, whose clips begin with one, got neither"),
        (
            [*face, *spoken],
            "`--reference-transcript` must be what `--reference-audio` says, .* got None; write it down",
        ),
        (
            [*face, "--reference-audio", "no.wav", "--reference-transcript", "Hi."],
            "`--reference-audio` must be an exis",
        ),
    ):
        with pytest.raises(SystemExit, match="2"):
            cli([*words, *more, "--output", str(tmp_path / "clip.mp4")])
        assert re.search(message, capsys.readouterr().err)
    rows = tmp_path / "list.jsonl"
    cells = {"reference_audio": "voice.wav", "reference_transcript": "Hi.", "image": "face.png", "output": "one.mp4"}
    rows.write_text(json.dumps(cells) + "\n")
    cli([*words, *face, *spoken, "--reference-transcript", "Hi.", "--output", str(tmp_path / "clip.mp4")])
    cli([*words, "--prompts", str(rows), "--output", str(tmp_path / "clips")])
    clips = [read_video(path) for path in (tmp_path / "clip.mp4", tmp_path / "clips" / "one.mp4")]
    np.testing.assert_array_equal(clips[0].audio, clips[1].audio)
    record = read_provenance(tmp_path / "clip.mp4")
    assert record["given"] == ["image", "reference_audio"]
    assert record["reference_transcript"] == "Hi."


def test_its_parts_are_assembled_into_the_same_pipeline(
    pipe: JoVAPipeline, release: list[str], tmp_path: Path
) -> None:
    cli(["assemble", str(tmp_path / "again"), release[2]])
    again = JoVAPipeline.from_pretrained(tmp_path / "again")
    assert {name: again.config[name] for name in uniavgen.FAMILY.config} == uniavgen.FAMILY.config
    prompts = again.encode_prompt(SAID), pipe.encode_prompt(SAID)
    for one, other in zip(*prompts, strict=True):
        assert (one is None) == (other is None)
        assert one is None or torch.equal(one.audio_features, other.audio_features)


def test_parts_of_different_models_are_refused(pipe: JoVAPipeline) -> None:
    parts = {**pipe.components}
    fewer = character_tokenizer(CHARACTERS[:-1])
    with pytest.raises(ValueError, match=r"`spoken_tokenizer` must know the 9 characters of .*, got 8; load"):
        JoVAPipeline(**parts | {"spoken_tokenizer": fewer})
    wide = JoVASpokenTextEncoder(vocab_size=9, dim=16, hidden_dim=16, num_layers=1)
    with pytest.raises(ValueError, match="`audio_text_dim` of `transformer` must be 16, the width of `spoken_"):
        JoVAPipeline(**parts | {"spoken_text_encoder": wide})
    with pytest.raises(ValueError, match="`max_reference_s` must be None for a transformer that reads no reference"):
        build_tiny_pipeline(max_reference_s=5.0)


def test_what_of_a_prompt_nothing_reads_is_told(pipe: JoVAPipeline, caplog: pytest.LogCaptureFixture) -> None:
    pipe.encode_prompt(JoVAPrompt(video="a man", audio="rain", transcript="Hi."))
    pipe.encode_prompt("a man")
    assert "`audio` of a `JoVAPrompt` is not used: `prompt_template` has no place for it" in caplog.text
    assert "a prompt in one text tells what is seen, and nothing is said; pass a `JoVAPrompt`" in caplog.text
    assert "`transcript` of" not in caplog.text


def test_encoded_prompts_bring_along_what_is_said(pipe: JoVAPipeline) -> None:
    voices = {"reference_audio": voice(), "output_type": "latent"}
    expected, _ = calls_of(pipe, **voices, reference_transcript="Hi.")
    prompt, negative, audio_negative = pipe.encode_prompt(SAID, reference_transcript="Hi.")
    assert audio_negative is None
    encoded = {"prompt": None, "prompt_embeds": prompt, "negative_prompt_embeds": negative}
    output, _ = calls_of(pipe, **voices, **encoded)
    torch.testing.assert_close(output.audio, expected.audio)
    torch.testing.assert_close(output.frames, expected.frames)


def test_sound_alone_needs_no_image_and_speaks_with_a_voice_too(pipe: JoVAPipeline) -> None:
    alone = {"image": None, "modalities": ["audio"], "height": None, "width": None}
    voices = {"reference_audio": voice(), "reference_transcript": "Hi."}
    plain, spoken = (calls_of(pipe, **alone, **more)[0].audio for more in ({}, voices))
    assert plain.shape == spoken.shape == (1, 1, 7500)
    assert not np.array_equal(plain, spoken)


def test_a_saved_pipeline_and_one_in_bfloat16_speak_as_well(pipe: JoVAPipeline, tmp_path: Path) -> None:
    voices = {"reference_audio": voice(), "reference_transcript": "Hi.", "num_inference_steps": 1}
    expected, _ = calls_of(pipe, **voices)
    pipe.save_pretrained(tmp_path)
    again, _ = calls_of(JoVAPipeline.from_pretrained(tmp_path), **voices)
    np.testing.assert_allclose(again.audio, expected.audio, atol=1e-5)
    rounded = JoVAPipeline.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert rounded.spoken_text_encoder.dtype == torch.bfloat16
    assert np.isfinite(calls_of(rounded, **voices)[0].audio).all()


def test_a_model_that_reads_no_voice_refuses_one() -> None:
    with pytest.raises(
        ValueError,
        match=r"`reference_audio` must be None for a model that reads no reference voice, .* give it as the beginning "
        "of the clip, `audio` with a `num_frames` beyond it",
    ):
        build_tiny_pipeline()("a dog", num_frames=5, reference_audio=voice())

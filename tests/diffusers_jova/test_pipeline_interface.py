"""What users of diffusers expect of a pipeline: components shared or missing, callbacks, own classes."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import (
    AutoencoderKLWan,
    DiffusionPipeline,
    FlowMatchLCMScheduler,
    LTXEulerAncestralRFScheduler,
    UniPCMultistepScheduler,
    WanPipeline,
    WanTransformer3DModel,
)
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback, SDCFGCutoffCallback, SDXLCFGCutoffCallback
from torch import Tensor

from diffusers_jova import JoVAPipeline, PromptEmbeds
from diffusers_jova.conversion.convert import main
from jova_cli.main import main as jova
from tests.tiny_pipeline import (
    build_text_encoder,
    build_tiny_pipeline,
    build_tokenizer,
    build_transformer,
    build_vae,
    build_wan_transformer,
)


TRANSFORMERS = {"jova": build_transformer, "wan": partial(build_wan_transformer, in_channels=36)}
Build = Callable[..., Any]


@pytest.fixture(scope="module", params=TRANSFORMERS)
def build(request: pytest.FixtureRequest) -> Build:
    return TRANSFORMERS[request.param]


@pytest.fixture(scope="module")
def pipeline(build: Build) -> JoVAPipeline:
    return build_tiny_pipeline(transformer=build())


@pytest.fixture
def forwards(pipeline: JoVAPipeline) -> Any:
    """Batch sizes of the forwards of the transformer, as they happen."""
    sizes: list[int] = []
    hook = pipeline.transformer.register_forward_pre_hook(
        lambda _, __, arguments: sizes.append(arguments["timestep"].shape[0]), with_kwargs=True
    )
    yield sizes
    hook.remove()


def generate(pipeline: JoVAPipeline, prompt: Any = "a dog", **arguments: Any) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(0)
    pipeline.set_progress_bar_config(disable=True)
    arguments = {"generator": generator, "output_type": "latent", "num_frames": 5, **arguments}
    return pipeline(prompt, return_dict=False, **arguments)


def assert_same(actual: tuple[Any, Any], expected: tuple[Any, Any]) -> None:
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)  # weights may lie elsewhere in memory


def differ(one: Tensor, other: Tensor) -> bool:
    return not torch.allclose(one, other, atol=1e-3)


# Components of other pipelines


class OwnVAE(AutoencoderKLWan):
    """A class of the user's own; its exact type stands in no signature."""


class OwnPipeline(JoVAPipeline):
    """A pipeline of the user's own."""


@pytest.mark.parametrize("cls", [JoVAPipeline, OwnPipeline])
def test_a_pipeline_is_built_of_another_without_copies(pipeline: JoVAPipeline, cls: type[JoVAPipeline]) -> None:
    other = cls.from_pipe(pipeline)
    assert type(other) is cls
    for name, component in pipeline.components.items():
        assert getattr(other, name) is component, name
    assert other.defaults == pipeline.defaults
    assert other.config.prompt_template == pipeline.config.prompt_template
    assert_same(generate(other), generate(pipeline))
    assert type(JoVAPipeline.from_pipe(other)) is JoVAPipeline


def test_shared_components_stay_in_their_formats(caplog: pytest.LogCaptureFixture) -> None:
    pipeline = build_tiny_pipeline()
    pipeline.transformer.to(torch.bfloat16)
    caplog.clear()
    other = JoVAPipeline.from_pipe(pipeline)
    assert pipeline.transformer.dtype == torch.bfloat16
    assert other.vae.dtype == torch.float32
    assert not caplog.records
    JoVAPipeline.from_pipe(pipeline, dtype=torch.float64)
    assert {part.dtype for part in (pipeline.transformer, pipeline.vae, pipeline.text_encoder)} == {torch.float64}


def test_components_and_config_values_are_replaced_on_the_way(pipeline: JoVAPipeline) -> None:
    vae = OwnVAE(**{name: x for name, x in build_vae().config.items() if not name.startswith("_")})
    given = JoVAPipeline.from_pipe(pipeline, vae=vae, prompt_template="{video}", defaults={"num_inference_steps": 3})
    assert given.vae is vae
    assert given.config.prompt_template == "{video}"
    assert given.defaults.num_inference_steps == 3
    assert JoVAPipeline.from_pipe(given).vae is vae, "a class that no signature names goes over as well"
    silent = JoVAPipeline.from_pipe(pipeline, audio_vae=None, vocoder=None)
    assert silent.audio_vae is None
    assert generate(silent, modalities=["video"])[1] is None


def test_a_pipeline_shares_components_with_one_of_diffusers_in_both_directions(
    pipeline: JoVAPipeline, tmp_path: Path
) -> None:
    torch.manual_seed(0)
    wan_transformer = WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=12, in_channels=16, out_channels=16, text_dim=16, freq_dim=16,
        ffn_dim=32, num_layers=1, rope_max_seq_len=32,
    )  # fmt: skip
    scheduler = UniPCMultistepScheduler.from_config(pipeline.scheduler.config)
    wan = WanPipeline.from_pipe(pipeline, transformer=wan_transformer, scheduler=scheduler)
    assert (wan.vae, wan.text_encoder, wan.tokenizer) == (pipeline.vae, pipeline.text_encoder, pipeline.tokenizer)
    wan.set_progress_bar_config(disable=True)
    frames = wan("a dog", height=32, width=32, num_frames=5, num_inference_steps=1, output_type="pt").frames
    assert bool(frames.isfinite().all())

    own = {name: getattr(pipeline, name) for name in ("transformer", "audio_vae", "vocoder", "scheduler")}
    back = JoVAPipeline.from_pipe(wan, **own)
    assert back.vae is pipeline.vae
    assert back.defaults == pipeline.defaults, "what Wan does not know is kept for the way back"
    assert_same(generate(back), generate(pipeline))
    back.save_pretrained(tmp_path)
    assert_same(generate(JoVAPipeline.from_pretrained(tmp_path)), generate(pipeline))


def test_a_pipeline_is_built_of_the_components_of_another(pipeline: JoVAPipeline) -> None:
    assert_same(generate(JoVAPipeline(**pipeline.components, defaults=pipeline.config.defaults)), generate(pipeline))


# Missing components


MISSING: list[tuple[list[str], dict[str, Any], str | None]] = [
    (["vocoder", "audio_vae"], {"modalities": ["video"]}, None),
    (["vocoder"], {"modalities": ["video"], "output_type": "pt"}, None),
    (["vae"], {"modalities": ["audio"], "output_type": "np"}, None),
    (
        ["vae"],
        {"modalities": ["audio"], "audio": torch.zeros(4000), "audio_sampling_rate": 16000, "num_frames": 9},
        None,
    ),
    (["vae"], {}, r"`vae` must be loaded where video takes part, got None; load it, or pass `modalities=\['audio'\]`"),
    (["vae"], {"output_type": "pil"}, "`vae` must be loaded where video takes part"),
    (["vocoder"], {}, r"`vocoder` must be loaded where sound takes part, got None; .* `modalities=\['video'\]`"),
    (["audio_vae", "vocoder"], {}, "`audio_vae` and `vocoder` must be loaded where sound takes part, got None"),
    (
        ["audio_vae"],
        {"audio": torch.zeros(4000), "audio_sampling_rate": 16000},
        "`audio_vae` must be loaded where sound takes part",
    ),
    (["vae", "audio_vae", "vocoder"], {}, "`vae` must be loaded where video takes part"),
    (
        ["text_encoder"],
        {},
        "`text_encoder` must be loaded to read a prompt, got None; load it, or pass `prompt_embeds`",
    ),
    (["tokenizer"], {}, "`tokenizer` must be loaded to read a prompt, got None; load it, or pass `prompt_embeds`"),
    (["tokenizer", "text_encoder"], {"prompt": None, "prompt_embeds": torch.ones(1, 3, 16)}, "to read a prompt"),
    (
        ["tokenizer", "text_encoder"],
        {"prompt": None, "prompt_embeds": torch.ones(1, 3, 16), "guidance_scale": 1.0},
        None,
    ),
    (
        ["tokenizer", "text_encoder", "vocoder", "audio_vae"],
        {
            "prompt": None,
            "prompt_embeds": torch.ones(1, 3, 16),
            "negative_prompt_embeds": torch.zeros(1, 3, 16),
            "modalities": ["video"],
        },
        None,
    ),
    (["scheduler"], {}, "`scheduler` must be loaded to generate anything, got None; load it"),
    (["transformer"], {}, "`transformer` must be loaded to generate anything, got None; load it"),
]


@pytest.mark.parametrize(("absent", "arguments", "message"), MISSING)
def test_a_missing_component_is_missed_only_where_it_is_needed(
    pipeline: JoVAPipeline, absent: list[str], arguments: dict[str, Any], message: str | None
) -> None:
    less = JoVAPipeline.from_pipe(pipeline, **dict.fromkeys(absent))
    if message is None:
        assert_same(generate(less, **arguments), generate(pipeline, **arguments))
    else:
        with pytest.raises(ValueError, match=message):
            generate(less, **arguments)


def test_a_second_text_encoder_without_its_tokenizer_is_missed() -> None:
    pipeline = build_tiny_pipeline(text_encoder_2=build_text_encoder(), transformer=build_transformer(text_dim_2=16))
    with pytest.raises(ValueError, match="`tokenizer_2` must be loaded to read a prompt, got None"):
        generate(pipeline)


@pytest.mark.parametrize("absent", [["vae"], ["audio_vae", "vocoder"], ["tokenizer", "text_encoder"]])
def test_a_pipeline_with_missing_components_is_loaded_saved_and_loaded_again(
    tiny_pipeline_folder: Path, absent: list[str], tmp_path: Path
) -> None:
    loaded = JoVAPipeline.from_pretrained(tiny_pipeline_folder, **dict.fromkeys(absent))
    loaded.save_pretrained(tmp_path)
    again = DiffusionPipeline.from_pretrained(tmp_path)
    assert all(getattr(again, name) is None for name in absent)
    arguments = {
        "prompt": None,
        "prompt_embeds": torch.ones(1, 3, 16),
        "guidance_scale": 1.0,
        "modalities": ["audio"] if "vae" in absent else ["video"],
    }
    output = again(**arguments, num_frames=5, output_type="np", generator=torch.Generator().manual_seed(0))
    assert output.sampling_rate == (0 if "vocoder" in absent else 16000)


def test_properties_of_a_call_exist_before_the_first_and_tell_of_the_last(pipeline: JoVAPipeline) -> None:
    fresh = JoVAPipeline.from_pipe(pipeline)
    assert (fresh.guidance_scale, fresh.audio_guidance_scale) == (3.0, 3.0)
    assert (fresh.num_timesteps, fresh.current_timestep, fresh.attention_kwargs) == (0, None, None)
    assert (fresh.interrupt, fresh.do_classifier_free_guidance) == (False, False)
    generate(fresh, audio_guidance_scale=2.0)
    assert (fresh.guidance_scale, fresh.audio_guidance_scale, fresh.num_timesteps) == (3.0, 2.0, 2)
    assert fresh.do_classifier_free_guidance


def test_prompts_are_encoded_without_a_transformer(tiny_pipeline_folder: Path, pipeline: JoVAPipeline) -> None:
    names = ("transformer", "scheduler", "vae", "audio_vae", "vocoder")
    texts = JoVAPipeline.from_pretrained(tiny_pipeline_folder, **dict.fromkeys(names))
    one, other = (pipe.encode_prompt("a dog")[0].features for pipe in (texts, pipeline))
    torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", [FlowMatchLCMScheduler, LTXEulerAncestralRFScheduler])
def test_a_stochastic_scheduler_of_diffusers_moves_both_modalities_by_the_seed(
    pipeline: JoVAPipeline, kind: Any
) -> None:
    other = JoVAPipeline.from_pipe(pipeline, scheduler=kind.from_config(pipeline.scheduler.config))
    one, again, euler = generate(other), generate(other), generate(pipeline)
    assert_same(one, again)
    assert differ(one[0], euler[0])
    assert differ(one[1], euler[1])
    seeds = [torch.Generator().manual_seed(seed) for seed in (0, 1)]
    batch = generate(other, ["a dog", "a dog"], generator=seeds)
    assert_same(tuple(x[:1] for x in batch), one)


# Callbacks


class Recorder(PipelineCallback):
    """Notes the shapes of all that it may ask for."""

    tensor_inputs = list(JoVAPipeline._callback_tensor_inputs)

    def callback_fn(self, pipeline: Any, step_index: int, timestep: Tensor, callback_kwargs: dict[str, Any]) -> Any:
        self.seen = {name: None if x is None else list(x.shape) for name, x in callback_kwargs.items()}
        return callback_kwargs


def test_a_callback_object_gets_the_tensors_that_it_names(pipeline: JoVAPipeline) -> None:
    recorder = Recorder()
    plain = generate(pipeline, audio_negative_prompt="no")
    assert_same(generate(pipeline, audio_negative_prompt="no", callback_on_step_end=recorder), plain)
    assert recorder.seen == {
        "latents": [1, 16, 2, 4, 4],
        "audio_latents": [1, 10, 4],
        "prompt_embeds": [1, 6, 16],
        "prompt_embeds_2": None,
        "negative_prompt_embeds": [1, 1, 16],
        "negative_prompt_embeds_2": None,
        "audio_negative_prompt_embeds": [1, 3, 16],
        "audio_negative_prompt_embeds_2": None,
    }


@pytest.mark.parametrize("prompt", ["a dog", ["a dog", "a cat", "a bird in a tree"]], ids=["one", "several"])
@pytest.mark.parametrize("scales", [{}, {"audio_guidance_scale": 5.0}, {"guidance_scale": 0.0}])
def test_a_cut_off_of_guidance_is_off_for_both_modalities(
    pipeline: JoVAPipeline, forwards: list[int], prompt: Any, scales: dict[str, float]
) -> None:
    num_clips = len(prompt) if isinstance(prompt, list) else 1
    num_guided = num_clips if scales == {"guidance_scale": 0.0} else 2 * num_clips

    def switch_off(pipe: Any, step: int, *_: Any) -> None:
        if step == 1:
            pipe._guidance_scale = pipe._audio_guidance_scale = 1.0

    arguments = {"num_inference_steps": 4, **scales}
    cut = generate(pipeline, prompt, callback_on_step_end=SDCFGCutoffCallback(None, 1), **arguments)
    assert forwards == [num_guided, num_guided, num_clips, num_clips]
    assert not pipeline.do_classifier_free_guidance
    assert_same(cut, generate(pipeline, prompt, callback_on_step_end=switch_off, **arguments))


@pytest.mark.skipif(os.name == "nt", reason="modes of POSIX")
def test_a_saved_pipeline_is_readable_for_those_whom_the_process_lets_read(
    pipeline: JoVAPipeline, tmp_path: Path
) -> None:
    before = os.umask(0o022)
    try:
        pipeline.save_pretrained(tmp_path / "saved")
    finally:
        os.umask(before)
    files = [*(tmp_path / "saved").glob("*/*.safetensors")]
    assert len(files) >= 5
    assert {file.stat().st_mode & 0o777 for file in files} == {0o644}


def test_defaults_that_are_given_replace_those_of_the_model_by_name(tiny_pipeline_folder: Path) -> None:
    own = JoVAPipeline.from_pretrained(tiny_pipeline_folder).defaults
    pipeline = JoVAPipeline.from_pretrained(tiny_pipeline_folder, defaults={"num_inference_steps": 3})
    assert own.num_inference_steps != 3
    assert pipeline.defaults == replace(own, num_inference_steps=3)


def test_a_folder_that_lacks_a_component_is_told(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_pipeline_folder, folder)
    shutil.rmtree(folder / "vae")
    with pytest.raises(FileNotFoundError, match=r"must hold `vae`, as its `model_index.json` says, got no folder"):
        JoVAPipeline.from_pretrained(folder)
    assert JoVAPipeline.from_pretrained(folder, vae=None).vae is None
    jova(["info", str(folder)])
    said = capsys.readouterr().out
    assert said.endswith("missing here: vae; save or fetch the folder anew\n")
    assert "longest clip" not in said


def test_a_misspelt_component_is_refused(tiny_pipeline_folder: Path, pipeline: JoVAPipeline) -> None:
    with pytest.raises(ValueError, match=r"`transfomer` must be a component .*; did you mean `transformer`"):
        JoVAPipeline.from_pretrained(tiny_pipeline_folder, transfomer=pipeline.transformer)


@pytest.mark.parametrize("value", [1.0, 0.3])
def test_a_mask_of_floats_is_refused(pipeline: JoVAPipeline, value: float) -> None:
    embeds, _, _ = pipeline.encode_prompt("a dog", do_classifier_free_guidance=False)
    mask = torch.full(embeds.features.shape[:2], value)
    with pytest.raises(ValueError, match="mask of `prompt_embeds` must be bool, True for rows that are read, got"):
        generate(pipeline, None, prompt_embeds=PromptEmbeds(embeds.features, mask), num_inference_steps=1)


def test_defaults_that_are_put_into_the_config_hold_from_then_on() -> None:
    pipeline = build_tiny_pipeline()
    own = {"num_frames": 9, "height": 32, "width": 32, "guidance_interval": [0.0, 0.5]}
    pipeline.register_to_config(defaults=own)
    assert (pipeline.defaults.num_frames, pipeline.defaults.guidance_interval) == (9, (0.0, 0.5))
    video, _ = generate(pipeline, num_inference_steps=1, num_frames=None)
    assert video.shape[2] == 3  # latent frames
    with pytest.raises(ValueError, match="did you mean 'num_frames'"):
        pipeline.register_to_config(defaults={"frames": 5})
    assert pipeline.config.defaults["num_frames"] == pipeline.defaults.num_frames == 9


def test_several_callbacks_act_one_after_the_other(pipeline: JoVAPipeline, forwards: list[int]) -> None:
    recorder = Recorder()
    generate(pipeline, callback_on_step_end=MultiPipelineCallbacks([SDCFGCutoffCallback(None, 0), recorder]))
    assert forwards == [2, 1]
    assert recorder.seen["prompt_embeds"] == [1, 6, 16]


def test_a_cut_off_of_the_audio_guidance_alone_leaves_video_guided(
    pipeline: JoVAPipeline, forwards: list[int]
) -> None:
    def cut(pipe: Any, *_: Any) -> None:
        pipe._audio_guidance_scale = 0.0

    def same(pipe: Any, *_: Any) -> None:
        pipe._audio_guidance_scale = 1.0

    cut_off = generate(pipeline, callback_on_step_end=cut)
    assert forwards == [2, 2]
    assert_same(cut_off, generate(pipeline, callback_on_step_end=same))


CHANGES: dict[str, Callable[[Tensor], Any]] = {
    "arithmetic": lambda x: 0.5 * x,
    "a slice": lambda x: x.flip(0)[: len(x)] + 1,
    "prompts with a mask": lambda x: PromptEmbeds(x[:, :1] + 1, torch.ones(x.shape[0], 1, dtype=torch.bool)),
}


@pytest.mark.parametrize("name", ["prompt_embeds", "negative_prompt_embeds", "audio_negative_prompt_embeds"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_a_callback_changes_what_is_read_of_any_prompt(
    pipeline: JoVAPipeline, name: str, change: Callable[[Tensor], Any]
) -> None:
    def callback(_: Any, step: int, __: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        assert isinstance(tensors[name], Tensor)
        return {name: change(tensors[name])} if step == 0 else {}

    arguments = {"prompt": ["a dog", "a bird"], "audio_negative_prompt": "loud noise", "num_inference_steps": 3}
    plain = generate(pipeline, **arguments)
    arguments |= {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": [name]}
    changed = generate(pipeline, **arguments)
    assert any(differ(one, other) for one, other in zip(changed, plain, strict=True))


def test_a_callback_reads_and_changes_the_features_of_a_second_text_encoder() -> None:
    parts = {"tokenizer_2": build_tokenizer(), "text_encoder_2": build_text_encoder()}
    pipeline = build_tiny_pipeline(transformer=build_transformer(text_dim_2=16), **parts)
    names = ["prompt_embeds_2"]

    def callback(*arguments: Any) -> dict[str, Any]:
        return {"prompt_embeds_2": -arguments[-1]["prompt_embeds_2"]}

    changed = generate(pipeline, callback_on_step_end=callback, callback_on_step_end_tensor_inputs=names)
    assert differ(changed[0], generate(pipeline)[0])


WRONG_ANSWERS: list[tuple[Any, str]] = [
    (torch.zeros(1), "`callback_on_step_end` must return a dict of tensors or None, got Tensor; return"),
    (
        {"add_text_embeds": torch.zeros(1)},
        r"must return tensors of \[.*\], got \['add_text_embeds'\]; leave these out",
    ),
    (
        {"latents": torch.zeros(1)},
        r"`latents` of a callback must stay \[2, 16, 2, 4, 4\], got \[1\]; return it in the",
    ),
    ({"latents": None}, r"`latents` of a callback must stay \[2, 16, 2, 4, 4\], got NoneType"),
    ({"prompt_embeds": torch.zeros(1, 6, 16)}, r"`prompt_embeds` of a callback must be a tensor \[2, S, 16\], one"),
    ({"prompt_embeds": torch.zeros(2, 8, 8)}, r"a callback must be a tensor \[2, S, 16\], one .*, got \[2, 8, 8\]"),
    (
        {"prompt_embeds": torch.zeros(2, 3, 16)},
        r"`prompt_embeds` of a callback must keep its 8 rows, which have a mask",
    ),
    (
        {"prompt_embeds": PromptEmbeds(torch.zeros(2, 3, 16), torch.ones(2, 4, dtype=torch.bool))},
        r"mask of `prompt_embeds` must be \[2, 3\], one value per row of its features, got \[2, 4\]; pad both alike",
    ),
    ({"negative_prompt_embeds": "none"}, r"`negative_prompt_embeds` of a callback must be a tensor .*, got str"),
    (
        {"audio_negative_prompt_embeds_2": torch.zeros(2, 3, 16)},
        "`audio_negative_prompt_embeds_2` of a callback must stay None without `audio_negative_prompt_embeds`",
    ),
]


@pytest.mark.parametrize(("answer", "message"), WRONG_ANSWERS)
def test_wrong_answers_of_a_callback_are_refused(pipeline: JoVAPipeline, answer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        generate(pipeline, ["a dog", "birds ."], callback_on_step_end=lambda *_: answer)


def test_a_callback_object_of_other_pipelines_is_refused(pipeline: JoVAPipeline) -> None:
    message = (
        r"`tensor_inputs` of a SDXLCFGCutoffCallback must be in \[.*, got \['add_text_embeds', 'add_time_ids'\]; use"
    )
    with pytest.raises(ValueError, match=message):
        generate(pipeline, callback_on_step_end=SDXLCFGCutoffCallback(None, 1))
    with pytest.raises(ValueError, match="`callback_on_step_end` must be callable, got 3"):
        generate(pipeline, callback_on_step_end=3)


# The video VAE


@pytest.mark.parametrize("feature", ["tiling", "slicing"])
def test_tiling_and_slicing_of_the_video_vae_are_switched_at_the_pipeline(
    pipeline: JoVAPipeline, feature: str
) -> None:
    getattr(pipeline, f"enable_vae_{feature}")()
    assert getattr(pipeline.vae, f"use_{feature}")
    getattr(pipeline, f"disable_vae_{feature}")()
    assert not getattr(pipeline.vae, f"use_{feature}")
    without = JoVAPipeline.from_pipe(pipeline, vae=None)
    with pytest.raises(ValueError, match="`vae` must be loaded where video takes part"):
        getattr(without, f"enable_vae_{feature}")()


class WholeVAE(OwnVAE):
    """One that can do neither."""

    def __init__(self, **config: Any) -> None:
        super().__init__(**config)
        del self.use_slicing

    enable_tiling = property()


@pytest.mark.parametrize("feature", ["tiling", "slicing"])
def test_a_video_vae_without_tiling_or_slicing_says_so(pipeline: JoVAPipeline, feature: str) -> None:
    config = {name: x for name, x in build_vae().config.items() if not name.startswith("_")}
    whole = JoVAPipeline.from_pipe(pipeline, vae=WholeVAE(**config))
    with pytest.raises(ValueError, match=f"`vae` must offer {feature}, got a WholeVAE, which has none; leave"):
        getattr(whole, f"enable_vae_{feature}")()


class BrokenVAE(OwnVAE):
    """One whose own method fails."""

    def enable_tiling(self) -> None:
        self.tile_sizes.append(1)


def test_a_fault_inside_of_a_video_vae_is_not_taken_for_a_missing_feature(pipeline: JoVAPipeline) -> None:
    config = {name: x for name, x in build_vae().config.items() if not name.startswith("_")}
    broken = JoVAPipeline.from_pipe(pipeline, vae=BrokenVAE(**config))
    with pytest.raises(AttributeError, match="tile_sizes"):
        broken.enable_vae_tiling()


# Files


def test_a_pipeline_takes_its_transformer_from_one_file_and_the_rest_from_a_folder(
    build: Build, tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    model = build()
    model.save_pretrained(tmp_path / "saved")
    file = tmp_path / "one.safetensors"
    main(["single_file", str(tmp_path / "saved"), str(file)])
    with pytest.raises(
        ValueError, match=r"`config` must be the folder of a pipeline, .* got None; pass `config=folder`"
    ):
        JoVAPipeline.from_single_file(file)
    with pytest.raises(ValueError, match="`transformer` must be left out, because the file holds it, got one besides"):
        JoVAPipeline.from_single_file(file, config=tiny_pipeline_folder, transformer=model)
    loaded = JoVAPipeline.from_single_file(file, config=tiny_pipeline_folder)
    assert type(loaded.transformer) is type(model)
    assert_same(generate(loaded), generate(build_tiny_pipeline(transformer=model)))
    made: Any = loaded("a dog", num_inference_steps=1, num_frames=5)
    assert made.provenance[0]["transformer_file"] == "one"
    half = JoVAPipeline.from_single_file(str(file), config=str(tiny_pipeline_folder), dtype=torch.bfloat16)
    assert half.transformer.dtype == half.text_encoder.dtype == torch.bfloat16
    assert half.vae.dtype == torch.float32  # the codecs are, unless they are named


@pytest.mark.parametrize("argument", ["dtype", "torch_dtype"])
def test_formats_by_component_hold_for_the_single_file_too(
    build: Build, argument: str, tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    build().save_pretrained(tmp_path / "transformer")
    main(["single_file", str(tmp_path / "transformer"), str(tmp_path / "one.safetensors")])

    def load(dtypes: dict[str, torch.dtype]) -> list[torch.dtype]:
        loaded = JoVAPipeline.from_single_file(
            tmp_path / "one.safetensors", config=tiny_pipeline_folder, **{argument: dtypes}
        )
        return [getattr(loaded, name).dtype for name in ("transformer", "text_encoder", "vae")]

    half = torch.bfloat16
    assert load({"transformer": half}) == [half, torch.float32, torch.float32]
    assert load({"default": half}) == [half, half, torch.float32]
    assert load({"transformer": half, "vae": half, "default": torch.float32}) == [half, torch.float32, half]


COMMUNITY = """
{imported}


class MyPipeline({base}):
    def __call__(self, *args, **kwargs):
        kwargs["num_frames"] = 9
        return super().__call__(*args, **kwargs)
"""


COMMUNITY_BASES = {
    "from diffusers import JoVAPipeline": "JoVAPipeline",
    "from diffusers_jova import JoVAPipeline": "JoVAPipeline",
    "from diffusers import DiffusionPipeline\nfrom diffusers_jova import JoVAPipeline": "JoVAPipeline",
    "import diffusers_jova": "diffusers_jova.JoVAPipeline",
}


@pytest.mark.parametrize(
    ("imported", "base", "is_file"),
    [
        pytest.param(
            imported,
            base,
            is_file,
            marks=() if is_file == (imported in list(COMMUNITY_BASES)[::2]) else pytest.mark.slow,  # each base once
        )
        for imported, base in COMMUNITY_BASES.items()
        for is_file in (True, False)
    ],
)
def test_a_file_of_the_community_subclasses_the_pipeline_by_name(
    tiny_pipeline_folder: Path, tmp_path: Path, imported: str, base: str, is_file: bool
) -> None:
    (tmp_path / "pipeline.py").write_text(COMMUNITY.format(imported=imported, base=base))
    path = str(tmp_path / "pipeline.py" if is_file else tmp_path)
    custom: dict[str, Any] = {"custom_pipeline": path, "trust_remote_code": True}
    loaded = DiffusionPipeline.from_pretrained(tiny_pipeline_folder, **custom)
    assert (type(loaded).__name__, isinstance(loaded, JoVAPipeline)) == ("MyPipeline", True)
    assert generate(loaded)[0].shape[2] == 3, "frames of its own call"
    loaded.save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "model_index.json").read_text())["_class_name"] == "MyPipeline"
    again = DiffusionPipeline.from_pretrained(tmp_path / "saved", **custom)
    assert_same(generate(again), generate(loaded))
    assert type(JoVAPipeline.from_pretrained(tmp_path / "saved")) is JoVAPipeline
    assert type(JoVAPipeline.from_pipe(loaded, **custom)).__name__ == "MyPipeline"


def test_a_file_with_two_pipelines_is_refused_as_diffusers_does(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    text = COMMUNITY.format(imported="from diffusers import JoVAPipeline", base="JoVAPipeline")
    (tmp_path / "pipeline.py").write_text(text + "\n\nclass Other(JoVAPipeline):\n    pass\n")
    with pytest.raises(ValueError, match="Multiple classes that inherit from DiffusionPipeline"):
        DiffusionPipeline.from_pretrained(tiny_pipeline_folder, custom_pipeline=str(tmp_path), trust_remote_code=True)


@pytest.mark.parametrize("cls", [JoVAPipeline, OwnPipeline])
def test_what_components_do_not_hold_is_said_in_one_line(
    pipeline: JoVAPipeline, cls: type[JoVAPipeline], log: pytest.LogCaptureFixture
) -> None:
    cls.from_pipe(pipeline)
    assert "not taken over" not in log.text
    assert cls(**pipeline.components).defaults != pipeline.defaults
    assert log.text.count("`defaults` of the pipeline that these components come from is not taken over") == 1
    assert f"build it by `{cls.__name__}.from_pipe(pipe)`, or give them" in log.text
    log.clear()
    cls.from_pipe(pipeline)
    cls(**pipeline.components, defaults=pipeline.config.defaults)
    assert "not taken over" not in log.text

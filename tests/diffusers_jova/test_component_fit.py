"""Components that contradict each other, or themselves, are found when a pipeline is put together."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLWan, DDIMScheduler, MMAudioVAE, MMAudioVocoder
from safetensors.torch import load_file, save_file
from transformers import UMT5EncoderModel

from diffusers_jova import JoVALogMel, JoVAPipeline
from tests.tiny_pipeline import (
    build_audio_vae,
    build_dual_tower,
    build_text_encoder,
    build_tiny_pipeline,
    build_transformer,
    build_vae,
    build_vocoder,
    build_wan_transformer,
)


def rebuilt(module: Any, **changes: Any) -> Any:
    config = {name: value for name, value in module.config.items() if not name.startswith("_")}
    return type(module)(**(config | changes)).eval()


def vae(**changes: Any) -> AutoencoderKLWan:
    return rebuilt(build_vae(), **changes)


def audio_vae(**changes: Any) -> MMAudioVAE:
    return rebuilt(build_audio_vae(), **changes)


def vocoder(**changes: Any) -> MMAudioVocoder:
    return rebuilt(build_vocoder(), **changes)


STD = list(build_vae().config.latents_std)
KINDS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "a VAE as the transformer": (
        lambda: {"transformer": build_vae()},
        "`transformer` must be one of JoVADualTowerTransformer3DModel, JoVATransformer3DModel, "
        "JoVAWanTransformer3DModel, got AutoencoderKLWan; load or name a component of this kind",
    ),
    "a transformer as the VAE": (
        lambda: {"vae": build_transformer()},
        "`vae` must be AutoencoderKLWan, got JoVATransformer3DModel; load",
    ),
    "a name as the audio VAE": (
        lambda: {"audio_vae": "mmaudio"},
        "`audio_vae` must be one of .*, got 'mmaudio'; load",
    ),
    "a class as the scheduler": (
        lambda: {"scheduler": DDIMScheduler},
        "`scheduler` must be SchedulerMixin, got the class DDIMScheduler itself; load",
    ),
    "a VAE as the text encoder": (
        lambda: {"text_encoder": build_vae()},
        "`text_encoder` must be PreTrainedModel, got",
    ),
}
CONTRADICTIONS: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "the temporal factor of the VAE": (
        lambda: {"vae": vae(scale_factor_temporal=8)},
        "`scale_factor_temporal` of `vae` must be 4, as its layers compress, got 8; correct its config",
    ),
    "the spatial factor of the VAE": (
        lambda: {"vae": vae(scale_factor_spatial=16)},
        "`scale_factor_spatial` of `vae` must be 8, as its layers compress, got 16; correct its config",
    ),
    "the temporal factor of the transformer": (
        lambda: {"transformer": build_transformer(temporal_compression_ratio=8)},
        "`temporal_compression_ratio` of `transformer` must be 4, that of `vae`, got 8",
    ),
    "the channels of the picture": (
        lambda: {"transformer": build_wan_transformer(in_channels=8, out_channels=8)},
        "`out_channels` of `transformer` must be 16, the channels of `vae`, got 8",
    ),
    "too few condition channels": (
        lambda: {"transformer": build_transformer(in_channels=24)},
        r"`in_channels` of `transformer` must be 16, or at least 32 .*, got 24",
    ),
    "the channels of the sound": (
        lambda: {"transformer": build_transformer(audio_in_channels=6)},
        "`audio_in_channels` of `transformer` must be 4, the channels of `audio_vae`, got 6",
    ),
    "the width of the text": (
        lambda: {"transformer": build_transformer(text_dim=8)},
        "`text_dim` of `transformer` must be 16, the width of `text_encoder`, got 8",
    ),
    "the width of the text that audio reads": (
        lambda: {"transformer": build_dual_tower(audio_text_dim=8)},
        "`audio_text_dim` of `transformer` must be 16, the width of `text_encoder`, got 8",
    ),
    "a second text encoder that nothing reads": (
        lambda: {"text_encoder_2": build_text_encoder()},
        "`text_dim_2` of `transformer` must be 16, the width of `text_encoder_2`, got None",
    ),
    "a deviation of 0": (
        lambda: {"vae": vae(latents_std=[0.0, *STD[1:]])},
        r"`latents_std` of `vae` must be 16 positive numbers, one per channel, got 0\.0",
    ),
    "a deviation that is none": (
        lambda: {"vae": vae(latents_std=[float("nan"), *STD[1:]])},
        "`latents_std` of `vae` must be 16 positive numbers, one per channel, got nan",
    ),
    "too few deviations": (
        lambda: {"vae": vae(latents_std=STD[1:])},
        "`latents_std` of `vae` must be 16 positive numbers, one per channel, got 15",
    ),
    "a mean that is none": (
        lambda: {"vae": vae(latents_mean=[float("inf"), *STD[1:]])},
        "`latents_mean` of `vae` must be 16 numbers, one per channel, got inf",
    ),
    "a scale of 0": (
        lambda: {"audio_vae": audio_vae(scaling_factor=0.0)},
        r"`scaling_factor` of `audio_vae` must be a positive number, got 0\.0",
    ),
    "the hop of the sound": (
        lambda: {"audio_vae": audio_vae(hop_length=128)},
        r"`vocoder.sampling_rate` must be 32000 to fit `audio_vae`, got 16000",
    ),
    "the hop of the vocoder": (
        lambda: {"vocoder": vocoder(upsample_rates=(8, 4, 4), upsample_kernel_sizes=(16, 8, 8))},
        r"`vocoder.sampling_rate` must be 8000 to fit `audio_vae`, got 16000",
    ),
    "the mel bins": (
        lambda: {"audio_vae": audio_vae(mel_bins=16)},
        "`vocoder.num_mel_bins` must be 16 to fit `audio_vae`, got 8",
    ),
}


@pytest.mark.parametrize(("parts", "message"), KINDS.values(), ids=KINDS.keys())
def test_a_component_of_another_kind_is_named_as_what_it_is(parts: Callable[[], dict[str, Any]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_tiny_pipeline(**parts())


def test_a_component_is_not_replaced_by_a_name_or_one_of_another_kind() -> None:
    pipeline = build_tiny_pipeline()
    with pytest.raises(ValueError, match="`scheduler` must be SchedulerMixin, got 'euler'; load or name a component"):
        pipeline.scheduler = "euler"
    with pytest.raises(
        ValueError, match=r"`vocoder` must be one of .*, got AutoencoderKLWan; load or name a component"
    ):
        pipeline.vocoder = pipeline.vae
    assert pipeline.scheduler.config.shift == 1
    assert isinstance(pipeline.vocoder, MMAudioVocoder)


@pytest.mark.parametrize(("parts", "message"), CONTRADICTIONS.values(), ids=CONTRADICTIONS.keys())
def test_a_contradiction_is_one_sentence_when_the_pipeline_is_put_together(
    parts: Callable[[], dict[str, Any]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        build_tiny_pipeline(**parts())


def test_a_contradiction_in_a_folder_is_found_when_it_is_loaded(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    folder = copytree(tiny_pipeline_folder, tmp_path / "copy")
    path = folder / "vae" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"scale_factor_temporal": 8}))
    with pytest.raises(ValueError, match="`scale_factor_temporal` of `vae` must be 4"):
        JoVAPipeline.from_pretrained(folder)


@pytest.mark.parametrize("name", ["transformer", "vae", "audio_vae", "vocoder", "text_encoder"])
def test_a_weight_that_the_checkpoint_lacks_is_named_when_the_pipeline_is_loaded(
    name: str, tiny_pipeline_folder: Path, tmp_path: Path
) -> None:
    folder = copytree(tiny_pipeline_folder, tmp_path / "copy")
    (file,) = (folder / name).glob("*.safetensors")
    tensors = load_file(file)
    lost = sorted(tensors)[len(tensors) // 2]
    save_file({key: tensor for key, tensor in tensors.items() if key != lost}, file, metadata={"format": "pt"})
    with pytest.raises(ValueError, match=rf"weights of `{name}` must all be in its checkpoint, got none for `{lost}`"):
        JoVAPipeline.from_pretrained(folder)


@pytest.mark.parametrize("lost", ["latents_mean", "latents_std"])
def test_statistics_of_a_log_mel_that_the_checkpoint_lacks_are_not_made_up(lost: str, tmp_path: Path) -> None:
    JoVALogMel().save_pretrained(tmp_path)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    kept = {key: tensor for key, tensor in load_file(file).items() if key != lost}
    save_file(kept, file, metadata={"format": "pt"})
    codec = JoVALogMel.from_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"weights of `audio_vae` must all be in .*, got none for `{lost}`"):
        JoVAPipeline(*[None] * 4, codec, None, None)


def test_a_text_encoder_that_is_handed_in_may_have_grown(tiny_pipeline_folder: Path) -> None:
    encoder = UMT5EncoderModel.from_pretrained(tiny_pipeline_folder / "text_encoder")
    encoder.resize_token_embeddings(130)  # rows that no checkpoint has
    assert JoVAPipeline.from_pretrained(tiny_pipeline_folder, text_encoder=encoder).text_encoder is encoder


@pytest.mark.parametrize(
    "missing",
    [
        {"vae": None},
        {"audio_vae": None},
        {"vocoder": None},
        {"audio_vae": None, "vocoder": None},
        {"transformer": None},
        {"text_encoder": None, "tokenizer": None},
    ],
)
def test_what_is_not_there_contradicts_nothing(missing: dict[str, None]) -> None:
    pipeline = build_tiny_pipeline(**missing)
    assert all(getattr(pipeline, name) is None for name in missing)


def test_weights_that_are_offloaded_are_not_missing() -> None:
    from accelerate import cpu_offload

    pipeline = build_tiny_pipeline()
    for name in ("transformer", "vae", "audio_vae", "vocoder"):
        cpu_offload(getattr(pipeline, name), torch.device("cpu"), offload_buffers=True)
    assert next(pipeline.vae.parameters()).device.type == "meta"
    assert JoVAPipeline.from_pipe(pipeline).vae is pipeline.vae

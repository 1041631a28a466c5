"""Pipelines whose sound comes from a waveform VAE, or from log-mel frames that the transformer generates."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import Qwen2_5OmniToken2WavBigVGANModel

from diffusers_jova import JoVAAutoencoderKLDAC, JoVALogMel, JoVAPipeline
from diffusers_jova.log_mel import brought_to_peak
from diffusers_jova.saved_pipeline import SavedPipeline
from jova_cli.main import main
from tests.tiny_pipeline import build_tiny_pipeline, build_transformer


SHORT = {"num_frames": 5, "num_inference_steps": 2, "output_type": "pt"}


def waveform_pipeline(**overrides: Any) -> JoVAPipeline:
    torch.manual_seed(0)
    dac = JoVAAutoencoderKLDAC(
        encoder_dim=4, encoder_rates=(4, 8), decoder_dim=8, decoder_rates=(8, 4), latent_dim=4, sample_rate=1000
    )
    return build_tiny_pipeline(**{"audio_vae": dac.eval(), "vocoder": None, **overrides})


def log_mel_pipeline() -> JoVAPipeline:
    torch.manual_seed(0)
    mel = JoVALogMel(sample_rate=1000, n_fft=64, hop_length=20, mel_bins=8, max_frequency_hz=400.0)
    mel.latents_mean.fill_(-5.0)
    config = Qwen2_5OmniToken2WavBigVGANModel.config_class(
        mel_dim=8, upsample_initial_channel=8, upsample_rates=[5, 4], upsample_kernel_sizes=[11, 8]
    )
    vocoder = Qwen2_5OmniToken2WavBigVGANModel(config).eval()
    transformer = build_transformer(audio_in_channels=8)
    return build_tiny_pipeline(transformer=transformer, audio_vae=mel, vocoder=vocoder)


PIPELINES = {"waveform": waveform_pipeline, "log-mel": log_mel_pipeline}


@pytest.fixture(scope="module", params=PIPELINES)
def pipeline(request: pytest.FixtureRequest) -> JoVAPipeline:
    return PIPELINES[request.param]()


def run(pipeline: JoVAPipeline, **arguments: Any) -> Any:
    generator = torch.Generator().manual_seed(0)
    return pipeline(**{"prompt": "A man speaks.", "generator": generator, **SHORT, **arguments})


def test_a_clip_has_sound_as_long_as_its_frames(pipeline: JoVAPipeline) -> None:
    output = run(pipeline)
    assert output.sampling_rate == pipeline.sampling_rate == 1000
    assert output.audio.shape == (1, 1, round(5 / 16 * 1000))
    assert output.audio.abs().max() > 0


def test_the_latents_of_a_clip_are_counted_by_the_codec() -> None:
    for make, num_latents in ((waveform_pipeline, 10), (log_mel_pipeline, 15)):  # of 312 whole samples
        latents = run(make(), output_type="latent").audio
        assert latents.shape[1] == num_latents


def test_given_sound_drives_the_video_and_comes_back_as_given(pipeline: JoVAPipeline) -> None:
    sound = (0.3 * np.sin(np.arange(1600 * 9 // 16) / 5)).astype(np.float32)
    given = {"audio": sound, "audio_sampling_rate": 1600, "num_frames": None}
    output = run(pipeline, **given)
    assert len(output.frames[0]) == 9
    resampled = np.interp(np.arange(500) / 1000, np.arange(900) / 1600, sound)
    assert np.corrcoef(output.audio[0, 0].numpy()[:500], resampled)[0, 1] > 0.9
    other = run(pipeline, **(given | {"audio": sound[::-1].copy()}))
    assert not torch.equal(output.frames, other.frames)


def test_the_pipeline_is_saved_and_loaded_as_it_is(pipeline: JoVAPipeline, tmp_path: Path) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    loaded = JoVAPipeline.from_pretrained(tmp_path / "model")
    assert (loaded.vocoder is None) == (pipeline.vocoder is None)
    expected, found = (run(each).audio for each in (pipeline, loaded.to(torch.float32)))
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-3)
    outline = SavedPipeline(tmp_path / "model").outline()
    assert outline.audio_codec.latent_rate_hz == pipeline.audio_codec.latent_rate_hz


def test_such_parts_are_assembled_from_their_folders(
    pipeline: JoVAPipeline, tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    pipeline.save_pretrained(tmp_path / "model")
    names = [name for name in ("transformer", "audio_vae", "vocoder") if getattr(pipeline, name) is not None]
    for name in names:
        (tmp_path / "model" / name).rename(tmp_path / name)  # away from the index that names their classes
    others = [f"{name}={tiny_pipeline_folder / name}" for name in ("tokenizer", "text_encoder", "vae")]
    main(["assemble", str(tmp_path / "new"), *others, *(f"{name}={tmp_path / name}" for name in names)])
    loaded = JoVAPipeline.from_pretrained(tmp_path / "new")
    assert type(loaded.audio_vae) is type(pipeline.audio_vae)
    assert type(loaded.vocoder) is type(pipeline.vocoder)
    if pipeline.vocoder is not None:
        with pytest.raises(SystemExit, match="2"):
            main(
                ["assemble", str(tmp_path / "without"), *others, *(f"{name}={tmp_path / name}" for name in names[:2])]
            )
        assert "`vocoder` must be given to a JoVALogMel" in capsys.readouterr().err


def test_a_waveform_vae_takes_the_place_of_audio_vae_and_vocoder_of_a_pipeline(
    tmp_path: Path, tiny_pipeline_folder: Path, capsys: pytest.CaptureFixture
) -> None:
    waveform_pipeline().audio_vae.save_pretrained(tmp_path / "dac")
    words = [str(tiny_pipeline_folder), f"audio_vae={tmp_path / 'dac'}"]
    main(["assemble", str(tmp_path / "new"), *words])
    assert JoVAPipeline.from_pretrained(tmp_path / "new").vocoder is None
    assert not (tmp_path / "new" / "vocoder").exists()
    with pytest.raises(SystemExit, match="2"):
        main(["assemble", str(tmp_path / "named"), *words, f"vocoder={tiny_pipeline_folder / 'vocoder'}"])
    assert "`vocoder` must be None for a JoVAAutoencoderKLDAC" in capsys.readouterr().err


def test_a_vocoder_beside_a_waveform_vae_is_refused_when_the_pipeline_is_put_together() -> None:
    with pytest.raises(ValueError, match=r"`vocoder` must be None for a JoVAAutoencoderKLDAC, .*; leave it out"):
        waveform_pipeline(vocoder=log_mel_pipeline().vocoder)


def test_sound_without_its_vocoder_is_refused_in_one_sentence() -> None:
    pipeline = build_tiny_pipeline(vocoder=None)
    with pytest.raises(ValueError, match=r"`vocoder` must be loaded where sound takes part, got None"):
        run(pipeline)


def test_frames_of_silence_lie_at_the_floor_and_stay_there() -> None:
    mel = JoVALogMel()
    silence: Tensor = mel.decode(mel.encode(torch.zeros(1, 24000)))
    assert silence.shape == (1, 100, 80)
    assert silence.exp().max() < 2e-5


def test_each_sound_is_brought_to_one_peak_and_silence_stays_silence() -> None:
    sounds = torch.tensor([[0.1, -0.2], [0.5, 0.25], [0.0, 0.0], [1e-42, 0.0]])
    expected = torch.tensor([[0.4, -0.8], [0.8, 0.4], [0.0, 0.0], [1e-42, 0.0]])  # the last is below all that sounds
    torch.testing.assert_close(brought_to_peak(sounds, 0.8), expected)

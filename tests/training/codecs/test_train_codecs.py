import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from diffusers import AutoencoderKLWan, MMAudioVAE
from diffusers.models.autoencoders.vae import DiagonalGaussianDistribution
from diffusers.pipelines.ltx2 import LTX2Vocoder
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from diffusers_jova.drawn.avatars import ClipBatch, iterate_clips, stack_clips
from diffusers_jova.drawn.corpus import make_shards
from diffusers_jova.training.codecs import train_codecs
from diffusers_jova.training.codecs.audio_vae import AudioVAETraining
from diffusers_jova.training.codecs.codec_config import VideoStage, VideoVAEConfig, load_config
from diffusers_jova.training.codecs.codec_losses import kl_divergence, mouth_weights, pixel_loss, stft_loss
from diffusers_jova.training.codecs.timed_loop import Schedule, Trainee, run
from diffusers_jova.training.codecs.train_codecs import CHAINS, main, run_chains, save_rounded
from diffusers_jova.training.codecs.video_vae import (
    VideoVAETraining,
    psnr,
    recolour,
    set_video_statistics,
    start_from_images,
    to_pixels,
)
from diffusers_jova.training.codecs.vocoder import VocoderTraining, vocode
from diffusers_jova.training.loop.muon import orthogonalise
from diffusers_jova.wan_clip import decode_clip, encode_clip
from tests.places import CONFIGS
from tests.tiny_pipeline import WAN_VAES


CONFIG = CONFIGS / "codecs_tiny.yaml"
ROUND_OFF = {"atol": 1e-5, "rtol": 1e-4}  # float32, another order of additions
TINY = {
    "corpus": {"clips": 4, "held_out": 2},
    "video_vae": {
        "model": WAN_VAES["residual"],
        "schedule": {"steps": 3},
        "stages": [{"until": 0.5, "frames": 1, "batch": 2}, {"until": 1.0, "frames": 5, "batch": 1}],
    },
    "video_decoder": {"schedule": {"steps": 2}, "mouth_weight": 16},
    "audio_vae": {
        "model": {"mel_bins": 80, "latent_channels": 4, "hidden_channels": 8, "sample_rate": 16000, "n_fft": 1024,
                  "hop_length": 256},
        "schedule": {"steps": 3},
        "batch": 2,
    },
    "vocoder": {
        "model": {"in_channels": 80, "hidden_channels": 8, "out_channels": 1, "upsample_factors": [16, 16],
                  "upsample_kernel_sizes": [32, 32], "act_fn": "snakebeta", "output_sampling_rate": 16000},
        "schedule": {"steps": 4},
        "batch": 2,
        "segment_frames": 16,
        "discriminator_width": 2,
    },
    "text_encoder": {
        "vocabulary": 300,
        "model": {"d_model": 16, "d_kv": 8, "num_heads": 2, "d_ff": 16, "num_layers": 1},
        "schedule": {"steps": 3},
        "batch": 4,
    },
}  # fmt: skip


@pytest.fixture(scope="module")
def clips() -> ClipBatch:
    return stack_clips(iterate_clips(range(8)))


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def sound(clips: ClipBatch) -> torch.Tensor:
    return torch.from_numpy(np.round(clips.waveforms * 32767).astype(np.int16))


def drop(training: Trainee, steps: int, learning_rate: float) -> tuple[float, float]:
    """Mean of the first terms of the loss at the first and at the last few of some steps."""
    for optimizer in training.optimizers.values():
        for group in optimizer.param_groups:
            group["lr"] = learning_rate
    values = []
    for step in range(steps):
        torch.manual_seed(step)
        values.append(float(next(iter(training.train_step(step, 0.0).values())).detach()))
    return float(np.mean(values[:3])), float(np.mean(values[-3:]))


# start from images


def test_a_vae_that_knows_only_images_repeats_a_still_picture() -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**WAN_VAES["plain"]).eval()
    start_from_images(vae)
    with torch.no_grad():
        clip = decode_clip(vae, encode_clip(vae, torch.randn(1, 3, 1, 16, 16).expand(-1, -1, 9, -1, -1)).mean)
    torch.testing.assert_close(clip, clip[:, :, :1].expand_as(clip), **ROUND_OFF)


# losses


def test_the_divergence_from_a_unit_gaussian_is_zero_only_for_a_unit_gaussian() -> None:
    unit = DiagonalGaussianDistribution(torch.zeros(2, 6, 5))  # [B, 2C, T], which the class's own kl refuses
    assert kl_divergence(unit) == 0
    moved = DiagonalGaussianDistribution(torch.cat([torch.full((2, 3, 5), 2.0), torch.zeros(2, 3, 5)], 1))
    assert kl_divergence(moved) == pytest.approx(2.0)  # mean^2 / 2
    narrow = DiagonalGaussianDistribution(torch.cat([torch.zeros(2, 3, 5), torch.full((2, 3, 5), -4.0)], 1))
    assert kl_divergence(narrow) > 1


def test_mouth_pixels_and_only_they_weigh_more() -> None:
    boxes = torch.tensor([[[[2.0, 1.0, 5.0, 3.0], [torch.nan] * 4]]])  # one face, two frames
    weights = mouth_weights(boxes, 6, 8, 4.0)
    assert weights.shape == (1, 1, 2, 6, 8)
    assert (weights[0, 0, 0, 1:3, 2:5] == 4).all()
    assert weights[0, 0, 0].sum() == 48 + 3 * 6
    assert (weights[0, 0, 1] == 1).all()


def test_an_error_in_the_mouth_costs_more_than_the_same_error_elsewhere() -> None:
    weights = torch.ones(1, 1, 1, 8, 8)
    weights[..., 4:6, 4:6] = 4
    target = torch.zeros(1, 3, 1, 8, 8)
    inside, outside = target.clone(), target.clone()
    inside[..., 4, 4], outside[..., 1, 1] = 1, 1
    assert pixel_loss(inside, target, weights, 0.0) == pytest.approx(4 * pixel_loss(outside, target, weights, 0.0))


def test_a_blurred_edge_costs_more_with_the_gradient_term() -> None:
    target = torch.zeros(1, 3, 1, 8, 8)
    target[..., 4:] = 1
    shifted = target + 0.1  # every pixel is wrong, no edge is
    weights = torch.ones(1, 1, 1, 8, 8)
    assert pixel_loss(shifted, target, weights, 1.0) == pytest.approx(float(pixel_loss(shifted, target, weights, 0.0)))
    blurred = torch.nn.functional.avg_pool3d(target, (1, 1, 3), 1, (0, 0, 1))
    assert pixel_loss(blurred, target, weights, 1.0) > 1.5 * pixel_loss(blurred, target, weights, 0.0)


def test_the_spectral_loss_is_zero_for_the_same_sound_and_hears_a_wrong_pitch() -> None:
    time_s = torch.arange(8192) / 16000
    low, high = (torch.sin(2 * torch.pi * hz * time_s)[None] for hz in (200, 400))
    assert stft_loss(low, low) == 0
    assert stft_loss(high, low) > stft_loss(0.8 * low, low) > 0
    convergence = stft_loss(0.8 * low, low, 2.0) - stft_loss(0.8 * low, low)
    assert float(convergence) == pytest.approx(0.2, abs=1e-3)  # |A - 0.8 A| / |A|


def test_the_signal_to_noise_ratio_of_a_tenth_of_the_range_is_twenty_decibel() -> None:
    assert psnr(torch.tensor(0.2**2)) == pytest.approx(20.0)


def test_recolouring_keeps_pixels_in_range_and_leaves_the_rest_alone() -> None:
    torch.manual_seed(0)
    video = torch.rand(8, 3, 1, 4, 4) * 2 - 1
    assert torch.equal(recolour(video, 0.0), video)
    changed = recolour(video, 1.0)
    assert changed.abs().max() <= 1
    assert (changed != video).flatten(1).any(1).all()


# trainings


def test_a_few_steps_lower_the_video_loss(clips: ClipBatch, config: Path) -> None:
    settings = load_config(config).video_vae
    torch.manual_seed(0)
    training = VideoVAETraining(settings, torch.from_numpy(clips.frames), torch.from_numpy(clips.mouth_boxes))
    first, last = drop(training, 12, 5e-3)
    assert last < 0.9 * first


def test_the_decoder_learns_on_while_the_latents_stay_to_the_bit(clips: ClipBatch) -> None:
    frames, boxes = torch.from_numpy(clips.frames[:, :9]), torch.from_numpy(clips.mouth_boxes[:, :, :9])
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**WAN_VAES["residual"])
    video = to_pixels(frames[:2])
    with torch.no_grad():
        latents = encode_clip(vae, video).mean.clone()
    stage = VideoStage(until=1.0, frames=9, batch=2)
    config = VideoVAEConfig(
        model={}, schedule=Schedule(steps=12), stages=(stage,), mouth_weight=16, bf16=False, channels_last=False
    )
    first, last = drop(VideoVAETraining(config, frames, boxes, vae), 12, 5e-3)
    assert last < 0.9 * first
    with torch.no_grad():
        assert torch.equal(encode_clip(vae, video).mean, latents)


def test_a_few_steps_lower_the_audio_loss(clips: ClipBatch, config: Path) -> None:
    torch.manual_seed(0)
    first, last = drop(AudioVAETraining(load_config(config).audio_vae, sound(clips)), 12, 1e-2)
    assert last < 0.8 * first


def test_a_few_steps_lower_the_vocoder_loss_on_decoded_mels_too(clips: ClipBatch, config: Path) -> None:
    settings = load_config(config)
    torch.manual_seed(0)
    vae = MMAudioVAE(**settings.audio_vae.model)
    training = VocoderTraining(settings.vocoder, vae, sound(clips))
    first, last = drop(training, 10, 1e-2)
    assert last < 0.8 * first
    terms = training.train_step(0, 1.0)
    assert {"judge", "adversarial", "features"} <= set(terms)
    assert all(torch.isfinite(value) for value in terms.values())


def test_a_resumed_training_equals_an_uninterrupted_one_to_the_bit(
    clips: ClipBatch, config: Path, tmp_path: Path
) -> None:
    settings = load_config(config)
    vae = MMAudioVAE(**settings.audio_vae.model)

    def train(name: str, interrupted_at: int | None) -> dict[str, torch.Tensor]:
        torch.manual_seed(0)
        training = VocoderTraining(settings.vocoder, vae, sound(clips))
        take_step = training.train_step

        def stumble(step: int, progress: float) -> Mapping[str, torch.Tensor]:
            if step == interrupted_at:
                raise KeyboardInterrupt
            return take_step(step, progress)

        training.train_step = stumble  # type: ignore[method-assign]
        run(training, Schedule(steps=4, checkpoint_s=-1.0), tmp_path / f"{name}.safetensors", {})
        return training.vocoder.state_dict()

    whole = train("whole", None)
    with pytest.raises(KeyboardInterrupt):
        train("parts", 2)
    resumed = train("parts", None)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_a_checkpoint_of_other_settings_is_refused(clips: ClipBatch, config: Path, tmp_path: Path) -> None:
    training = AudioVAETraining(load_config(config).audio_vae, sound(clips))
    run(training, Schedule(steps=1), tmp_path / "c.safetensors", {"size": 1})
    with pytest.raises(ValueError, match="must be made with the present settings"):
        run(training, Schedule(steps=1), tmp_path / "c.safetensors", {"size": 2})


def test_a_loss_that_is_no_number_ends_the_run(clips: ClipBatch, config: Path, tmp_path: Path) -> None:
    training = AudioVAETraining(load_config(config).audio_vae, sound(clips))
    torch.nn.init.constant_(training.vae.vae.decoder.conv_in.weight, torch.nan)
    with pytest.raises(FloatingPointError, match="lower `learning_rate`"):
        run(training, Schedule(steps=1), tmp_path / "c.safetensors", {})
    assert not (tmp_path / "c.safetensors").exists()


def test_weights_that_are_no_numbers_are_not_saved_between_two_lines_of_the_log(tmp_path: Path) -> None:
    class Breaking:
        def __init__(self) -> None:
            self.modules = {"model": torch.nn.Linear(2, 2)}
            self.optimizers: dict[str, torch.optim.Optimizer] = {}

        def train_step(self, step: int, progress: float) -> Mapping[str, torch.Tensor]:
            if step == 1:
                torch.nn.init.constant_(self.modules["model"].weight, torch.inf)
            return {"loss": torch.tensor(1.0)}

    path = tmp_path / "c.safetensors"
    with pytest.raises(FloatingPointError, match=r"at step 2; lower `learning_rate`, delete `.*c\.safetensors` and"):
        run(Breaking(), Schedule(steps=9, checkpoint_s=-1.0), path, {})
    assert load_file(path)["module.model.weight"].isfinite().all()
    path.unlink()  # what the error says
    torch.manual_seed(0)
    healthy = Breaking()
    healthy.train_step = lambda *_: {"loss": torch.tensor(1.0)}  # type: ignore[method-assign]
    assert run(healthy, Schedule(steps=3, learning_rate=1e-5), path, {"rate": 1})["steps"] == 3


@pytest.mark.parametrize("shape", [(6, 24), (24, 6)])
def test_an_orthogonalised_step_has_singular_values_near_one(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    matrices = torch.randn(3, *shape) * torch.tensor([1e-4, 1.0, 1e4])[:, None, None]
    values = torch.linalg.svdvals(orthogonalise(matrices))
    assert values.min() > 0.6  # the quintic trades exactness for speed: it ends in [0.7, 1.2]
    assert values.max() < 1.3


# config and saving


def test_the_learning_rate_warms_up_and_ends_low() -> None:
    schedule = Schedule(steps=1000, learning_rate=1.0, warmup_steps=10, final_share=0.1)
    rates = [schedule.learning_rate_at(step, schedule.progress(step, 0.0)) for step in range(1001)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) > 0.99
    assert rates[-1] == pytest.approx(0.1)


def test_minutes_end_a_run_as_steps_do() -> None:
    schedule = Schedule(steps=100, minutes=1.0)
    assert schedule.progress(50, 6.0) == 0.5
    assert schedule.progress(1, 60.0) == 1
    with pytest.raises(ValueError, match="set at least one limit"):
        Schedule()


def test_the_shipped_config_describes_models_that_fit_the_package() -> None:
    config = load_config(CONFIG)
    with torch.device("meta"):
        video = AutoencoderKLWan(**config.video_vae.model)
        audio = MMAudioVAE(**config.audio_vae.model)
        vocoder = LTX2Vocoder(**config.vocoder.model)
    megabytes = [2e-6 * sum(p.numel() for p in model.parameters()) for model in (video, audio, vocoder)]
    assert all(size < limit for size, limit in zip(megabytes, (8, 10, 4), strict=True)), megabytes


def test_an_unknown_field_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**TINY, "audio_vae": {**TINY["audio_vae"], "bach": 4}}))
    with pytest.raises(ValueError, match=r"`audio_vae\.bach` must be a known field.*did you mean `audio_vae\.batch`"):
        load_config(path)


@pytest.mark.parametrize("name", ["video_vae", "corpus"])
def test_a_group_without_fields_is_refused(tmp_path: Path, name: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(yaml.safe_dump({**TINY, name: None}))
    with pytest.raises(ValueError, match=f"`{name}` must hold fields, got None"):
        load_config(path)
    path.write_text(yaml.safe_dump({**TINY, "video_decoder": None}))
    assert load_config(path).video_decoder is None


@pytest.mark.slow
def test_the_decoder_of_another_video_vae_is_not_continued(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(config), "--output", str(tmp_path), "--component", "video_vae", "--processes", "1"]
    main(command)
    (tmp_path / "vae" / "report.json").unlink()
    tensors = load_file(tmp_path / "checkpoints" / "video_vae.safetensors")
    with safe_open(tmp_path / "checkpoints" / "video_vae.safetensors", framework="pt") as stored:
        header = stored.metadata()
    tensors["average.encoder.conv_in.weight"] += 1
    save_file(tensors, tmp_path / "checkpoints" / "video_vae.safetensors", metadata=header)
    with pytest.raises(SystemExit):
        main(command)
    error = capsys.readouterr().err
    assert "video_decoder.safetensors` must be made with the present settings, got `encoder`" in error


def test_a_stage_with_a_number_of_frames_that_wan_cannot_encode_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    stages = [{"until": 1.0, "frames": 8, "batch": 1}]
    path.write_text(yaml.safe_dump({**TINY, "video_vae": {**TINY["video_vae"], "stages": stages}}))
    with pytest.raises(ValueError, match="must be 4k \\+ 1"):
        load_config(path)


def test_saved_weights_are_rounded_but_filters_and_statistics_are_exact(tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = MMAudioVAE(**TINY["audio_vae"]["model"])
    vae.vae.data_mean.fill_(-6.123456)
    filters = vae.mel_converter.mel_basis.clone()
    loaded = save_rounded(vae, tmp_path)
    assert torch.equal(loaded.mel_converter.mel_basis, filters)
    assert loaded.vae.data_mean.unique() == torch.tensor(-6.123456)
    weight = loaded.vae.encoder.conv_in.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, weight.bfloat16().float())


def test_stored_statistics_normalise_the_latents(clips: ClipBatch, tmp_path: Path) -> None:
    torch.manual_seed(0)
    vae = AutoencoderKLWan(**WAN_VAES["residual"])
    frames = torch.from_numpy(clips.frames)[:2]
    set_video_statistics(vae, frames)
    loaded = save_rounded(vae, tmp_path)
    with torch.no_grad():
        latents = loaded.encode(to_pixels(frames)).latent_dist.mode()
    mean, std = (
        torch.tensor(values).view(1, -1, 1, 1, 1) for values in (loaded.config.latents_mean, loaded.config.latents_std)
    )
    normalised = ((latents - mean) / std).transpose(0, 1).flatten(1)
    # bfloat16 keeps three digits
    torch.testing.assert_close(normalised.mean(1), torch.zeros(4), atol=0.1, rtol=0)
    assert float(normalised.var(1).mean()) == pytest.approx(1, abs=0.1)
    assert len(set(loaded.config.latents_std)) == 1  # channels keep their proportions


# the whole command


@pytest.mark.slow
def test_one_command_makes_all_components_and_leaves_finished_ones_alone(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    names = "video_vae,audio_vae,vocoder,text_encoder"
    command = ["--config", str(config), "--output", str(tmp_path), "--component", names, "--processes", "1"]
    main(command)
    vae = AutoencoderKLWan.from_pretrained(tmp_path / "vae")
    audio_vae = MMAudioVAE.from_pretrained(tmp_path / "audio_vae")
    vocoder = LTX2Vocoder.from_pretrained(tmp_path / "vocoder")
    waveform = vocode(vocoder, audio_vae.decode(torch.randn(1, 4, 6)).sample)
    assert waveform.shape == (1, 6 * 512)
    assert vae.decode(torch.randn(1, 4, 2, 2, 2)).sample.shape == (1, 3, 5, 16, 16)
    assert json.loads((tmp_path / "vae" / "report.json").read_text())["decoder"]["steps"] == 2
    assert json.loads((tmp_path / "vae" / "report.json").read_text())["before_decoder"]["psnr_db"] > 0
    for folder in ("vae", "audio_vae", "vocoder", "text_encoder"):
        report = json.loads((tmp_path / folder / "report.json").read_text())
        assert all(np.isfinite(value) for value in report["held_out"].values())
    capsys.readouterr()
    main(command)
    assert capsys.readouterr().out.count("is finished") == 4

    slower = {**TINY["vocoder"], "schedule": {"steps": 4, "learning_rate": 1e-4}}
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**TINY, "vocoder": slower, "corpus": {"clips": 4, "held_out": 3}}))
    command = ["--config", str(other), *command[2:]]
    assert "`vocoder.schedule.learning_rate` 0.001 there, 0.0001 here; delete it" in refusal(command, capsys)
    report = json.loads((tmp_path / "vocoder" / "report.json").read_text())
    report.pop("settings")
    (tmp_path / "vocoder" / "report.json").write_text(json.dumps(report))
    main(command)  # a report without settings counts as one of the present ones
    assert capsys.readouterr().out.count("is finished") == 4


def refusal(command: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which a command ends."""
    with pytest.raises(SystemExit, match="2"):
        main(command)
    return capsys.readouterr().err


def test_a_vocoder_of_another_audio_vae_is_neither_finished_nor_continued(
    config: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--config", str(config), "--output", str(tmp_path), "--component", "audio_vae,vocoder"]
    command += ["--processes", "1"]
    main(command)
    weights = tmp_path / "audio_vae" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["vae.decoder.conv_in.weight"] *= 2
    save_file(tensors, weights)
    assert "vocoder` must be made with the present settings, got `audio_vae`" in refusal(command, capsys)
    (tmp_path / "vocoder" / "report.json").unlink()
    error = refusal(command, capsys)
    assert "vocoder.safetensors` must be made with the present settings, got `audio_vae`" in error


def test_clips_of_another_voice_and_a_config_with_a_mistake_end_in_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    make_shards(tmp_path / "corpus", range(4), speech="formant")
    other = tmp_path / "other.yaml"
    other.write_text(yaml.safe_dump({**TINY, "corpus": {"clips": 4, "speech": "espeak"}}))
    command = ["--output", str(tmp_path), "--component", "text_encoder", "--config"]
    for processes in ("1", "2"):
        assert "`speech` formant there, espeak here" in refusal(
            [*command, str(other), "--processes", processes], capsys
        )
    other.write_text("corpus: [")
    assert "must be valid YAML" in refusal([*command, str(other)], capsys)
    assert "No such file" in refusal([*command, str(tmp_path / "none.yaml")], capsys)


@pytest.mark.parametrize(("given", "num_threads"), [({}, "2"), ({"OMP_NUM_THREADS": "5"}, "5")], ids=["alone", "told"])
def test_chains_share_the_cores_unless_told_otherwise(
    given: dict[str, str], num_threads: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    started: list[dict[str, str]] = []

    class Process:
        def __init__(self, command: list[str], env: dict[str, str]) -> None:
            started.append(env)

        def wait(self) -> int:
            return 0

    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(train_codecs.os, "cpu_count", lambda: 2 * len(CHAINS) + 1)
    monkeypatch.setattr(train_codecs.subprocess, "Popen", Process)
    assert run_chains([]) == 0
    assert [environment["OMP_NUM_THREADS"] for environment in started] == [num_threads] * len(CHAINS)
    assert all("PATH" in environment for environment in started)

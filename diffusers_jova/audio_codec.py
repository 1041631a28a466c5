"""Waveform to latents and back: the only view that the pipeline and the training have of an audio VAE and its vocoder.

Sound becomes latents in four ways. `MMAudioVAE` takes a waveform and speaks [B, C, L]; `AutoencoderKLLTX2Audio` takes
a log-mel spectrogram and speaks [B, C, L, M'], normalised per channel; both decode to a log-mel for a vocoder. A
waveform VAE, Kandinsky's or a DAC, decodes to the waveform itself. And where the model generates log-mel frames,
`JoVALogMel` stands in place of a VAE. Which one is at hand is decided by what its config offers, never by a class or a
checkpoint. The transformer sees [B, L, C] from all.

Letters: B batch, C latent channels, L latents, S samples, T mel frames, M mel bins.
"""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from jova_cli.latent_lengths import AudioClock, Rounding
from jova_cli.model_clips import vocoder_channels

from .decoder_reach import Generator, reach_latents, reach_mel_frames
from .finite import finite_output
from .log_mel import centred_log_mel
from .media import resample
from .number_arguments import positive_number, whole_number


SPECTROGRAM_FFT_LENGTH = 1024  # of the LTX-2 front end; no config holds it


class JoVAAudioCodec:
    """An audio VAE with its vocoder, as sound in and sound out.

    Both networks run in their own dtype and are called through their public methods only, so that every kind of
    offloading works. Vocoding goes through chunks that overlap by the vocoder's structural reach: the result is that
    of the whole, to round-off, and long sound does not need long memory.

    Args:
        audio_vae: `MMAudioVAE`, `AutoencoderKLLTX2Audio`, `AutoencoderKLKVAEAudio`, `JoVAAutoencoderKLDAC`, or
            `JoVALogMel` in place of a VAE.
        vocoder: The vocoder that belongs to it: `MMAudioVocoder`, `LTX2Vocoder`, `LTX2VocoderWithBWE` or transformers'
            `Qwen2_5OmniToken2WavBigVGANModel`; None for a VAE that decodes to a waveform.
        chunk_mel_frames: Mel frames, or latents of a VAE without a vocoder, that become samples at once, overlap not
            counted.

    Raises:
        ValueError: If the vocoder does not fit the VAE, is missing or has nothing to do.
    """

    def __init__(self, audio_vae: Any, vocoder: Any = None, chunk_mel_frames: int = 512) -> None:
        self._vae = _view_of(audio_vae)
        self._vocoder: _SoundDecoder
        if needs_vocoder(audio_vae):
            if vocoder is None:
                raise ValueError(
                    f"`vocoder` must be given to a {type(audio_vae).__name__}, which decodes to a spectrogram, got "
                    "None; load the vocoder of this audio VAE"
                )
            self._vocoder = _Vocoder(vocoder)
        else:
            if vocoder is not None:
                raise ValueError(
                    f"`vocoder` must be None for a {type(audio_vae).__name__}, which decodes to a waveform, got a "
                    f"{type(vocoder).__name__}; leave it out"
                )
            self._vocoder = _WaveformDecoder(audio_vae)
        self._chunk_mel_frames = whole_number("chunk_mel_frames", chunk_mel_frames, least=1)
        self._check_that_both_fit()

    @property
    def latent_rate_hz(self) -> float:
        """Latents per second."""
        return self.clock.latent_rate_hz

    @property
    def clock(self) -> AudioClock:
        """How many latents a sound has."""
        samples_per_latent = self._vae.hop_length_samples * self._vae.mel_frames_per_latent
        return AudioClock(self._vae.sampling_rate, samples_per_latent, self._vae.rounding)

    @property
    def latent_channels(self) -> int:
        """Width of one latent as the transformer sees it."""
        return self._vae.latent_channels

    @property
    def sampling_rate(self) -> int:
        """Samples per second of the waveform, in and out."""
        rate = self._vae.sampling_rate * self._vocoder.hop_length_samples / self._vae.hop_length_samples
        return round(rate)

    @property
    def num_channels(self) -> int:
        """Channels of the waveform: 1 is mono, 2 is stereo."""
        return self._vocoder.num_channels

    def num_latents_for(self, duration_s: float) -> int:
        """Number of latents of a clip of ``duration_s`` seconds, by the codec's own rule, at least 1.

        Most take those whose duration is nearest. A waveform VAE fills its last latent up with silence, so it takes
        all that are begun; log-mel frames take those that are filled.
        """
        duration_s = positive_number("duration_s", duration_s, "use 5.0, say")
        return self.clock.num_latents(duration_s)

    def num_samples_for(self, num_latents: int) -> int:
        """Number of samples that ``num_latents`` decode to, and that encode to ``num_latents``."""
        return self._vae.num_mel_frames_for(num_latents) * self._vocoder.hop_length_samples

    @property
    def min_num_samples(self) -> int:
        """Number of samples of the shortest sound that can be encoded."""
        shortest = math.ceil(self._vae.min_num_samples * self.sampling_rate / self._vae.sampling_rate)
        return max(shortest, self.num_samples_for(1))

    def encode(self, waveform: Tensor, name: str = "waveform") -> Tensor:
        """Encode sound to the mean of its posterior, scaled as the transformer sees it.

        Args:
            waveform: Float [B, num_channels, S] in [-1, 1] at `sampling_rate`.
            name: Argument that it came from, which errors name.

        Returns:
            Latents [B, L, C], float32. A remainder shorter than one latent is dropped, by a waveform VAE filled up.

        Raises:
            ValueError: For another shape, or sound too short for one latent.
        """
        if waveform.ndim != 3 or waveform.shape[1] != self.num_channels:
            raise ValueError(
                f"`{name}` must have the shape [B, {self.num_channels}, S], got {list(waveform.shape)}; "
                "`media.mix_channels` changes the number of channels"
            )
        waveform = _resample(waveform.float(), self.sampling_rate, self._vae.sampling_rate)
        if waveform.shape[2] < self._vae.min_num_samples:
            min_s, duration_s = (
                samples / self._vae.sampling_rate for samples in (self._vae.min_num_samples, waveform.shape[2])
            )
            raise ValueError(f"`{name}` must last at least {min_s:.4f} s, got {duration_s:.4f} s; use longer sound")
        return self._vae.encode(waveform).float()

    def decode(self, latents: Tensor) -> Tensor:
        """Decode latents to sound.

        Args:
            latents: [B, L, C], scaled as the transformer sees them.

        Returns:
            Waveform [B, num_channels, num_samples_for(L)] at `sampling_rate`, float32.

        Raises:
            ValueError: For another shape.
            FloatingPointError: If what the VAE or the vocoder makes is not finite.
        """
        if latents.ndim != 3 or latents.shape[2] != self.latent_channels or latents.shape[1] == 0:
            raise ValueError(
                f"`latents` must have the shape [B, L, {self.latent_channels}], got {list(latents.shape)}; "
                "decode with the codec that the latents were made with"
            )
        mel = finite_output(self._vae.decode(latents), "audio_vae", "decodes")
        return finite_output(self._vocode(mel).float(), "audio_vae", "decodes", by=self._vocoder.name)

    def _vocode(self, mel: Tensor) -> Tensor:
        """Log-mel [B, channels, T, M] to waveform [B, num_channels, T * hop], chunk by chunk."""
        num_mel_frames, hop, reach = mel.shape[2], self._vocoder.hop_length_samples, self._vocoder.reach_mel_frames
        pieces = []
        for start in range(0, num_mel_frames, self._chunk_mel_frames):
            stop = min(start + self._chunk_mel_frames, num_mel_frames)
            # A true end of the sound gets no overlap: there the network's own padding belongs.
            first, last = max(start - reach, 0), min(stop + reach, num_mel_frames)
            waveform = self._vocoder(mel[:, :, first:last])
            pieces.append(waveform[..., (start - first) * hop : (stop - first) * hop])
        return torch.cat(pieces, dim=-1)

    def _check_that_both_fit(self) -> None:
        vae, vocoder = self._vae, self._vocoder
        for name, wanted, got in (
            # A vocoder that names no rate keeps that of the VAE.
            ("vocoder.sampling_rate", self.sampling_rate, vocoder.sampling_rate or vae.sampling_rate),
            ("vocoder.num_mel_bins", vae.num_mel_bins, vocoder.num_mel_bins),
            ("vocoder.num_channels", vae.num_channels, vocoder.num_channels),
        ):
            if got != wanted:
                raise ValueError(
                    f"`{name}` must be {wanted} to fit `audio_vae`, got {got}; load the vocoder of this audio VAE"
                )


# --- audio VAEs ---


class _AudioVAE(Protocol):
    """What the codec asks of an audio VAE; samples and rates are those of the VAE's own input."""

    sampling_rate: int
    hop_length_samples: int
    mel_frames_per_latent: int
    rounding: Rounding
    num_mel_bins: int  # of all channels together
    num_channels: int
    latent_channels: int
    min_num_samples: int

    def num_mel_frames_for(self, num_latents: int) -> int: ...
    def encode(self, waveform: Tensor) -> Tensor: ...
    def decode(self, latents: Tensor) -> Tensor: ...


def needs_vocoder(audio_vae: Any) -> bool:
    """Whether an audio VAE decodes to a spectrogram, which a vocoder makes sound of, and not to a waveform."""
    return "encoder_rates" not in audio_vae.config


def _view_of(audio_vae: Any) -> _AudioVAE:
    """An audio VAE as the codec sees it, by what its config offers."""
    if "mel_hop_length" in audio_vae.config:
        return _SpectrogramVAE(audio_vae)
    if "max_frequency_hz" in audio_vae.config:
        return _LogMel(audio_vae)
    return _WaveformVAE(audio_vae) if needs_vocoder(audio_vae) else _SoundVAE(audio_vae)


class _WaveformVAE:
    """Mono waveform in, latents [B, C, L], log-mel [B, M, T] out; scaled by one factor."""

    rounding: Rounding = "nearest"
    num_channels = 1

    def __init__(self, module: Any) -> None:
        config = module.config
        self.module = module
        self.sampling_rate: int = config.sample_rate
        self.hop_length_samples: int = config.hop_length
        self.mel_frames_per_latent: int = module.latent_hop_length // config.hop_length
        self.num_mel_bins: int = config.mel_bins
        self.latent_channels: int = config.latent_channels
        reflected = (config.n_fft - config.hop_length) // 2  # a reflection must be shorter than what it reflects
        self.min_num_samples: int = max(module.latent_hop_length, reflected + 1)

    def num_mel_frames_for(self, num_latents: int) -> int:
        return num_latents * self.mel_frames_per_latent

    def encode(self, waveform: Tensor) -> Tensor:
        with _in_float32(self.module):  # the mel front end has no half precision FFT
            posterior = self.module.encode(waveform.squeeze(1), return_dict=False)[0]
        return posterior.mode().transpose(1, 2) * self.module.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        latents = (latents.float() / self.module.config.scaling_factor).transpose(1, 2)
        # its norms are taken in float32, which no float64 is narrowed to
        with _in_float32(self.module) if self.module.dtype == torch.float64 else nullcontext():
            mel = self.module.decode(latents.to(self.module.dtype), return_dict=False)[0]
        return mel.transpose(1, 2).unsqueeze(1)


class _SpectrogramVAE:
    """Log-mel [B, channels, T, M] in and out, latents [B, C, L, M / 4] packed to [B, L, C * M / 4]; causal in time."""

    rounding: Rounding = "nearest"

    def __init__(self, module: Any) -> None:
        config = module.config
        self.module = module
        self.sampling_rate: int = config.sample_rate
        self.hop_length_samples: int = config.mel_hop_length
        self.mel_frames_per_latent: int = module.temporal_compression_ratio
        self.num_mel_bins: int = config.mel_bins * config.output_channels
        self.num_channels: int = config.in_channels
        self.latent_channels: int = config.latent_channels * config.mel_bins // module.mel_compression_ratio
        self.min_num_samples: int = SPECTROGRAM_FFT_LENGTH // 2 + 1  # for the reflection

    def num_mel_frames_for(self, num_latents: int) -> int:
        # Causal: the first latent holds one mel frame.
        return (num_latents - 1) * self.mel_frames_per_latent + 1

    def encode(self, waveform: Tensor) -> Tensor:
        num_mel_bins = self.module.config.mel_bins
        mel = centred_log_mel(
            waveform, self.sampling_rate, self.hop_length_samples, num_mel_bins, SPECTROGRAM_FFT_LENGTH
        )
        posterior = self.module.encode(mel.to(self.module.dtype), return_dict=False)[0]
        latents = posterior.mode().float().transpose(1, 2).flatten(2)  # [B, L, C * M / 4]
        latents_mean, latents_std = self._statistics(latents)
        return (latents - latents_mean) / latents_std

    def decode(self, latents: Tensor) -> Tensor:
        latents_mean, latents_std = self._statistics(latents)
        latents = latents.float() * latents_std + latents_mean
        latents = latents.unflatten(2, (self.module.config.latent_channels, -1)).transpose(1, 2)
        return self.module.decode(latents.to(self.module.dtype), return_dict=False)[0]

    def _statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        return tuple(x.to(latents.device, torch.float32) for x in (self.module.latents_mean, self.module.latents_std))


class _SoundVAE:
    """Waveform in and out, latents [B, C, L]; the latents take the place of a mel, for `_WaveformDecoder`."""

    rounding: Rounding = "up"
    mel_frames_per_latent = 1

    def __init__(self, module: Any) -> None:
        config = module.config
        self.module = module
        self.sampling_rate: int = config.sample_rate
        self.hop_length_samples: int = math.prod(config.encoder_rates)
        self.latent_channels: int = config.get("codebook_dim", config.latent_dim)
        self.num_mel_bins: int = self.latent_channels
        self.num_channels: int = config.num_channels
        self.min_num_samples = 1

    def num_mel_frames_for(self, num_latents: int) -> int:
        return num_latents

    def encode(self, waveform: Tensor) -> Tensor:
        posterior = self.module.encode(waveform.to(self.module.dtype), return_dict=False)[0]
        return posterior.mode().transpose(1, 2)

    def decode(self, latents: Tensor) -> Tensor:
        return latents.unsqueeze(1)


class _LogMel:
    """Mono waveform in, log-mel [B, 1, T, M] out, latents [B, T, M]: its normalised frames."""

    rounding: Rounding = "down"
    mel_frames_per_latent = 1
    num_channels = 1

    def __init__(self, module: Any) -> None:
        config = module.config
        self.module = module
        self.sampling_rate: int = config.sample_rate
        self.hop_length_samples: int = config.hop_length
        self.num_mel_bins: int = config.mel_bins
        self.latent_channels: int = config.mel_bins
        reflected = (config.n_fft - config.hop_length) // 2
        self.min_num_samples: int = max(config.hop_length, reflected + 1)

    def num_mel_frames_for(self, num_latents: int) -> int:
        return num_latents

    def encode(self, waveform: Tensor) -> Tensor:
        with _in_float32(self.module):  # the front end has no half precision FFT
            latents: Tensor = self.module.encode(waveform.squeeze(1))
        return latents

    def decode(self, latents: Tensor) -> Tensor:
        with _in_float32(self.module):
            mel: Tensor = self.module.decode(latents.float())
        return mel.unsqueeze(1)


@contextmanager
def _in_float32(module: Any) -> Iterator[None]:
    """Run a module in float32, and give it its dtype back; widening and narrowing again changes no weight."""
    dtype = module.dtype
    if dtype == torch.float32:
        yield
        return
    nn.Module.to(module, torch.float32)  # not ModelMixin's own `to`, which warns at every change of dtype
    try:
        yield
    finally:
        nn.Module.to(module, dtype)


def _resample(waveform: Tensor, sampling_rate: int, target_rate: int) -> Tensor:
    if sampling_rate == target_rate:
        return waveform
    return torch.from_numpy(resample(waveform.cpu().numpy(), sampling_rate, target_rate)).to(waveform.device)


# --- vocoders ---


class _SoundDecoder(Protocol):
    """What the codec asks of what makes sound: frames [B, channels, T, M] to waveform [B, num_channels, T * hop]."""

    name: str  # of the component in a pipeline
    sampling_rate: int | None  # None keeps that of the VAE
    num_mel_bins: int
    num_channels: int
    hop_length_samples: int
    reach_mel_frames: int

    def __call__(self, mel: Tensor) -> Tensor: ...


class _Vocoder:
    """Log-mel [B, channels, T, M] to waveform [B, num_channels, T * hop_length_samples]."""

    name = "vocoder"

    def __init__(self, module: Any) -> None:
        is_mapping = isinstance(module.config, Mapping)
        config: Mapping[str, Any] = module.config if is_mapping else module.config.to_dict()  # transformers' is none
        self.module = module
        own_name = next((name for name in ("num_mels", "mel_dim") if name in config), None)
        self.takes_one_mel = own_name is not None  # [B, M, T]; the others take [B, channels, T, M]
        self.num_mel_bins: int = config[own_name or "in_channels"]
        self.sampling_rate: int | None = config.get("output_sampling_rate")
        extends_bandwidth = "bwe_out_channels" in config
        self.num_channels: int = vocoder_channels(config)
        self.hop_length_samples: int = math.prod(Generator.from_config(config).factors)
        if extends_bandwidth:
            self.hop_length_samples *= config["output_sampling_rate"] // config["input_sampling_rate"]
        self.reach_mel_frames: int = reach_mel_frames(config)

    def __call__(self, mel: Tensor) -> Tensor:
        mel = mel.to(self.module.dtype)
        if not self.takes_one_mel:
            return self.module(mel)
        output = self.module(mel.squeeze(1).transpose(1, 2))
        waveform: Tensor = output if isinstance(output, Tensor) else output[0]
        return waveform.reshape(mel.shape[0], 1, -1)  # transformers squeezes


class _WaveformDecoder:
    """The decoder of a waveform VAE in place of a vocoder: latents [B, 1, L, C] to waveform [B, channels, L * hop]."""

    name = "audio_vae"

    def __init__(self, module: Any) -> None:
        config = module.config
        self.module = module
        self.sampling_rate: int | None = None
        self.num_mel_bins: int = config.get("codebook_dim", config.latent_dim)
        self.num_channels: int = config.num_channels
        self.hop_length_samples: int = math.prod(config.decoder_rates)
        self.reach_mel_frames: int = reach_latents(config.decoder_rates)

    def __call__(self, mel: Tensor) -> Tensor:
        latents = mel.squeeze(1).transpose(1, 2).to(self.module.dtype)
        return self.module.decode(latents, return_dict=False)[0]

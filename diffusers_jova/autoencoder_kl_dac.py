"""The continuous DAC: a waveform VAE without a vocoder, as MOVA and HunyuanVideo-Foley have it."""

from collections.abc import Sequence

from diffusers import AutoencoderKLKVAEAudio
from diffusers.configuration_utils import register_to_config
from torch import nn


class JoVAAutoencoderKLDAC(AutoencoderKLKVAEAudio):
    """Kandinsky's audio VAE without the self-attention behind its encoder.

    It is that of MOVA (OpenMOSS/MOVA @ 595a976, mova/diffusion/models/dac_vae.py) with `continuous=True`.

    Sound [B, 1, S] in [-1, 1] becomes one latent [B, C, L] per product of the rates, filled up with silence at its
    end; a latent becomes as many samples.

    Args:
        encoder_dim: Channels of the first convolution, doubled at each rate.
        encoder_rates: Samples per sample of each down-sampling.
        latent_dim: Channels of a latent, C.
        decoder_dim: Channels behind the decoder's first convolution, halved at each rate.
        decoder_rates: Samples per sample of each up-sampling.
        sample_rate: Samples per second.
        num_channels: Channels of the sound.
    """

    @register_to_config  # from_pretrained drops what this signature does not name
    def __init__(
        self,
        encoder_dim: int = 128,
        encoder_rates: Sequence[int] = (2, 3, 4, 5, 8),
        latent_dim: int = 128,
        decoder_dim: int = 2048,
        decoder_rates: Sequence[int] = (8, 5, 4, 3, 2),
        sample_rate: int = 48000,
        num_channels: int = 1,
    ) -> None:
        AutoencoderKLKVAEAudio.__init__.__wrapped__(  # undecorated, it adds nothing to the config above
            self,
            encoder_dim,
            list(encoder_rates),
            latent_dim,
            latent_dim,
            decoder_dim,
            list(decoder_rates),
            sample_rate,
            num_channels,
            attn_num_heads=1,
        )
        self.attn = nn.Identity()

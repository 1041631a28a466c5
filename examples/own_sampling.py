"""A denoising loop of your own: text encoder, transformer, guidance, scheduler, codecs; not the pipeline's call.

    python examples/own_sampling.py jova-tiny "A cartoon woman speaks." clip.mp4

From the same noise it comes to what `pipe(prompt)` comes to, with the model's own guidance, steps and solver. Noise
levels per latent, another guidance or another order go into `denoise`. What attention computes can be kept or changed
by a processor derived from `JoVAJointAttnProcessor`, whose `attend` gets queries, keys and values:
`pipe.transformer.set_attn_processor(...)`.
"""

import sys

import torch
from torch import Tensor

from diffusers_jova import FlowMatchAudioVideoScheduler, JoVAPipeline
from diffusers_jova.conditions import condition_channels
from diffusers_jova.guidance import Branch, required_branches
from diffusers_jova.pipeline_output import JoVAPipelineOutput


@torch.no_grad()
def denoise(pipe: JoVAPipeline, prompt: str, video: Tensor, audio: Tensor) -> tuple[Tensor, Tensor]:
    """Walk from noise to latents.

    Args:
        pipe: Whose components are used.
        prompt: What the clip shows and says.
        video: Noise [1, C, F, H, W].
        audio: Noise [1, L, C].
    """
    defaults, guidance = pipe.defaults, pipe.defaults.guidance()
    scheduler = FlowMatchAudioVideoScheduler.from_scheduler(pipe.scheduler)
    scheduler.set_timesteps(defaults.num_inference_steps)
    with_prompt, without_prompt, _ = pipe.encode_prompt(prompt)
    for step, (timestep, audio_timestep) in enumerate(
        zip(scheduler.timesteps, scheduler.audio_timesteps, strict=True)
    ):
        conditioned = video
        if pipe.num_mask_channels is not None:  # the place of a reference image, which there is none of
            conditioned = torch.cat([video, condition_channels(video, None, pipe.num_mask_channels)], dim=1)
        weights = {name: guidance[name].weights(step, len(scheduler.timesteps)) for name in ("video", "audio")}
        predictions: dict[str, dict[Branch, Tensor]] = {"video": {}, "audio": {}}
        for branch in required_branches(*weights.values()):
            embeds = with_prompt if branch.text else without_prompt
            predictions["video"][branch], predictions["audio"][branch] = pipe.transformer(
                conditioned,
                audio,
                embeds.features,
                timestep.expand(1),
                audio_timestep.expand(1),
                encoder_attention_mask=embeds.mask,
                coupled=branch.coupled,
                frame_rate=defaults.frame_rate,
                audio_latent_rate_hz=pipe.audio_codec.latent_rate_hz,
                return_dict=False,
            )
        video, audio = scheduler.step(
            guidance["video"].guide(predictions["video"], weights["video"], video, scheduler.sigmas[step]),
            guidance["audio"].guide(predictions["audio"], weights["audio"], audio, scheduler.audio_sigmas[step]),
            timestep,
            video,
            audio,
            return_dict=False,
        )
    return video, audio


def main(model: str, prompt: str, output: str) -> None:
    """Make one clip and write it."""
    pipe = JoVAPipeline.from_pretrained(model)
    defaults, generator = pipe.defaults, torch.Generator().manual_seed(0)
    shape = pipe.video_codec.latent_shape(defaults.num_frames, defaults.height, defaults.width)
    num_latents = pipe.audio_codec.num_latents_for(defaults.num_frames / defaults.frame_rate)
    video = torch.randn(1, *shape, generator=generator)
    audio = torch.randn(1, num_latents, pipe.transformer.config.audio_in_channels, generator=generator)
    video, audio = denoise(pipe, prompt, video, audio)
    latents = JoVAPipelineOutput(
        frames=video,
        audio=audio,
        frame_rate=defaults.frame_rate,
        sampling_rate=pipe.sampling_rate,
        is_latent=True,
        num_frames=defaults.num_frames,
    )
    pipe.decode(latents).save(output)


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(*sys.argv[1:])

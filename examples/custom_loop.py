"""A training loop of your own, around the package's data, noise levels, conditions and losses.

    jova prepare clips/ prepared/ --model jova-tiny
    python examples/custom_loop.py prepared/ jova-tiny 20

It trains all weights of the transformer and prints the terms of the loss (JoVA, Eq. 6). `jova train` adds to this what
a long run needs: checkpoints, averaged weights, several processes, validation.
"""

import sys

import torch

import diffusers_jova
from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.loop.config import TrainConfig
from diffusers_jova.training.loop.objective import jova_loss
from diffusers_jova.training.loop.step import build_conditioning


BATCH_SIZE = 2


def main(data: str, model: str, steps: int) -> None:
    """Train `model` on the records of `data` for so many steps."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    transformer = diffusers_jova.JoVAPipeline.from_pretrained(model).transformer.to(device).train()
    dataset = PrecomputedDataset(data)

    # how noise levels are drawn (`density`, `shift`, `coupling`), how often an image or no caption is given, and the
    # other settings that `jova train --help` lists
    settings = {"shift": 2.0, "audio_shift": 2.0, "image_probability": 0.5}
    config = TrainConfig(model=model, data=data, output_dir="unused", **settings)
    conditioning = build_conditioning(config, dataset, transformer, device)
    optimizer = torch.optim.AdamW(transformer.parameters(), lr=1e-4)

    for step in range(steps):
        bucket = dataset.buckets[step % len(dataset.buckets)]  # clips of one shape
        batch = dataset.batch([bucket[(step * BATCH_SIZE + n) % len(bucket)] for n in range(BATCH_SIZE)])

        # noisy latents with condition channels, timesteps, texts and both clocks, as keyword arguments of the forward
        inputs = conditioning(batch, seed=step)
        video, audio = transformer(**inputs.arguments, return_dict=False)
        terms = jova_loss(
            video,
            audio,
            inputs.target,
            inputs.audio_target,
            mouth_mask=inputs.mouth_mask,
            has_video=inputs.has_video,
            has_audio=inputs.has_audio,
            mouth_weight=5.0,
        )
        loss = terms.total.mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(transformer.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        values = {name: float(getattr(terms, name).detach().mean()) for name in ("video", "audio", "mouth")}
        print(f"step {step}:", ", ".join(f"{name} {value:.4f}" for name, value in values.items()))


if __name__ == "__main__":
    if len(sys.argv) != 4:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

"""Graphs in ComfyUI's API format, put together node by node."""

from typing import Any


Socket = list[Any]  # [id of a node, index of its output]
SPEAKER = {
    "video": "A cartoon woman with tan skin and spiky red hair, wearing a navy shirt, speaks on a mint background.",
    "audio": "a female voice speaking",
    "transcript": "hello blue moon",
}


class Graph(dict[str, Any]):
    """A prompt as `/prompt` takes it."""

    def add(self, class_type: str, **inputs: Any) -> str:
        """Add a node; returns its id."""
        name = str(len(self) + 1)
        self[name] = {"class_type": class_type, "inputs": inputs}
        return name


class TalkingGraph(Graph):
    """A model, its prompts and its empty latents; tests put the rest behind them.

    Args:
        model: Of Load JoVA.
        dtype: Of its weights.
        negative: Negative prompt.
        size: Widgets of Empty JoVA Latent.
    """

    def __init__(self, model: str = "jova-tiny", dtype: str = "fp32", negative: str = "", **size: Any) -> None:
        super().__init__()
        loader = self.add("JovaLoader", model=model, dtype=dtype)
        self.model, self.clip, self.vae, self.audio_vae = ([loader, index] for index in range(4))
        self.positive: Socket = [self.add("JovaPrompt", clip=self.clip, **SPEAKER), 0]
        self.negative: Socket = [self.add("CLIPTextEncode", clip=self.clip, text=negative), 0]
        widgets = {"width": 0, "height": 0, "length": 0, "frame_rate": 0.0, "batch_size": 1, **size}
        self.latent: Socket = [self.add("JovaEmptyLatent", audio_vae=self.audio_vae, **widgets), 0]

    def sample(self, steps: int, seed: int = 5, cfg: float = 1.5, **inputs: Any) -> Socket:
        """Core's KSampler."""
        given: dict[str, Any] = {
            "model": self.model,
            "positive": self.positive,
            "negative": self.negative,
            "latent_image": self.latent,
            "sampler_name": "euler",
            "scheduler": "simple",
            "denoise": 1.0,
        }
        return [self.add("KSampler", seed=seed, steps=steps, cfg=cfg, **{**given, **inputs}), 0]

    def guide(self, steps: int, seed: int = 5, **widgets: Any) -> Socket:
        """JoVA Guider with core's SamplerCustomAdvanced."""
        own = dict.fromkeys(
            ("cfg", "audio_cfg", "coupling", "audio_coupling", "voices", "start", "end", "coupling_start"), -1.0
        )
        own |= dict.fromkeys(("coupling_end", "rescale", "audio_rescale"), -1.0)
        own |= {"uncoupled_text": "model", "apg": "model", "apg_threshold": 27.0, "audio_apg_threshold": 0.0}
        own |= {"cfg_zero_star": "model", "zero_init_steps": -1}
        sockets = {"model": self.model, "positive": self.positive, "negative": self.negative}
        guider = self.add("JovaGuider", **sockets, **{**own, **widgets})
        parts = {
            "noise": [self.add("RandomNoise", noise_seed=seed), 0],
            "guider": [guider, 0],
            "sampler": [self.add("KSamplerSelect", sampler_name="euler"), 0],
            "sigmas": [self.add("BasicScheduler", model=self.model, scheduler="simple", steps=steps, denoise=1.0), 0],
            "latent_image": self.latent,
        }
        return [self.add("SamplerCustomAdvanced", **parts), 0]

    def keep(self, samples: Socket, prefix: str) -> None:
        """Save latents of video and sound, each in a file."""
        parts = self.add("LTXVSeparateAVLatent", av_latent=samples)
        for index, name in enumerate(("video", "audio")):
            self.add("SaveLatent", samples=[parts, index], filename_prefix=f"{prefix}_{name}")

    def save(self, samples: Socket, prefix: str) -> None:
        """Decode and save an mp4."""
        decoded = self.add("JovaDecode", samples=samples, vae=self.vae, audio_vae=self.audio_vae, index=0)
        self.add("SaveVideo", video=[decoded, 0], filename_prefix=prefix, format="auto", codec="auto")

"""A pack for the tests alone: what sockets of other packs, or of damaged graphs, may carry.

ComfyUI checks the type of a connection, never what comes through it.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from comfy.model_patcher import ModelPatcher
from comfy.nested_tensor import NestedTensor
from comfy_api.v0_0_2 import ComfyExtension, io


class Stranger(torch.nn.Module):
    """A model, a text encoder or a VAE that is none of ours."""


def parts(latent: dict[str, Any]) -> list[torch.Tensor]:
    """Video and sound of a LATENT."""
    return [part.clone() for part in latent["samples"].unbind()]


def nested(latent: dict[str, Any], *samples: torch.Tensor) -> dict[str, Any]:
    """A LATENT with other samples."""
    return {**latent, "samples": NestedTensor(list(samples))}


def spoiled(tensor: torch.Tensor, value: float) -> torch.Tensor:
    """A copy whose first value is another one."""
    copy = tensor.clone()
    copy.flatten()[0] = value
    return copy


def sound(samples: int = 8000, rate: Any = 16000, channels: int = 1, clips: int = 1, value: float = 0.1) -> Any:
    """AUDIO of a constant with a tone over it."""
    tone = torch.sin(torch.arange(samples) / 16) * 0.5 * value
    return {"waveform": tone.expand(clips, channels, samples).clone(), "sample_rate": rate}


def picture(*shape: int, value: float = 0.5) -> torch.Tensor:
    """IMAGE of one value."""
    return torch.full(shape, value)


# fmt: off
NEW: dict[str, Callable[[], Any]] = {
    "nothing": lambda: None,
    "model": lambda: ModelPatcher(Stranger(), torch.device("cpu"), torch.device("cpu")),
    "module": Stranger,
    "latent of noise": lambda: {"samples": torch.randn(1, 4, 8, 8)},
    "latent without samples": dict,
    "nested latent": lambda: {"samples": NestedTensor([torch.zeros(1, 16, 2, 4, 4), torch.zeros(1, 20, 10)])},
    "no conditioning": list,
    "conditioning": lambda: [[torch.randn(1, 7, 768), {"pooled_output": None}]],
    "conditioning of words": lambda: "a dog",
    "grey image": lambda: picture(1, 40, 40, 1),
    "image with alpha": lambda: picture(1, 40, 40, 4),
    "image of 7 channels": lambda: picture(1, 40, 40, 7),
    "image without batch": lambda: picture(40, 40, 3),
    "no image": lambda: picture(0, 40, 40, 3),
    "image 3 pixels high": lambda: picture(1, 3, 40, 3),
    "image of half precision": lambda: picture(1, 40, 40, 3).half(),
    "image of bytes": lambda: torch.full((1, 40, 40, 3), 7, dtype=torch.uint8),
    "image up to 255": lambda: picture(1, 40, 40, 3, value=255.0),
    "image that overshoots": lambda: spoiled(picture(1, 40, 40, 3), 1.08),
    "NaN image": lambda: spoiled(picture(1, 40, 40, 3), math.nan),
    "NaN frames": lambda: spoiled(picture(5, 40, 40, 3), math.nan),
    "frames": lambda: picture(5, 40, 40, 3),
    "frames up to 255": lambda: picture(5, 40, 40, 3, value=255.0),
    "mask": lambda: torch.ones(1, 40, 40),
    "sound": sound,
    "short sound": lambda: sound(3200),
    "one sample": lambda: sound(1),
    "no sound": lambda: sound(0),
    "sound at 48 kHz": lambda: sound(14400, 48000, 2),
    "sound at 7 Hz": lambda: sound(2, 7),
    "sound at 0 Hz": lambda: sound(rate=0),
    "sound at -16000 Hz": lambda: sound(rate=-16000),
    "sound at 16000.0 Hz": lambda: sound(4000, rate=16000.0),
    "sound at NaN Hz": lambda: sound(rate=math.nan),
    "sound at no rate": lambda: {"waveform": sound()["waveform"]},
    "sound at a word": lambda: sound(rate="16000"),
    "NaN sound": lambda: sound(4000, value=math.nan),
    "infinite sound": lambda: sound(4000, value=math.inf),
    "sound of 16 bits as floats": lambda: sound(4000, value=30000.0),
    "sound of 3 clips": lambda: sound(4000, clips=3),
    "sound of 9 channels": lambda: sound(4000, channels=9),
    "sound of samples alone": lambda: {"waveform": torch.ones(4000) / 9, "sample_rate": 16000},
    "sound in a list": lambda: {"waveform": [0.1, 0.2], "sample_rate": 16000},
    "number": lambda: 5,
    "NaN": lambda: math.nan,
    "infinity": lambda: math.inf,
    "large number": lambda: 10**9,
    "negative number": lambda: -7,
    "half": lambda: 0.5,
    "word": lambda: "bend",
}
CHANGED: dict[str, Callable[[Any], Any]] = {
    "same": lambda x: x,
    "NaN video": lambda x: nested(x, spoiled(parts(x)[0], math.nan), parts(x)[1]),
    "NaN audio": lambda x: nested(x, parts(x)[0], spoiled(parts(x)[1], math.inf)),
    "half precision": lambda x: nested(x, *(part.half() for part in parts(x))),
    "two videos": lambda x: nested(x, parts(x)[0].repeat(2, 1, 1, 1, 1), parts(x)[1]),
    "sound first": lambda x: nested(x, *reversed(parts(x))),
    "video alone": lambda x: nested(x, parts(x)[0]),
    "three parts": lambda x: nested(x, *parts(x), parts(x)[1]),
    "longer video": lambda x: nested(x, parts(x)[0].repeat(1, 1, 2, 1, 1), parts(x)[1]),
    "longer sound": lambda x: nested(x, parts(x)[0], parts(x)[1].repeat(1, 1, 2)),
    "wider video": lambda x: nested(x, parts(x)[0].repeat(1, 1, 1, 1, 2), parts(x)[1]),
    "odd video": lambda x: nested(x, parts(x)[0][..., :3, :3], parts(x)[1]),
    "more channels": lambda x: nested(x, parts(x)[0].repeat(1, 2, 1, 1, 1), parts(x)[1]),
    "more sound channels": lambda x: nested(x, parts(x)[0], parts(x)[1].repeat(1, 2, 1)),
    "flat video": lambda x: nested(x, parts(x)[0][:, :, 0], parts(x)[1]),
    "clip of words": lambda x: {**x, "jova": "a clip"},
    "small mask": lambda x: {**x, "noise_mask": torch.ones(1, 1, 2, 2)},
    "mask of zeros": lambda x: {**x, "noise_mask": NestedTensor([torch.zeros_like(p[:, :1]) for p in parts(x)])},
    "NaN mask": lambda x: {**x, "noise_mask": NestedTensor([p[:, :1] * math.nan for p in parts(x)])},
    "mask that overshoots": lambda x: {**x, "noise_mask": torch.full((1, 1, 2, 2), 1.08)},
    "mask of one": lambda x: {**x, "noise_mask": NestedTensor([torch.ones_like(parts(x)[0][:, :1])])},
    "NaN text": lambda x: [[spoiled(features, math.nan), options] for features, options in x],
    "empty text": lambda x: [[features[:, :0], options] for features, options in x],
    "flat text": lambda x: [[features[0], options] for features, options in x],
    "wide text": lambda x: [[features.repeat(1, 1, 2), options] for features, options in x],
    "two texts": lambda x: [[features.repeat(2, 1, 1), options] for features, options in x],
    "latents beside": lambda x: [[f, {**o, "concat_latent_image": torch.ones(1, 16, 2, 4, 4)}] for f, o in x],
    "objects beside": lambda x: [[f, {**o, "clip_vision_output": Stranger()}] for f, o in x],
    "dicts beside": lambda x: [[f, {**o, "unclip_conditioning": [{"strength": 1.0}]}] for f, o in x],
    "rate of words": lambda x: [[f, {**o, "frame_rate": "fast"}] for f, o in x],
    "NaN rate": lambda x: [[f, {**o, "frame_rate": math.nan}] for f, o in x],
    "negative rate": lambda x: [[f, {**o, "frame_rate": -16.0}] for f, o in x],
}
# fmt: on


class JovaTestStranger(io.ComfyNode):
    """Something of another kind, or a socket's content changed."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaTestStranger",
            inputs=[io.String.Input("kind"), io.AnyType.Input("value", optional=True)],
            outputs=[io.AnyType.Output()],
        )

    @classmethod
    def execute(cls, kind: str, value: Any = None) -> io.NodeOutput:
        """Make it."""
        return io.NodeOutput(NEW[kind]() if kind in NEW else CHANGED[kind](value))


class JovaTestSink(io.ComfyNode):
    """The end of a graph, for whatever comes."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(node_id="JovaTestSink", inputs=[io.AnyType.Input("value")], is_output_node=True)

    @classmethod
    def execute(cls, **_: Any) -> io.NodeOutput:
        """Take it."""
        return io.NodeOutput()


class StrangersExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All of them."""
        return [JovaTestStranger, JovaTestSink]


async def comfy_entrypoint() -> StrangersExtension:
    """What ComfyUI looks for in a pack."""
    return StrangersExtension()

"""JoVA for ComfyUI: video and the sound that belongs to it, by core's samplers, decoders and savers.

Nothing heavy is imported here: torch's own work begins when a node runs.
"""

from comfy_api.v0_0_2 import ComfyExtension, io

from .nodes_conditioning import (
    JovaConditioning,
    JovaImageToVideo,
    JovaKeyframe,
    JovaNegativePrompt,
    JovaPrompt,
    JovaReferenceVoice,
    JovaVoices,
)
from .nodes_generate import JovaGenerate, JovaMouthMaskPreview
from .nodes_latent import JovaDecode, JovaEmptyLatent, JovaSetAudio, JovaSetVideo
from .nodes_loading import JovaDiffusionModelLoader, JovaLoader, JovaLoraLoader
from .nodes_sampling import JovaGuider, JovaSampleShift, JovaScheduler


NODES: list[type[io.ComfyNode]] = [
    JovaLoader,
    JovaDiffusionModelLoader,
    JovaLoraLoader,
    JovaPrompt,
    JovaNegativePrompt,
    JovaConditioning,
    JovaImageToVideo,
    JovaKeyframe,
    JovaVoices,
    JovaReferenceVoice,
    JovaEmptyLatent,
    JovaSetAudio,
    JovaSetVideo,
    JovaSampleShift,
    JovaScheduler,
    JovaGuider,
    JovaDecode,
    JovaGenerate,
    JovaMouthMaskPreview,
]


class JovaExtension(ComfyExtension):
    """The nodes of this pack."""

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        """All of them, whether or not the package can be imported."""
        return NODES


async def comfy_entrypoint() -> JovaExtension:
    """What ComfyUI looks for in a pack."""
    return JovaExtension()

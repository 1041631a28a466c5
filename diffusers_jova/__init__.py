"""JoVA for diffusers: one transformer that generates video and the sound that belongs to it.

Import this package before loading anything: the import makes diffusers' loaders know its classes. All component
modules are imported here, because those loaders look them up by module name.
"""

import jova_cli.import_advice  # noqa: F401  # before anything imports bitsandbytes


# isort: split
from diffusers import DiffusionPipeline, ModelMixin, SchedulerMixin  # diffusers' loaders look for these names here
from diffusers.guiders import BaseGuidance

from jova_cli import __version__

from .audio_codec import JoVAAudioCodec
from .autoencoder_kl_dac import JoVAAutoencoderKLDAC
from .guidance import Guidance
from .joint_attention import JoVAJointAttnProcessor
from .joint_transformer import JoVATransformerOutput
from .log_mel import JoVALogMel
from .long_clip import LongClip
from .lora import JoVALoraLoaderMixin
from .pipeline_jova import JoVAPipeline
from .pipeline_output import JoVAPipelineOutput
from .prompt import JoVAPrompt, PromptEmbeds
from .registration import register
from .scheduling_flow_match_av import FlowMatchAudioVideoScheduler
from .script_lines import ScriptLine
from .sound_cache import JoVACacheConfig
from .spoken_text_encoder import JoVASpokenTextEncoder
from .transformer_jova import JoVATransformer3DModel, JoVATransformerBlock
from .transformer_jova_dual_tower import JoVADualTowerTransformer3DModel, JoVADualTowerTransformerBlock
from .transformer_jova_wan import JoVAWanTransformer3DModel, JoVAWanTransformerBlock
from .video_codec import JoVAVideoCodec
from .wan_tower import JoVAWanCrossAttnProcessor


__all__ = [
    "BaseGuidance",
    "DiffusionPipeline",
    "FlowMatchAudioVideoScheduler",
    "Guidance",
    "JoVAAudioCodec",
    "JoVAAutoencoderKLDAC",
    "JoVACacheConfig",
    "JoVADualTowerTransformer3DModel",
    "JoVADualTowerTransformerBlock",
    "JoVAJointAttnProcessor",
    "JoVALogMel",
    "JoVALoraLoaderMixin",
    "JoVAPipeline",
    "JoVAPipelineOutput",
    "JoVAPrompt",
    "JoVASpokenTextEncoder",
    "JoVATransformer3DModel",
    "JoVATransformerBlock",
    "JoVATransformerOutput",
    "JoVAVideoCodec",
    "JoVAWanCrossAttnProcessor",
    "JoVAWanTransformer3DModel",
    "JoVAWanTransformerBlock",
    "LongClip",
    "ModelMixin",
    "PromptEmbeds",
    "SchedulerMixin",
    "ScriptLine",
    "__version__",
]

register(
    components=(
        JoVATransformer3DModel,
        JoVAWanTransformer3DModel,
        JoVADualTowerTransformer3DModel,
        JoVAAutoencoderKLDAC,
        JoVALogMel,
        JoVASpokenTextEncoder,
        FlowMatchAudioVideoScheduler,
    ),
    pipelines=(JoVAPipeline,),
    blocks=(JoVATransformerBlock, JoVAWanTransformerBlock, JoVADualTowerTransformerBlock),
)


def plugin() -> None:
    """Entry point of serving engines, which call it in each of their processes: importing the package is the work."""

"""Nodes that load models and adapters: sockets and schema."""

from typing import Any

import folder_paths
from comfy_api.v0_0_2 import io

from .model_files import fingerprint, pipeline_fingerprint, pipeline_source
from .node import JovaNode
from .sockets import dtype_input, model_input, model_output, number_input, pipeline_input


def strength_input(name: str, tooltip: str) -> Any:
    """A widget for how much of an adapter is taken."""
    return number_input(name, 1.0, (-100.0, 100.0), 0.01, tooltip)


class JovaLoader(JovaNode):
    """Everything of a saved pipeline."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaLoader",
            display_name="Load JoVA",
            category="JoVA/loaders",
            description="Loads a model that generates video with sound. Text encoder, VAEs and vocoder are read from "
            "disk when they are first used.",
            inputs=[
                pipeline_input(
                    "model",
                    "jova-tiny comes with the package (drawn speakers, 64 x 64). Others: folders in models/diffusers "
                    "that JoVAPipeline.save_pretrained or `jova convert` wrote.",
                ),
                dtype_input(),
            ],
            outputs=[
                model_output(),
                io.Clip.Output(display_name="CLIP", tooltip="For JoVA Prompt, or CLIPTextEncode."),
                io.Vae.Output(id="vae", display_name="VAE", tooltip="Pictures to latents and back."),
                io.Vae.Output(id="audio_vae", display_name="audio VAE", tooltip="Sound to latents and back."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, model: str, **_: Any) -> str:
        """The model is loaded again when its files have changed."""
        return pipeline_fingerprint(model)

    @classmethod
    def run(cls, model: str, dtype: str) -> io.NodeOutput:
        """Load it."""
        from .loading import load_pipeline

        return io.NodeOutput(*load_pipeline(pipeline_source(model), dtype))


class JovaDiffusionModelLoader(JovaNode):
    """A transformer from one file."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaDiffusionModelLoader",
            display_name="Load JoVA Diffusion Model",
            category="JoVA/loaders",
            description="Loads a transformer from one file that carries its config (`jova convert single_file`), for "
            "the VAEs and text encoder of a pipeline.",
            inputs=[
                io.Combo.Input(
                    "file",
                    options=folder_paths.get_filename_list("diffusion_models"),
                    tooltip="A file in models/diffusion_models that `jova convert single_file` wrote: its config "
                    "stands in its header.",
                ),
                pipeline_input(
                    "pipeline",
                    "The pipeline that the transformer belongs to: its noise schedule, guidance, frame rate and the "
                    "statistics of its latents are taken from there, nothing else is loaded.",
                ),
                dtype_input(),
            ],
            outputs=[model_output()],
        )

    @classmethod
    def fingerprint_inputs(cls, file: str, pipeline: str, **_: Any) -> str:
        """The file is loaded again when it has changed, or the pipeline whose settings it takes."""
        path = folder_paths.get_full_path_or_raise("diffusion_models", file)
        return f"{fingerprint(path)};{pipeline_fingerprint(pipeline)}"

    @classmethod
    def run(cls, file: str, pipeline: str, dtype: str) -> io.NodeOutput:
        """Load it."""
        from .loading import load_single_file

        path = folder_paths.get_full_path_or_raise("diffusion_models", file)
        return io.NodeOutput(load_single_file(path, pipeline_source(pipeline), dtype))


class JovaLoraLoader(JovaNode):
    """An adapter of any tool."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaLoraLoader",
            display_name="Load JoVA LoRA",
            category="JoVA/loaders",
            description="Applies an adapter: LoRA, DoRA, LoHa, LoKr or differences of weights, in the layout of "
            "diffusers, peft, ComfyUI, kohya, musubi-tuner or DiffSynth. It fits completely or is an error; core's "
            "own LoRA nodes skip what they do not know and only log it.",
            inputs=[
                model_input(),
                io.Combo.Input(
                    "lora", options=folder_paths.get_filename_list("loras"), tooltip="A file in models/loras."
                ),
                strength_input(
                    "strength",
                    "How much of the change the layers of the picture get, and those that picture and sound share.",
                ),
                strength_input("audio_strength", "How much of the change the layers of the sound get."),
                io.Boolean.Input(
                    "skip_unknown",
                    default=False,
                    tooltip="Leave out what the model has no place for and say in the log how much, where it would "
                    "be an error.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="MODEL", tooltip="The model with the adapter; the other is as it was.")
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, lora: str, **_: Any) -> str:
        """The adapter is read again when its file has changed."""
        return fingerprint(folder_paths.get_full_path_or_raise("loras", lora))

    @classmethod
    def run(cls, model: Any, lora: str, strength: float, audio_strength: float, skip_unknown: bool) -> io.NodeOutput:
        """Apply it to a copy of the model's handle."""
        from .adapters import apply_adapter

        path = folder_paths.get_full_path_or_raise("loras", lora)
        return io.NodeOutput(apply_adapter(model, path, strength, audio_strength, skip_unknown))

"""JoVALoraLoaderMixin: LoRA adapters of the transformer in a pipeline."""

from diffusers.loaders.lora_pipeline import CogVideoXLoraLoaderMixin


class JoVALoraLoaderMixin(CogVideoXLoraLoaderMixin):
    """Load, save, weigh and fuse LoRA adapters of the transformer.

    The methods are those of every diffusers pipeline whose adapters sit in one `transformer`: `load_lora_weights`,
    `save_lora_weights`, `set_adapters`, `fuse_lora`, `unfuse_lora`, `delete_adapters`.
    """

    _lora_loadable_modules = ["transformer"]
    transformer_name = "transformer"

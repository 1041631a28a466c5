"""Run by the Python of a ComfyUI: a model that core loads in part, with an adapter, predicts what the whole one does.

    python tests/comfyui/partial_loading.py COMFYUI ADAPTER MODEL HEAD

On a CPU nothing moves, but core takes the same way as on a card: layers that do not fit cast their weights at use and
merge the adapter there. Prints the relative error of the final latents, how many layers were left out, and how many
weights cannot be changed in place; then what is said of a weight that is no number.
"""

import sys
from pathlib import Path
from types import ModuleType


COMFYUI, ADAPTER, MODEL, HEAD = sys.argv[1:5]
ROOT = Path(__file__).parents[2]
sys.path[:0] = [COMFYUI, str(ROOT)]
sys.argv = ["main.py", "--cpu"]

import comfy.cli_args  # noqa: E402


comfy.cli_args.args.cpu = True

import comfy.sample  # noqa: E402
import torch  # noqa: E402


pack = ModuleType("jova_pack")
pack.__path__ = [str(ROOT / "comfyui")]
sys.modules["jova_pack"] = pack

from jova_pack import adapters, latents, loading  # noqa: E402


def sample(model: object, positive: object, negative: object, latent: dict) -> list[torch.Tensor]:
    """Latents of two steps."""
    noise = comfy.sample.prepare_noise(latent["samples"], 0)
    arguments = (2, 1.5, "euler", "simple", positive, negative, latent["samples"])
    return comfy.sample.sample(model, noise, *arguments, disable_pbar=True, seed=0).unbind()


with torch.inference_mode():
    model, clip, _, audio_vae = loading.load_pipeline(MODEL, "fp32")
    frozen = [parameter for parameter in model.model.parameters() if parameter.is_inference()]
    model = adapters.apply_adapter(model, ADAPTER, 1.0, 1.0)
    conds = clip.encode_prompt("a dog"), clip.encode_prompt("")
    latent = latents.empty_latent(audio_vae, 32, 32, 9, 0.0, 1)
    whole = sample(model, *conds, latent)
    model.detach()
    load = model.load
    tenth = model.model_size() / 10

    def load_tenth(device_to: object = None, **options: object) -> None:
        """Load as on a card that a tenth of the model fits on."""
        load(device_to, **{**options, "lowvram_model_memory": tenth, "full_load": False})

    model.load = load_tenth
    part = sample(model, *conds, latent)
    cast = [m for m in model.model.modules() if getattr(m, "comfy_cast_weights", False) and m.weight_function]
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(part, whole, strict=True)]
    print("result", max(errors), len(cast), len(frozen))

    model.model.diffusion_model.get_submodule(HEAD).proj_out.bias.data.fill_(float("nan"))
    try:
        sample(model, *conds, latent)
    except FloatingPointError as error:
        print("broken", error)

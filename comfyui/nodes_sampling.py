"""Nodes beside core's samplers: guidance per modality, noise schedule per modality. Sockets and schema."""

from typing import Any

from comfy_api.v0_0_2 import io

from .node import JovaNode
from .sockets import conditioning_inputs, model_input, number_input, scale_input, share_input


def shift_input(name: str, tooltip: str) -> Any:
    """A widget for the shift of a noise schedule."""
    return number_input(name, 5.0, (0.01, 100.0), 0.01, tooltip)


def threshold_input(name: str, default: float, tooltip: str) -> Any:
    """A widget for the limit of adaptive projected guidance."""
    return number_input(name, default, (0.0, 10000.0), 0.1, tooltip)


class JovaSampleShift(JovaNode):
    """Noise schedules."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaSampleShift",
            display_name="JoVA Sample Shift",
            category="JoVA/sampling",
            description="How long picture and sound stay noisy, each on its own schedule. The scheduler `simple` then "
            "takes exactly these noise levels; others take other levels. Core's ModelSamplingSD3 moves both and "
            "keeps their ratio.",
            inputs=[
                model_input(),
                shift_input("shift", "Of the picture: above 1 more steps are spent on high noise."),
                shift_input(
                    "audio_shift",
                    "Of the sound; exact for Euler and every sampler that works on denoised predictions.",
                ),
            ],
            outputs=[io.Model.Output(display_name="MODEL")],
        )

    @classmethod
    def run(cls, model: Any, shift: float, audio_shift: float) -> io.NodeOutput:
        """Set them on a copy of the model's handle."""
        from .model import with_shifts

        return io.NodeOutput(with_shifts(model, shift, audio_shift))


class JovaScheduler(JovaNode):
    """The model's own steps."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaScheduler",
            display_name="JoVA Scheduler",
            category="JoVA/sampling",
            description="The noise levels of the model, for SamplerCustomAdvanced: those of BasicScheduler with "
            "`simple`, but for a model whose last step begins at a level of its own (UniAVGen), which no schedule of "
            "core's has.",
            inputs=[
                model_input(),
                io.Int.Input(
                    "steps", default=0, min=0, max=1000, step=1, tooltip="Sampling steps; 0 takes the model's own."
                ),
            ],
            outputs=[io.Sigmas.Output(display_name="SIGMAS")],
        )

    @classmethod
    def run(cls, model: Any, steps: int) -> io.NodeOutput:
        """Lay them out."""
        from .schedule import own_sigmas

        return io.NodeOutput(own_sigmas(model, steps))


class JovaGuider(JovaNode):
    """Guidance per modality."""

    @classmethod
    def define_schema(cls) -> io.Schema:
        """Sockets and widgets."""
        return io.Schema(
            node_id="JovaGuider",
            display_name="JoVA Guider",
            category="JoVA/sampling",
            description="Guidance by the text, by the other modality and by voices, for picture and sound apart. For "
            "SamplerCustomAdvanced, with the scheduler `simple`.",
            inputs=[
                model_input(),
                *conditioning_inputs(", best from JoVA Negative Prompt"),
                scale_input("cfg", "How much the picture follows the text."),
                scale_input(
                    "audio_cfg",
                    "How much the sound follows the text; if the model has no value of its own, as the picture.",
                ),
                scale_input("coupling", "How much the picture follows the sound."),
                scale_input(
                    "audio_coupling",
                    "How much the sound follows the picture; if the model has no value of "
                    "its own, as the picture follows the sound.",
                ),
                scale_input("voices", "How much the sound follows the voices of JoVA Voices; nothing without them."),
                io.Combo.Input(
                    "uncoupled_text",
                    options=["model", "empty", "kept"],
                    default="model",
                    tooltip="Whether the text is empty (MOVA, UniAVGen) or kept (LTX-2, NAVA) where the coupling is "
                    "removed; model takes the model's own.",
                ),
                share_input("start", "Share of the steps at which guidance by text begins."),
                share_input("end", "Share of the steps at which it ends; 0.5 saves a quarter of the time."),
                share_input("coupling_start", "Share of the steps at which guidance by coupling begins."),
                share_input("coupling_end", "Share of the steps at which it ends."),
                share_input(
                    "rescale", "How far the contrast of guided pictures goes back to the unguided one; 0 is off."
                ),
                share_input("audio_rescale", "The same for the sound."),
                io.Combo.Input(
                    "apg",
                    options=["model", "off", "on"],
                    default="model",
                    tooltip="Adaptive projected guidance: less burnt colours at high cfg. on uses the two limits "
                    "below, model ignores them.",
                ),
                threshold_input(
                    "apg_threshold",
                    27.0,
                    "Largest norm of the picture's guidance, 0 for no limit. Waver: 27 at cfg 8.",
                ),
                threshold_input("audio_apg_threshold", 0.0, "The same for the sound."),
                io.Combo.Input(
                    "cfg_zero_star",
                    options=["model", "off", "on"],
                    default="model",
                    tooltip="CFG-Zero*: predictions without the prompt are scaled to those with it, for picture and "
                    "sound.",
                ),
                io.Int.Input(
                    "zero_init_steps",
                    default=-1,
                    min=-1,
                    max=1000,
                    step=1,
                    tooltip="The sampler's first steps on which nothing moves and nothing is asked, for picture and "
                    "sound (zero-init of CFG-Zero*, 4 % of the steps); 0 is off. Samplers that remember steps "
                    "(dpmpp_2m, uni_pc) remember these as well, and heun moves by half on the last of them; euler "
                    "does neither. -1 takes the model's own.",
                ),
            ],
            outputs=[io.Guider.Output(display_name="GUIDER")],
        )

    @classmethod
    def run(cls, model: Any, positive: Any, negative: Any, **widgets: Any) -> io.NodeOutput:
        """Build it."""
        from .guider import make_guider

        return io.NodeOutput(make_guider(model, positive, negative, widgets))

"""Names in the files of adapters: which tool wrote a key, which module it means and which part of the module's change.

=================  ======================================  ====================================================
written by         prefix                                  module, part
=================  ======================================  ====================================================
diffusers, peft    transformer. / base_model.model.        attn1.video.to_q, lora_A.weight
ComfyUI            (model.)diffusion_model.                self_attn.q, lora_down.weight or lora_A.weight, alpha
DiffSynth          none, or pipe.dit.                      self_attn.q, lora_A.default.weight
kohya, musubi      lora_unet_, lora_transformer_           self_attn_q, lora_down.weight, alpha
LyCORIS            lycoris_, or one of the others          self_attn_q, lokr_w1, hada_w1_a, dora_scale, alpha
MOVA's trainers    none                                    video_dit.blocks.0.self_attn.q, lora_A(.default)(.weight)
=================  ======================================  ====================================================

Modules have the names of our transformers, of Wan, or of diffusers' Wan; the latter two mean a video tower of a
`JoVAWanTransformer3DModel` or a `JoVADualTowerTransformer3DModel`. MOVA's are Wan's behind the folder of a tower, and
those of its bridge.
"""

import re
from collections import Counter
from collections.abc import Collection, Iterable


PREFIXES = {"diffusers": "transformer.", "peft": "base_model.model.", "comfy": "diffusion_model."}  # of what we write
UNDERSCORED = ("lora_unet_", "lora_transformer_", "lycoris_")  # behind them an underscore stands for every dot
KNOWN_PREFIXES = (*PREFIXES.values(), "model.diffusion_model.", "pipe.dit.", *UNDERSCORED)
MOVA_EXPERTS = {"video_dit": "video", "video_dit_2": "video_low"}  # for high noise, for low noise
MOVA_TOWERS = {**MOVA_EXPERTS, "audio_dit": "audio"}
MOVA_BRIDGE = {"audio_to_video_conditioners": "video", "video_to_audio_conditioners": "audio"}  # by who reads
MOVA_BRIDGE_FOLDER = "dual_tower_bridge"
ROOTS = (  # first parts of the names of modules, for keys without a prefix
    *("blocks", "transformer_blocks", "single_transformer_blocks", "embed", "head"),
    *("video", "video_low", "audio", "shared"),
    *("patch_embedding", "text_embedding", "time_embedding", "time_projection", "img_emb"),  # of Wan
    *("condition_embedder", "proj_out", "speaker_embedding"),  # of diffusers' Wan, of NAVA
    *(*MOVA_TOWERS, MOVA_BRIDGE_FOLDER),
)
STREAMS = {  # parts of the names of our modules, each of which says what it serves
    *("video", "audio", "video_text", "audio_text", "video_low"),
    *("shared", "fusion", "speaker_embedding"),
}
MATRIX_A, MATRIX_B, BIAS_B, ALPHA = "lora_A.weight", "lora_B.weight", "lora_B.bias", "alpha"
MAGNITUDE, DIFF, DIFF_BIAS = "lora_magnitude_vector", "diff", "diff_b"
LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b")
PARTS = {  # of a module, by their names in the files
    **{part: part for part in (MATRIX_A, MATRIX_B, BIAS_B, ALPHA, MAGNITUDE, DIFF, DIFF_BIAS, *LOHA, *LOKR)},
    "lora_A": MATRIX_A,
    "lora_B": MATRIX_B,
    "lora_A.default.weight": MATRIX_A,
    "lora_B.default.weight": MATRIX_B,
    "lora_down.weight": MATRIX_A,
    "lora_up.weight": MATRIX_B,
    "lora.down.weight": MATRIX_A,
    "lora.up.weight": MATRIX_B,
    "lora_magnitude_vector.weight": MAGNITUDE,
    "dora_scale": MAGNITUDE,
}
CHANGE = re.compile(r"lora|lokr|loha|hada|dora|diff|alpha", re.IGNORECASE)  # in the keys of any tool
KEY = re.compile(rf"(.+)\.({'|'.join(map(re.escape, PARTS))})")
COMPOUNDS = (  # parts of module names that hold an underscore themselves
    *("single_transformer_blocks", "transformer_blocks", "video_text", "audio_text", "self_attn", "cross_attn"),
    *("to_q", "to_k", "to_v", "to_out", "to_cross", "norm_q", "norm_k", "k_img", "v_img", "add_k_proj", "add_v_proj"),
    *("condition_embedder", "text_embedder", "time_embedder", "image_embedder", "linear_1", "linear_2", "time_proj"),
    *("patch_embedding", "text_embedding", "time_embedding", "time_projection", "img_emb", "proj_out"),
    *("speaker_embedding", "out_norm", "position_embedding", "mask_head", "video_low"),
)
WORD = re.compile(  # a stream in front of its text embedding is no text stream
    rf"(?:(?:video|audio)(?=_text_embedding)|{'|'.join(sorted(COMPOUNDS, key=len, reverse=True))}|[^_]+)(?:_|$)"
)
MOST_LISTED = 12

# fmt: off
WAN_LAYERS = {  # Wan      JoVAWanTransformer3DModel
    "self_attn.q":         "attn1.video.to_q",
    "self_attn.k":         "attn1.video.to_k",
    "self_attn.v":         "attn1.video.to_v",
    "self_attn.o":         "attn1.video.to_out.0",
    "cross_attn.q":        "attn2.video.to_q",
    "cross_attn.k":        "attn2.video.to_k",
    "cross_attn.v":        "attn2.video.to_v",
    "cross_attn.o":        "attn2.video.to_out.0",
    "ffn.0":               "ffn.video.net.0.proj",
    "ffn.2":               "ffn.video.net.2",
}
WAN_ENDS = {
    "text_embedding.0":    "video.condition_embedder.text_embedder.linear_1",
    "text_embedding.2":    "video.condition_embedder.text_embedder.linear_2",
    "time_embedding.0":    "video.condition_embedder.time_embedder.linear_1",
    "time_embedding.2":    "video.condition_embedder.time_embedder.linear_2",
    "time_projection.1":   "video.condition_embedder.time_proj",
    "patch_embedding":     "video.patch_embedding",
    "head.head":           "video.proj_out",
}
# fmt: on
WAN_BLOCK = re.compile(r"(blocks\.\d+)\.((?:self_attn|cross_attn)\..+|ffn\.\d+)")
DIFFUSERS_BLOCK = re.compile(r"(blocks\.\d+)\.(attn[12]|ffn)\.((?:to_|net\.).+)")
DIFFUSERS_END = re.compile(r"(?:condition_embedder\..+|proj_out)")
BRIDGE_LAYER = re.compile(rf"{MOVA_BRIDGE_FOLDER}\.({'|'.join(MOVA_BRIDGE)})\.(\d+)\.inner\.([qkvo])")
HALVED = ("q", "k")  # layers of a bridge whose heads are two halves in MOVA, pairs of channels here


def listed(names: Iterable[str], most: int = MOST_LISTED) -> str:
    """Join names for a message; long lists end in their length."""
    names = list(names)
    shown = ", ".join(f"`{name}`" for name in names[:most])
    return shown if len(names) <= most else f"{shown} and {len(names) - most} more"


def prefix_of(name: str) -> str | None:
    """Prefix of one key; empty where it begins with a module, None where it is no key of a transformer."""
    prefix = next((prefix for prefix in KNOWN_PREFIXES if name.startswith(prefix)), None)
    return "" if prefix is None and name.split(".")[0] in ROOTS else prefix


def prefix_of_all(names: Iterable[str]) -> str | None:
    """Prefix that most keys have; None where they are no keys of a transformer."""
    return Counter(map(prefix_of, names)).most_common(1)[0][0]


def bare_names(names: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """Map keys to `<module>.<part>`, a dot between all parts of a module, the part under its first name in `PARTS`.

    Returns:
        The new names, and the keys that mean no part of a module.

    Raises:
        ValueError: There are no keys, none of them is a transformer's, or two keys mean the same.
    """
    if not names:
        raise ValueError("an adapter must hold tensors, got no keys: the file is empty; save the adapter anew")
    prefix = prefix_of_all(names)
    if prefix is None:
        raise ValueError(
            f"adapter keys must start with one of {', '.join(KNOWN_PREFIXES)} or name a module, "
            f"got {listed(names)}; adapters of text encoders are not supported"
        )
    bare, unknown = {}, []
    for name in names:
        match = KEY.fullmatch(name.removeprefix(prefix)) if prefix_of(name) == prefix else None
        if match is None:
            unknown.append(name)
        else:
            module = dotted(match[1]) if prefix in UNDERSCORED else match[1]
            bare[name] = f"{module}.{PARTS[match[2]]}"
    if twice := [name for name, count in Counter(bare.values()).items() if count > 1]:
        raise ValueError(f"adapter must hold each matrix once, got two of {listed(twice)}; save it anew")
    return bare, unknown


def dotted(module: str) -> str:
    """Put the dots back into a module's name in which underscores stand for them."""
    return ".".join(word.removesuffix("_") for word in WORD.findall(module))


def module_name(module: str, tower: str = "video") -> str:
    """Our transformer's name of a module of MOVA or of a plain Wan model; any other name stays.

    Args:
        module: Its name.
        tower: Owner of the modules of a plain Wan model.
    """
    if match := BRIDGE_LAYER.fullmatch(module):
        projection = WAN_LAYERS[f"self_attn.{match[3]}"].removeprefix("attn1.video.")
        return f"blocks.{match[2]}.fusion.{MOVA_BRIDGE[match[1]]}.{projection}"
    folder, _, rest = module.partition(".")
    if folder not in MOVA_TOWERS:
        return wan_module_name(module, tower)
    name = wan_module_name(rest, MOVA_TOWERS[folder])
    # its columns of mask and image stand in another order, and the audio's is a convolution
    return module if name == rest or rest == "patch_embedding" else name


def wan_module_name(module: str, tower: str) -> str:
    """Our name of a module of a plain Wan model; any other name stays."""
    name = module
    if module in WAN_ENDS:
        name = WAN_ENDS[module]
    elif (match := WAN_BLOCK.fullmatch(module)) and match[2] in WAN_LAYERS:
        name = f"{match[1]}.{WAN_LAYERS[match[2]]}"
    elif match := DIFFUSERS_BLOCK.fullmatch(module):
        name = f"{match[1]}.{match[2]}.video.{match[3]}"
    elif DIFFUSERS_END.fullmatch(module):
        name = f"video.{module}"
    return module if name == module else ".".join(tower if part == "video" else part for part in name.split("."))


def is_known(module: str) -> bool:
    """Whether a module has a name of a transformer of ours, or one that means such a name."""
    parts = module_name(module).split(".")
    return parts[0] in ROOTS and not STREAMS.isdisjoint(parts)


def is_of_mova(module: str) -> bool:
    """Whether a module has a name of MOVA."""
    return module.partition(".")[0] in (*MOVA_TOWERS, MOVA_BRIDGE_FOLDER)


def is_of_one_tower(module: str) -> bool:
    """Whether a module has a name of a plain video model, which does not say which of two towers it changes."""
    return not is_of_mova(module) and module_name(module) != module


def has_halved_heads(module: str) -> bool:
    """Whether the outputs of a module are heads of two halves, (i, i + K / 2), as MOVA's bridge rotates them."""
    match = BRIDGE_LAYER.fullmatch(module)
    return match is not None and match[3] in HALVED


def split_name(name: str) -> tuple[str, str]:
    """Split a bare name into module and part."""
    match = KEY.fullmatch(name)
    assert match is not None
    return match[1], match[2]


def unpaired(names: Iterable[str]) -> list[str]:
    """Modules with one matrix of a LoRA without the other.

    Args:
        names: Bare ones.
    """
    halves: dict[str, set[str]] = {}
    for module, part in map(split_name, names):
        if part in (MATRIX_A, MATRIX_B):
            halves.setdefault(module, set()).add(part)
    return [module for module, found in halves.items() if len(found) == 1]


def check_known(unknown: Collection[str], has_known: bool) -> None:
    """Refuse keys that mean nothing.

    Args:
        unknown: Those keys.
        has_known: Whether there are others.

    Raises:
        ValueError: There are some.
    """
    if unknown and not has_known and not any(CHANGE.search(name) for name in unknown):
        raise ValueError(
            f"adapter keys must name changes of modules, such as `{MATRIX_A}`, got {listed(unknown, 3)}: these are "
            "other tensors; name the file of an adapter"
        )
    if strangers := [name for name in unknown if prefix_of(name) is None]:
        raise ValueError(
            f"adapter keys must all start with one of {', '.join(KNOWN_PREFIXES)} or name a module, got "
            f"{listed(strangers)}; adapters of text encoders are not supported, `skip_unknown` leaves them out"
        )
    if unknown:
        raise ValueError(
            f"adapter keys must have one prefix and end in one of {', '.join(PARTS)}, got {listed(unknown)}; save the "
            "adapter as a plain LoRA, or leave them out with `skip_unknown`"
        )

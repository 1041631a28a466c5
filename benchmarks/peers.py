"""Time one block of each of this package's kinds beside blocks of other models in diffusers, in the same run.

    python -m benchmarks.peers [--output peers.json] [--repeats N] [--widths 512 1536 3072]

Every block has heads of 128 channels and the same width, and reads 1024 rows of video, 64 of audio and 64 of text. It
is measured by what it costs beside its own linear layers and attentions (`benchmarks.block`), in turns: models differ
in how much of those they have, a ratio says how well the rest is written. Weights are random, and there are no
gradients. Bfloat16 is measured where the processor computes it.
"""

import argparse
import json
import statistics
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import diffusers
import torch
from torch import Tensor, nn

from benchmarks.block import BlockCall, bare_work, block_calls, describe, kind_of_block, milliseconds
from benchmarks.random_transformer import Clip, fill_weights, random_inputs, random_transformer, with_fusion
from diffusers_jova.number_formats import cast_weights
from diffusers_jova.training.loop.distribution import lacks_bfloat16


HEAD_DIM = 128
CLIP = Clip((4, 32, 32), 64, 64, 16.0)
NUM_VIDEO, NUM_AUDIO, NUM_TEXT = 1024, CLIP.audio, CLIP.text  # rows, of patches of 2 x 2
TEXT_DIM = 64
FREQ_DIM = 64  # of sinusoidal timesteps


class Subject(NamedTuple):
    """A transformer with one block of each kind, and how it is called.

    Args:
        model: In float32.
        inputs: Of its forward.
        kind_of: Names the kind of a block.
    """

    model: Any
    inputs: dict[str, Any]
    kind_of: Callable[[nn.Module], str]


def own(config: dict[str, Any], names: dict[str, str]) -> Subject:
    """A transformer of this package, its blocks by the names that the table has for their kinds."""
    model = random_transformer(config, "cpu", torch.float32)
    inputs = random_inputs(model, CLIP, 1, "cpu", torch.float32)
    return Subject(model, inputs, lambda block: names[kind_of_block(block)])


def jova(heads: int) -> Subject:
    """JoVA's two kinds of blocks."""
    config = {
        "_class_name": "JoVATransformer3DModel",
        "num_attention_heads": heads,
        "attention_head_dim": HEAD_DIM,
        "rope_axes_dim": (44, 42, 42),
        "num_layers": 1,
        "num_single_layers": 1,
        "text_dim": TEXT_DIM,
        "text_dim_2": None,
    }
    return own(config, {"dual-stream": "JoVA, dual-stream", "single-stream": "JoVA, single-stream"})


def wan_config(heads: int) -> dict[str, Any]:
    """Constructor arguments of two Wan towers of one block."""
    return {
        "_class_name": "JoVAWanTransformer3DModel",
        "num_attention_heads": heads,
        "attention_head_dim": HEAD_DIM,
        "rope_axes_dim": (44, 42, 42),
        "num_layers": 1,
        "ffn_dim": 4 * heads * HEAD_DIM,
        "freq_dim": FREQ_DIM,
        "text_dim": TEXT_DIM,
    }


def wan_twins(heads: int) -> Subject:
    """Two Wan blocks with joint attention, as NAVA has them."""
    return own(wan_config(heads), {"twin": "JoVA, Wan towers"})


def ovi(heads: int) -> Subject:
    """Two Wan blocks coupled as Ovi's."""
    return own(with_fusion(wan_config(heads)), {"text_cross": "Ovi, in this package"})


def peer(model: Any, block: str, name: str, inputs: dict[str, Any]) -> Subject:
    """A transformer of diffusers, of whose blocks one class is measured."""
    fill_weights(model)
    return Subject(model.eval(), inputs, lambda part: name if type(part).__name__ == block else "other")


def ltx2(heads: int) -> Subject:
    """LTX-2, whose audio tower has half the width."""
    model = diffusers.LTX2VideoTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=HEAD_DIM,
        cross_attention_dim=heads * HEAD_DIM,
        audio_num_attention_heads=heads,
        audio_attention_head_dim=HEAD_DIM // 2,
        audio_cross_attention_dim=heads * HEAD_DIM // 2,
        num_layers=1,
        caption_channels=TEXT_DIM,
    )
    text = torch.randn(1, NUM_TEXT, TEXT_DIM)
    inputs = {
        "hidden_states": torch.randn(1, NUM_VIDEO, 128),
        "audio_hidden_states": torch.randn(1, NUM_AUDIO, 128),
        "encoder_hidden_states": text,
        "audio_encoder_hidden_states": text,
        "timestep": torch.full((1,), 500.0),
        "num_frames": 4,
        "height": 16,
        "width": 16,
        "audio_num_frames": NUM_AUDIO,
        "return_dict": False,
    }
    return peer(model, "LTX2VideoTransformerBlock", "LTX-2", inputs)


def kandinsky6(heads: int) -> Subject:
    """Kandinsky 6 as its released models are set."""
    model = diffusers.Kandinsky6Transformer3DModel(
        in_text_dim=TEXT_DIM,
        in_text_dim2=TEXT_DIM,
        model_dim=heads * HEAD_DIM,
        ff_dim=4 * heads * HEAD_DIM,
        num_text_blocks=1,
        num_visual_blocks=1,
        ca_rope=True,
        cross_gates=True,
        fix_modulation=True,
    )
    inputs = {
        "hidden_states": torch.randn(1, *CLIP.video, 33),
        "encoder_hidden_states": torch.randn(1, NUM_TEXT, TEXT_DIM),
        "pooled_projections": torch.randn(1, TEXT_DIM),
        "timestep": torch.full((1,), 500.0),
        "audio_hidden_states": torch.randn(1, NUM_AUDIO, 20),
        "return_dict": False,
    }
    return peer(model, "Kandinsky6FusedTransformerDecoderBlock", "Kandinsky 6", inputs)


def minimax_h3(heads: int) -> Subject:
    """MiniMax H3, whose modalities share their weights."""
    width = heads * HEAD_DIM
    model = diffusers.MiniMaxH3Transformer3DModel(
        num_attention_heads=heads,
        hidden_size=width,
        num_layers=1,
        num_refiner_layers=1,
        ffn_dim=8 * width // 3,  # three matrices, as many weights as two of four times the width
        text_dim=TEXT_DIM,
        freq_dim=FREQ_DIM,
        time_embed_hidden_dim=width,
        time_embed_dim=width // 2,
    )
    lengths = torch.tensor([NUM_VIDEO, NUM_TEXT, NUM_AUDIO])
    video, text, audio = torch.arange(int(lengths.sum())).split(lengths.tolist())
    inputs = {
        "hidden_states": torch.randn(1, NUM_VIDEO, 96),
        "audio_hidden_states": torch.randn(1, NUM_AUDIO, 32),
        "encoder_hidden_states": torch.randn(1, NUM_TEXT, TEXT_DIM),
        "timestep": torch.tensor([0.5]),
        "timestep_indices": torch.zeros(int(lengths.sum()), dtype=torch.long),
        "token_tags": torch.arange(3).repeat_interleave(lengths),
        "position_ids": torch.arange(int(lengths.sum()))[:, None].expand(-1, 3),
        "video_indices": video,
        "audio_indices": audio,
        "text_indices": text,
        "return_dict": False,
    }
    return peer(model, "MiniMaxH3TransformerBlock", "MiniMax H3", inputs)


def wan(heads: int) -> Subject:
    """Wan, which makes video alone."""
    model = diffusers.WanTransformer3DModel(
        num_attention_heads=heads,
        attention_head_dim=HEAD_DIM,
        text_dim=TEXT_DIM,
        freq_dim=FREQ_DIM,
        ffn_dim=4 * heads * HEAD_DIM,
        num_layers=1,
    )
    inputs = {
        "hidden_states": torch.randn(1, 16, *CLIP.video),
        "timestep": torch.full((1,), 500.0),
        "encoder_hidden_states": torch.randn(1, NUM_TEXT, TEXT_DIM),
        "return_dict": False,
    }
    return peer(model, "WanTransformerBlock", "Wan, video alone", inputs)


SUBJECTS = (jova, wan_twins, ovi, minimax_h3, ltx2, kandinsky6, wan)


def calls_of(subject: Subject, dtype: torch.dtype) -> dict[str, BlockCall]:
    """The calls of its blocks in a number format, with what `from_pretrained` keeps in float32."""
    cast_weights(subject.model, dtype)
    inputs = {name: in_format(value, dtype) for name, value in subject.inputs.items()}
    calls = block_calls(subject.model, inputs, subject.kind_of)
    return {kind: call for kind, call in calls.items() if kind != "other"}


def in_format(value: Any, dtype: torch.dtype) -> Any:
    """Latents and texts in a number format; timesteps, positions and settings as they are."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() and value.ndim > 1 else value


@torch.no_grad()
def compare_blocks(subject: Subject, dtype: torch.dtype, repeats: int) -> dict[str, dict[str, float]]:
    """Times of a transformer's blocks beside their own bare work, in turns.

    Returns:
        By name: its parameters, rows, and times in milliseconds as medians; `ratio`, the median of the ratios within a
        turn; `fastest_ratio`, that of the fastest times; `activated_ratio`, with the activations in the bare work.
    """
    results = {}
    for kind, call in calls_of(subject, dtype).items():
        ways = [partial(work.step, False) for work in (call, bare_work(call), bare_work(call, has_activations=True))]
        for way in ways:
            way()  # warm-up
        turns = [[milliseconds(way, "cpu") for way in ways] for _ in range(repeats)]
        results[kind] = describe(call) | summary(turns)
    return results


def summary(times: Sequence[Sequence[float]]) -> dict[str, float]:
    """Medians of what one block and its bare work took, and their ratios.

    Args:
        times: Of the block, of the bare work, and of that with activations in ms, by turn.
    """
    block, bare, _ = zip(*times, strict=True)
    return {
        "block_ms": statistics.median(block),
        "bare_ms": statistics.median(bare),
        "ratio": statistics.median(one / other for one, other, _ in times),
        "fastest_ratio": min(block) / min(bare),
        "activated_ratio": statistics.median(one / other for one, _, other in times),
    }


def table(results: dict[str, dict[str, dict[str, float]]]) -> str:
    """Ratios as Markdown: a row for each block, a column for each width and format, with activations in brackets."""
    columns = list(results)
    lines = [f"| block | {' | '.join(columns)} |", f"| --- |{' --- |' * len(columns)}"]
    for kind in results[columns[0]]:
        rows = [results[column][kind] for column in columns]
        cells = (f"{row['ratio']:.2f} ({row['activated_ratio']:.2f})" for row in rows)
        lines.append(f"| {kind} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every width in every format and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path("peers.json"), help="file to write")
    parser.add_argument("--repeats", type=int, default=9, help="turns")
    parser.add_argument("--widths", nargs="+", type=int, default=[512, 1536, 3072], help="multiples of 128")
    args = parser.parse_args(argv)
    dtypes = [torch.float32] if lacks_bfloat16() else [torch.float32, torch.bfloat16]
    results: dict[str, dict[str, dict[str, float]]] = {}
    for dtype in dtypes:
        for width in args.widths:
            column = results.setdefault(f"{str(dtype).removeprefix('torch.')}, {width}", {})
            for subject in SUBJECTS:  # one at a time: of 3072 channels, a block has up to 2.7 GB
                column |= compare_blocks(subject(width // HEAD_DIM), dtype, args.repeats)
    args.output.write_text(json.dumps(results, indent=2) + "\n")
    print(f"{table(results)}\n\nwrote {args.output}")


if __name__ == "__main__":
    main()

"""Two guided predictions whose texts differ in length: one batch by lengths, the same under a mask, and one by one.

    python -m benchmarks.guided_batch

Times of a forward on the CPU, in turns, and counted operations. The prompt has 33 rows of text, the negative one 1.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.block import compare
from benchmarks.random_transformer import Clip, random_inputs, random_transformer
from benchmarks.sound_cache import operation_counter, table
from diffusers_jova import JoVAPipeline


CLIP = Clip((9, 8, 8), 64, 33, 16.0)  # of jova-tiny: 33 frames of 64 x 64 pixels
LENGTHS = [(33,), (1,)]
WIDER = 4  # times the heads of jova-tiny


def models() -> dict[str, Any]:
    """The shipped transformer, and one several times as wide with random weights."""
    shipped = JoVAPipeline.from_pretrained("jova-tiny", vae=None, text_encoder=None, vocoder=None).transformer
    config = dict(shipped.config) | {"num_attention_heads": WIDER * shipped.config.num_attention_heads}
    wide = random_transformer(config | {"_class_name": type(shipped).__name__}, "cpu", torch.float32)
    return {"jova-tiny": shipped.requires_grad_(False), f"{WIDER} x as wide": wide.requires_grad_(False)}


def ways(model: Any) -> dict[str, Callable[[], object]]:
    """The ways to ask for both predictions; the last is that of a pipeline."""
    torch.manual_seed(0)
    inputs = random_inputs(model, CLIP, len(LENGTHS), "cpu", torch.float32)
    mask = torch.arange(CLIP.text) < torch.tensor(LENGTHS)

    def alone(index: int, length: int) -> object:
        own = {name: part[index : index + 1] if isinstance(part, Tensor) else part for name, part in inputs.items()}
        return model(**{**own, "encoder_hidden_states": own["encoder_hidden_states"][:, :length]})

    return {
        "masked": lambda: model(**inputs, encoder_attention_mask=mask),
        "apart": lambda: [alone(index, *lengths) for index, lengths in enumerate(LENGTHS)],
        "lengths": lambda: model(**inputs, text_lengths=LENGTHS),
    }


@torch.inference_mode()
def measure(name: str, model: Any, repeats: int) -> dict[str, Any]:
    """One line: how many times as long the other ways take as that by lengths, and operations."""
    steps = ways(model)
    gflop = {}
    for way, step in steps.items():
        with operation_counter() as counter:
            step()
        gflop[f"{way}_gflop"] = counter.get_total_flops() / 1e9
    times = compare(steps, repeats, "cpu")
    kept = ("lengths_ms", "masked_ratio", "masked_fastest_ratio", "apart_ratio", "apart_fastest_ratio")
    return {"model": name, **{way: times[way] for way in kept}, **gflop}


def main(argv: Sequence[str] | None = None) -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=20)
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    print(table([measure(name, model, args.repeats) for name, model in models().items()]))


if __name__ == "__main__":
    main()

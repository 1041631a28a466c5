"""The network has the layout of the public weights, computes what plain loops do, and tells offsets of segments."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F
from transformers.audio_utils import mel_filter_bank

from diffusers_jova.evaluation import synchformer
from diffusers_jova.evaluation.clip_signals import read_signals
from diffusers_jova.evaluation.desync import measure_desync, mels_of
from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.synchformer import (
    DividedAttention,
    DividedBlock,
    Sizes,
    SoundLayer,
    SummaryLayer,
    Synchformer,
    read_synchformer,
)
from diffusers_jova.media import write_video
from diffusers_jova.training.data.manifest import read_clip


SMALL = Sizes(width=24, depth=1, heads=12, global_depth=1, global_heads=8)
# fmt: off
NAMES = {  # some of the public file, with their shapes
    "vfeat_extractor.temp_embed": (1, 8, 768), "vfeat_extractor.pos_embed": (1, 197, 768),
    "vfeat_extractor.patch_embed.proj.weight": (768, 3, 16, 16),
    "vfeat_extractor.patch_embed_3d.proj.weight": (768, 3, 2, 16, 16),
    "vfeat_extractor.blocks.11.timeattn.qkv.bias": (2304,), "vfeat_extractor.blocks.0.mlp.fc1.weight": (3072, 768),
    "vfeat_extractor.spatial_attn_agg.self_attn.in_proj_weight": (2304, 768),
    "afeat_extractor.ast.embeddings.position_embeddings": (1, 74, 768),
    "afeat_extractor.ast.encoder.layer.11.attention.attention.query.weight": (768, 768),
    "afeat_extractor.ast.encoder.layer.0.intermediate.dense.weight": (3072, 768),
    "afeat_extractor.freq_attn_agg.cls_token": (1, 1, 768), "aproj.weight": (768, 768),
    "transformer.OFF_tok": (1, 1, 768), "transformer.pos_emb_cfg.pos_emb": (1, 198, 768),
    "transformer.blocks.2.mlp.2.weight": (768, 3072), "transformer.off_head.weight": (21, 768),
}
# fmt: on


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Synchformer:
    monkeypatch.setattr(synchformer, "PUBLIC", SMALL)
    torch.manual_seed(0)
    network = Synchformer(SMALL).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return network.requires_grad_(False)


def test_the_layout_is_that_of_the_public_weights() -> None:
    with torch.device("meta"):
        state = Synchformer().state_dict()
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == (513, 237_460_245)
    assert {name: tuple(state[name].shape) for name in NAMES} == NAMES


def heads_of(rows: Tensor, heads: int) -> list[Tensor]:
    return list(rows.reshape(len(rows), heads, -1).unbind(1))


def attended(query: Tensor, keys: Tensor, values: Tensor, heads: int) -> Tensor:
    """What one row [D] takes from rows [L, D], head by head."""
    parts = []
    for q, k, v in zip(heads_of(query[None], heads), heads_of(keys, heads), heads_of(values, heads), strict=True):
        parts.append(((q @ k.T) / q.shape[-1] ** 0.5).softmax(-1) @ v)
    return torch.cat(parts, dim=-1)[0]


@pytest.mark.parametrize("is_over_time", [True, False])
def test_patches_attend_to_those_of_their_place_or_their_time_and_to_the_class(is_over_time: bool) -> None:
    torch.manual_seed(0)
    layer = DividedAttention(SMALL).requires_grad_(False)
    num_frames, num_patches = 3, 4
    rows = torch.randn(1, 1 + num_frames * num_patches, SMALL.width)
    query, key, value = layer.qkv(rows)[0].chunk(3, dim=-1)
    expected = [attended(query[0], key, value, SMALL.heads)]
    for number in range(1, len(query)):
        frame, patch = divmod(number - 1, num_patches)
        others = [0] + [
            1 + f * num_patches + p
            for f in range(num_frames)
            for p in range(num_patches)
            if (p == patch if is_over_time else f == frame)
        ]
        expected.append(attended(query[number], key[others], value[others], SMALL.heads))
    found = layer(rows, num_frames, is_over_time=is_over_time)[0]
    torch.testing.assert_close(found, layer.proj(torch.stack(expected)), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(("silenced", "reaches"), [("attn", "same place"), ("timeattn", "same time")])
def test_each_attention_of_a_block_reaches_over_its_own_axis(silenced: str, reaches: str) -> None:
    torch.manual_seed(0)
    block = DividedBlock(SMALL).requires_grad_(False)
    for layer in (block.get_submodule(f"{silenced}.proj"), block.get_submodule("mlp.fc2")):
        torch.nn.init.zeros_(layer.weight)  # type: ignore[arg-type]
    num_frames, num_patches = 3, 4
    rows = torch.randn(1, 1 + num_frames * num_patches, SMALL.width)
    changed = rows.clone()
    changed[0, 1] = torch.randn(SMALL.width)  # the first patch of the first frame
    moved = (block(changed, num_frames) - block(rows, num_frames)).abs().amax(-1)[0, 1:] > 1e-6
    apart = moved.unflatten(0, (num_frames, num_patches))
    expected = torch.zeros(num_frames, num_patches, dtype=torch.bool)
    expected[(slice(None), 0) if reaches == "same place" else (0, slice(None))] = True
    assert torch.equal(apart, expected)


def test_layers_of_sound_and_summaries_are_those_of_plain_functions(small: Synchformer) -> None:
    layer: SoundLayer = small.afeat_extractor.ast["encoder"]["layer"][0]  # type: ignore[index]
    state = layer.state_dict()
    rows = torch.randn(1, 5, SMALL.width)

    def linear(name: str, x: Tensor) -> Tensor:
        return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])

    def norm(name: str, x: Tensor, eps: float) -> Tensor:
        return F.layer_norm(x, (SMALL.width,), state[f"{name}.weight"], state[f"{name}.bias"], eps)

    normed = norm("layernorm_before", rows, 1e-12)
    query, key, value = (linear(f"attention.attention.{name}", normed)[0] for name in ("query", "key", "value"))
    taken = torch.stack([attended(one, key, value, SMALL.heads) for one in query])[None]
    expected = rows + linear("attention.output.dense", taken)
    widened = F.gelu(linear("intermediate.dense", norm("layernorm_after", expected, 1e-12)))
    torch.testing.assert_close(layer(rows), expected + linear("output.dense", widened), atol=1e-4, rtol=1e-4)
    summary: SummaryLayer = small.vfeat_extractor.spatial_attn_agg
    torch.testing.assert_close(summary.summarize(rows), summary.summarize(rows[:, [2, 0, 1, 4, 3]]))  # no order


def test_spectrograms_are_logarithms_on_the_scale_of_htk_and_filled_up_to_66_columns() -> None:
    times_s = np.arange(10240) / 16000
    tone = np.stack([0.5 * np.sin(2 * np.pi * hz * times_s) for hz in (500, 2000)])
    mels = mels_of(tone)
    assert mels.shape == (2, 128, 66)
    assert mels[0, 0, 65] == pytest.approx(4.2677393 / (2 * 4.5689974), abs=1e-6)  # nothing, and not silence
    scale = 2595 * np.log10(1 + np.array([500, 2000, 8000]) / 700)  # of HTK
    expected = np.rint(scale[:2] / scale[2] * 129 - 1)
    assert np.abs(mels[..., 10:50].mean(-1).argmax(-1).numpy() - expected).max() <= 1
    frame = np.zeros(1024)  # the column at 0.1 s: 400 samples around it, in the middle of 1024
    frame[312:712] = tone[0, 1600 - 200 : 1600 + 200] * np.hanning(401)[:-1]
    bank = mel_filter_bank(513, 128, 0.0, 8000.0, 16000, norm=None, mel_scale="htk")
    logs = np.log(np.abs(np.fft.rfft(frame)) ** 2 @ bank + 1e-6)
    assert mels[0, :, 10].numpy() == pytest.approx((logs + 4.2677393) / (2 * 4.5689974), abs=1e-3)


def write_clip(path: Path, num_frames: int, frame_rate: float = 25.0) -> Path:
    frames = np.random.default_rng(0).integers(0, 255, (num_frames, 32, 48, 3), np.uint8)
    num_samples = round(num_frames / frame_rate * 16000)
    sound = np.random.default_rng(1).normal(0, 0.1, num_samples).astype(np.float32)
    write_video(path, frames, frame_rate, sound, 16000)
    return path


def tell(network: Synchformer, number: int) -> None:
    """Make a network tell one offset whatever it sees."""
    network.transformer.off_head.weight.data.zero_()
    network.transformer.off_head.bias.data = F.one_hot(torch.tensor(number), 21).float()


@pytest.mark.parametrize(
    ("number", "expected_s"),
    [(15, 1.0), (9, 0.2), *(pytest.param(*case, marks=pytest.mark.slow) for case in ((10, 0.0), (0, 2.0)))],
)
def test_desync_is_the_distance_of_the_likeliest_offset(
    small: Synchformer, tmp_path: Path, number: int, expected_s: float
) -> None:
    tell(small, number)
    clip = write_clip(tmp_path / "clip.mp4", 121)
    measured = measure_desync(clip, read_signals(read_clip(clip)), small)
    assert measured.values == {"desync_s": pytest.approx(expected_s, abs=1e-6)}


def test_the_first_and_the_last_fourteen_segments_count_with_the_sound_of_their_time(
    small: Synchformer, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path / "clip.mp4", 145)  # 17 segments
    seen: list[Tensor] = []
    heard: list[Tensor] = []
    small.vfeat_extractor.register_forward_pre_hook(lambda _tower, inputs: seen.append(inputs[0]))
    small.afeat_extractor.register_forward_pre_hook(lambda _tower, inputs: heard.append(inputs[0]))
    signals = read_signals(read_clip(clip))
    assert measure_desync(clip, signals, small).values["desync_s"] is not None
    segments = torch.cat(seen)
    assert segments.shape == (28, 3, 16, 224, 224)
    torch.testing.assert_close(segments[1, :, 0], segments[0, :, 8])  # half a segment later
    torch.testing.assert_close(segments[14], segments[3])
    mels = torch.cat(heard)
    waveform = signals.waveform
    assert waveform is not None
    torch.testing.assert_close(mels[2], mels_of(waveform[None, 2 * 5120 : 2 * 5120 + 10240])[0])
    torch.testing.assert_close(mels[14], mels[3])


def test_what_is_too_short_or_silent_is_a_reason(small: Synchformer, tmp_path: Path) -> None:
    short = write_clip(tmp_path / "short.mp4", 119)
    assert measure_desync(short, read_signals(read_clip(short)), small).reason == (
        "less than 4.8 s of picture and sound"
    )
    frames = np.zeros((130, 32, 48, 3), np.uint8)
    write_video(tmp_path / "silent.mp4", frames, 25.0)
    silent = measure_desync(tmp_path / "silent.mp4", read_signals(read_clip(tmp_path / "silent.mp4")), small)
    assert silent.reason == "no sound"
    assert measure_desync(None, read_signals(read_clip(short)), small).reason == "no picture"


def test_other_weights_are_refused_and_the_command_takes_the_right_ones(
    small: Synchformer, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tell(small, 12)
    state = small.state_dict()
    torch.save(state, tmp_path / "synchformer.pth")
    clip = write_clip(tmp_path / "clip.mp4", 121)
    words = [str(clip), "--output", str(tmp_path / "report"), "--measures", "desync", "--synchformer"]
    main([*words, str(tmp_path / "synchformer.pth")])
    (row,) = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert row["values"]["desync_s"] == pytest.approx(0.4)
    for change, told in (
        ({"aproj.weight": torch.ones(3, 3)}, "aproj.weight of [3, 3] in place of [24, 24]"),
        ({"more": torch.ones(1)}, "more beyond them"),
        ({"aproj.bias": torch.full((24,), torch.nan)}, "must hold finite weights, got NaN or infinity in aproj.bias"),
    ):
        torch.save(state | change, tmp_path / "other.pth")
        with pytest.raises(ValueError, match="must") as raised:
            read_synchformer(tmp_path / "other.pth")
        assert told in str(raised.value)
    del state["transformer.OFF_tok"]
    torch.save(state, tmp_path / "other.pth")
    with pytest.raises(SystemExit):
        main([*words, str(tmp_path / "other.pth")])
    assert (
        "must be the weights of Synchformer, got another network's (no transformer.OFF_tok)" in capsys.readouterr().err
    )

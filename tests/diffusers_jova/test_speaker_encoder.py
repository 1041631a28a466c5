"""Vectors are those of the public code, of what NAVA hears of a recording; other files and no voices are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers.utils import logging
from torch import nn

from diffusers_jova.media import Sound, read_audio, write_audio
from diffusers_jova.redimnet import ReDimNet, stored_name
from diffusers_jova.redimnet_config import read_config
from diffusers_jova.speaker_encoder import SpeakerEncoder
from tests.speaker_checkpoints import CONFIGS, checkpoint, voice, weight, write_checkpoint


RATE = 16_000
ROUNDING = (
    2e-5  # of a vector's length; of these five, ours lay 9e-7 and the public code's float32 2e-7 off its float64
)
# Made by the public code (IDRnD/ReDimNet @ c994fce, torchaudio 2.11) from `tests/speaker_checkpoints.py`: vectors with
# the network in float64, the first six values of `mels[::8, ::60]`, and the tensors and numbers of its state dict.
# fmt: off
PUBLIC: dict[str, tuple[list[float], list[float], int, int]] = {
    "conv+att": ([-1.602152, 1.636685, 3.849134, 4.434356, 3.573914],
                 [0.494, -0.55596, 1.52723, 0.51531, -0.48587, 0.46994], 217, 205098),
    "att": ([-0.497551, -1.428215, 1.755186, 0.027986, -1.887508],
            [0.494, -0.55596, 1.52723, 0.51531, -0.48587, 0.46994], 132, 126063),
    "conv": ([-0.821567, 2.047776, 4.275245, 3.925052, 3.00937],
             [0.494, -0.55596, 1.52723, 0.51531, -0.48587, 0.46994], 238, 169861),
    "fc": ([-1.862986, 1.488666, 3.874526, 4.622763, 3.848208],
           [-0.06235, -0.79235, 1.58418, 0.76394, -0.66794, 0.40279], 110, 374842),
    "levelled": ([-1.158477, 1.998584, 3.981105, 4.282374, 3.200196],
                 [0.70336, -0.37874, 1.45414, 0.3201, -0.40848, 0.45091], 124, 135820),
}
NAMES = {  # of a public state dict of the kind "conv+att", with their shapes
    "backbone.stem.0.weight": (8, 1, 3, 3), "backbone.stem.1.bias": (8,), "backbone.stage0.0.w": (1, 1, 1, 1),
    "backbone.stage0.3.conv_block.conv1.weight": (8, 4, 3, 3), "backbone.stage0.5.red_dim_conv.0.weight": (32, 192, 1),
    "backbone.stage1.0.w": (1, 2, 192, 1), "backbone.stage1.2.weight": (32, 8, 2, 1),
    "backbone.stage1.4.conv_block.bn2.running_var": (32,), "backbone.stage1.5.0.weight": (16, 8, 3, 3),
    "backbone.stage1.5.3.bias": (16,), "backbone.stage2.5.tcm.3.dwconvs.0.weight": (48, 1, 59),
    "backbone.stage2.5.tcm.4.feed_forward.intermediate_dense.weight": (48, 48),
    "backbone.fin_wght1d.w": (1, 4, 192, 1), "pool.linear1.weight": (128, 576, 1), "bn.running_mean": (384,),
    "linear.weight": (5, 384),
}
# fmt: on


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> SpeakerEncoder:
    return SpeakerEncoder.from_file(write_checkpoint(tmp_path_factory.mktemp("weights") / "M.pt"))


def distance(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("kind", CONFIGS)
def test_vectors_and_spectrograms_are_those_of_the_public_code(kind: str, tmp_path: Path) -> None:
    vector, mels, num_tensors, num_values = PUBLIC[kind]
    path = write_checkpoint(tmp_path / "public.pt", kind)
    encoder = SpeakerEncoder.from_file(path)
    assert distance(encoder(voice(), RATE), torch.tensor([vector])) < ROUNDING
    found = encoder.mels(torch.from_numpy(voice())[None])[0, ::8, ::60].flatten()[:6]
    torch.testing.assert_close(found, torch.tensor(mels), atol=1e-4, rtol=0)
    state = checkpoint(CONFIGS[kind])["state_dict"]
    assert (len(state), sum(tensor.numel() for tensor in state.values())) == (num_tensors, num_values)


def test_the_layout_is_that_of_a_public_checkpoint() -> None:
    state = checkpoint(CONFIGS["conv+att"])["state_dict"]
    assert {name: tuple(state[name].shape) for name in NAMES} == NAMES
    config = read_config(CONFIGS["conv+att"])
    names = [stored_name(name, config) for name in ReDimNet(config).state_dict()]
    assert len(set(names)) == len(names)


def test_a_voice_is_one_vector_whatever_form_it_comes_in(encoder: SpeakerEncoder, tmp_path: Path) -> None:
    expected = encoder(voice(), RATE)
    assert expected.shape == (1, encoder.dim) == (1, 5)
    assert expected.dtype == torch.float32
    write_audio(tmp_path / "voice.wav", voice()[None], RATE)
    from_file = encoder(tmp_path / "voice.wav")
    assert torch.equal(from_file, encoder(read_audio(tmp_path / "voice.wav")))
    assert distance(from_file, expected) < 0.015  # 16 bits a sample, where the bands above the voice hold nothing else
    assert torch.equal(encoder(Sound(voice()[None], RATE)), expected)
    assert torch.equal(encoder(torch.from_numpy(voice()), RATE), expected)
    both_sides = np.stack([1.5 * voice(), 0.5 * voice()])
    assert distance(encoder(both_sides, RATE), expected) < 1e-5, "the mean of the channels is heard"
    assert distance(encoder(voice(rate=48_000), 48_000), expected) < 1e-3  # of what no network of meaning made
    assert distance(encoder(voice(pitch_hz=230.0), RATE), expected) > 0.02, "another voice is another vector"


def test_sounds_of_a_batch_do_not_hear_each_other_and_calls_change_nothing(encoder: SpeakerEncoder) -> None:
    before = {name: tensor.clone() for name, tensor in encoder.network.state_dict().items()}
    waves = torch.from_numpy(np.stack([voice(), voice(pitch_hz=230.0)]))
    both = encoder.network(encoder.mels(waves))
    for wave, vector in zip(waves, both, strict=True):
        assert distance(vector, encoder(wave, RATE)[0]) < 1e-5
    assert all(torch.equal(tensor, before[name]) for name, tensor in encoder.network.state_dict().items())
    assert not encoder.network.training


def test_loudness_hardly_matters_and_a_sound_that_repeats_is_the_same_voice(encoder: SpeakerEncoder) -> None:
    once = encoder(voice(), RATE)
    assert distance(encoder(0.8 * voice(), RATE), once) < 1e-3  # but for the floor under the logarithm
    assert (
        distance(encoder(np.tile(voice(), 3), RATE), once) < 0.01
    )  # but for the joints; another voice lies 0.027 off


def test_a_checkpoint_that_levels_its_sound_does_not_hear_how_loud_it_is(tmp_path: Path) -> None:
    encoder = SpeakerEncoder.from_file(write_checkpoint(tmp_path / "levelled.pt", "levelled"))
    assert distance(encoder(0.01 * voice(), RATE), encoder(voice(), RATE)) < 1e-4


def test_of_a_long_recording_the_first_half_minute_is_heard_and_that_is_said(
    encoder: SpeakerEncoder, caplog: pytest.LogCaptureFixture
) -> None:
    sound = voice(31.0)
    logging.enable_propagation()
    heard = encoder(sound, RATE)
    logging.disable_propagation()
    assert "`voice` lasts 31.0 s, of which the first 30 s are heard" in caplog.text
    caplog.clear()
    assert torch.equal(heard, encoder(sound[: 30 * RATE], RATE))
    assert not torch.equal(heard, encoder(sound[: 29 * RATE], RATE))
    assert not caplog.text


NO_VOICES: dict[str, tuple[Any, str]] = {
    "silence": (np.zeros(RATE, np.float32), "`voice` must hold a voice, got silence"),
    "no mean": (np.stack([voice(), -voice()]), "got silence in what its channels have in common"),
    "a blink": (voice(0.3), r"`voice` must last 0.5 s or longer .*, got 0.300 s; give a recording of some seconds"),
    "nothing": (np.zeros(0, np.float32), r"`voice` must"),
    "NaN": (np.where(np.arange(RATE) == 7, np.nan, voice(1.0)), "`voice` must be finite, got NaN or infinity"),
    "another scale": (30_000 * voice(1.0), "`voice` of floats must lie in"),
    "batch": (np.zeros((2, 1, RATE), np.float32), r"`voice` must be \[S\] or \[channels, S\], got \[2, 1, 16000\]"),
    "samples first": (voice(1.0)[:, None], r"`voice` must be \[S\] or \[channels, S\], got \[16000, 1\]"),
    "a list": ([0.1] * RATE, "`voice` must be an array or a tensor, got list"),
}


@pytest.mark.parametrize("name", NO_VOICES)
def test_a_sound_without_a_voice_is_refused_in_one_sentence(encoder: SpeakerEncoder, name: str) -> None:
    sound, message = NO_VOICES[name]
    with pytest.raises(ValueError, match=message) as caught:
        encoder(sound, RATE)
    assert "\n" not in str(caught.value)


def test_an_array_needs_its_rate(encoder: SpeakerEncoder) -> None:
    with pytest.raises(ValueError, match="`voice_sampling_rate` must be given with an array"):
        encoder(voice())


WRONG_CONFIGS: dict[str, tuple[Any, str]] = {
    "time": (
        {"block_1d_type": "lstm"},
        r"`block_1d_type` .* must be one of 'fc', 'conv', 'att', 'conv\+att', got 'lstm'",
    ),
    "planes": ({"block_2d_type": "convnext_like_relu"}, "`block_2d_type` .* got 'convnext_like_relu'"),
    "pooling": ({"pooling_func": "TSTP"}, "`pooling_func` .* must be one of 'ASTP', got 'TSTP'"),
    "spectrogram": ({"feat_type": "tf_spec"}, "`feat_type` .* got 'tf_spec'"),
    "classes": ({"num_classes": 10}, "`num_classes` .* must be one of None, got 10"),
    "order": ({"tf_optimized_arch": True}, "`tf_optimized_arch` .* got True"),
    "number for a choice": ({"emb_bn": 1}, "`emb_bn` .* got 1"),
    "unknown": ({"agg_gnorm": True}, "must hold fields that are known here, got 'agg_gnorm' as well"),
    "unknown of the spectrogram": ({"spec_params": {"n_mels": 3}}, "`spec_params` must hold .* got 'n_mels'"),
    "norm": ({"spec_params": {"spec_norm": "bn"}}, "`spec_norm` of `spec_params` must be .* got 'bn'"),
    "rate": ({"spec_params": {"sample_rate": 8000}}, "`sample_rate` of `spec_params` must be .* got 8000"),
    "no table": ({"spec_params": 3}, "`spec_params` of `model_config` must be a table, got 3"),
    "size": ({"C": 10**9}, "`C` of `model_config` must be a whole number from 1 to 16384, got 1000000000"),
    "stages": ({"stages_setup": [(1, 2)]}, "`stages_setup` of `model_config` must be rows of five values"),
    "blocks": ({"stages_setup": [(1, 10**9, 1, [(3, 3)], None)]}, "`stages_setup` .* from 1 to 100, got 1000000000"),
    "strides": (
        {"stages_setup": [(3, 1, 1, [], None)] * 3},
        "`F` of `model_config` must divide by all strides, got 24",
    ),
    "groups": ({"group_divisor": 5}, "that a network can be built of, got 8 channels in groups of 5"),
    "heads": ({"stages_setup": [(1, 1, 1, [], 32)]}, "that a network can be built of, got 6 channels for 4 heads"),
}


@pytest.mark.parametrize("name", WRONG_CONFIGS)
def test_an_option_that_is_not_here_is_refused_by_its_name(name: str, tmp_path: Path) -> None:
    changes, message = WRONG_CONFIGS[name]
    path = tmp_path / "other.pt"
    torch.save(checkpoint(CONFIGS["conv+att"]) | {"model_config": CONFIGS["conv+att"] | changes}, path)
    with pytest.raises(ValueError, match=message) as caught:
        SpeakerEncoder.from_file(path)
    assert str(path) in str(caught.value)
    assert "give a checkpoint of IDRnD/ReDimNet" in str(caught.value)


def test_other_files_are_refused_and_not_executed(tmp_path: Path) -> None:
    path, whole = tmp_path / "other.pt", checkpoint(CONFIGS["conv+att"])

    def refused(content: Any, message: str) -> None:
        torch.save(content, path)
        with pytest.raises(ValueError, match=message):
            SpeakerEncoder.from_file(path)

    state = whole["state_dict"]
    refused(nn.Linear(3, 4), "a pickle that names code; it was not executed")
    refused(state, "must hold `model_config` and `state_dict`, got a file without")
    refused(whole | {"model_config": [1]}, "`model_config` must be a table, got list")
    refused(whole | {"state_dict": state | {"x": 3}}, "must hold tensors in `state_dict`, got 'x'")
    fewer = {name: tensor for name, tensor in state.items() if name != "linear.bias"}
    refused(whole | {"state_dict": fewer}, r"must be the weights of the ReDimNet that .* \(no linear.bias\)")
    refused(whole | {"state_dict": state | {"linear.bias": torch.zeros(7)}}, r"linear.bias of \[7\] in place of \[5\]")
    refused(whole | {"state_dict": state | {"more": torch.zeros(7)}}, r"\(more beyond them\)")
    refused(whole | {"state_dict": state | {"linear.bias": torch.full((5,), torch.nan)}}, "must hold finite weights")
    other_scale = state | {"spec.torchfbank.2.mel_scale.fb": state["spec.torchfbank.2.mel_scale.fb"].roll(1, 0)}
    refused(whole | {"state_dict": other_scale}, "must hold the spectrogram of its `model_config`, got another spec")
    with pytest.raises(ValueError, match="must be a complete torch file"):
        SpeakerEncoder.from_file(tmp_path / "none.pt")


def test_counters_of_torch_need_not_be_there(tmp_path: Path) -> None:
    whole = checkpoint(CONFIGS["att"])
    state = {name: tensor for name, tensor in whole["state_dict"].items() if "num_batches" not in name}
    assert len(state) < len(whole["state_dict"])
    torch.save(whole | {"state_dict": state}, tmp_path / "older.pt")
    vector = torch.tensor([PUBLIC["att"][0]])
    assert distance(SpeakerEncoder.from_file(tmp_path / "older.pt")(voice(), RATE), vector) < ROUNDING


def test_the_formula_tells_names_apart() -> None:
    assert not torch.equal(weight("bn1.weight", (4,)), weight("bn2.weight", (4,)))

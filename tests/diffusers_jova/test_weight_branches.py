import pytest
import torch

from diffusers_jova.weight_branches import branch_of
from tests.tiny_pipeline import DUAL_TOWERS, build_dual_tower, build_transformer, build_wan_transformer


@pytest.mark.parametrize("fusion", DUAL_TOWERS)
def test_what_towers_read_of_each_other_serves_both(fusion: str) -> None:
    names = [name for name, _ in build_dual_tower(fusion).named_parameters()]
    read = {branch_of(name) for name in names if ".fusion." in name}
    assert read == {"joint"}
    assert {branch_of(name) for name in names if ".fusion." not in name} >= {"video", "audio"}


@pytest.mark.parametrize("build", [build_transformer, build_wan_transformer])
def test_a_weight_of_the_audio_alone_moves_no_picture_where_nothing_is_coupled(build: type) -> None:
    model = build()
    num_channels = model.config.in_channels
    inputs = {
        "hidden_states": torch.ones(1, num_channels, 1, 2, 2),
        "audio_hidden_states": torch.ones(1, 2, 4),
        "encoder_hidden_states": torch.ones(1, 3, 16),
        "timestep": torch.tensor([500.0]),
    }
    clock = {"frame_rate": 16.0, "audio_latent_rate_hz": 31.25, "coupled": False, "return_dict": False}
    with torch.no_grad():
        video, audio = model(**inputs, **clock)
        for name, parameter in model.named_parameters():
            if branch_of(name) == "audio":
                parameter.add_(0.1)
        moved, audio_moved = model(**inputs, **clock)
    assert torch.equal(video, moved)
    assert not torch.equal(audio, audio_moved)

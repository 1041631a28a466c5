"""What comes through a socket is brought into one form, or refused by the name of the socket; without ComfyUI."""

import logging
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

import pytest
import torch

from tests.comfyui.stub import PACK, build_io, loaded_pack


IO = build_io()
WHOLE = IO.Int.Input("steps", min=0, max=1000)
NUMBER = IO.Float.Input("shift", min=0.01, max=100.0)
SCALE = IO.Float.Input("cfg", min=-1.0, max=100.0)
CHOICE = IO.Combo.Input("fit", options=["cover", "contain", "stretch"])
MANY = IO.Combo.Input("lora", options=[f"{index}.safetensors" for index in range(9)])
WORDS, FLAG = IO.String.Input("transcript"), IO.Boolean.Input("skip_unknown")
IMAGES, SOUND = IO.Image.Input("own_video", optional=True), IO.Audio.Input("own_audio")
TEXT = IO.Conditioning.Input("positive")
NAN = float("nan")
HALF = torch.full((2, 3, 8, 3), 0.5)  # 3 pixels high: its channels stand last all the same
TONE = torch.full((1, 2, 100), 0.25)


@pytest.fixture(scope="module")
def checks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("comfyui")
    (folder / "input").mkdir()
    with loaded_pack(folder):
        yield import_module(f"{PACK}.socket_checks")


def checked(checks: ModuleType, socket: Any, value: Any) -> Any:
    return checks.check_inputs([socket], {socket.id: value})[socket.id]


@pytest.mark.parametrize(
    ("socket", "value", "message"),
    [
        (WHOLE, None, "`steps` must be a whole number, got None"),
        (WHOLE, NAN, "`steps` must be a whole number, got nan"),
        (WHOLE, 10**9, "`steps` must be from 0 to 1000, got 1000000000; give 1000"),
        (NUMBER, NAN, "`shift` must be finite, got nan; give a number from 0.01 to 100"),
        (NUMBER, 0.0, r"`shift` must be from 0.01 to 100.0, got 0.0; give 0.01"),
        (SCALE, -0.5, "`cfg` must be -1, the model's own, or from 0 to 100, got -0.5; give 0, say"),
        (SCALE, -1.5, "`cfg` must be from -1.0 to 100.0, got -1.5; give -1.0, say"),
        (NUMBER, "fast", "`shift` must be a number, got 'fast'"),
        (CHOICE, "bend", "`fit` must be one of cover, contain, stretch, got 'bend'; choose one in the widget"),
        (CHOICE, None, "`fit` must be one of cover, contain, stretch, got None"),
        (MANY, "9", r"`lora` must be one of 0.safetensors, .*, 5.safetensors and 3 others, got '9'; choose"),
        (IO.Combo.Input("lora", options=[]), "a", "`lora` must be one of no file at all, got 'a'; choose"),
        (WORDS, 5, "`transcript` must be text, got 5; "),
        (WORDS, "\ud83d", "`transcript` must be text of whole characters"),
        (FLAG, NAN, "`skip_unknown` must be True or False, got nan; "),
        (IMAGES, "bend", r"`own_video` must be pictures \[N, H, W, 3\], got a str; connect an IMAGE"),
        (IMAGES, HALF[0], r"`own_video` must be pictures \[N, H, W, 3\], got \[3, 8, 3\]; "),
        (IMAGES, HALF[:0], r"`own_video` must have the shape .* got \[0, 3, 8, 3\]; "),
        (IMAGES, HALF * NAN, "`own_video` must be pictures of values from 0 to 1, got nan to nan; "),
        (IMAGES, HALF * 255, "`own_video` must be pictures of values from 0 to 1, got 128 to 128; "),
        (SOUND, None, r"`own_audio` must be sound \[B, channels, S\] .* got a NoneType; connect an AUDIO"),
        (SOUND, {"sample_rate": 8000}, "`own_audio` must be sound .* got a "),
        (SOUND, {"waveform": TONE[0], "sample_rate": 8000}, r"`own_audio` must be sound .* got \[2, 100\]; "),
        (SOUND, {"waveform": TONE[..., :0], "sample_rate": 8000}, r"`own_audio` must be sound .* got \[1, 2, 0\]; "),
        (SOUND, {"waveform": TONE}, "`sample_rate` of `own_audio` must be a positive whole number .* got None; "),
        (SOUND, {"waveform": TONE, "sample_rate": "8000"}, "`sample_rate` of `own_audio` must be .* got '8000'; "),
        (SOUND, {"waveform": TONE, "sample_rate": NAN}, "`sample_rate` of `own_audio` must be .* got nan; "),
        (SOUND, {"waveform": TONE * NAN, "sample_rate": 8000}, "`own_audio` must be finite, got NaN or infinity; "),
        (SOUND, {"waveform": TONE * 2**15, "sample_rate": 8000}, r"`own_audio` of floats must lie in \[-1, 1\], got"),
        (TEXT, None, "`positive` must be an encoded prompt, .* got nothing; connect JoVA Prompt or CLIPTextEncode"),
        (TEXT, [], "`positive` must be an encoded prompt, .* got a list; "),
        (TEXT, "a dog", "`positive` must be an encoded prompt, .* got a str; "),
        (TEXT, [[torch.ones(1, 0, 8), {}]], r"`positive` must be an encoded prompt, .* got \[1, 0, 8\]; "),
        (TEXT, [[torch.ones(4, 8), {}]], r"`positive` must be an encoded prompt, .* got \[4, 8\]; "),
        (TEXT, [[torch.ones(1, 4, 8) * NAN, {}]], "`positive` must be finite, got NaN or infinity; encode"),
    ],
)
def test_what_a_socket_does_not_take_is_refused_by_its_name(
    checks: ModuleType, socket: Any, value: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=f"^{message}") as caught:
        checked(checks, socket, value)
    assert str(caught.value).count("\n") == 0


def test_what_is_left_out_stays_out(checks: ModuleType) -> None:
    assert checks.check_inputs([IMAGES], {}) == {"own_video": None}


@pytest.mark.parametrize(
    "pictures",
    [HALF, HALF.half(), HALF[..., :1], torch.cat([HALF, torch.ones(2, 3, 8, 1)], dim=-1)],
    ids=["RGB", "half precision", "grey", "with alpha"],
)
def test_pictures_of_any_kind_become_rgb(checks: ModuleType, pictures: torch.Tensor) -> None:
    assert torch.equal(checked(checks, IMAGES, pictures), HALF)


def test_bytes_are_pictures_too(checks: ModuleType) -> None:
    found = checked(checks, IMAGES, torch.full((1, 4, 4, 3), 51, dtype=torch.uint8))
    torch.testing.assert_close(found, torch.full((1, 4, 4, 3), 0.2))


def test_what_resizing_overshoots_is_clipped_and_told(checks: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    pictures = HALF.clone()
    pictures[0, 0, 0] = torch.tensor([-0.1, 1.2, 0.5])
    with caplog.at_level(logging.WARNING):
        found = checked(checks, IMAGES, pictures)
    assert found[0, 0, 0].tolist() == [0.0, 1.0, 0.5]
    assert "`own_video` reaches from -0.1 to 1.2: what lies beyond 0 and 1 is clipped" in caplog.text


def test_what_rounding_overshoots_is_clipped_without_a_word(
    checks: ModuleType, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        assert float(checked(checks, IMAGES, torch.full((1, 4, 4, 3), 1 + 2.4e-7)).max()) == 1
    assert not caplog.records


def test_frames_that_need_no_change_are_not_copied(checks: ModuleType) -> None:
    assert checked(checks, IMAGES, HALF).data_ptr() == HALF.data_ptr()


def test_sound_has_a_whole_rate_and_one_type(checks: ModuleType) -> None:
    found = checked(checks, SOUND, {"waveform": TONE.double(), "sample_rate": 8000.0, "path": "kept"})
    assert torch.equal(found["waveform"], TONE)
    assert (type(found["sample_rate"]), found["sample_rate"], found["path"]) == (int, 8000, "kept")


def test_every_node_is_checked_before_it_runs(checks: ModuleType) -> None:
    pack = import_module(PACK)
    for node in pack.NODES:
        assert issubclass(node, import_module(f"{PACK}.node").JovaNode), node
        assert "execute" not in vars(node), node
        assert {socket.get_io_type() for socket in node.define_schema().inputs} <= {*checks.CHECKS}, node

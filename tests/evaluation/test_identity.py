"""The same person is nearer to a reference than another, wherever the face is; each token is the one that is named."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import Dinov2Model, DINOv3ViTModel

from diffusers_jova.evaluation import meter
from diffusers_jova.evaluation.clip_list import list_clips
from diffusers_jova.evaluation.clip_signals import read_signals
from diffusers_jova.evaluation.evaluate import main
from diffusers_jova.evaluation.identity import Dino, measure_identity
from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.network_pictures import read_picture_form
from diffusers_jova.media import write_video
from diffusers_jova.training.data.face_crop import DOWN, SIDE, UP
from diffusers_jova.training.data.manifest import read_clip
from diffusers_jova.training.data.mouth_detector import NoMouths
from tests.tiny_networks import save_dino


RED = (255, 0, 0)
HEIGHT, WIDTH, MOUTH_PX = 96, 160, 14


def texture(seed: int, height: int, width: int) -> np.ndarray:
    """Large patches of colour."""
    patches = np.random.default_rng(seed).integers(0, 200, (4, 4, 3), np.uint8)
    return np.asarray(Image.fromarray(patches).resize((width, height), Image.Resampling.NEAREST))


def scene(person: int, room: int, x: int, y: int) -> tuple[np.ndarray, list[float]]:
    """A person whose mouth is at a place of a room, and the box of the mouth."""
    frame = texture(room, HEIGHT, WIDTH).copy()
    left, right = round(x - SIDE * MOUTH_PX), round(x + SIDE * MOUTH_PX)
    top, bottom = round(y - UP * MOUTH_PX), round(y + DOWN * MOUTH_PX)
    frame[top:bottom, left:right] = texture(person, bottom - top, right - left)
    box = [x - MOUTH_PX // 2, y - 2, x + MOUTH_PX // 2, y + 2]
    frame[box[1] : box[3], box[0] : box[2]] = RED
    return frame, [float(side) for side in box]


class RedMouths:
    """Finds the red mouth in pictures that no codec has touched."""

    def __call__(self, frames: np.ndarray) -> np.ndarray:
        boxes = np.full((1, len(frames), 4), np.nan, np.float32)
        for index, frame in enumerate(frames):
            rows, columns = np.nonzero((frame == RED).all(-1))
            if len(rows):
                boxes[0, index] = columns.min(), rows.min(), columns.max() + 1, rows.max() + 1
        return boxes


def write_clip(folder: Path, name: str, person: int, room: int = 50, *, is_still: bool = False) -> Path:
    """A person who walks, with mouth boxes beside the clip."""
    folder.mkdir(parents=True, exist_ok=True)
    made = [scene(person, room, 50 + (0 if is_still else 2 * number), 60) for number in range(12)]
    write_video(folder / f"{name}.mp4", np.stack([frame for frame, _ in made]), 8)
    (folder / f"{name}.boxes.json").write_text(json.dumps([[box for _, box in made]]))
    return folder / f"{name}.mp4"


def write_image(path: Path, person: int, room: int = 50, x: int = 50) -> Path:
    Image.fromarray(scene(person, room, x, 60)[0]).save(path)
    return path


@pytest.fixture(scope="module", params=[2, 3])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_dino(tmp_path_factory.mktemp("dino") / "network", request.param)


@pytest.fixture(scope="module")
def dino(folder: Path) -> Dino:
    return Dino(folder)


def numbers(measured: Measured) -> dict[str, float]:
    return {name: value for name, value in measured.values.items() if value is not None}


def identity(clip: Path, reference: Path | None, dino: Dino) -> Measured:
    picture = read_signals(read_clip(clip)).picture
    return measure_identity(clip, picture, reference, dino, RedMouths())


def test_the_person_of_the_reference_is_nearer_than_another_and_in_another_room_the_face_alone_is(
    dino: Dino, tmp_path: Path
) -> None:
    own, other = write_image(tmp_path / "own.png", 1), write_image(tmp_path / "other.png", 2)
    elsewhere = write_image(tmp_path / "elsewhere.png", 1, room=51, x=110)
    clip = write_clip(tmp_path, "clip", 1)
    same, mismatched, moved = (numbers(identity(clip, image, dino)) for image in (own, other, elsewhere))
    assert same["identity_face"] > mismatched["identity_face"] + 0.03
    assert same["identity_picture"] > mismatched["identity_picture"] + 0.02
    assert moved["identity_face"] > mismatched["identity_face"] + 0.01
    assert moved["identity_picture"] < same["identity_picture"] - 0.005
    blind = same["identity_verse_bench"] - mismatched["identity_verse_bench"]
    assert abs(blind) < 0.002 < same["identity_picture"] - mismatched["identity_picture"]  # a patch without a face


def test_a_still_clip_is_like_its_first_frame_and_noise_is_not(dino: Dino, tmp_path: Path) -> None:
    still = identity(write_clip(tmp_path, "still", 1, is_still=True), None, dino)
    assert still.texts["identity"].startswith("the first frame")
    likeness = numbers(still)
    assert min(likeness.values()) > 0.97
    noise = np.random.default_rng(0).integers(0, 255, (12, HEIGHT, WIDTH, 3), np.uint8)
    noise[0] = scene(1, 50, 50, 60)[0]
    write_video(tmp_path / "noise.mp4", noise, 8)
    noisy = identity(tmp_path / "noise.mp4", None, dino)
    assert numbers(noisy)["identity_picture"] < likeness["identity_picture"] - 0.02
    assert (noisy.values["identity_face"], noisy.reason) == (None, "no face")


def test_the_tokens_are_those_that_are_named(dino: Dino, folder: Path, tmp_path: Path) -> None:
    image = write_image(tmp_path / "image.png", 3, room=52)
    write_video(tmp_path / "clip.mp4", np.stack([np.asarray(Image.open(image))] * 2), 8)
    clip = tmp_path / "clip.mp4"
    found = numbers(identity(clip, image, dino))
    network_class: Any = DINOv3ViTModel if "dinov3" in (folder / "config.json").read_text() else Dinov2Model
    network = network_class.from_pretrained(folder)
    form = read_picture_form(folder)
    with torch.inference_mode():
        seen = [network(form([picture])).last_hidden_state[0].double() for picture in frames_of(clip, image)]
    for name, token in (("identity_picture", 0), ("identity_verse_bench", -2)):
        expected = np.mean([torch.cosine_similarity(frame[token], seen[0][token], dim=0) for frame in seen[1:]])
        assert found[name] == pytest.approx(expected, abs=1e-5)
    assert found["identity_picture"] != found["identity_verse_bench"]


def frames_of(clip: Path, image: Path) -> list[Image.Image]:
    from diffusers_jova.media import read_video

    return [Image.open(image), *map(Image.fromarray, read_video(clip)[0])]


def test_a_reference_of_another_shape_is_cut_as_the_clip_and_squashed_as_verse_bench(
    dino: Dino, tmp_path: Path
) -> None:
    clip = write_clip(tmp_path, "clip", 1, is_still=True)
    picture = Image.open(write_image(tmp_path / "same.png", 1))
    tall = Image.new("RGB", (WIDTH, 3 * HEIGHT), (0, 200, 0))
    tall.paste(picture, (0, HEIGHT))
    tall.save(tmp_path / "tall.png")
    found, same = (numbers(identity(clip, tmp_path / f"{name}.png", dino)) for name in ("tall", "same"))
    assert found["identity_picture"] == pytest.approx(same["identity_picture"], abs=1e-6)
    assert found["identity_verse_bench"] < same["identity_verse_bench"] - 0.001


def test_what_cannot_be_compared_says_why(dino: Dino, tmp_path: Path) -> None:
    assert measure_identity(None, None, None, dino, NoMouths()).reason == "no picture"
    write_video(tmp_path / "one.mp4", scene(1, 50, 50, 60)[0][None], 8)
    assert identity(tmp_path / "one.mp4", None, dino).reason == "one frame alone, and no reference image"
    clip = write_clip(tmp_path, "clip", 1)
    Image.fromarray(texture(50, HEIGHT, WIDTH)).save(tmp_path / "room.png")
    faceless = identity(clip, tmp_path / "room.png", dino)
    assert (faceless.values["identity_face"], faceless.reason) == (None, "no face in room.png")
    assert faceless.values["identity_picture"] is not None
    (tmp_path / "broken.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="broken"):
        identity(clip, tmp_path / "broken.png", dino)


def test_the_command_compares_with_the_image_of_the_list(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(meter, "make_detector", RedMouths)
    own, other = write_image(tmp_path / "own.png", 1), write_image(tmp_path / "other.png", 2)
    for name, image in (("right", own), ("wrong", other)):
        write_clip(tmp_path / "clips", name, 1)
        with (tmp_path / "clips" / "clips.jsonl").open("a") as file:
            file.write(json.dumps({"output": f"{name}.mp4", "settings": {"image": str(image)}, "made": {}}) + "\n")
    words = [str(tmp_path / "clips"), "--output", str(tmp_path / "report"), "--measures", "identity"]
    main([*words, "--identity", str(folder)])
    rows = {row["clip"]: row for row in json.loads((tmp_path / "report" / "report.json").read_text())["rows"]}
    assert rows["right"]["values"]["identity_face"] > rows["wrong"]["values"]["identity_face"] + 0.03
    assert rows["right"]["texts"]["identity"] == "own.png"
    own_meter = meter.Meter(identity=folder)
    (clip, _) = list_clips([tmp_path / "clips"])
    before = own_meter.asked("identity", clip)
    os.utime(own, (1, 1))
    assert own_meter.asked("identity", clip) != before


def test_without_a_detector_the_whole_picture_is_compared_and_the_face_is_told_missing(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing() -> RedMouths:
        raise ImportError("no detector is installed")

    monkeypatch.setattr(meter, "make_detector", missing)
    clip = write_clip(tmp_path, "clip", 1)
    clip.with_name("clip.boxes.json").unlink()
    main([str(clip), "--output", str(tmp_path / "report"), "--measures", "identity", "--identity", str(folder)])
    assert "likeness of the face is left out of 1 of 1 clips: no detector is installed" in capsys.readouterr().err
    (row,) = json.loads((tmp_path / "report" / "report.json").read_text())["rows"]
    assert row["values"]["identity_picture"] is not None
    assert row["values"]["identity_face"] is None

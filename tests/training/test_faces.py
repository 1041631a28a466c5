"""Faces from the pictures of a clip to the loss on the face masks of an aligned fusion."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file

from diffusers_jova.media import write_video
from diffusers_jova.training.data import preparation
from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.data.face_crop import faces_of
from diffusers_jova.training.data.mouth_detector import FaceDetector, LiteFaceMeshMouths, link_tracks
from diffusers_jova.training.data.mouth_mask import latent_mask
from diffusers_jova.training.data.record import RecordHeader, write_record
from diffusers_jova.training.loop.objective import face_mask_loss
from diffusers_jova.training.loop.trainer import Trainer
from diffusers_jova.training.prepare import main as prepare
from tests.tiny_pipeline import build_spoken_pipeline
from tests.tiny_training import tiny_config


NUM_FRAMES = 9
FACE, MOUTH = np.array([20.0, 4.0, 50.0, 56.0]), np.array([30.0, 40.0, 44.0, 48.0])  # in the first frame


def moved(box: NDArray[Any], frame: int) -> NDArray[Any]:
    """A box of a frame: the person walks to the right."""
    return box + np.array([3.0 * frame, 0.0, 3.0 * frame, 0.0])


class DrawnFaces(FaceDetector):
    """Finds the white mouth of `write_clip` by its colour, and the face around it, which is wider than most."""

    def _mouths(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        _, xs = np.nonzero(image.min(-1) > 200)
        shift = np.tile([xs.mean() + 0.5 - MOUTH[::2].mean(), 0.0], 2)
        return np.concatenate([MOUTH + shift, FACE + shift]).astype(np.float32)[None]


def write_clip(folder: Path) -> Path:
    folder.mkdir()
    frames = np.full((NUM_FRAMES, 64, 96, 3), 60, np.uint8)
    for number, frame in enumerate(frames):
        for box, shade in ((FACE, 120), (MOUTH, 250)):
            x1, y1, x2, y2 = moved(box, number).astype(int)
            frame[y1:y2, x1:x2] = shade
    sound = np.sin(np.arange(NUM_FRAMES * 1000) / 4).astype(np.float32) / 2
    write_video(folder / "a.mp4", frames, 16, sound, 16000)
    (folder / "a.json").write_text(json.dumps({"video_caption": "a man", "transcript": "Hi"}))
    return folder


def prepared(folder: Path, source: Path, bucket: str, monkeypatch: pytest.MonkeyPatch, detector: Any) -> Path:
    monkeypatch.setattr(preparation, "make_detector", lambda *_: detector)
    monkeypatch.setattr("diffusers_jova.training.prepare.check_detector", lambda *_: None)
    build_spoken_pipeline().save_pretrained(folder / "model")
    words = [str(source), str(folder / "clips"), "--model", str(folder / "model"), "--dtype", "fp32"]
    prepare([*words, "--buckets", bucket])
    return folder / "clips"


def face_masks(data: Path) -> torch.Tensor:
    masks: torch.Tensor = PrecomputedDataset(data, with_faces=True).batch([0])["face_mask"][0, 0]
    return masks


def test_found_faces_are_the_targets_of_the_face_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepared(tmp_path, write_clip(tmp_path / "source"), "9x64x96", monkeypatch, DrawnFaces())
    boxes = np.stack([moved(FACE, frame) for frame in range(NUM_FRAMES)])[None]
    expected = torch.from_numpy(latent_mask(boxes.clip(0, 96), NUM_FRAMES, 64, 96))
    found = face_masks(data)
    assert (found.bool() ^ expected).float().mean() < 0.02  # the edges of the mouth are those of a compressed video
    run = {"data": str(data), "model": str(tmp_path / "model"), "batch_size": 1, "image_probability": 1.0}
    trainer = Trainer(tiny_config(tmp_path, **run, face_mask_weight=1.0, mouth_weight=0))
    inputs = trainer.conditioning(trainer.dataset.batch([0]), seed=1)
    with torch.no_grad():
        masks = trainer.transformer(**inputs.arguments, return_face_masks=True).face_masks
    first = trainer.loss(inputs).face
    torch.testing.assert_close(first, face_mask_loss(masks, found[None, None]))
    optimizer = torch.optim.Adam(trainer.transformer.parameters(), lr=1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        trainer.loss(inputs).face.sum().backward()
        optimizer.step()
    assert trainer.loss(inputs).face < 0.3 * first


def test_faces_go_with_the_crop_and_where_none_is_known_mouths_tell(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = prepared(tmp_path, write_clip(tmp_path / "source"), "9x32x32", monkeypatch, DrawnFaces())
    (path,) = data.glob("*.safetensors")
    record, metadata = load_file(path), dict(RecordHeader.read(path).metadata)
    mouths, faces = record["mouth_boxes"].double().numpy(), record["face_boxes"].double().numpy()
    around = (FACE - MOUTH) / 2  # a crop of 64 x 64 becomes half as large
    np.testing.assert_allclose((faces - mouths)[0, 0], around, atol=0.6)
    estimated = latent_mask(faces_of(mouths), NUM_FRAMES, 32, 32)
    assert not np.array_equal(face_masks(data).bool().numpy(), estimated)
    for unknown in (slice(None), slice(0, 1)):
        partly = record["face_boxes"].clone()
        partly[:, unknown] = torch.nan
        write_record(path, record | {"face_boxes": partly}, metadata)
        own = np.where(np.isfinite(partly.numpy()), faces, faces_of(mouths))
        assert np.array_equal(face_masks(data).bool().numpy(), latent_mask(own, NUM_FRAMES, 32, 32))
    del record["face_boxes"]
    write_record(path, record, metadata)
    assert np.array_equal(face_masks(data).bool().numpy(), estimated)


def test_given_boxes_of_mouths_say_nothing_of_faces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write_clip(tmp_path / "source")
    boxes = [[moved(MOUTH, frame).tolist() for frame in range(NUM_FRAMES)]]
    (source / "a.boxes.json").write_text(json.dumps(boxes))
    data = prepared(tmp_path, source, "9x64x96", monkeypatch, DrawnFaces())
    (path,) = data.glob("*.safetensors")
    assert "face_boxes" not in RecordHeader.read(path).shapes
    assert face_masks(data).any()


def test_a_detector_of_mouths_alone_will_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find: Callable[..., Any] = DrawnFaces()
    data = prepared(
        tmp_path, write_clip(tmp_path / "source"), "9x64x96", monkeypatch, lambda frames: find(frames).copy()
    )
    (path,) = data.glob("*.safetensors")
    assert "face_boxes" not in RecordHeader.read(path).shapes
    assert RecordHeader.read(path).has_mouth()


def test_what_goes_with_a_box_stays_with_its_person() -> None:
    frames = [np.array([[0, 0, 9, 9, 1.0], [50, 0, 59, 9, 2.0]]), np.array([[51, 0, 60, 9, 2.0], [1, 0, 10, 9, 1.0]])]
    tracks = link_tracks([frame.astype(np.float32) for frame in frames])
    assert tracks[..., 4].tolist() == [[1, 1], [2, 2]]


@pytest.mark.slow
def test_the_face_of_a_photograph_is_the_target_of_its_masks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs the networks of the extra `face`, and scikit-image for a photograph of NASA's."""
    photograph = Path(pytest.importorskip("skimage").__file__).parent / "data" / "astronaut.png"
    try:
        image, detector = Image.open(photograph).convert("RGB"), LiteFaceMeshMouths()
    except ImportError as error:
        pytest.skip(str(error))
    (tmp_path / "source").mkdir()
    zooms = [(60 + 6 * n, 10 + 2 * n, 320 / (1 + n / 27), 256 / (1 + n / 27)) for n in range(NUM_FRAMES)]
    frames = np.stack([np.asarray(image.resize((320, 256), box=(x, y, x + w, y + h))) for x, y, w, h in zooms])
    sound = np.sin(np.arange(NUM_FRAMES * 1000) / 4).astype(np.float32) / 2
    write_video(tmp_path / "source" / "a.mp4", frames, 16, sound, 16000)
    (tmp_path / "source" / "a.json").write_text(json.dumps({"video_caption": "a woman", "transcript": "Hi"}))
    data = prepared(tmp_path, tmp_path / "source", "9x256x320", monkeypatch, detector)
    seen = np.stack([detector._faces(frame)[0][:4] for frame in frames])[None]  # of the network in front of the mesh
    wanted = latent_mask(seen, NUM_FRAMES, 256, 320)
    (path,) = data.glob("*.safetensors")
    mouths = load_file(path)["mouth_boxes"].double().numpy()
    by_mouth = latent_mask(faces_of(mouths), NUM_FRAMES, 256, 320)
    overlaps = [
        float((mask & wanted).sum() / (mask | wanted).sum()) for mask in (face_masks(data).bool().numpy(), by_mouth)
    ]
    print("overlap with the box of the face network: found, estimated from the mouth", overlaps)
    assert overlaps[0] > 0.75
    assert overlaps[0] > overlaps[1] + 0.1

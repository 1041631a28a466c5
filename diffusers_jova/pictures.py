"""Pictures in one form and one shape, whatever they are given as.

Letters: N pictures, C channels, H and W pixels. In one form, pictures are uint8, or float32 in [0, 1], [N, H, W, 3].
"""

import math
import os
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import PIL.Image
import PIL.ImageOps
import torch
from diffusers.utils import logging

from jova_cli.moving_pictures import frames_in_time


logger = logging.get_logger(__name__)

Picture = PIL.Image.Image | np.ndarray | torch.Tensor
Pictures = Picture | Sequence[Picture]
Fit = Literal["cover", "contain", "stretch"]

NUM_CHANNELS = (1, 2, 3, 4)  # grey, grey and alpha, RGB, RGB and alpha
LARGEST = {"bool": 1, "uint8": 255, "uint16": 65535}  # value of white, by type
STILLS = ("image", "last_image", "keyframes")  # arguments that take single pictures
READERS = ("`media.read_video({!r})`", "`media.read_image({!r})`")  # of a video, of an image
SIDES = ("column{} on either side", "row{} above and below")
MUCH_ENLARGED = 8  # times
ROUNDING = 1e-6  # of a pixel, by which a whole number of them may be missed
TRANSPARENT_MODES = ("LA", "PA", "La", "RGBA", "RGBa")


# --- one form ---


def to_pictures(name: str, given: Pictures) -> list[np.ndarray]:
    """One picture or several, of any form: PIL images of any mode, arrays and tensors of any layout of the channels.

    Whole numbers are scaled by their type (bool, uint8 or uint16), floats lie in [0, 1]. What is transparent lies on
    white; PIL images are turned the way the camera says.

    Args:
        name: Argument that the pictures came from.
        given: PIL image; array or tensor [H, W], [H, W, C], [C, H, W], [N, H, W, C] or [N, C, H, W] with up to 4
            channels; or a list of such single pictures. Where both layouts are possible, an array has its channels
            last, as numpy's users do, and a tensor first, as torch's users do.

    Returns:
        Pictures [H, W, 3], uint8 or float32 in [0, 1].

    Raises:
        ValueError: For another type, shape or range of values.
    """
    if isinstance(given, PIL.Image.Image):
        return [_of_image(name, given)]
    if isinstance(given, (np.ndarray, torch.Tensor)):
        return list(_of_array(name, given, max_ndim=4)) if np.ndim(given) == 4 else [_of_array(name, given)]
    if not isinstance(given, Sequence) or isinstance(given, str | bytes) or not given:
        raise ValueError(_wrong_type(name, given))
    return [_of_one(name, picture) for picture in given]


def to_frames(name: str, given: Pictures) -> np.ndarray:
    """The frames of one video, of any form that `to_pictures` takes.

    Args:
        name: Argument that the frames came from.
        given: List of pictures of one size, or array or tensor [N, H, W, C] or [N, C, H, W].

    Returns:
        uint8, or float32 in [0, 1], [N, H, W, 3].

    Raises:
        ValueError: For another type, shape or range of values, or frames of several sizes.
    """
    if isinstance(given, (np.ndarray, torch.Tensor)):
        if np.ndim(given) != 4:
            raise ValueError(_wrong_shape(name, given, "[N, H, W, C] or [N, C, H, W]"))
        return _of_array(name, given, max_ndim=4)
    if isinstance(given, PIL.Image.Image):
        _check_still(name, given)
        raise ValueError(f"`{name}` must be several frames, got one PIL image; pass a list of images")
    for frame in given if isinstance(given, Sequence) else ():
        if isinstance(frame, PIL.Image.Image):
            _check_still(name, frame)
    pictures = to_pictures(name, given)
    sizes = sorted({(picture.shape[1], picture.shape[0]) for picture in pictures})
    if len(sizes) > 1:
        raise ValueError(f"`{name}` must have one size, got {sizes[0]} and {sizes[-1]}; resize them to the same one")
    if len({picture.dtype for picture in pictures}) > 1:
        pictures = [_to_float(picture) for picture in pictures]
    return np.stack(pictures)


def to_uint8_frames(frames: Pictures) -> np.ndarray:
    """Convert any kind of frames that a pipeline returns, or that `to_frames` takes, to uint8 [N, H, W, 3].

    Raises:
        ValueError: For another shape, another type of number, or values outside [0, 1].
    """
    return to_uint8(to_frames("frames", frames))


def to_uint8(pictures: np.ndarray) -> np.ndarray:
    """Pictures in one form as uint8."""
    return pictures if pictures.dtype == np.uint8 else (pictures * 255).round().astype(np.uint8)


def to_rgb_image(name: str, image: PIL.Image.Image) -> PIL.Image.Image:
    """A PIL image of any mode as RGB, see `to_pictures`."""
    return PIL.Image.fromarray(to_uint8(_of_image(name, image)))


def to_signed(pictures: np.ndarray) -> torch.Tensor:
    """Pictures in one form [N, H, W, 3] as a VAE reads them: float32 [N, 3, H, W] in [-1, 1]."""
    return torch.from_numpy(2 * _to_float(pictures) - 1).movedim(-1, 1)


def _check_still(name: str, frame: PIL.Image.Image) -> None:
    """Refuse an image that moves as a frame: all entries of a list of one file's frames would be its last."""
    if (num := frames_in_time(frame)) > 1:
        raise ValueError(
            f"`{name}` must be several frames, got a PIL image of {num} frames that moves; read its file by "
            "`media.read_video`, or pass a `copy()` of each frame"
        )


def _to_float(pictures: np.ndarray) -> np.ndarray:
    return pictures.astype(np.float32) / 255 if pictures.dtype == np.uint8 else pictures


def _of_one(name: str, picture: Any) -> np.ndarray:
    """One entry of a list."""
    if isinstance(picture, PIL.Image.Image):
        return _of_image(name, picture)
    if isinstance(picture, (np.ndarray, torch.Tensor)):
        return _of_array(name, picture)
    if isinstance(picture, Sequence) and not isinstance(picture, str | bytes):
        raise ValueError(
            f"`{name}` must be one list of pictures, got a list of lists; pass one video of a batch as `{name}[0]`"
        )
    raise ValueError(_wrong_type(name, [picture]))


def _of_image(name: str, image: PIL.Image.Image) -> np.ndarray:
    """A PIL image of any mode [H, W, 3]; of one that moves, the frame at which it stands, and a line."""
    num = frames_in_time(image)
    if num > 1 and name in STILLS:
        logger.warning(
            f"`{name}` is a picture of {num} frames that moves; frame {image.tell()}, where it stands, is taken"
        )
    try:
        image = PIL.ImageOps.exif_transpose(image)
        if image.mode == "F" or image.mode.startswith("I"):
            return _of_deep_image(name, image)
        is_transparent = image.mode in TRANSPARENT_MODES or "transparency" in image.info
        array = np.asarray(image.convert("RGBA" if is_transparent else "RGB"))
    except (OSError, SyntaxError) as error:  # what Pillow raises for broken files
        raise ValueError(
            f"`{name}` must be a readable image, got {error}; open and save it again, as JPEG or PNG"
        ) from error
    except ValueError as error:
        if "not supported" not in str(error):
            raise
        raise ValueError(
            f"`{name}` must be an image of RGB or what converts to it, got mode {image.mode!r}; convert it first"
        ) from error
    return on_white(array)


def _of_deep_image(name: str, image: PIL.Image.Image) -> np.ndarray:
    """An image of mode F, I or I;16 [H, W, 3]."""
    array = np.asarray(image)
    if image.mode == "I":
        low, high = int(array.min()), int(array.max())
        if not (low >= 0 and 255 < high <= 65535):
            raise ValueError(
                f"`{name}` of mode 'I' must hold grey values of 16 bits, got [{low}, {high}]; convert it to 'L' or "
                "'I;16', which say what white is"
            )
    return _of_array(name, array if image.mode == "F" else array.astype(np.uint16))


def _of_array(name: str, given: np.ndarray | torch.Tensor, max_ndim: int = 3) -> np.ndarray:
    """An array or tensor of one picture, or of several where `max_ndim` is 4, with its channels last and RGB."""
    is_tensor = isinstance(given, torch.Tensor)
    array = _to_numpy(given) if isinstance(given, torch.Tensor) else given
    wanted = "[H, W], [H, W, C] or [C, H, W]" if max_ndim == 3 else "[N, H, W, C] or [N, C, H, W]"
    if array.ndim not in range(2, max_ndim + 1) or 0 in array.shape:
        raise ValueError(_wrong_shape(name, given, wanted))
    if array.ndim == 2:
        array = array[..., None]
    is_possible = {"first": array.shape[-3] in NUM_CHANNELS, "last": array.shape[-1] in NUM_CHANNELS}
    if not any(is_possible.values()):
        raise ValueError(_wrong_shape(name, given, wanted))
    if np.ndim(given) > 2 and (is_possible["first"] if is_tensor else not is_possible["last"]):
        array = np.moveaxis(array, -3, -1)
    return on_white(_in_range(name, array))


def _to_numpy(tensor: torch.Tensor) -> np.ndarray:
    tensor = tensor.detach().cpu()
    return (tensor.float() if tensor.is_floating_point() else tensor).numpy()


def _in_range(name: str, array: np.ndarray) -> np.ndarray:
    """Values as uint8, or float32 in [0, 1]."""
    if array.dtype == np.uint8:
        return array
    if array.dtype.name in LARGEST:
        return array.astype(np.float32) / LARGEST[array.dtype.name]
    if not np.issubdtype(array.dtype, np.floating):
        raise ValueError(
            f"`{name}` must be uint8 or float, got {array.dtype}; convert it to uint8 in [0, 255] or uint16 in "
            "[0, 65535], which say what white is"
        )
    low, high = array.min(), array.max()
    if not (low >= 0 and high <= 1):  # written so that NaN fails as well
        raise ValueError(
            f"`{name}` of floats must lie in [0, 1], got [{low:.3g}, {high:.3g}]; rescale it, or pass uint8"
        )
    return array.astype(np.float32, copy=False)


def on_white(array: np.ndarray) -> np.ndarray:
    """Grey or RGB, with or without alpha, [..., C] to RGB [..., 3]; what is transparent lies on white."""
    colours = array
    if array.shape[-1] in (2, 4):
        colours, alpha = array[..., :-1], array[..., -1:]
        if (alpha != (255 if array.dtype == np.uint8 else 1)).any():
            shown = _to_float(colours) * _to_float(alpha) + (1 - _to_float(alpha))
            colours = to_uint8(shown) if array.dtype == np.uint8 else shown
    return np.repeat(colours, 3, axis=-1) if colours.shape[-1] == 1 else colours


def _wrong_type(name: str, given: Any) -> str:
    listed = given if isinstance(given, list) else [given]
    if listed and isinstance(listed[0], str | os.PathLike):
        return (
            f"`{name}` must be an array, a tensor or a non-empty list of PIL images, got the name {str(listed[0])!r}; "
            f"read the file first, by {READERS[name in STILLS].format(str(listed[0]))}"
        )
    entries = f" of {type(given[0]).__name__}" if isinstance(given, list) and given else ""
    return (
        f"`{name}` must be an array, a tensor or a non-empty list of PIL images, got {type(given).__name__}{entries}; "
        f"read a file by {READERS[name in STILLS].format('name')}"
    )


def _wrong_shape(name: str, given: np.ndarray | torch.Tensor, wanted: str) -> str:
    advice = f"pass one video of a batch as `{name}[0]`" if np.ndim(given) == 5 else "bring it into one of these"
    return (
        f"`{name}` must have the shape {wanted} with 1 to 4 channels and at least one pixel, got {list(given.shape)}; "
        f"{advice}"
    )


# --- one shape ---


class Placement(NamedTuple):
    """How pixels of a picture move when it is brought to another size: x -> x * scale_x - crop_x, y alike.

    Attributes:
        scale_x: Width of a pixel afterwards.
        scale_y: Height of a pixel afterwards.
        crop_x: Columns cut on either side, counted afterwards; negative where columns are added.
        crop_y: Rows cut above and below.
    """

    scale_x: float
    scale_y: float
    crop_x: float
    crop_y: float


def check_fit(fit: str) -> None:
    """Refuse a way of fitting that there is not."""
    if fit not in get_args(Fit):
        raise ValueError(f"`fit` must be one of {list(get_args(Fit))}, got {fit!r}; use 'cover' to crop the centre")


def place(size: tuple[int, int], target: tuple[int, int], fit: Fit = "cover") -> Placement:
    """Decide how a picture of `size` (height, width) comes to the size `target`.

    Args:
        size: Of the picture.
        target: Wanted.
        fit: `"cover"` keeps the shape of things and crops the centre, `"contain"` keeps all of the picture and fills
            up with black, `"stretch"` bends the shape of things.
    """
    (height, width), (target_height, target_width) = size, target
    scale_y, scale_x = target_height / height, target_width / width
    if fit == "stretch":
        return Placement(scale_x, scale_y, 0.0, 0.0)
    if fit == "cover":
        scale = max(scale_x, scale_y)
        # the side that fits may come out a rounding error too short
        crop_x, crop_y = (max(0.0, width * scale - target_width) / 2, max(0.0, height * scale - target_height) / 2)
        return Placement(scale, scale, crop_x, crop_y)
    scale = min(scale_x, scale_y)
    inner_width, inner_height = max(1, round(width * scale)), max(1, round(height * scale))
    left, top = (target_width - inner_width) // 2, (target_height - inner_height) // 2
    return Placement(inner_width / width, inner_height / height, -left, -top)


def fit_pictures(pictures: np.ndarray, height: int, width: int, fit: Fit = "cover") -> np.ndarray:
    """Bring pictures to a size, see `place`.

    Args:
        pictures: In one form, [N, h, w, 3].
        height: Pixels wanted.
        width: Pixels wanted.
        fit: Whether the centre is cropped, the rest filled up, or the shape bent.

    Returns:
        [N, height, width, 3] of the same type; the pictures themselves where they have the size already.
    """
    old_height, old_width = pictures.shape[1:3]
    if (old_height, old_width) == (height, width):
        return pictures
    placed = place((old_height, old_width), (height, width), fit)
    if fit == "contain":
        first_column, first_row = round(-placed.crop_x), round(-placed.crop_y)
        inner = (round(old_height * placed.scale_y), round(old_width * placed.scale_x))
        filled = np.zeros((len(pictures), height, width, 3), pictures.dtype)
        whole = (0.0, 0.0, float(old_width), float(old_height))
        filled[:, first_row : first_row + inner[0], first_column : first_column + inner[1]] = _resize(
            pictures, inner, whole
        )
        return filled
    left, top = placed.crop_x / placed.scale_x, placed.crop_y / placed.scale_y
    return _resize(pictures, (height, width), (left, top, old_width - left, old_height - top))


def _resize(pictures: np.ndarray, size: tuple[int, int], region: tuple[float, float, float, float]) -> np.ndarray:
    """Resize a region (left, top, right, bottom), in float so that pixels and boxes agree exactly."""
    height, width = size

    def resize(plane: np.ndarray) -> np.ndarray:
        image = PIL.Image.fromarray(plane).resize((width, height), PIL.Image.Resampling.LANCZOS, box=region)
        return np.asarray(image)

    if pictures.dtype == np.uint8:
        return np.stack([resize(picture) for picture in pictures])
    planes = [np.stack([resize(plane) for plane in np.moveaxis(picture, -1, 0)], axis=-1) for picture in pictures]
    return np.stack(planes).clip(0, 1)


def in_sides(numbers: Sequence[int]) -> str:
    """Numbers of columns and of rows in words, up to a verb; empty where there are none."""
    sides = zip(numbers, SIDES, strict=True)
    told = [f"{number} {what.format('s' * (number > 1))}" for number, what in sides if number > 0]
    verb = "is" if len(told) == max(numbers) == 1 else "are"
    return f"{' and '.join(told)} {verb}" if told else ""


def describe_fit(name: str, size: tuple[int, int], target: tuple[int, int], fit: Fit) -> str | None:
    """Say in one line what of a picture is cut or filled, or that little of it is made much; None otherwise.

    Args:
        name: Argument that the picture came from.
        size: Its height and width.
        target: Height and width of the clip.
        fit: How it is brought there.
    """
    placed = place(size, target, fit)
    cut = ((placed.crop_x, placed.scale_x), (placed.crop_y, placed.scale_y))
    lost = [math.floor(crop / scale + ROUNDING) for crop, scale in cut]  # whole ones: of some a part is left
    filled = [round(-crop) for crop in (placed.crop_x, placed.crop_y)]
    change = {"cut": in_sides(lost), "filled with black": in_sides(filled)}
    words = [f"{sides} {what}" for what, sides in change.items() if sides]
    if (times := max(placed.scale_x, placed.scale_y)) >= MUCH_ENLARGED:
        words.append(f"it is enlarged {times:.3g} times")
    if not words:
        return None
    shapes = f"{size[1]}x{size[0]} pixels in a clip of {target[1]}x{target[0]}"
    return f"`{name}` of {shapes}: {', '.join(words)} (`fit` = {fit!r})"


def tell_fit(name: str, pictures: Sequence[np.ndarray], target: tuple[int, int], fit: Fit) -> None:
    """Say what `describe_fit` has to say, once for each size among pictures.

    Args:
        name: Argument that the pictures came from.
        pictures: In one form, [..., h, w, 3].
        target: Height and width of the clip.
        fit: How they are brought there.
    """
    for height, width in dict.fromkeys(picture.shape[-3:-1] for picture in pictures):
        if change := describe_fit(name, (height, width), target, fit):
            logger.warning(change)

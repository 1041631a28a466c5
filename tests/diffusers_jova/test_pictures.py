from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageSequence
import pytest
import torch

from diffusers_jova import JoVAPipeline, media
from diffusers_jova.pictures import describe_fit, fit_pictures, place, to_frames, to_pictures, to_uint8
from tests.diffusers_jova.test_given_media import circle, extent
from tests.tiny_pipeline import build_tiny_pipeline


SIZE = (6, 10)  # rows, columns


def colours() -> np.ndarray:
    """A picture whose every pixel differs from its neighbours."""
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), dtype=np.uint8)
    picture[0, 0] = 255
    return picture


def grey() -> np.ndarray:
    return colours()[..., 0]


def image(array: np.ndarray, mode: str) -> PIL.Image.Image:
    return PIL.Image.fromarray(array).convert(mode)


def with_alpha(alpha: int) -> np.ndarray:
    return np.concatenate([colours(), np.full((*SIZE, 1), alpha, np.uint8)], axis=-1)


# 1. One form


IN_COLOUR: dict[str, Any] = {
    "PIL RGB": image(colours(), "RGB"),
    "PIL RGBA": image(colours(), "RGBA"),
    "uint8": colours(),
    "uint8, channels first": np.moveaxis(colours(), -1, 0),
    "uint16": colours().astype(np.uint16) * 257,
    "float32": colours() / np.float32(255),
    "float64, channels first": np.moveaxis(colours() / 255, -1, 0),
    "batch of one": colours()[None],
    "RGBA": with_alpha(255),
    "tensor": torch.from_numpy(colours()).movedim(-1, 0),
    "tensor, channels last": torch.from_numpy(colours()),
    "float tensor": torch.from_numpy(colours()).movedim(-1, 0) / 255,
    "list of one": [colours()],
}
IN_GREY: dict[str, Any] = {
    "PIL L": image(grey(), "L"),
    "PIL LA": image(grey(), "LA"),
    "PIL I;16": PIL.Image.fromarray(grey().astype(np.uint16) * 257),
    "PIL I": PIL.Image.fromarray(grey().astype(np.int32) * 257),
    "PIL F": PIL.Image.fromarray(grey() / np.float32(255)),
    "plane": grey(),
    "one channel": grey()[..., None],
    "tensor": torch.from_numpy(grey())[None],
}


@pytest.mark.parametrize("form", IN_COLOUR)
def test_a_picture_in_colour_of_any_form_is_the_same_picture(form: str) -> None:
    (picture,) = to_pictures("image", IN_COLOUR[form])
    np.testing.assert_array_equal(to_uint8(picture), colours())


@pytest.mark.parametrize("form", IN_GREY)
def test_a_grey_picture_of_any_form_is_the_same_picture(form: str) -> None:
    (picture,) = to_pictures("image", IN_GREY[form])
    np.testing.assert_array_equal(to_uint8(picture), np.repeat(grey()[..., None], 3, axis=-1))


def test_pictures_of_few_colours_are_what_their_program_shows() -> None:
    stencil = grey() > 127
    palette = image(colours(), "P")
    cmyk = image(colours(), "CMYK")
    for given, shown in (
        (PIL.Image.fromarray(stencil), np.repeat(255 * stencil[..., None].astype(np.uint8), 3, axis=-1)),
        (stencil, np.repeat(255 * stencil[..., None].astype(np.uint8), 3, axis=-1)),
        (palette, np.asarray(palette.convert("RGB"))),
        (cmyk, np.asarray(cmyk.convert("RGB"))),
    ):
        (picture,) = to_pictures("image", given)
        np.testing.assert_array_equal(to_uint8(picture), shown)


def test_what_is_transparent_lies_on_white(tmp_path: Path) -> None:
    clear, half = (
        np.concatenate([np.zeros((*SIZE, 3), np.uint8), np.full((*SIZE, 1), a, np.uint8)], -1) for a in (0, 128)
    )
    PIL.Image.fromarray(clear).save(tmp_path / "clear.png")
    named = PIL.Image.new("P", (4, 4))
    named.info["transparency"] = 0
    forms = [clear, clear / 255, PIL.Image.fromarray(clear), PIL.Image.fromarray(clear[..., 2:]), named]
    for form in [*forms, media.read_image(tmp_path / "clear.png")]:
        (picture,) = to_pictures("image", form)
        assert (to_uint8(picture) == 255).all()
    (picture,) = to_pictures("image", PIL.Image.fromarray(half))
    assert (picture == 127).all()


def test_a_picture_is_turned_the_way_the_camera_says(tmp_path: Path) -> None:
    upright = PIL.Image.new("RGB", (6, 4))
    exif = upright.getexif()
    exif[0x0112] = 6  # orientation: a quarter turn
    upright.save(tmp_path / "turned.png", exif=exif)
    (picture,) = to_pictures("image", PIL.Image.open(tmp_path / "turned.png"))
    assert picture.shape == (6, 4, 3)


def test_frames_may_be_images_of_several_modes_or_arrays() -> None:
    frames = to_frames("video", [image(colours(), "RGBA"), image(grey(), "L"), colours() / 255])
    np.testing.assert_array_equal(to_uint8(frames)[0], to_uint8(frames)[2])
    assert to_frames("video", np.stack([grey()] * 2)[..., None]).shape == (2, *SIZE, 3)
    uint8 = np.stack([colours()] * 2)
    assert to_frames("video", uint8) is uint8


AMBIGUOUS: list[tuple[Any, str]] = [
    (colours() * 1.0, r"`image` of floats must lie in \[0, 1\], got \[\d+, 25\d\]; rescale it, or pass uint8"),
    (colours() / 127.5 - 1, r"of floats must lie in \[0, 1\], got \[-"),
    (np.full((*SIZE, 3), np.nan), r"must lie in \[0, 1\], got \[nan, nan\]"),
    (np.full((*SIZE, 3), np.inf), r"must lie in \[0, 1\], got \[inf, inf\]"),
    (colours().astype(np.int64), "must be uint8 or float, got int64; convert it to uint8"),
    (PIL.Image.fromarray(grey().astype(np.int32)), r"of mode 'I' must hold grey values of 16 bits, got \[\d+, 25\d\]"),
    (PIL.Image.fromarray(grey().astype(np.float32)), r"of floats must lie in \[0, 1\]"),
    (np.zeros((5, 6, 7)), r"`image` must have the shape \[H, W\], \[H, W, C\] or \[C, H, W\] .*, got \[5, 6, 7\]"),
    (np.zeros((1, 1, 6, 6, 3)), r"got \[1, 1, 6, 6, 3\]; pass one video of a batch as `image\[0\]`"),
    (np.zeros((0, 6, 6, 3)), r"at least one pixel, got \[0, 6, 6, 3\]"),
    (np.zeros(3), r"must have the shape .*, got \[3\]"),
    ([[PIL.Image.new("RGB", (4, 4))]], r"got a list of lists; pass one video of a batch as `image\[0\]`"),
    ([], "must be an array, a tensor or a non-empty list of PIL images, got list"),
    (["a.png"], r"got the name 'a.png'; read the file first, by `media.read_image\('a.png'\)`"),
    ("a.png", r"got the name 'a.png'; read the file first"),
]


@pytest.mark.parametrize(("given", "message"), AMBIGUOUS, ids=[message[:40] for _, message in AMBIGUOUS])
def test_what_may_mean_several_pictures_or_none_is_refused(given: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        to_pictures("image", given)


def test_frames_without_their_axis_or_of_several_sizes_are_refused() -> None:
    for frames in (np.zeros((4, 4, 3)), np.zeros((5, 32, 32))):
        with pytest.raises(ValueError, match=r"`video` must have the shape \[N, H, W, C\] or \[N, C, H, W\]"):
            to_frames("video", frames)
    with pytest.raises(ValueError, match="`video` must be several frames, got one PIL image; pass a list"):
        to_frames("video", PIL.Image.new("RGB", (4, 4)))
    with pytest.raises(ValueError, match=r"`video` must have one size, got \(4, 4\) and \(4, 6\)"):
        to_frames("video", [PIL.Image.new("RGB", (4, 4)), PIL.Image.new("RGB", (4, 6))])


def test_a_broken_image_is_refused(tmp_path: Path) -> None:
    PIL.Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(
        tmp_path / "a.png"
    )
    whole = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(whole[: len(whole) // 2])
    with (
        PIL.Image.open(tmp_path / "a.png") as broken,
        pytest.raises(ValueError, match=r"`image` must be a readable image, got .*truncated"),
    ):
        to_pictures("image", broken)


# 2. One shape


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


def test_fitting_crops_fills_or_bends() -> None:
    pictures = circle(96, 192, 60)[None]
    assert extent(fit_pictures(pictures, 64, 64, "cover")[0]) == pytest.approx((40, 40), abs=1)
    contained = fit_pictures(pictures + 100 * (pictures == 0).astype(np.uint8), 64, 64, "contain")[0]
    assert extent(contained) == pytest.approx((20, 20), abs=1)
    assert not contained[[0, 15, 48, 63]].any()
    assert contained[16:48].all()
    assert extent(fit_pictures(pictures, 64, 64, "stretch")[0]) == pytest.approx((40, 20), abs=1)
    assert fit_pictures(pictures, 96, 192) is pictures


def test_a_side_that_fits_is_cropped_by_nothing() -> None:
    for size, target in (((132, 98), (64, 64)), ((1280, 720), (480, 832)), ((98, 132), (64, 64))):
        placed = place(size, target)
        assert 0 in (placed.crop_x, placed.crop_y), f"{size} to {target}"
        assert fit_pictures(np.zeros((1, *size, 3), np.uint8), *target).shape == (1, *target, 3)
    for width in range(16, 2049):
        assert min(place((width, width), (64, 64))[2:]) == 0, f"{width} pixels square"


def test_floats_are_fitted_as_whole_numbers_are() -> None:
    rows, columns = np.mgrid[:96, :192][..., None]
    pictures = (128 + 60 * np.sin(rows / 9 + np.arange(3)) * np.cos(columns / 7)).astype(np.uint8)[None]
    floats = fit_pictures(pictures / np.float32(255), 64, 64)
    np.testing.assert_allclose(floats * 255, fit_pictures(pictures, 64, 64), atol=1.5)  # each pass rounds
    overshoot = fit_pictures(circle(96, 192, 60)[None] / np.float32(255), 64, 64)
    assert overshoot.min() >= 0
    assert overshoot.max() <= 1


@pytest.mark.parametrize("fit", ["cover", "contain", "stretch"])
def test_a_placement_tells_where_a_point_went(fit: Any) -> None:
    dot = np.zeros((1, 90, 200, 3), np.uint8)
    dot[0, 30:36, 110:116] = 255
    placed = place((90, 200), (64, 48), fit)
    rows, columns = np.nonzero(fit_pictures(dot, 64, 48, fit)[0].mean(-1) > 60)
    assert columns.mean() + 0.5 == pytest.approx(113 * placed.scale_x - placed.crop_x, abs=0.6)
    assert rows.mean() + 0.5 == pytest.approx(33 * placed.scale_y - placed.crop_y, abs=0.6)


def test_what_is_cut_or_filled_is_said_with_the_amounts(
    pipeline: JoVAPipeline, caplog: pytest.LogCaptureFixture
) -> None:
    shapes = "`image` of 192x96 pixels in a clip of 64x64"
    cut = describe_fit("image", (96, 192), (64, 64), "cover")
    assert cut == f"{shapes}: 48 columns on either side are cut (`fit` = 'cover')"
    filled = describe_fit("image", (96, 192), (64, 64), "contain")
    assert filled == f"{shapes}: 16 rows above and below are filled with black (`fit` = 'contain')"
    assert describe_fit("image", (96, 192), (64, 64), "stretch") is None
    assert describe_fit("image", (96, 192), (32, 64), "cover") is None
    spot = describe_fit("image", (4, 4), (64, 64), "stretch")
    assert spot == "`image` of 4x4 pixels in a clip of 64x64: it is enlarged 16 times (`fit` = 'stretch')"
    line = describe_fit("image", (1, 4000), (64, 64), "cover")
    assert line is not None
    assert "1999 columns on either side are cut" in line  # one of them is left
    line = describe_fit("image", (64, 66), (64, 64), "cover")
    assert line == "`image` of 66x64 pixels in a clip of 64x64: 1 column on either side is cut (`fit` = 'cover')"
    pipeline("a ball", image=circle(96, 192, 60), num_frames=1, num_inference_steps=1)
    assert [record.message for record in caplog.records] == [describe_fit("image", (96, 192), (32, 32), "cover")]


def test_a_picture_that_moves_gives_its_current_frame_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    frames = [PIL.Image.new("RGB", (4, 4), colour) for colour in ("red", "lime")]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    with PIL.Image.open(tmp_path / "a.gif") as moving:
        moving.seek(1)
        (picture,) = to_pictures("image", moving)
    assert picture[0, 0].tolist() == [0, 255, 0]
    (record,) = caplog.records
    assert "`image` is a picture of 2 frames that moves; frame 1" in record.message


def test_pictures_that_move_are_no_frames(tmp_path: Path) -> None:
    frames = [image(np.full((*SIZE, 3), value, np.uint8), "RGB") for value in (0, 255)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    with PIL.Image.open(tmp_path / "moving.gif") as moving:
        for given in (moving, list(PIL.ImageSequence.Iterator(moving))):
            with pytest.raises(ValueError, match=r"2 frames that moves; read its file by `media\.read_video`"):
                to_frames("video", given)
        copies = [frame.copy() for frame in PIL.ImageSequence.Iterator(moving)]
    assert to_frames("video", copies)[:, 0, 0, 0].tolist() == [0, 255]


def test_a_fit_that_there_is_not_is_refused(pipeline: JoVAPipeline) -> None:
    with pytest.raises(ValueError, match=r"`fit` must be one of \['cover', 'contain', 'stretch'\], got 'crop'; use"):
        pipeline("a ball", image=circle(32, 32, 8), fit="crop")

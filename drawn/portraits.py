"""Cartoon speakers: who they are, and how they are drawn.

Coordinates are those of a 64 x 64 picture, x to the right and y down; `Canvas` scales them to any size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw


RGB = tuple[int, int, int]
Point = tuple[float, float]


class Colour(NamedTuple):
    """A colour and the word that captions use for it."""

    name: str
    rgb: RGB


def _palette(**colours: RGB) -> tuple[Colour, ...]:
    return tuple(Colour(name, rgb) for name, rgb in colours.items())


PALETTE = {
    "background": _palette(blue=(110, 170, 230), pink=(245, 180, 200), grey=(150, 150, 155), mint=(160, 225, 195)),
    "skin": _palette(pale=(248, 220, 198), tan=(222, 176, 132), brown=(150, 102, 70), green=(150, 200, 120)),
    "hair": _palette(red=(190, 60, 30), black=(35, 30, 35), blond=(240, 205, 90), purple=(130, 60, 170)),
    "shirt": _palette(yellow=(245, 205, 40), orange=(240, 130, 40), white=(240, 240, 240), navy=(30, 50, 110)),
}
LIP: RGB = (196, 62, 78)
INNER_MOUTH: RGB = (58, 10, 22)
TEETH: RGB = (250, 250, 245)
TONGUE: RGB = (214, 96, 110)

HAIR_STYLES = ("short", "spiky", "long", "bald")
SPIKES = tuple(
    (side * x, y)
    for side in (-1, 1)
    for x, y in ((17, -13), (20, -20), (14, -19), (12, -26), (6, -21), (0, -28))[::-side]
)


@dataclass(frozen=True, kw_only=True)
class Identity:
    """Who speaks; the colours may lie outside `PALETTE`."""

    voice: str
    background: Colour
    skin: Colour
    hair: Colour
    shirt: Colour
    hair_style: str = "short"
    has_glasses: bool = False
    lip: RGB = LIP
    inner_mouth: RGB = INNER_MOUTH

    def __post_init__(self) -> None:
        if self.hair_style not in HAIR_STYLES:
            raise ValueError(f"`hair_style` must be one of {', '.join(HAIR_STYLES)}, got {self.hair_style!r}")

    @property
    def colours(self) -> dict[str, Colour]:
        """The visible coloured parts; a bald head has no hair."""
        parts = {"background": self.background, "skin": self.skin, "hair": self.hair, "shirt": self.shirt}
        return {part: colour for part, colour in parts.items() if part != "hair" or self.hair_style != "bald"}

    @property
    def caption(self) -> str:
        """What the picture shows, in one sentence."""
        hair = "a bald head" if self.hair_style == "bald" else f"{self.hair_style} {self.hair.name} hair"
        look = f"{hair} and glasses" if self.has_glasses else hair
        return (
            f"A cartoon {self.voice} with {self.skin.name} skin and {look}, wearing a {self.shirt.name} shirt, "
            f"speaks on a {self.background.name} background."
        )


def random_identity(generator: np.random.Generator) -> Identity:
    """One of the identities of the palette, with slightly varied colours of the mouth."""
    colours = {part: options[generator.integers(len(options))] for part, options in PALETTE.items()}
    return Identity(
        voice=("man", "woman", "child")[generator.choice(3, p=(0.4, 0.4, 0.2))],
        hair_style=HAIR_STYLES[generator.integers(len(HAIR_STYLES))],
        has_glasses=bool(generator.random() < 0.3),
        lip=_varied(LIP, generator),
        inner_mouth=_varied(INNER_MOUTH, generator),
        **colours,
    )


def _varied(rgb: RGB, generator: np.random.Generator, amount: int = 10) -> RGB:
    red, green, blue = (np.array(rgb) + generator.integers(-amount, amount + 1, 3)).clip(0, 255).tolist()
    return red, green, blue


class Canvas:
    """A picture that is drawn `oversampling` times as large as it comes out."""

    def __init__(self, height: int, width: int, background: RGB) -> None:
        self.oversampling = 4 if min(height, width) <= 128 else 2
        self.scale = self.oversampling * min(height, width) / 64
        self.left = (self.oversampling * width / self.scale - 64) / 2  # the 64 x 64 drawing is centred
        self.top = self.oversampling * height / self.scale - 64  # and stands on the lower edge
        self.image = Image.new("RGB", (self.oversampling * width, self.oversampling * height), background)
        self.draw = ImageDraw.Draw(self.image)

    def _pixels(self, *points: Point) -> list[Point]:
        return [((x + self.left) * self.scale, (y + self.top) * self.scale) for x, y in points]

    def ellipse(self, centre: Point, half_width: float, half_height: float, fill: RGB) -> None:
        """Fill an ellipse."""
        x, y = centre
        corners = self._pixels((x - half_width, y - half_height), (x + half_width, y + half_height))
        self.draw.ellipse(corners, fill=fill)

    def ring(self, centre: Point, radius: float, line: float, colour: RGB) -> None:
        """Draw the outline of a circle."""
        x, y = centre
        corners = self._pixels((x - radius, y - radius), (x + radius, y + radius))
        self.draw.ellipse(corners, outline=colour, width=max(round(line * self.scale), 1))

    def chord(self, centre: Point, half_width: float, half_height: float, degrees: Point, fill: RGB) -> None:
        """Fill the part of an ellipse that a straight cut between two angles leaves (0 is right, clockwise)."""
        x, y = centre
        corners = self._pixels((x - half_width, y - half_height), (x + half_width, y + half_height))
        self.draw.chord(corners, *degrees, fill=fill)

    def rectangle(self, top_left: Point, bottom_right: Point, radius: float, fill: RGB) -> None:
        """Fill a rectangle with rounded corners."""
        self.draw.rounded_rectangle(self._pixels(top_left, bottom_right), radius * self.scale, fill=fill)

    def polygon(self, points: tuple[Point, ...], fill: RGB) -> None:
        """Fill a polygon."""
        self.draw.polygon(self._pixels(*points), fill=fill)

    def line(self, start: Point, end: Point, line: float, colour: RGB) -> None:
        """Draw a straight line."""
        self.draw.line(self._pixels(start, end), fill=colour, width=max(round(line * self.scale), 1))

    def box_px(self, centre: Point, half_width: float, half_height: float) -> tuple[float, float, float, float]:
        """The box around an ellipse in pixels of the finished picture, xyxy."""
        x, y = centre
        corners = self._pixels((x - half_width, y - half_height), (x + half_width, y + half_height))
        x1, y1, x2, y2 = (value / self.oversampling for corner in corners for value in corner)
        return x1, y1, x2, y2

    def finished(self) -> npt.NDArray[np.uint8]:
        """The picture, uint8 [H, W, 3]."""
        return np.asarray(self.image.reduce(self.oversampling))


class Pose(NamedTuple):
    """How a speaker holds the head in one frame."""

    x: float  # of the head, from its place of rest
    y: float
    yaw: float  # -1..1, to the right
    gaze_x: float  # -1..1
    gaze_y: float
    eyes_open: float  # 0..1


def draw_speaker(
    canvas: Canvas, identity: Identity, pose: Pose, mouth: npt.NDArray[np.float64]
) -> tuple[float, float, float, float]:
    """Draw one frame.

    Args:
        canvas: An empty canvas of the identity's background.
        identity: Who is drawn.
        pose: Where the head is and where it looks.
        mouth: (open, width, round, teeth), [4], each 0..1.

    Returns:
        The box of the outer lip in pixels, xyxy.
    """
    head = (32 + pose.x, 30 + pose.y)
    face = (head[0] + 3 * pose.yaw, head[1])  # the features move more than the head's outline
    _draw_body(canvas, identity, head)
    _draw_head(canvas, identity, head, pose.yaw)
    _draw_eyes(canvas, identity, face, pose)
    return _draw_mouth(canvas, identity, face, mouth)


def _shaded(rgb: RGB, factor: float) -> RGB:
    red, green, blue = (round(value * factor) for value in rgb)
    return red, green, blue


def _draw_body(canvas: Canvas, identity: Identity, head: Point) -> None:
    x, y = head
    shoulders = 32 + 0.6 * (x - 32)
    if identity.hair_style == "long":
        canvas.rectangle((x - 19, y - 18), (x + 19, y + 22), 12, identity.hair.rgb)
    canvas.rectangle((x - 5, y + 12), (x + 5, y + 26), 0, _shaded(identity.skin.rgb, 0.8))
    canvas.rectangle((shoulders - 21, 52.5), (shoulders + 21, 80), 7, identity.shirt.rgb)


def _draw_head(canvas: Canvas, identity: Identity, head: Point, yaw: float) -> None:
    x, y = head
    skin, hair = identity.skin.rgb, identity.hair.rgb
    if identity.hair_style != "long":
        for side in (-1, 1):
            canvas.ellipse((x + 15.5 * side - yaw, y + 1), 3, 4, _shaded(skin, 0.85))
    canvas.ellipse(head, 15.5, 19.5, skin)
    if identity.hair_style != "bald":
        canvas.chord((x, y - 2), 17, 20, (205, 335), hair)
    if identity.hair_style == "spiky":
        canvas.polygon(tuple((x + dx, y + dy) for dx, dy in SPIKES), hair)


def _draw_eyes(canvas: Canvas, identity: Identity, face: Point, pose: Pose) -> None:
    x, y = face
    dark: RGB = (28, 24, 30)
    size = 1.2 if identity.voice == "child" else 1.0
    brow = _shaded(identity.skin.rgb if identity.hair_style == "bald" else identity.hair.rgb, 0.5)
    for side in (-1, 1):
        eye = (x + 6 * side, y - 2.5)
        canvas.ellipse(eye, 3.1 * size, max(2.8 * size * pose.eyes_open, 0.4), (250, 250, 250))
        if pose.eyes_open > 0.3:
            canvas.ellipse((eye[0] + 1.2 * pose.gaze_x, eye[1] + 0.8 * pose.gaze_y), 1.3 * size, 1.4 * size, dark)
        else:
            canvas.line((eye[0] - 3, eye[1]), (eye[0] + 3, eye[1]), 0.7, dark)
        canvas.line((eye[0] - 3, y - 7.2), (eye[0] + 3, y - 7.2), 0.6 if identity.voice == "woman" else 1.1, brow)
        if identity.has_glasses:
            canvas.ring(eye, 4.6, 0.9, dark)
    if identity.has_glasses:
        canvas.line((x - 1.5, y - 2.5), (x + 1.5, y - 2.5), 0.9, dark)
    canvas.line((x, y - 0.5), (x + 1.2, y + 4), 0.6, _shaded(identity.skin.rgb, 0.65))


def _draw_mouth(
    canvas: Canvas, identity: Identity, face: Point, mouth: npt.NDArray[np.float64]
) -> tuple[float, float, float, float]:
    opening, width, roundness, teeth = mouth.tolist()
    half_width = (3.2 + 4.6 * width) * (1 - 0.12 * roundness)
    half_height = 0.35 + 5.2 * opening
    centre = (face[0], face[1] + 10.5 + 0.35 * half_height)
    lip = 1.1 + 0.7 * roundness
    canvas.ellipse(centre, half_width + lip, half_height + lip, identity.lip)
    canvas.ellipse(centre, half_width, half_height, identity.inner_mouth)
    if teeth > 0.2 and opening > 0.12:
        canvas.chord(centre, 0.94 * half_width, 0.94 * half_height, (208, 332), TEETH)
    if opening > 0.35:
        canvas.ellipse((centre[0], centre[1] + 0.58 * half_height), 0.55 * half_width, 0.36 * half_height, TONGUE)
    return canvas.box_px(centre, half_width + lip, half_height + lip)

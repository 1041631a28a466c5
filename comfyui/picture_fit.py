"""How pictures of another shape become those of a clip: what several nodes let people choose."""

FITS = ("cover", "contain", "stretch")
FIT_TOOLTIP = (
    "How a picture of another shape becomes one of the clip's: cover crops the centre, contain fills up with black, "
    "stretch bends what is seen."
)

"""How many frames fill whole latents: a causal video VAE keeps the first frame alone, then as many as its factor."""


def num_latent_frames(num_frames: int, temporal_factor: int) -> int:
    """Latent frames of a clip of `temporal_factor` * k + 1 frames, k + 1."""
    return (num_frames - 1) // temporal_factor + 1


def num_frames_of(num_latents: int, temporal_factor: int) -> int:
    """Frames of a clip of so many latent frames."""
    return (num_latents - 1) * temporal_factor + 1


def whole_frames(num_frames: int, temporal_factor: int) -> int:
    """The largest number of frames up to `num_frames` that fills whole latents; at least 1."""
    return num_frames_of(num_latent_frames(max(1, num_frames), temporal_factor), temporal_factor)


def check_whole_frames(num_frames: int, temporal_factor: int) -> None:
    """Refuse a `num_frames` that does not fill whole latents.

    Raises:
        ValueError: With the nearest numbers that do.
    """
    if (below := whole_frames(num_frames, temporal_factor)) != num_frames:
        raise ValueError(
            f"`num_frames` must be {temporal_factor}k + 1 (the video VAE compresses time by {temporal_factor}), "
            f"got {num_frames}; use {below} or {below + temporal_factor}"
        )

"""Clips to be prepared, what prepares them, and the records that come of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open

from diffusers_jova.media import write_video
from diffusers_jova.training.data.clip import ClipSettings
from diffusers_jova.training.data.encoder import fingerprint_model
from diffusers_jova.training.data.preparation import Preparer, PrepareSettings
from diffusers_jova.training.data.subtitles import Speech
from jova_cli.clip_limits import Bucket


def write_clips(folder: Path, names: Sequence[str] = ("a", "b"), num_frames: int = 12) -> Path:
    """Clips of 32 x 32 with a moving white mouth, its boxes, a hum and a caption."""
    folder.mkdir(parents=True, exist_ok=True)
    for shade, name in enumerate(names):
        frames = np.full((num_frames, 32, 32, 3), 40 + 30 * shade, np.uint8)
        boxes = [[[8 + f, 16, 16 + f, 22] for f in range(num_frames)]]
        for f in range(num_frames):
            frames[f, 16:22, 8 + f : 16 + f] = 250
        sound = np.sin(np.arange(num_frames * 1000) / (4 + shade)).astype(np.float32) / 2
        write_video(folder / f"{name}.mp4", frames, 16, sound, 16000)
        (folder / f"{name}.txt").write_text(f"clip {name}")
        (folder / f"{name}.boxes.json").write_text(json.dumps(boxes))
    return folder


def write_recording(path: Path, num_scenes: int = 5, scene_s: int = 24) -> list[Speech]:
    """Two minutes of a speaker at several places, with words of their own tone, pauses, and the words as subtitles."""
    rng = np.random.default_rng(0)
    num_frames = num_scenes * scene_s * 8
    shades = np.repeat(np.arange(num_scenes) % 2 * 140 + 40, scene_s * 8)
    frames = np.broadcast_to(shades[:, None, None, None], (num_frames, 32, 32, 3)).astype(np.uint8)
    words, at_s = [], 0.4
    while at_s < num_frames / 8 - 1:
        end_s = at_s + rng.uniform(0.2, 0.5)
        words.append(Speech(f"word{len(words)}", round(at_s, 3), round(end_s, 3)))
        at_s = end_s + (rng.uniform(1.0, 2.5) if len(words) % 9 == 0 else rng.uniform(0.0, 0.1))
    time_s = np.arange(num_frames * 1000) / 8000
    sound = np.zeros(len(time_s), np.float32)
    for number, word in enumerate(words):
        spoken = (time_s >= word.start_s) & (time_s < word.end_s)
        sound[spoken] = 0.3 * np.sin(2 * np.pi * (200 + 10 * number % 900) * time_s[spoken])
    write_video(path, frames, 8, sound, 8000)
    clock = "{:02d}:{:02d}:{:06.3f}"
    cues = [
        " --> ".join(clock.format(0, int(t // 60), t % 60).replace(".", ",") for t in word[1:]) + f"\n{word.text}\n"
        for word in words
    ]
    path.with_suffix(".srt").write_text("\n".join(f"{number}\n{cue}" for number, cue in enumerate(cues, start=1)))
    path.with_suffix(".json").write_text(json.dumps({"video_caption": "a man"}))
    return words


def make_preparer(model: Path, output: Path, **options: Any) -> Preparer:
    clips = ClipSettings(buckets=(Bucket(9, 32, 32),), frame_rate=16, **options)
    settings = PrepareSettings(clips=clips, dtype="fp32", mouths=False)
    return Preparer(model, output, settings, fingerprint_model(model))


def contents(folder: Path) -> dict[str, Any]:
    """Tensors and headers of all records, comparable; the order inside a header is arbitrary."""
    return {str(path.relative_to(folder)): record(path) for path in sorted(folder.rglob("*.safetensors"))}


def record(path: Path) -> tuple[dict[str, str], dict[str, list[float]]]:
    with safe_open(path, framework="pt") as file:
        return file.metadata(), {name: file.get_tensor(name).nan_to_num(-1).tolist() for name in file.keys()}  # noqa: SIM118


def save_speech_model(folder: Path) -> Path:
    """A tiny recogniser that hears an X in everything."""
    from transformers import Wav2Vec2Config, Wav2Vec2CTCTokenizer, Wav2Vec2FeatureExtractor, Wav2Vec2ForCTC

    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({"<pad>": 0, "<unk>": 1, "|": 2, "X": 3}))
    Wav2Vec2CTCTokenizer(str(folder / "vocab.json"), bos_token=None, eos_token=None).save_pretrained(folder)
    Wav2Vec2FeatureExtractor().save_pretrained(folder)
    config = Wav2Vec2Config(
        vocab_size=4,
        hidden_size=8,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=8,
        conv_dim=(8,) * 7,
        num_conv_pos_embeddings=4,
        num_conv_pos_embedding_groups=2,
    )
    model = Wav2Vec2ForCTC(config)
    torch.nn.init.zeros_(model.lm_head.weight)
    model.lm_head.bias.data = torch.tensor([0.0, 0.0, 0.0, 9.0])
    model.save_pretrained(folder)
    return folder

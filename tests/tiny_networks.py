"""Networks of transformers as users have them, small and random, saved as folders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import (
    ASTConfig,
    ASTFeatureExtractor,
    ASTForAudioClassification,
    ClapConfig,
    ClapFeatureExtractor,
    ClapModel,
    ClapProcessor,
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPTokenizer,
    Dinov2Config,
    Dinov2Model,
    DINOv3ViTConfig,
    DINOv3ViTModel,
    GenerationConfig,
    RobertaTokenizer,
    VideoMAEConfig,
    VideoMAEForVideoClassification,
    VideoMAEModel,
    WhisperConfig,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode


SPECIAL = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")


def byte_vocabulary(*special: str) -> dict[str, int]:
    """A token for each byte, behind special ones."""
    return {token: number for number, token in enumerate([*special, *bytes_to_unicode().values()])}


def save_clap(folder: Path, *, fusion: bool = True, longest_s: int = 1) -> Path:
    """A CLAP for sounds of a second or more, which reads texts byte by byte."""
    torch.manual_seed(0)
    config = ClapConfig(
        text_config={
            "vocab_size": 300,
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "max_position_embeddings": 130,
            "initializer_range": 0.5,
        },
        audio_config={
            "depths": [1, 1],
            "num_attention_heads": [1, 2],
            "patch_embeds_hidden_size": 8,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "enable_fusion": fusion,
            "fusion_type": "aff_2d" if fusion else None,
            "aff_block_r": 2,
        },
        projection_dim=12,
    )
    ClapModel(config).save_pretrained(folder)
    tokenizer = RobertaTokenizer(vocab=byte_vocabulary(*SPECIAL), merges=[])
    extractor = ClapFeatureExtractor(max_length_s=longest_s, truncation="fusion" if fusion else "rand_trunc")
    ClapProcessor(extractor, tokenizer).save_pretrained(folder)
    return folder


def save_dino(folder: Path, version: int = 3) -> Path:
    """A DINO that sees pictures of 64 x 64, with the file that tells it."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 64, "patch_size": 16}
    if version == 3:
        config = DINOv3ViTConfig(**sizes, intermediate_size=24, num_register_tokens=4, initializer_range=0.2)
        form = {"size": {"height": 64, "width": 64}, "resample": 2}
        DINOv3ViTModel(config).save_pretrained(folder)
    else:
        Dinov2Model(Dinov2Config(**sizes, mlp_ratio=1, initializer_range=0.2)).save_pretrained(folder)
        form = {"size": {"shortest_edge": 72}, "do_center_crop": True, "crop_size": {"height": 64, "width": 64}}
        form |= {"resample": 3}
    form |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(form))
    return folder


def save_classifier(folder: Path) -> Path:
    """An AST of four classes of sound."""
    torch.manual_seed(0)
    config = ASTConfig(
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_length=1024,
        num_mel_bins=32,
        initializer_range=0.3,
        num_labels=4,
        id2label={0: "Hum", 1: "Rain", 2: "Dog", 3: "Speech"},
    )
    ASTForAudioClassification(config).save_pretrained(folder)
    ASTFeatureExtractor(num_mel_bins=32, max_length=1024).save_pretrained(folder)
    return folder


def save_videomae(folder: Path, *, has_head: bool = True) -> Path:
    """A VideoMAE that sees 16 frames of 32 x 32, with its classes or without."""
    torch.manual_seed(0)
    config = VideoMAEConfig(
        image_size=32,
        patch_size=8,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        initializer_range=0.3,
        num_labels=3,
    )
    network = VideoMAEForVideoClassification(config) if has_head else VideoMAEModel(config)
    if has_head:
        torch.nn.init.normal_(network.fc_norm.weight)
        torch.nn.init.normal_(network.fc_norm.bias)
    network.save_pretrained(folder)
    form = {"do_center_crop": True, "size": 32, "resample": 2}  # as the public ones say it
    form |= {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]}
    (folder / "preprocessor_config.json").write_text(json.dumps(form))
    return folder


def save_clip(folder: Path) -> Path:
    """A CLIP that sees pictures of 32 x 32, and reads texts of 32 tokens letter by letter."""
    torch.manual_seed(0)
    letters = list(bytes_to_unicode().values())
    vocabulary = [*letters, *(f"{letter}</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={token: number for number, token in enumerate(vocabulary)}, merges=[])
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    ends = {"bos_token_id": len(vocabulary) - 2, "eos_token_id": len(vocabulary) - 1}
    config = CLIPConfig(
        text_config={**sizes, **ends, "vocab_size": len(vocabulary), "max_position_embeddings": 32},
        vision_config={**sizes, "image_size": 32, "patch_size": 8},
        projection_dim=12,
        initializer_factor=5.0,
    )
    CLIPModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def teach_texts(network: Any, tokens: Any, seen: Tensor) -> None:
    """Train the texts of a CLIP or CLAP to say which of two pictures or sounds is meant.

    Args:
        network: Only its texts are trained.
        tokens: Of two texts.
        seen: Embeddings of what they mean, [2, D].
    """
    network.eval()
    targets = torch.stack([seen[0] - seen[1], seen[1] - seen[0]])  # what tells them apart
    optimizer = torch.optim.Adam([*network.text_model.parameters(), *network.text_projection.parameters()], lr=0.01)
    for _ in range(60):
        loss = (1 - torch.cosine_similarity(network.get_text_features(**tokens).pooler_output, targets)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


WHISPER_TOKENS = (
    *("<|endoftext|>", "<|startoftranscript|>", "<|en|>", "<|fr|>", "<|zh|>", "<|translate|>", "<|transcribe|>"),
    *("<|startoflm|>", "<|startofprev|>", "<|nocaptions|>", "<|notimestamps|>"),
)


def save_whisper(folder: Path, *, is_multilingual: bool = True) -> Path:
    """A Whisper that hears random bytes; of three languages, or of English alone."""
    torch.manual_seed(0)
    first = len(byte_vocabulary())
    numbers = {token: first + number for number, token in enumerate(WHISPER_TOKENS)}
    WhisperTokenizer(vocab=byte_vocabulary(), merges=[], additional_special_tokens=WHISPER_TOKENS[1:]).save_pretrained(
        folder
    )
    WhisperFeatureExtractor(feature_size=8).save_pretrained(folder)
    end = numbers["<|endoftext|>"]
    ids = {"bos_token_id": end, "eos_token_id": end, "pad_token_id": end}
    ids["decoder_start_token_id"] = numbers["<|startoftranscript|>"]
    config = WhisperConfig(
        vocab_size=first + len(WHISPER_TOKENS) + 1501,  # the last are times
        num_mel_bins=8,
        d_model=8,
        encoder_layers=1,
        encoder_attention_heads=1,
        decoder_layers=1,
        decoder_attention_heads=1,
        encoder_ffn_dim=8,
        decoder_ffn_dim=8,
        max_target_positions=16,
        suppress_tokens=None,
        begin_suppress_tokens=None,
        **ids,
    )
    network = WhisperForConditionalGeneration(config)
    languages = {name: numbers[name] for name in ("<|en|>", "<|fr|>", "<|zh|>")}
    tasks = {name: numbers[f"<|{name}|>"] for name in ("translate", "transcribe")}
    network.generation_config = GenerationConfig(
        is_multilingual=is_multilingual,
        no_timestamps_token_id=numbers["<|notimestamps|>"],
        prev_sot_token_id=numbers["<|startofprev|>"],
        max_length=12,
        **ids,
        **({"lang_to_id": languages, "task_to_id": tasks} if is_multilingual else {}),
    )
    network.save_pretrained(folder)
    return folder

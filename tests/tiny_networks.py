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
    RobertaTokenizer,
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

"""The three-part prompt of the paper, and the features that text encoders make of prompts.

JoVA (arXiv:2512.13677v1), Sec. 3.3 describes every clip by a video caption, an audio caption and a transcript.

Letters in shapes: B prompts, S tokens, D feature width, P speakers.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F


PROMPT_TEMPLATE = "{video}\n<S>{transcript}<E>\n<AUDCAP>{audio}<ENDAUDCAP>"  # one part per line


@dataclass(frozen=True)
class JoVAPrompt:
    """What is seen, what is heard, and what is said.

    Args:
        video: Caption of the picture.
        audio: Caption of the sound.
        transcript: The words that are spoken.
    """

    video: str = ""
    audio: str = ""
    transcript: str = ""

    def unread_parts(self, template: str) -> list[str]:
        """Names of the parts that are not empty and have no form in a template."""
        return [name for name, text in asdict(self).items() if text.strip() and f"{{{name}}}" not in template]

    def render(self, template: str) -> str:
        """One string: the parts that are not empty, each in its form, in the order of the template.

        Args:
            template: Format string of each part, one per line, as `PROMPT_TEMPLATE`.
        """
        forms = [
            form.replace(f"{{{name}}}", text.strip())
            for form in template.splitlines()
            for name, text in asdict(self).items()
            if f"{{{name}}}" in form and text.strip()
        ]
        return " ".join(forms)


def check_text(name: str, text: Any, part: str = "") -> None:
    """Refuse what no tokenizer reads: what is no text, and halves of surrogate pairs, as broken JSON leaves them.

    Args:
        name: Argument or option that it came from.
        text: Of a prompt, or of a part of one.
        part: Name of the part.
    """
    if not isinstance(text, str):
        place = f" for its `{part}`" if part else ""
        raise ValueError(f"`{name}` must be text, got {text!r}{place}; write it in quotes")
    if any("\ud800" <= character <= "\udfff" for character in text):
        raise ValueError(f"`{name}` must be text of whole characters, got {text!r}; half of a surrogate pair is lost")


class PromptEmbeds(NamedTuple):
    """Features of a batch of prompts.

    Args:
        features: Of the first text encoder, [B, S, D].
        mask: Bool [B, S], False for padding; None where nothing is padded.
        features_2: Of the second text encoder, [B, S2, D2]; None without one.
        mask_2: Its mask.
        speaker_positions: Rows of `features` that voices of speakers replace, int64 [B, P], behind the last one -1;
            None for models without.
        audio_features: What the sound reads in place of all these, [B, S3, D3], such as the characters of what is
            said; None where one text serves both modalities.
        audio_mask: Its mask.
    """

    features: Tensor
    mask: Tensor | None = None
    features_2: Tensor | None = None
    mask_2: Tensor | None = None
    speaker_positions: Tensor | None = None
    audio_features: Tensor | None = None
    audio_mask: Tensor | None = None

    def joint_mask(self) -> Tensor | None:
        """Mask of the concatenated features, bool [B, S + S2]; None where nothing is padded."""
        pairs = [(self.features, self.mask)]
        if self.features_2 is not None:
            pairs.append((self.features_2, self.mask_2))
        if all(mask is None or bool(mask.all()) for _, mask in pairs):
            return None
        return torch.cat([full_mask(features) if mask is None else mask for features, mask in pairs], dim=1)

    def text_lengths(self) -> list[tuple[int, ...]] | None:
        """Rows of each encoder's features that are read, per prompt; None where these are not the first ones."""
        pairs = [(self.features, self.mask)]
        if self.features_2 is not None:
            pairs.append((self.features_2, self.mask_2))
        parts = [first_rows(features, mask) for features, mask in pairs]
        found = [part for part in parts if part is not None]
        return list(zip(*found, strict=True)) if len(found) == len(parts) else None

    def of_audio(self) -> "PromptEmbeds":
        """What the sound reads."""
        return self if self.audio_features is None else PromptEmbeds(self.audio_features, self.audio_mask)

    def repeat(self, num_per_prompt: int) -> "PromptEmbeds":
        """Every prompt `num_per_prompt` times, copies beside each other."""
        parts: list[Any] = [None if part is None else part.repeat_interleave(num_per_prompt, 0) for part in self]
        return PromptEmbeds(*parts)


def first_rows(features: Tensor, mask: Tensor | None) -> list[int] | None:
    """How many rows of features [B, S, D] a mask [B, S] keeps; None where these are not the first ones, or none."""
    if mask is None:
        return [features.shape[1]] * features.shape[0]
    kept: list[list[bool]] = mask.bool().tolist()
    lengths = [sum(row) for row in kept]
    is_padding = all(length > 0 and all(row[:length]) for row, length in zip(kept, lengths, strict=True))
    return lengths if is_padding else None


def full_mask(features: Tensor) -> Tensor:
    """Mask that keeps every row of features [B, S, D]: bool [B, S]."""
    return torch.ones(features.shape[:2], dtype=torch.bool, device=features.device)


def pad_rows(features: Tensor, mask: Tensor | None, num_rows: int) -> tuple[Tensor, Tensor]:
    """Pad features [B, S, D] and their mask to `num_rows` rows with zeros."""
    mask = full_mask(features) if mask is None else mask
    missing = num_rows - features.shape[1]
    return F.pad(features, (0, 0, 0, missing)), F.pad(mask, (0, missing))


def concatenate_prompts(prompts: Sequence[PromptEmbeds]) -> PromptEmbeds:
    """Features of batches of prompts as one batch, padded to the longest."""
    if len({(part.features_2 is None, part.audio_features is None) for part in prompts}) > 1:
        raise ValueError(
            "`negative_prompt_embeds` must have features of the same text encoders as `prompt_embeds`, got others; "
            "pass `PromptEmbeds` from `encode_prompt`"
        )

    def join(features: list[Tensor | None], masks: list[Tensor | None]) -> tuple[Tensor | None, Tensor | None]:
        present = [part for part in features if part is not None]
        if not present:
            return None, None
        longest = max(part.shape[1] for part in present)
        padded = [pad_rows(part, mask, longest) for part, mask in zip(present, masks, strict=True)]
        return torch.cat([part for part, _ in padded]), torch.cat([mask for _, mask in padded])

    features, mask = join([part.features for part in prompts], [part.mask for part in prompts])
    features_2, mask_2 = join([part.features_2 for part in prompts], [part.mask_2 for part in prompts])
    audio_features, audio_mask = join([part.audio_features for part in prompts], [part.audio_mask for part in prompts])
    assert features is not None
    return PromptEmbeds(features, mask, features_2, mask_2, audio_features=audio_features, audio_mask=audio_mask)

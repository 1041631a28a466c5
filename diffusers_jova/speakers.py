"""Voices of the speakers of a prompt: where they stand in its text, and which of the given ones stands where.

NAVA (ernie-research/NAVA @ 786c373) puts a token of its own behind every `<S>`, which opens what one speaker says, and
replaces the embedded text row of that token by the embedded voice, the i-th `<S>` by the i-th voice. Its blocks read
text rows as a set: the model knows which voices there are, not which of them says what.

Letters in shapes: B prompts or clips, S tokens, P voices, D width of a speaker encoder's vectors.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from .finite import check_finite_inputs


SPEECH_START = "<S>"
NO_ROW = -1  # the position of a voice that replaces nothing


def read_voices(path: Path) -> Tensor:
    """Vectors [1, P, D] of a speaker encoder, from a file that holds [D] or [P, D] of them alone.

    Args:
        path: A .npy or .safetensors file.

    Raises:
        ValueError: It cannot be read, or holds something else.
    """
    advice = "save the vectors of the speaker encoder alone, [D] or [voices, D], as .npy or .safetensors"
    try:
        found = {path.stem: read_array(path)} if path.suffix == ".npy" else load_file(path)
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        reason = "no file" if isinstance(error, FileNotFoundError) else "one that is damaged or of another kind"
        raise ValueError(f"`{path.name}` must be a file of voices, got {reason}; {advice}") from error
    if len(found) != 1:
        raise ValueError(f"`{path.name}` must hold one tensor, got {', '.join(sorted(found)) or 'none'}; {advice}")
    (values,) = found.values()
    if isinstance(values, np.ndarray):
        if values.dtype.kind not in "fiu":
            raise ValueError(f"`{path.name}` must hold numbers, got {values.dtype}; {advice}")
        values = torch.from_numpy(values.astype(np.float32))
    voices = torch.atleast_2d(values.float())
    if voices.ndim != 2 or not voices.numel():
        raise ValueError(f"`{path.name}` must hold vectors [D] or [voices, D], got {list(values.shape)}; {advice}")
    check_finite_inputs({path.name: voices}, advice)
    return voices[None]


def read_array(path: Path) -> np.ndarray:
    """Read one array; an archive of several under this name is an error as any other file is."""
    with path.open("rb") as file:
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def mark_speakers(text: str, speaker_token: str) -> str:
    """Put the token behind every `<S>` that lacks it."""
    marked = SPEECH_START + speaker_token
    return text.replace(marked, SPEECH_START).replace(SPEECH_START, marked)


def find_speakers(tokenizer: Any, input_ids: Tensor, speaker_token: str) -> Tensor:
    """Positions of the token in each prompt, int64 [B, P], behind the last one -1.

    Args:
        tokenizer: Of transformers.
        input_ids: Tokens of the prompts, [B, S].
        speaker_token: A token of the tokenizer's vocabulary.

    Raises:
        ValueError: The tokenizer does not know the token.
    """
    token_id = tokenizer.convert_tokens_to_ids(speaker_token)
    if token_id in (None, tokenizer.unk_token_id):
        raise ValueError(
            f"`speaker_token` must be one token of the tokenizer, got {speaker_token!r}; NAVA's is '<extra_id_2>'"
        )
    found = [is_token.nonzero().flatten() for is_token in input_ids == token_id]
    return pad_sequence(found, batch_first=True, padding_value=NO_ROW)


class Speakers(NamedTuple):
    """Voices and the text rows that they replace.

    Args:
        embeds: Vectors of the speaker encoder [B, P, D]; zeros mean an unknown voice.
        positions: Text rows, [B, P]; -1 for none.
    """

    embeds: Tensor
    positions: Tensor

    @classmethod
    def match(cls, embeds: Tensor, positions: Tensor) -> "Speakers":
        """Give the i-th voice of each prompt to its i-th speaker; a speaker without one has an unknown voice.

        Args:
            embeds: Voices [B, P, D], zeros behind the last one of a prompt.
            positions: Text rows of the speakers, [B, any number], as from `find_speakers`.

        Raises:
            ValueError: A prompt has fewer speakers than voices.
        """
        missing = positions.shape[1] - embeds.shape[1]
        embeds = F.pad(embeds, (0, 0, 0, max(0, missing)))
        positions = F.pad(positions, (0, max(0, -missing)), value=NO_ROW)
        is_given = embeds.any(-1)
        for row, unused in enumerate((is_given & (positions == NO_ROW)).any(1).tolist()):
            if unused:
                num_voices, num_places = int(is_given[row].nonzero().max()) + 1, int((positions[row] != NO_ROW).sum())
                raise ValueError(
                    f"`speaker_embeds` must be at most one per `{SPEECH_START}` of a prompt, got {num_voices} for "
                    f"{num_places}; give one set per prompt, zeros behind the last voice of each"
                )
        return cls(embeds, positions)

    def transformer_arguments(self, has_voice: Sequence[bool]) -> dict[str, Tensor]:
        """Arguments of the transformer for a batch of predictions, with the voices or without."""
        if not any(has_voice):
            return {}
        nowhere = torch.full_like(self.positions, NO_ROW)
        return {
            "speaker_embeds": torch.cat([self.embeds] * len(has_voice)),
            "speaker_positions": torch.cat([self.positions if voice else nowhere for voice in has_voice]),
        }

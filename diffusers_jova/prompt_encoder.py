"""JoVAPromptEncoderMixin: the pipeline's view of its tokenizers and text encoders, from prompts to their features.

Letters in shapes: B prompts, S tokens, D feature width, P voices of one prompt.
"""

from typing import Any

import torch
from diffusers.utils import logging
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from .conditions import repeat_to_batch
from .finite import finite_output
from .generation_defaults import GenerationDefaults
from .offloading import execution_device
from .pipeline_checks import Prompts, count_prompts
from .prompt import JoVAPrompt, PromptEmbeds, check_text, pad_rows
from .speakers import Speakers, find_speakers, mark_speakers
from .spoken_text import NOTHING, spoken_ids


logger = logging.get_logger(__name__)


class JoVAPromptEncoderMixin:
    """What a pipeline with one or two text encoders does with prompts, and with one of what is said."""

    tokenizer: Any
    text_encoder: Any
    tokenizer_2: Any
    text_encoder_2: Any
    spoken_tokenizer: Any
    spoken_text_encoder: Any
    config: Any
    defaults: GenerationDefaults
    _execution_device: torch.device

    def encode_prompt(
        self,
        prompt: Prompts | None = None,
        negative_prompt: Prompts | None = None,
        audio_negative_prompt: Prompts | None = None,
        do_classifier_free_guidance: bool = True,
        num_videos_per_prompt: int = 1,
        prompt_embeds: PromptEmbeds | Tensor | None = None,
        negative_prompt_embeds: PromptEmbeds | Tensor | None = None,
        audio_negative_prompt_embeds: PromptEmbeds | Tensor | None = None,
        max_sequence_length: int | None = None,
        reference_transcript: str | list[str] | None = None,
    ) -> tuple[PromptEmbeds, PromptEmbeds | None, PromptEmbeds | None]:
        """Encode prompts, once per clip.

        With an encoder of spoken text the sound reads the transcripts of the prompts, the picture what the template
        makes of the rest.

        Args:
            prompt: Strings, or three-part prompts that the template turns into strings.
            negative_prompt: None takes the default.
            audio_negative_prompt: Negative prompt of the audio branch's text; None takes the default.
            do_classifier_free_guidance: Whether the negative prompts are needed.
            num_videos_per_prompt: Clips per prompt.
            prompt_embeds: Encoded prompts, in place of `prompt`; a tensor [B, S, D] stands for features of one
                encoder without padding.
            negative_prompt_embeds: The same for `negative_prompt`.
            audio_negative_prompt_embeds: The same for `audio_negative_prompt`.
            max_sequence_length: Longest prompt in tokens.
            reference_transcript: What a reference voice says, one for all or one per prompt; an encoder of spoken text
                reads it in front of every transcript.

        Returns:
            Prompts, negative prompts (None if not needed), negative prompts of the audio branch (None if they are
            those of video).
        """
        settings = self.defaults.override(
            negative_prompt=negative_prompt,
            audio_negative_prompt=audio_negative_prompt,
            max_sequence_length=max_sequence_length,
        )

        num_prompts, length = count_prompts(prompt, prompt_embeds), settings.max_sequence_length
        self.warn_of_unread_parts(prompt)
        found: PromptEmbeds | None = self.encode_read(
            prompt, said_by(prompt), num_prompts, length, prompt_embeds, reference_transcript
        )
        negative: PromptEmbeds | None = None
        audio_negative: PromptEmbeds | None = None
        if do_classifier_free_guidance:
            unsaid = said_by(settings.audio_negative_prompt or NOTHING, is_caption=False)
            negative = self.encode_read(
                settings.negative_prompt,
                *(unsaid, num_prompts, length, negative_prompt_embeds, reference_transcript, "audio_negative_prompt"),
            )
            text = None if self.reads_transcripts else settings.audio_negative_prompt
            if text is not None or audio_negative_prompt_embeds is not None:
                audio_negative = self.encode_or_take(text, audio_negative_prompt_embeds, num_prompts, length)
        found, negative, audio_negative = (
            None if embeds is None else embeds.repeat(num_videos_per_prompt)
            for embeds in (found, negative, audio_negative)
        )
        assert found is not None
        given = (prompt_embeds, negative_prompt_embeds, audio_negative_prompt_embeds)
        for embeds, own in zip((found, negative, audio_negative), given, strict=True):
            if embeds is not None and own is None:
                finite_output(embeds.features, "text_encoder", "encodes")
                if embeds.features_2 is not None:
                    finite_output(embeds.features_2, "text_encoder_2", "encodes")
        return found, negative, audio_negative

    # 1. What is said

    @property
    def reads_transcripts(self) -> bool:
        """Whether the sound reads the transcript alone, and the picture the rest of a prompt."""
        return self.spoken_text_encoder is not None

    def encode_read(
        self,
        prompts: Prompts | None,
        said: list[str],
        num_prompts: int,
        max_sequence_length: int,
        embeds: PromptEmbeds | Tensor | None = None,
        reference: str | list[str] | None = None,
        name: str = "transcript",
    ) -> PromptEmbeds:
        """Encode all that a model reads of prompts: for a call, and for the clips of a training.

        Args:
            prompts: Strings, or three-part prompts.
            said: What is said in them, one for all or one per prompt; read with an encoder of spoken text.
            num_prompts: How many there are.
            max_sequence_length: Longest prompt in tokens.
            embeds: Encoded prompts, in place of `prompts`, and of `said` where they bring it along.
            reference: What a reference voice says in front of `said`, likewise.
            name: Argument that `said` comes from.
        """
        found = self.encode_or_take(prompts, embeds, num_prompts, max_sequence_length)
        if not self.reads_transcripts or found.audio_features is not None:
            return found
        self.check_text_components()
        texts = self.joined_texts(name, repeated("prompt", said, found.features.shape[0]), reference)
        features, mask = self.encode_spoken(name, texts)
        return found._replace(audio_features=features, audio_mask=mask)

    def joined_texts(self, name: str, said: list[str], reference: str | list[str] | None) -> list[str]:
        """What is said, behind what a reference voice says, if there is one.

        Raises:
            ValueError: A character is none that the model can say.
        """
        for text in said:
            spoken_ids(name, text, self.spoken_tokenizer)
        if reference is None:
            return said
        references = repeated("reference_transcript", reference, len(said))
        for one in references:
            spoken_ids("reference_transcript", one, self.spoken_tokenizer)
        return [f"{one.strip()} {text.strip()}" for one, text in zip(references, said, strict=True)]

    def check_said(self, prompts: Prompts | None, reference: str | list[str] | None = None) -> None:
        """Refuse characters that the model cannot say, before anything is encoded.

        Args:
            prompts: Strings, or three-part prompts; None where encoded ones take their place.
            reference: What a reference voice says.
        """
        if self.reads_transcripts and prompts is not None:
            self.check_text_components()
            self.joined_texts("transcript", said_by(prompts), reference)

    @torch.no_grad()
    def encode_spoken(self, name: str, texts: list[str]) -> tuple[Tensor, Tensor]:
        """Features [B, S, D] of what is said, each text by itself, and their mask [B, S]."""
        device = execution_device(self.spoken_text_encoder)
        ids = [spoken_ids(name, text, self.spoken_tokenizer).to(device) for text in texts]
        rows = [self.spoken_text_encoder(one)[0] for one in ids]
        masks = [torch.ones(len(one), dtype=torch.bool, device=device) for one in rows]
        return pad_sequence(rows, batch_first=True), pad_sequence(masks, batch_first=True)

    def warn_of_unread_parts(self, prompts: Prompts | None) -> None:
        """Say which parts of the prompts nothing reads."""
        listed = prompts if isinstance(prompts, list) else [prompts]
        unread: dict[str, None] = {}
        for prompt in listed:
            if isinstance(prompt, JoVAPrompt):
                unread |= dict.fromkeys(prompt.unread_parts(self.config.prompt_template))
            elif prompt is not None and self.reads_transcripts:
                logger.warning(
                    "a prompt in one text tells what is seen, and nothing is said; pass a `JoVAPrompt` with its "
                    "`transcript`"
                )
        for name in unread:
            if name != "transcript" or not self.reads_transcripts:
                logger.warning(f"`{name}` of a `JoVAPrompt` is not used: `prompt_template` has no place for it")

    # 2. What one text encoder or two read

    def encode_or_take(
        self,
        prompts: Prompts | None,
        embeds: PromptEmbeds | Tensor | None,
        batch_size: int,
        max_sequence_length: int,
    ) -> PromptEmbeds:
        """Given features, or those of the given prompts; a single prompt is repeated `batch_size` times."""
        if embeds is None:
            return self.encode_texts(self.render_prompts(prompts, batch_size), max_sequence_length)
        return PromptEmbeds(*embeds) if isinstance(embeds, tuple) else PromptEmbeds(embeds)

    def render_prompts(self, prompts: Prompts | None, batch_size: int = 1) -> list[str]:
        """Strings of prompts; a single one is repeated `batch_size` times."""
        listed: list[Any] = prompts if isinstance(prompts, list) else [prompts] * batch_size
        template, token = self.config.prompt_template, self.config.speaker_token
        texts = [text.render(template) if isinstance(text, JoVAPrompt) else text for text in listed]
        for text in texts:
            check_text("prompt", text)
        return texts if token is None else [mark_speakers(text, token) for text in texts]

    def encode_texts(self, texts: list[str], max_sequence_length: int) -> PromptEmbeds:
        """Features of every text encoder that the pipeline has, and where the speakers stand in the first one's.

        Raises:
            ValueError: The first text encoder, or the tokenizer of one, is not loaded.
        """
        self.check_text_components()
        parts: list[Any] = []
        for tokenizer, encoder in ((self.tokenizer, self.text_encoder), (self.tokenizer_2, self.text_encoder_2)):
            if encoder is not None:
                tokens = tokenize_text(tokenizer, texts, max_sequence_length)
                if tokens.input_ids.shape[1] == max_sequence_length:
                    warn_of_cut(tokenizer, texts, max_sequence_length)
                parts += encode_tokens(encoder, tokens, max_sequence_length, self.config.pads_text_with_zeros)
        return PromptEmbeds(*parts)._replace(speaker_positions=self.speaker_positions(texts, max_sequence_length))

    def check_text_components(self) -> None:
        """Refuse to read text without what reads it."""
        pairs = {
            "tokenizer": True,
            "text_encoder": True,
            "tokenizer_2": self.text_encoder_2 is not None,
            "spoken_tokenizer": self.reads_transcripts,
        }
        for name, is_needed in pairs.items():
            if is_needed and getattr(self, name) is None:
                raise ValueError(
                    f"`{name}` must be loaded to read a prompt, got None; load it, or pass `prompt_embeds`, and "
                    "`negative_prompt_embeds` unless `guidance_scale` is 1"
                )

    def speaker_positions(self, texts: list[str], max_sequence_length: int) -> Tensor | None:
        """Rows of the first encoder's features where speakers stand, [B, P]; None for a pipeline without voices."""
        token = self.config.speaker_token
        if token is None:
            return None
        self.check_text_components()
        tokens = tokenize_text(self.tokenizer, texts, max_sequence_length)
        return find_speakers(self.tokenizer, tokens.input_ids, token)

    def place_speakers(
        self,
        speaker_embeds: Tensor | None,
        prompt: Prompts | None,
        prompt_embeds: PromptEmbeds | Tensor | None,
        num_videos_per_prompt: int,
        max_sequence_length: int,
    ) -> Speakers | None:
        """Voices at their places in the prompts of all clips, found without encoding anything; None without voices.

        Args:
            speaker_embeds: Voices [P, D], or one set per prompt or clip [B, P, D].
            prompt: Strings, or three-part prompts.
            prompt_embeds: Encoded prompts with `speaker_positions`, in place of `prompt`.
            num_videos_per_prompt: Clips per prompt.
            max_sequence_length: Longest prompt in tokens; a speaker behind it has no place.
        """
        if speaker_embeds is None:
            return None
        if isinstance(prompt_embeds, PromptEmbeds):
            positions = prompt_embeds.speaker_positions
        else:
            positions = self.speaker_positions(self.render_prompts(prompt), max_sequence_length)
        assert positions is not None
        positions = positions.repeat_interleave(num_videos_per_prompt, 0)
        sets = speaker_embeds[None] if speaker_embeds.ndim == 2 else speaker_embeds
        sets = repeat_to_batch("speaker_embeds", sets, positions.shape[0])
        return Speakers.match(sets.to(self._execution_device), positions.to(self._execution_device))


def said_by(prompts: Prompts | None, is_caption: bool = True) -> list[str]:
    """What is said by each of some prompts; one in one text is a caption, or what is said itself."""
    listed: list[Any] = prompts if isinstance(prompts, list) else [prompts]
    return [text.transcript.strip() if isinstance(text, JoVAPrompt) else "" if is_caption else text for text in listed]


def repeated(name: str, texts: str | list[str], num_prompts: int) -> list[str]:
    """One text per prompt, of one for all or one per prompt."""
    listed = [texts] if isinstance(texts, str) else texts
    if len(listed) not in (1, num_prompts):
        raise ValueError(f"`{name}` must be one for all or one per prompt, got {len(listed)} for {num_prompts}")
    return listed * (num_prompts // len(listed))


def tokenize_text(tokenizer: Any, texts: list[str], max_sequence_length: int) -> Any:
    """Tokens of texts, padded to the longest, as the tokenizer returns them: `input_ids`, `attention_mask`, [B, S].

    Args:
        tokenizer: Of transformers.
        texts: B strings.
        max_sequence_length: Longest text in tokens; what is beyond is cut.
    """
    return tokenizer(
        texts,
        padding="longest",
        padding_side="right",
        truncation=True,
        max_length=max_sequence_length,
        return_attention_mask=True,
        return_tensors="pt",
    )


def warn_of_cut(tokenizer: Any, texts: list[str], max_sequence_length: int) -> None:
    """Warn if `tokenize_text` cuts any of the texts."""
    longest = max(len(ids) for ids in tokenizer(texts, truncation=False, verbose=False).input_ids)
    if longest > max_sequence_length:
        logger.warning(
            f"a prompt of {longest} tokens was cut to `max_sequence_length` = {max_sequence_length}; "
            f"shorten the prompt or raise `max_sequence_length`"
        )


@torch.no_grad()
def encode_tokens(
    text_encoder: Any, tokens: Any, max_sequence_length: int, pads_with_zeros: bool
) -> tuple[Tensor, Tensor | None]:
    """Last hidden states of a text encoder, zero behind the end of each text: [B, S, D], and their mask [B, S].

    Args:
        text_encoder: Of transformers; its first output is used.
        tokens: From `tokenize_text`.
        max_sequence_length: Longest text in tokens.
        pads_with_zeros: Whether every text is `max_sequence_length` rows long and padding takes part as zeros, as in
            Wan and its kin; otherwise the padding is masked.
    """
    device = execution_device(text_encoder)
    ids, attention_mask = tokens.input_ids.to(device), tokens.attention_mask.to(device)
    features = text_encoder(ids, attention_mask=attention_mask)[0]
    mask = attention_mask.bool()
    features = features * mask[..., None]
    if pads_with_zeros:
        return pad_rows(features, mask, max_sequence_length)[0], None
    return features, mask

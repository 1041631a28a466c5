"""Train a byte-level BPE tokenizer and a small UMT5 encoder whose features say which word stands where.

The transformer gives all text tokens the same rotary position, so the order of the words must be readable from the
features. The encoder therefore learns, without labels, to let five linear probes read from every position: the token
there (hidden ones too), the tokens before and after it, and its place in the transcript, in tokens and in words.
`python -m diffusers_jova.training.codecs.train_codecs --component text_encoder` is the way to run it; a minute on a
GPU, ten on a CPU core.

Letters: B batch, S tokens, D features, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from diffusers_jova.training.codecs.codec_config import TextEncoderConfig
from diffusers_jova.training.codecs.timed_loop import adamw, decisive_settings, optimise, run
from diffusers_jova.whole_files import explained_full_disk, written_whole


PAD, END, UNKNOWN = "<pad>", "</s>", "<unk>"
MARKERS = ("<S>", "<E>", "<AUDCAP>", "<ENDAUDCAP>")  # around the transcript and the audio caption
LONGEST = 128  # tokens
NUM_PLACES = 24  # tokens of a transcript that are told apart; later ones share the last place
NUM_WORDS = 8  # words of a transcript that are told apart
WORD_START = "\u0120"  # how byte-level BPE writes a leading space


# 1. Tokenizer


def train_tokenizer(captions: Sequence[str], vocabulary: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer that knows every byte, so that no text is unknown to it.

    Args:
        captions: Prompts with their markers.
        vocabulary: Number of tokens; at least the 256 bytes and the special tokens.
    """
    special = [PAD, END, UNKNOWN, *MARKERS]
    if vocabulary < 256 + len(special):
        raise ValueError(f"`vocabulary` must be at least {256 + len(special)} (bytes and markers), got {vocabulary}")
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)  # "<S>red" and " red" are the same word
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=special,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(captions, trainer)
    end = tokenizer.token_to_id(END)
    tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, end)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        extra_special_tokens=list(MARKERS),
        padding_side="right",
        model_max_length=LONGEST,
    )


def tokenize(tokenizer: PreTrainedTokenizerFast, captions: Sequence[str]) -> Tensor:
    """Token ids of captions, padded to the longest: int64 [B, S]."""
    encoded = tokenizer(list(captions), padding=True, truncation=True, return_tensors="pt")
    return encoded["input_ids"]


# 2. What the features have to tell


class Targets:
    """What stands at every position, for one vocabulary."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        self.pad, self.speech, self.speech_end = tokenizer.convert_tokens_to_ids([PAD, "<S>", "<E>"])
        names = tokenizer.convert_ids_to_tokens(list(range(len(tokenizer))))
        self.starts_word = torch.tensor([name.startswith(WORD_START) for name in names])

    def places(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Place of every token [B, S] in its transcript, counted in tokens and in words from 1; 0 outside."""
        begun = (tokens == self.speech).cumsum(1) - (tokens == self.speech).long()  # <S> itself is outside
        ended = (tokens == self.speech_end).cumsum(1)
        inside = ((begun - ended) > 0).long()
        starts = self.starts_word.to(tokens.device)[tokens].long() * inside
        place = (inside.cumsum(1) * inside).clamp(max=NUM_PLACES - 1)
        return place, (starts.cumsum(1) * inside).clamp(max=NUM_WORDS - 1)

    def of(self, tokens: Tensor) -> dict[str, Tensor]:
        """Targets of every probe for tokens [B, S]; -100 where there is nothing to tell."""
        padding = tokens == self.pad
        place, word = self.places(tokens)
        known = tokens.masked_fill(padding, -100)
        targets = {
            "token": known,
            "previous": F.pad(known[:, :-1], (1, 0), value=-100),
            "next": F.pad(known[:, 1:], (0, 1), value=-100),
            "place": place,
            "word": word,
        }
        return {name: target.masked_fill(padding, -100) for name, target in targets.items()}


class ProbedEncoder(nn.Module):
    """The encoder with the linear probes that teach it; only the encoder is saved."""

    def __init__(self, config: UMT5Config) -> None:
        super().__init__()
        self.encoder = UMT5EncoderModel(config)
        sizes = {"token": config.vocab_size, "previous": config.vocab_size, "next": config.vocab_size}
        sizes |= {"place": NUM_PLACES, "word": NUM_WORDS}
        self.probes = nn.ModuleDict({name: nn.Linear(config.d_model, size) for name, size in sizes.items()})

    def forward(self, tokens: Tensor, attention_mask: Tensor) -> dict[str, Tensor]:
        """Logits [B, S, classes] of every probe for tokens [B, S] and their mask [B, S]."""
        features = self.encoder(input_ids=tokens, attention_mask=attention_mask).last_hidden_state
        return {name: probe(features) for name, probe in self.probes.items()}


class TextEncoderTraining:
    """Trains a `UMT5EncoderModel` on captions, with some of their tokens hidden."""

    def __init__(
        self, config: TextEncoderConfig, tokenizer: PreTrainedTokenizerFast, tokens: Tensor, device: torch.device
    ) -> None:
        self.config, self.targets = config, Targets(tokenizer)
        self.tokens = tokens.to(device)
        self.hidden_token = tokenizer.convert_tokens_to_ids(UNKNOWN)
        ids = {"pad_token_id": self.targets.pad, "eos_token_id": tokenizer.eos_token_id}
        settings = UMT5Config(vocab_size=len(tokenizer), dropout_rate=0.0, **ids, **config.model)
        self.model = ProbedEncoder(settings).to(device)
        self.modules: dict[str, nn.Module] = {"model": self.model}
        self.optimizers: dict[str, torch.optim.Optimizer] = {"model": adamw(self.model)}

    def train_step(self, step: int, progress: float) -> Mapping[str, Tensor]:
        """Take one step."""
        tokens = self.tokens[torch.randint(len(self.tokens), (self.config.batch,), device=self.tokens.device)]
        mask = tokens != self.targets.pad
        is_hidden = (torch.rand(tokens.shape, device=tokens.device) < self.config.masked) & mask
        logits = self.model(tokens.masked_fill(is_hidden, self.hidden_token), mask)
        targets = self.targets.of(tokens)
        terms = {name: F.cross_entropy(logits[name].flatten(0, 1), targets[name].flatten()) for name in logits}
        loss = torch.stack(list(terms.values())).sum()
        optimise([self.optimizers["model"]], loss, self.config.schedule.gradient_clip)
        return {name: term.detach() for name, term in terms.items()}


# 3. From captions to folders


@torch.no_grad()
def measure(model: ProbedEncoder, targets: Targets, tokens: Tensor) -> dict[str, float]:
    """Share of positions inside transcripts that every probe reads rightly, nothing hidden."""
    logits = model(tokens, tokens != targets.pad)
    inside = targets.places(tokens)[0] > 0
    truth = targets.of(tokens)
    return {name: float((logits[name].argmax(-1) == truth[name])[inside].float().mean()) for name in logits}


def train_text_encoder(
    config: TextEncoderConfig,
    captions: Sequence[str],
    held_out: Sequence[str],
    folder: Path,
    checkpoint: Path,
    device: torch.device,
) -> dict[str, Any]:
    """Train, measure and save a tokenizer and an encoder.

    Args:
        config: Sizes and schedule.
        captions: To train on.
        held_out: To measure on.
        folder: Where the encoder is written; the tokenizer goes to `tokenizer` beside it.
        checkpoint: To resume from.
        device: To train on.

    Returns:
        Steps, seconds, last losses and the probes' accuracy on the held-out captions.
    """
    tokenizer = train_tokenizer(captions, config.vocabulary)
    tokenizer.save_pretrained(folder.parent / "tokenizer")
    tokens = tokenize(tokenizer, captions)
    training = TextEncoderTraining(config, tokenizer, tokens, device)
    report: dict[str, Any] = run(training, config.schedule, checkpoint, decisive_settings(config))
    model = training.model.to(torch.bfloat16)
    with explained_full_disk(folder), written_whole(folder) as partial:
        model.encoder.save_pretrained(partial)
    model.float()  # the rounded weights, as they will be loaded
    accuracy = measure(model.eval(), training.targets, tokenize(tokenizer, held_out).to(device))
    return {
        **report,
        "tokens_per_caption": float((tokens != training.targets.pad).sum(1).float().mean()),
        "held_out": accuracy,
    }

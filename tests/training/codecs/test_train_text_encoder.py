from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoTokenizer, PreTrainedTokenizerFast, UMT5EncoderModel

from diffusers_jova.training.codecs.codec_config import TextEncoderConfig
from diffusers_jova.training.codecs.timed_loop import Schedule
from diffusers_jova.training.codecs.train_text_encoder import (
    MARKERS,
    Targets,
    TextEncoderTraining,
    tokenize,
    train_text_encoder,
    train_tokenizer,
)


WORDS = ("red", "moon", "hello", "banana", "seven", "wow")
CAPTIONS = [f"A cartoon man speaks. <S>{a} {b}<E> <AUDCAP>a male voice<ENDAUDCAP>" for a in WORDS for b in WORDS]
CONFIG = TextEncoderConfig(
    vocabulary=320,
    model={"d_model": 32, "d_kv": 16, "num_heads": 2, "d_ff": 32, "num_layers": 2},
    schedule=Schedule(steps=40, learning_rate=1e-2, warmup_steps=5, ema_decay=0.5),
    batch=16,
)


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(CAPTIONS, 320)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text") / "text_encoder"
    checkpoint = folder.parent / "checkpoint.safetensors"
    torch.manual_seed(0)
    train_text_encoder(CONFIG, CAPTIONS, CAPTIONS[::5], folder, checkpoint, torch.device("cpu"))
    return folder


def test_the_tokenizer_returns_any_text_unchanged(tokenizer: PreTrainedTokenizerFast) -> None:
    for text in (CAPTIONS[7], "Zürich 42 \u4f60\u597d"):
        ids = tokenizer(text)["input_ids"]
        decoded = tokenizer.decode(ids, skip_special_tokens=False).removesuffix("</s>")
        assert decoded.replace("<S> ", "<S>").replace("<AUDCAP> ", "<AUDCAP>").strip() == text


def test_markers_are_single_tokens_and_every_prompt_ends_with_the_end_token(
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    for marker in MARKERS:
        assert len(tokenizer(marker, add_special_tokens=False)["input_ids"]) == 1
    assert tokenizer("red")["input_ids"][-1] == tokenizer.eos_token_id


def test_a_word_has_the_same_tokens_wherever_it_stands(tokenizer: PreTrainedTokenizerFast) -> None:
    first, second = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in ("<S>moon", "red moon"))
    length = len(first) - 1
    assert first[1:] == second[-length:]


def test_a_vocabulary_too_small_for_the_bytes_is_refused() -> None:
    with pytest.raises(ValueError, match="`vocabulary` must be at least 263"):
        train_tokenizer(CAPTIONS, 200)


def test_places_count_tokens_and_words_of_the_transcript_only(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenize(tokenizer, ["He said <S>red moon<E> loudly"])
    place, word = Targets(tokenizer).places(tokens)
    begin = int((tokens[0] == tokenizer.convert_tokens_to_ids("<S>")).nonzero())
    end = int((tokens[0] == tokenizer.convert_tokens_to_ids("<E>")).nonzero())
    assert place[0, begin + 1 : end].tolist() == list(range(1, end - begin))
    assert word[0, begin + 1] == 1
    assert word[0, end - 1] == 2
    assert (place[0, : begin + 1] == 0).all()
    assert (place[0, end:] == 0).all()


def test_targets_ignore_padding_and_name_the_neighbours(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenize(tokenizer, ["red", "red moon hello"])
    targets = Targets(tokenizer).of(tokens)
    for target in targets.values():
        assert (target[tokens == tokenizer.pad_token_id] == -100).all()
    assert torch.equal(targets["next"][1, :-1], tokens[1, 1:])
    assert torch.equal(targets["previous"][1, 1:], tokens[1, :-1])
    assert targets["previous"][1, 0] == targets["next"][1, -1] == -100


def test_a_few_steps_lower_every_probe_s_loss(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    training = TextEncoderTraining(CONFIG, tokenizer, tokenize(tokenizer, CAPTIONS), torch.device("cpu"))
    for group in training.optimizers["model"].param_groups:
        group["lr"] = 1e-2
    losses = []
    for step in range(25):
        torch.manual_seed(step)
        losses.append({name: float(value) for name, value in training.train_step(step, 0.0).items()})
    assert all(losses[-1][name] < 0.9 * losses[0][name] for name in losses[0])


def test_saved_tokenizer_and_encoder_reload_offline(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "tokenizer")
    assert tokenizer.pad_token == "<pad>"
    assert tokenizer(CAPTIONS[3])["input_ids"] == train_tokenizer(CAPTIONS, 320)(CAPTIONS[3])["input_ids"]
    encoder = UMT5EncoderModel.from_pretrained(folder, dtype=torch.float32)
    batch = tokenizer(["red", "red moon hello"], padding=True, return_tensors="pt")
    features = encoder(**batch).last_hidden_state
    alone = encoder(**tokenizer(["red"], return_tensors="pt")).last_hidden_state
    torch.testing.assert_close(features[:1, : alone.shape[1]], alone, atol=1e-4, rtol=1e-3)  # padding is not seen


def test_an_encoder_that_was_interrupted_while_it_was_saved_is_not_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stumble(_: UMT5EncoderModel, folder: Path) -> None:
        Path(folder).mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(UMT5EncoderModel, "save_pretrained", stumble)
    brief = replace(CONFIG, schedule=Schedule(steps=1))
    with pytest.raises(KeyboardInterrupt):
        train_text_encoder(brief, CAPTIONS, CAPTIONS, tmp_path / "e", tmp_path / "c.safetensors", torch.device("cpu"))
    assert not (tmp_path / "e").exists()


def test_swapping_two_words_changes_the_features_of_the_others(folder: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(folder.parent / "tokenizer")
    encoder = UMT5EncoderModel.from_pretrained(folder, dtype=torch.float32)
    tokens = tokenize(tokenizer, ["<S>red moon<E>"])
    swapped = tokenize(tokenizer, ["<S>moon red<E>"])
    assert sorted(tokens[0].tolist()) == sorted(swapped[0].tolist())
    with torch.no_grad():
        one, other = (encoder(input_ids=ids).last_hidden_state[0] for ids in (tokens, swapped))
    begin_moved = (one[0] - other[0]).norm() / one[0].norm()  # <S> stands at the same place in both
    word = tokens[0, -3]  # a token of "moon"
    here, there = one[tokens[0] == word][0], other[swapped[0] == word][0]
    assert begin_moved > 5e-3  # an encoder without positions gives rounding errors for both
    assert (here - there).norm() / here.norm() > 5e-3

import pytest
import torch

from diffusers_jova import JoVAPipeline, JoVAPrompt, PromptEmbeds
from diffusers_jova.prompt_encoder import encode_tokens, tokenize_text
from tests.tiny_pipeline import build_text_encoder, build_tiny_pipeline, build_tokenizer


@pytest.fixture(scope="module")
def pipeline() -> JoVAPipeline:
    return build_tiny_pipeline()


# Texts


def encode(texts: list[str], max_length: int = 64, zeros: bool = False) -> tuple[torch.Tensor, torch.Tensor | None]:
    return encode_tokens(build_text_encoder(), tokenize_text(build_tokenizer(), texts, max_length), max_length, zeros)


def test_a_text_has_the_same_features_in_any_batch() -> None:
    alone, _ = encode(["a cat"])
    batch, mask = encode(["a cat", "a much longer text"])
    assert mask is not None
    torch.testing.assert_close(batch[:1, : alone.shape[1]], alone, atol=1e-5, rtol=1e-4)
    assert mask[0].sum() == alone.shape[1]
    assert not batch[0, alone.shape[1] :].any()


def test_zero_padding_fills_every_text_to_the_same_length_without_a_mask() -> None:
    masked, _ = encode(["a cat"])
    padded, mask = encode(["a cat"], max_length=20, zeros=True)
    assert mask is None
    assert padded.shape[1] == 20
    assert torch.equal(padded[:, : masked.shape[1]], masked)
    assert not padded[:, masked.shape[1] :].any()


def test_a_text_that_is_too_long_is_cut_at_its_last_word_but_not_at_its_end() -> None:
    cut, _ = encode(["a text of many words"], max_length=8)
    assert cut.shape[1] == 8
    assert torch.equal(cut, encode(["a text "])[0]), "the end of the sentence is kept, the text cut"


# Prompts


def test_a_prompt_that_is_cut_is_told_and_one_that_just_fits_is_not(
    pipeline: JoVAPipeline, log: pytest.LogCaptureFixture
) -> None:
    pipeline.encode_texts(["a text "], 8)  # seven characters and the end
    assert not log.messages
    pipeline.encode_texts(["a", "a text of many words"], 8)
    assert log.messages == [
        "a prompt of 21 tokens was cut to `max_sequence_length` = 8; shorten the prompt or raise `max_sequence_length`"
    ]


def test_the_parts_of_a_prompt_are_encoded_as_the_text_that_the_template_makes_of_them(pipeline: JoVAPipeline) -> None:
    parts, _, _ = pipeline.encode_prompt(JoVAPrompt(video="a man", transcript="hello"))
    text, _, _ = pipeline.encode_prompt("a man <S>hello<E>")
    assert torch.equal(parts.features, text.features)


def test_one_negative_prompt_serves_all_prompts_and_all_their_clips(pipeline: JoVAPipeline) -> None:
    prompts, negatives, audio_negatives = pipeline.encode_prompt(["a", "b"], "bad", num_videos_per_prompt=2)
    alone = pipeline.encode_texts(["bad"], 64).features
    assert torch.equal(prompts.features[0], prompts.features[1])
    assert not torch.equal(prompts.features[1], prompts.features[2])
    assert negatives is not None
    torch.testing.assert_close(negatives.features, alone.expand(4, -1, -1))
    assert audio_negatives is None, "audio follows video"


def test_without_guidance_only_prompts_are_encoded(pipeline: JoVAPipeline) -> None:
    encoded = pipeline.encode_prompt("a", "bad", "noise", do_classifier_free_guidance=False)
    assert encoded[1:] == (None, None)


def test_given_features_are_taken_as_they_are(pipeline: JoVAPipeline) -> None:
    features = torch.randn(1, 3, 16)
    embeds = PromptEmbeds(features, torch.tensor([[True, True, False]]))
    prompts, negatives, _ = pipeline.encode_prompt(prompt_embeds=embeds, negative_prompt_embeds=features)
    assert torch.equal(prompts.features, features)
    assert torch.equal(prompts.mask, embeds.mask)
    assert negatives is not None
    assert negatives.mask is None, "a tensor has no padding"


def test_each_text_encoder_reads_its_own_tokens() -> None:
    first, second = build_tokenizer(), build_tokenizer()
    second.add_tokens(["hello"])
    encoders = {"tokenizer": first, "tokenizer_2": second, "text_encoder_2": build_text_encoder()}
    pipeline = build_tiny_pipeline(transformer=None, **encoders)
    embeds = pipeline.encode_texts(["hello"], 64)
    assert (embeds.features.shape[1], embeds.features_2.shape[1]) == (6, 2)
    assert embeds.joint_mask() is None

"""Texts of different lengths in one batch: attention to the rows that exist, and no mask."""

from typing import Any

import pytest
import torch
from diffusers.models.attention_dispatch import attention_backend
from torch import Tensor

from benchmarks.sound_cache import operation_counter
from diffusers_jova import PromptEmbeds
from diffusers_jova.row_spans import existing, joined_spans, mask_of, put_back, span_runs, text_spans
from tests.diffusers_jova.test_transformer_jova import BUILDERS, assert_same, compiles, inputs, run
from tests.tiny_pipeline import TRANSFORMERS, build_spoken_pipeline, build_tiny_pipeline, build_transformer


LENGTHS = [(6,), (6,), (2,), (5,)]
BATCH_SIZE = len(LENGTHS)
TEXT_MASK = torch.arange(6) < torch.tensor(LENGTHS)
OWN_AUDIO_TEXT = torch.linspace(-2, 2, BATCH_SIZE * 6 * 16).view(BATCH_SIZE, 6, 16)
COUPLED = [True, "a2v", False, "v2a"]


# 1. Rows as Python ints


def test_rows_that_exist_go_back_to_their_places() -> None:
    rows = torch.arange(1.0, 13.0).view(1, 6, 2)
    for spans in (((0, 6),), ((0, 2), (4, 6)), ((1, 3), (4, 5))):
        kept = existing(rows, spans)
        assert kept.shape[1] == sum(end - start for start, end in spans)
        mask = mask_of([spans], 6, rows.device)
        assert mask is not None
        assert torch.equal(put_back(kept, spans, 6), rows * mask[..., None])
    assert existing(rows, None) is rows
    assert put_back(rows, None, 6) is rows


def test_spans_of_parts_that_touch_are_one() -> None:
    assert joined_spans([(None, 4), (((0, 2),), 3)]) == ((0, 6),)
    assert joined_spans([(((0, 2),), 3), (None, 4)]) == ((0, 2), (3, 7))
    assert joined_spans([(None, 4), (None, 0)]) is None
    assert text_spans([(3, 2), (2, 2), (3, 5), (3, 0)], (3, 5)) == (((0, 5),), ((0, 2), (3, 5)), None, ((0, 3),))


def test_neighbours_with_the_same_rows_are_one_run() -> None:
    short = ((0, 2),)
    runs = span_runs([None, None, short, short, None], [None, short, short, short, None])
    assert [(run.num_samples, run.spans) for run in runs] == [
        (1, (None, None)),
        (1, (None, short)),
        (2, (short, short)),
        (1, (None, None)),
    ]


def test_lengths_are_those_of_the_first_rows_or_none() -> None:
    features, mask = torch.zeros(2, 3, 4), torch.tensor([[True, True, True], [True, False, False]])
    assert PromptEmbeds(features, mask).text_lengths() == [(3,), (1,)]
    assert PromptEmbeds(features, None, features, mask).text_lengths() == [(3, 3), (3, 1)]
    assert PromptEmbeds(features, mask.flip(1)).text_lengths() is None  # padding in front
    assert PromptEmbeds(features, mask & False).text_lengths() is None  # no row at all


# 2. Transformers


@pytest.mark.parametrize("kind", BUILDERS)
@pytest.mark.parametrize(
    ("lengths", "mask"),
    [
        ({"text_lengths": LENGTHS}, {"encoder_attention_mask": TEXT_MASK}),
        (
            {"text_lengths": LENGTHS, "audio_text_lengths": LENGTHS[::-1]},
            {"encoder_attention_mask": TEXT_MASK, "audio_encoder_attention_mask": TEXT_MASK.flip(0)},
        ),
    ],
    ids=["one_text", "two_texts"],
)
def test_lengths_predict_what_a_mask_predicts(kind: str, lengths: dict[str, Any], mask: dict[str, Any]) -> None:
    model, given = BUILDERS[kind](), inputs(BATCH_SIZE)
    if "audio_text_lengths" in lengths:
        given |= {"audio_encoder_hidden_states": OWN_AUDIO_TEXT}
    for coupled in (True, COUPLED):
        masked = run(model, **given, coupled=coupled, **mask)
        assert_same(run(model, **given, coupled=coupled, **lengths), masked)
        assert not torch.allclose(masked[0], run(model, **given, coupled=coupled)[0], atol=1e-4)


@pytest.mark.parametrize("kind", BUILDERS)
def test_the_text_of_one_modality_may_have_lengths_and_that_of_the_other_a_mask(kind: str) -> None:
    model, behind = BUILDERS[kind](), TEXT_MASK.flip(1)
    given = inputs(BATCH_SIZE) | {"audio_encoder_hidden_states": OWN_AUDIO_TEXT, "coupled": COUPLED}
    masks = {"encoder_attention_mask": TEXT_MASK, "audio_encoder_attention_mask": behind}
    mixed = {"text_lengths": LENGTHS, "audio_encoder_attention_mask": behind}
    assert_same(run(model, **given, **mixed), run(model, **given, **masks))
    masks = {"encoder_attention_mask": behind, "audio_encoder_attention_mask": TEXT_MASK}
    mixed = {"encoder_attention_mask": behind, "audio_text_lengths": LENGTHS}
    assert_same(run(model, **given, **mixed), run(model, **given, **masks))


@pytest.mark.parametrize("fusion", ["cross", "cross_linear"])
def test_lengths_predict_what_a_mask_predicts_with_either_cross_term(fusion: str) -> None:
    model, given = build_transformer(fusion=fusion), {**inputs(BATCH_SIZE), "coupled": COUPLED}
    masked = run(model, **given, encoder_attention_mask=TEXT_MASK)
    assert_same(run(model, **given, text_lengths=LENGTHS), masked)


def test_each_of_two_text_encoders_has_its_own_lengths() -> None:
    model = build_transformer(text_dim_2=8)
    second = torch.linspace(-1, 1, 2 * 4 * 8).view(2, 4, 8)
    mask = torch.tensor([[True] * 6 + [True] * 3 + [False], [True] * 2 + [False] * 4 + [True] * 4])
    given: dict[str, Any] = {**inputs(), "encoder_hidden_states_2": second}
    assert_same(run(model, **given, text_lengths=[(6, 3), (2, 4)]), run(model, **given, encoder_attention_mask=mask))


def attention_work(model: Any, **given: Any) -> int:
    """Counted operations of all softmax attention in a forward."""
    with operation_counter() as counter:
        run(model, **given)
    counts = counter.get_flop_counts()["Global"]
    return sum(number for operation, number in counts.items() if "attention" in str(operation))


@pytest.mark.parametrize("kind", BUILDERS)
def test_attention_in_a_batch_works_as_much_as_for_each_sample_alone(kind: str) -> None:
    model, given = BUILDERS[kind]().requires_grad_(False), {**inputs(BATCH_SIZE), "coupled": COUPLED}
    alone = 0
    for index, (length,) in enumerate(LENGTHS):
        own = {name: part[index : index + 1] if isinstance(part, Tensor) else part for name, part in given.items()}
        own |= {"encoder_hidden_states": own["encoder_hidden_states"][:, :length], "coupled": COUPLED[index]}
        alone += attention_work(model, **own)
    assert attention_work(model, **given, text_lengths=LENGTHS) == alone > 0
    assert attention_work(model, **given, encoder_attention_mask=TEXT_MASK) > alone


@compiles
@pytest.mark.slow
@pytest.mark.parametrize("kind", ["jova", "text_cross"])
def test_compiled_blocks_serve_every_length(kind: str) -> None:
    """One graph for the first lengths, one for all others, without a break."""
    model = BUILDERS[kind]()
    cases = [{"text_lengths": [(6,), (length,)]} for length in (2, 3, 4)]
    plain = [run(model, **case) for case in cases]
    torch.compiler.reset()
    model.compile_repeated_blocks(fullgraph=True, backend="eager")
    for case, expected in zip(cases[:2], plain[:2], strict=True):
        assert_same(run(model, **case), expected)
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_same(run(model, **cases[2]), plain[2])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"text_lengths": [(6,)]}, r"`text_lengths` must be 1 per sample, one for each text encoder, for 2 samples"),
        ({"text_lengths": [(6, 1), (6, 1)]}, r"`text_lengths` must be 1 per sample"),
        ({"text_lengths": [(6,), (0,)]}, r"`text_lengths` must be between 1 and the rows of the features, \[6\], got"),
        ({"text_lengths": [(6,), (7,)]}, r"`text_lengths` must be between 1 and the rows"),
        ({"audio_text_lengths": [(6,), (2,)]}, "`audio_encoder_hidden_states` must be given with its mask"),
        (
            {"text_lengths": [(6,), (2,)], "encoder_attention_mask": TEXT_MASK[1:3]},
            "`text_lengths` must be None beside `encoder_attention_mask`, got both; leave one out",
        ),
    ],
)
def test_lengths_that_fit_no_text_are_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        run(build_transformer(), **wrong)


# 3. Pipelines


@pytest.mark.parametrize("kind", [*TRANSFORMERS, "spoken"])
def test_a_guided_call_runs_on_a_backend_that_knows_no_mask(kind: str) -> None:
    given: dict[str, Any] = {}
    if kind == "spoken":  # the sound reads what is said
        pipeline, given = build_spoken_pipeline(), {"image": torch.zeros(3, 32, 32)}
    else:
        pipeline = build_tiny_pipeline(transformer=TRANSFORMERS[kind]())
    given |= {"num_frames": 5, "num_inference_steps": 1, "output_type": "latent", "guidance_scale": 1.5}
    with attention_backend("_native_flash"):
        output = pipeline(["a dog barks", "hello"], **given)
    assert output.audio.isfinite().all()


def test_the_backend_of_these_calls_knows_no_mask() -> None:
    with attention_backend("_native_flash"), pytest.raises(ValueError, match="not supported for native flash"):
        run(build_transformer(), encoder_attention_mask=TEXT_MASK[1:3])

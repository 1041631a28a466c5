from typing import Any

import pytest
import torch

from diffusers_jova.training.loop.objective import effective_mouth_weight, face_mask_loss, jova_loss, mouth_fraction


SHAPE, AUDIO_SHAPE = (3, 4, 5, 6, 7), (3, 10, 8)  # [B, C, F, H, W] and [B, L, C]


@pytest.fixture
def batch() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    names = {"velocity": SHAPE, "audio_velocity": AUDIO_SHAPE, "target": SHAPE, "audio_target": AUDIO_SHAPE}
    return {name: torch.randn(shape) for name, shape in names.items()}


def mask_of(*rows: int) -> torch.Tensor:
    """A mouth of 3 x 2 latents in every frame of the given clips."""
    mask = torch.zeros(SHAPE[0], 1, *SHAPE[2:])
    mask[list(rows), :, :, 2:5, 3:5] = 1
    return mask


def weight_of_one_element(mask: torch.Tensor, reduction: str, inside: bool) -> float:
    """The factor by which an error of one element enters the total, relative to the plain video loss."""
    velocity, target = torch.zeros_like(mask), torch.zeros_like(mask)
    frame, row, column = (mask[0, 0] == inside).nonzero()[0].tolist()
    velocity[0, 0, frame, row, column] = 1.0
    terms = jova_loss(velocity, None, target, None, mask, mouth_weight=5.0, reduction=reduction)
    return (terms.total / terms.video).item()


@pytest.mark.parametrize("name", ["mouth_weight", "video_weight", "audio_weight"])
def test_no_term_is_maximised(batch: dict[str, torch.Tensor], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be 0 or more, got -1; 0 leaves the term out"):
        jova_loss(**batch, mouth_mask=mask_of(0), **{name: -1})


def test_a_perfect_velocity_costs_nothing(batch: dict[str, torch.Tensor]) -> None:
    terms = jova_loss(batch["target"], batch["audio_target"], batch["target"], batch["audio_target"], mask_of(0, 1))
    assert terms.total.tolist() == [0.0, 0.0, 0.0]


def test_the_total_is_the_weighted_sum_of_its_terms(batch: dict[str, torch.Tensor]) -> None:
    terms = jova_loss(
        **batch, mouth_mask=mask_of(0, 2), mouth_weight=2.0, video_weight=0.5, audio_weight=0.2, reduction="mask"
    )
    torch.testing.assert_close(terms.total, 0.5 * terms.video + 0.2 * terms.audio + 2.0 * terms.mouth)
    torch.testing.assert_close(terms.audio, (batch["audio_velocity"] - batch["audio_target"]).square().mean((1, 2)))


@pytest.mark.parametrize("reduction", ["mask", "all"])
def test_a_full_mask_gives_the_plain_loss(batch: dict[str, torch.Tensor], reduction: str) -> None:
    full = torch.ones(SHAPE[0], 1, *SHAPE[2:])
    terms = jova_loss(**batch, mouth_mask=full, reduction=reduction)
    torch.testing.assert_close(terms.mouth, terms.video)


@pytest.mark.parametrize("reduction", ["mask", "all"])
def test_an_empty_mask_gives_zero_and_not_nan(batch: dict[str, torch.Tensor], reduction: str) -> None:
    terms = jova_loss(**batch, mouth_mask=mask_of(1), reduction=reduction)
    assert terms.mouth[0] == 0 == terms.mouth[2]
    assert terms.mouth[1] > 0
    assert terms.total.isfinite().all()


def test_the_mouth_loss_is_the_mean_error_over_the_mask(batch: dict[str, torch.Tensor]) -> None:
    mask = mask_of(0, 1, 2)
    error = (batch["velocity"] - batch["target"]).square().mean(1)
    terms = jova_loss(**batch, mouth_mask=mask)
    torch.testing.assert_close(terms.mouth, torch.stack([error[i][mask[i, 0] == 1].mean() for i in range(3)]))


def test_an_error_inside_the_mask_weighs_one_plus_lambda_over_p() -> None:
    mask = mask_of(0)[:1]
    fraction = mask.float().mean().item()
    assert weight_of_one_element(mask, "mask", inside=True) == pytest.approx(1 + 5 / fraction, rel=1e-5)
    assert weight_of_one_element(mask, "all", inside=True) == pytest.approx(6.0, rel=1e-5)
    assert weight_of_one_element(mask, "mask", inside=False) == pytest.approx(1.0)


def test_the_logged_mouth_weight_is_the_one_that_acts() -> None:
    fraction = mouth_fraction(mask_of(0))  # two of the three clips show no mouth and do not dilute p
    torch.testing.assert_close(fraction, mask_of(0)[:1].float().mean())
    for reduction in ("mask", "all"):
        expected = weight_of_one_element(mask_of(0)[:1], reduction, inside=True)
        assert effective_mouth_weight(fraction, 5.0, reduction).item() == pytest.approx(expected, rel=1e-5)
        assert effective_mouth_weight(torch.zeros(()), 5.0, reduction) == 1


def test_an_absent_modality_contributes_nothing_even_if_it_is_not_a_number(batch: dict[str, torch.Tensor]) -> None:
    batch["velocity"][1] = float("nan")
    batch["audio_velocity"][2] = float("inf")
    velocity, audio_velocity = batch["velocity"].requires_grad_(), batch["audio_velocity"].requires_grad_()
    terms = jova_loss(
        **batch,
        mouth_mask=mask_of(0, 1),
        has_video=torch.tensor([True, False, True]),
        has_audio=torch.tensor([True, True, False]),
    )
    terms.total.mean().backward()
    assert terms.video[1] == 0 == terms.mouth[1]
    assert terms.audio[2] == 0
    assert (velocity.grad[1] == 0).all()
    assert (audio_velocity.grad[2] == 0).all()
    assert velocity.grad[0].abs().min() > 0


def test_the_loss_of_a_clip_does_not_depend_on_its_neighbours(batch: dict[str, torch.Tensor]) -> None:
    whole = jova_loss(**batch, mouth_mask=mask_of(0, 2)).total
    alone = [
        jova_loss(**{name: x[i : i + 1] for name, x in batch.items()}, mouth_mask=mask_of(0, 2)[i : i + 1]).total
        for i in range(3)
    ]
    torch.testing.assert_close(whole, torch.cat(alone))


@pytest.mark.parametrize("reduction", ["mask", "all"])
def test_given_latents_leave_the_mean_of_the_others_unchanged(batch: dict[str, torch.Tensor], reduction: str) -> None:
    to_learn = torch.ones(SHAPE[0], SHAPE[2], dtype=torch.bool)
    to_learn[:, :2] = False  # a clean prefix of two latent frames
    terms = jova_loss(**batch, mouth_mask=mask_of(0, 1, 2), has_video=to_learn, reduction=reduction)
    rest = jova_loss(
        batch["velocity"][:, :, 2:],
        None,
        batch["target"][:, :, 2:],
        None,
        mask_of(0, 1, 2)[:, :, 2:],
        reduction=reduction,
    )
    torch.testing.assert_close(terms.video, rest.video)
    torch.testing.assert_close(terms.mouth, rest.mouth)


def test_one_modality_alone_is_a_loss_too(batch: dict[str, torch.Tensor]) -> None:
    terms = jova_loss(None, batch["audio_velocity"], None, batch["audio_target"])
    assert terms.video.tolist() == [0.0, 0.0, 0.0] == terms.mouth.tolist()
    torch.testing.assert_close(terms.total, terms.audio)


def test_mistakes_are_named(batch: dict[str, torch.Tensor]) -> None:
    with pytest.raises(ValueError, match="`reduction` must be 'mask' or 'all', got 'mean'"):
        jova_loss(**batch, reduction="mean")
    with pytest.raises(ValueError, match="must not both be None"):
        jova_loss(None, None, None, None)
    with pytest.raises(ValueError, match=r"shape of the velocity \[3, 4, 5, 6, 7\], got \[3, 4, 5, 6\]"):
        jova_loss(batch["velocity"], None, batch["target"][..., 0], None)


ONES = torch.ones(SHAPE[0], 1, *SHAPE[2:])
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "a mask per channel": ({"mouth_mask": ONES.expand(-1, 3, -1, -1, -1)}, r"must be a tensor \[3, 1, 5, 6, 7\]"),
    "a mask without its channel": ({"mouth_mask": ONES[:, 0]}, r"`mouth_mask` must be .*got \[3, 5, 6, 7\]"),
    "a mask of one frame": ({"mouth_mask": ONES[:, :, :1]}, r"`mouth_mask` must be .*got \[3, 1, 1, 6, 7\]"),
    "a mask of one clip": ({"mouth_mask": ONES[:1]}, r"`mouth_mask` must be .*got \[1, 1, 5, 6, 7\]"),
    "a mask in numpy": ({"mouth_mask": ONES.numpy()}, "`mouth_mask` must be a tensor.*got ndarray"),
    "a mask without a picture": ({"velocity": None, "target": None, "mouth_mask": ONES}, "None without `velocity`"),
    "a mask of twos": ({"mouth_mask": 2 * ONES}, r"`mouth_mask` must lie in \[0, 1\].*got values in \[2, 2\]; give"),
    "a mask below 0": ({"mouth_mask": -ONES}, r"`mouth_mask` must lie in \[0, 1\].*got values in \[-1, -1\]"),
    "a mask of no numbers": ({"mouth_mask": ONES * float("nan")}, r"`mouth_mask` must lie in .*\[nan, nan\]"),
    "a target without its velocity": ({"velocity": None}, "`target` must be None without `velocity`"),
    "sound of one clip": (
        {"audio_velocity": torch.zeros(1, 10, 8), "audio_target": torch.zeros(1, 10, 8)},
        "must be of one batch, got 3 and 1",
    ),
    "no weight of mouths": ({"mouth_weight": float("nan")}, "`mouth_weight` must be finite"),
    "a weight in a text": ({"audio_weight": "1"}, "`audio_weight` must be a number.*without quotes"),
    "another batch to be learned": ({"has_video": torch.ones(2)}, r"must be \[3\], one value per sample, or \[3, 5\]"),
    "half a clip to be learned": (
        {"has_video": torch.tensor([1.0, 0.5, 0.0])},
        r"`has_video` must be bool, or 0 and 1, got values in \[0, 1\]; the weights of the terms are `video_weight`",
    ),
    "no number to be learned": ({"has_audio": torch.full((3,), float("nan"))}, "`has_audio` must be bool, or 0 and 1"),
    "a list to be learned": ({"has_audio": [True] * 3}, r"`has_audio`.* must be \[3\].*got list; leave it out"),
    "other latents to be learned": ({"has_audio": torch.ones(3, 9)}, r"or \[3, 10\], one per latent, got \[3, 9\]"),
}


@pytest.mark.parametrize("wrong", REFUSED.values(), ids=REFUSED.keys())
def test_nothing_is_broadcast_or_dropped_in_silence(batch: dict[str, torch.Tensor], wrong: Any) -> None:
    arguments, message = wrong
    with pytest.raises(ValueError, match=message):
        jova_loss(**{**batch, **arguments})


@pytest.mark.parametrize("reduction", ["mask", "all"])
def test_a_mask_of_numbers_weighs_as_one_of_bools(batch: dict[str, torch.Tensor], reduction: str) -> None:
    masks = (mask_of(0, 2).bool(), mask_of(0, 2), (255 * mask_of(0, 2)).to(torch.uint8))
    first, *others = (jova_loss(**batch, mouth_mask=mask, reduction=reduction).mouth for mask in masks)
    assert all(torch.equal(first, other) for other in others)


def test_a_mask_between_0_and_1_weighs_by_its_values(batch: dict[str, torch.Tensor]) -> None:
    full, half = (jova_loss(**batch, mouth_mask=part * ONES, reduction="all").mouth for part in (1.0, 0.5))
    torch.testing.assert_close(half, full / 2)


@pytest.mark.parametrize("weight", [1.0, 0.5, 0.01])
def test_a_mask_whose_sum_is_below_one_gives_the_mean_all_the_same(weight: float) -> None:
    mask, zeros = torch.zeros(1, 1, 2, 2, 2), torch.zeros(1, 1, 2, 2, 2)
    mask[0, 0, 0, 0, 0] = weight
    assert float(jova_loss(zeros, None, zeros + 1, None, mask).mouth) == pytest.approx(1.0)


def test_the_fraction_of_a_mask_is_a_fraction() -> None:
    mask = mask_of(0, 2)
    assert torch.equal(mouth_fraction((255 * mask).to(torch.uint8)), mouth_fraction(mask))
    with pytest.raises(ValueError, match=r"`mouth_mask` must lie in \[0, 1\]"):
        mouth_fraction(2 * mask)


@pytest.mark.parametrize("value", [2.0, -1.0, float("nan")])
def test_faces_that_are_no_mask_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match=r"`faces` must lie in \[0, 1\], 1 inside and 0 outside, got values in"):
        face_mask_loss(torch.zeros(2, 4, 3, 3, 2), torch.full((2, 1, 3, 6, 4), value))


def test_faces_are_taken_as_bool_and_as_whole_numbers_too() -> None:
    masks, faces = torch.rand(2, 4, 3, 3, 2), torch.rand(2, 1, 3, 6, 4) > 0.8
    losses = [face_mask_loss(masks, given) for given in (faces, faces.float(), faces.to(torch.uint8) * 255)]
    assert torch.equal(losses[0], losses[1])
    assert torch.equal(losses[0], losses[2])


def test_bool_masks_cost_no_look_at_their_values(batch: dict[str, torch.Tensor], monkeypatch: Any) -> None:
    monkeypatch.setattr(torch.Tensor, "all", None)  # which a GPU would be waited for by
    jova_loss(**batch, mouth_mask=mask_of(0).bool(), has_video=torch.ones(3) > 0, has_audio=torch.ones(3, 10) > 0)
    face_mask_loss(torch.zeros(2, 4, 3, 3, 2), torch.zeros(2, 1, 3, 6, 4) > 0)


def test_faces_of_another_clip_than_their_masks_are_refused() -> None:
    with pytest.raises(ValueError, match=r"`faces` must be \[2, 1, F, H, W\].*\[3, 3, 2\], got \[2, 1, 3, 4, 4\]"):
        face_mask_loss(torch.zeros(2, 4, 3, 3, 2), torch.zeros(2, 1, 3, 4, 4))
    with pytest.raises(ValueError, match=r"`faces` must be \[2, 1, F, H, W\], got \[2, 3, 6, 4\]; make"):
        face_mask_loss(torch.zeros(2, 4, 3, 3, 2), torch.zeros(2, 3, 6, 4))


@pytest.mark.parametrize("modality", ["", "audio_"])
@pytest.mark.parametrize("missing", ["target", "velocity", "presence"])
def test_what_an_absent_modality_is_given_is_refused(
    batch: dict[str, torch.Tensor], modality: str, missing: str
) -> None:
    if missing == "presence":
        present = {f"has_{modality.removesuffix('_') or 'video'}": torch.ones(3)}
        given = {**batch, f"{modality}velocity": None, f"{modality}target": None, **present}
    else:
        given = {**batch, f"{modality}{missing}": None}
    with pytest.raises(ValueError, match=r"must (be None without|have the shape of)"):
        jova_loss(**given)


def test_velocities_of_video_and_audio_are_not_taken_for_each_other(batch: dict[str, torch.Tensor]) -> None:
    video, audio = batch["velocity"], batch["audio_velocity"]
    with pytest.raises(ValueError, match=r"`velocity` must be video latents \[B, C, F, H, W\], got \[3, 10, 8\]; "):
        jova_loss(audio, video, audio, video)
    with pytest.raises(ValueError, match="`audio_velocity` must be audio latents"):
        jova_loss(None, video, None, video)


def test_nothing_may_be_said_to_be_learned_of_an_absent_modality(batch: dict[str, torch.Tensor]) -> None:
    given = {**batch, "audio_velocity": None, "audio_target": None}
    terms = jova_loss(**given, has_audio=torch.zeros(3, dtype=torch.bool))
    assert torch.equal(terms.total, jova_loss(**given).total)

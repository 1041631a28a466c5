import pytest
import torch

from diffusers_jova.training.loop.objective import effective_mouth_weight, jova_loss, mouth_fraction


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

import pytest
import torch
from torch import Tensor

from diffusers_jova.joint_attention import Fusion, JoVAJointAttention
from diffusers_jova.sample_runs import Coupling, SampleRun, StreamLengths, sample_runs


DIM, HEADS, HEAD_DIM = 12, 2, 6
LENGTHS = StreamLengths(video=4, video_text=3, audio=5, audio_text=2)
FOUR = ("video", "video_text", "audio", "audio_text")
TWO = ("video", "audio")
ROUND_OFF = {"atol": 1e-6, "rtol": 1e-5}  # float32, another order of the same sums


def attention(streams: tuple[str, ...] = FOUR, fusion: Fusion = "joint") -> JoVAJointAttention:
    torch.manual_seed(0)
    attn = JoVAJointAttention(DIM, HEADS, HEAD_DIM, streams, fusion, eps=1e-6)
    with torch.no_grad():
        for parameter in attn.parameters():
            if not parameter.any():
                parameter.normal_()
    return attn


def rotation(num_rows: int) -> tuple[Tensor, Tensor]:
    angles = torch.arange(num_rows)[:, None] * torch.tensor([1.0, 0.3, 0.1])
    return angles.cos(), angles.sin()


def inputs(streams: tuple[str, ...] = FOUR, batch_size: int = 2) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = LENGTHS.rows_of(streams)
    return {name: torch.randn(batch_size, num, DIM, generator=generator) for name, num in rows.items()}


def attend(
    attn: JoVAJointAttention,
    streams: dict[str, Tensor],
    coupled: Coupling | list[Coupling] = True,
    mask: Tensor | None = None,
    lengths: StreamLengths = LENGTHS,
) -> dict[str, Tensor]:
    batch_size = next(iter(streams.values())).shape[0]
    outputs = attn(streams, lengths, rotation(sum(lengths)), sample_runs(coupled, batch_size), mask)
    return dict(zip(streams, outputs, strict=True))


def reads(attn: JoVAJointAttention, reader: str, source: str, coupled: Coupling) -> bool:
    """Whether an output of one stream has a gradient to the input of another."""
    streams = {name: rows.requires_grad_() for name, rows in inputs(attn.streams).items()}
    attend(attn, streams, coupled)[reader].square().sum().backward()
    gradient = streams[source].grad
    return gradient is not None and bool(gradient.any())


@pytest.mark.parametrize("streams", [FOUR, TWO])
@pytest.mark.parametrize("fusion", ["joint", "cross", "cross_linear"])
@pytest.mark.parametrize(
    ("coupled", "video_hears", "audio_sees"),
    [(True, True, True), (False, False, False), ("a2v", True, False), ("v2a", False, True)],
)
def test_modalities_read_each_other_only_in_the_coupled_directions(
    streams: tuple[str, ...], fusion: Fusion, coupled: Coupling, video_hears: bool, audio_sees: bool
) -> None:
    attn = attention(streams, fusion)
    assert reads(attn, "video", "audio", coupled) == video_hears
    assert reads(attn, "audio", "video", coupled) == audio_sees
    assert reads(attn, "video", "video", coupled)
    assert reads(attn, "audio", "audio", coupled)


@pytest.mark.parametrize("coupled", [True, False])
def test_joint_attention_lets_every_stream_read_every_other(coupled: bool) -> None:
    attn = attention(FOUR)
    for reader in FOUR:
        for source in FOUR:
            same_branch = reader.removesuffix("_text") == source.removesuffix("_text")
            assert reads(attn, reader, source, coupled) == (coupled or same_branch), (reader, source)


def test_the_cross_term_reads_the_other_medium_but_not_its_text() -> None:
    attn = attention(FOUR, "cross")
    assert reads(attn, "video", "audio", True)
    assert not reads(attn, "video", "audio_text", True)
    assert not reads(attn, "video_text", "audio", True)


@pytest.mark.parametrize("fusion", ["joint", "cross", "cross_linear"])
def test_coupling_per_sample_equals_separate_calls(fusion: Fusion) -> None:
    attn = attention(FOUR, fusion)
    coupled: list[Coupling] = [True, True, "a2v", False, "v2a"]
    streams = inputs(batch_size=len(coupled))
    together = attend(attn, streams, coupled)
    for index, value in enumerate(coupled):
        alone = attend(attn, {name: rows[index : index + 1] for name, rows in streams.items()}, value)
        for name in FOUR:
            torch.testing.assert_close(together[name][index : index + 1], alone[name], **ROUND_OFF)


def test_uncoupled_branches_equal_each_branch_alone() -> None:
    attn = attention()
    streams = inputs()
    apart = attend(attn, streams, False)
    video = {name: streams[name] for name in ("video", "video_text")}
    alone = attend(attn, video, True, lengths=StreamLengths(4, 3, 0, 0))
    for name, rows in alone.items():
        torch.testing.assert_close(apart[name], rows, **ROUND_OFF)


def test_the_softmax_is_one_over_all_streams() -> None:
    """With equal keys everywhere, every query averages the values of all rows, whatever their modality."""
    attn = attention()
    with torch.no_grad():
        for name in FOUR:
            projections = getattr(attn, name)
            projections.to_k.weight.zero_()
            projections.to_k.bias.zero_()  # all scores are 0
            projections.to_out[0].weight.copy_(torch.eye(DIM))
            projections.to_out[0].bias.zero_()
    streams = inputs()
    values = torch.cat([getattr(attn, name).to_v(rows) for name, rows in streams.items()], dim=1)
    expected = values.mean(1, keepdim=True)
    for rows in attend(attn, streams).values():
        torch.testing.assert_close(rows, expected.expand_as(rows), **ROUND_OFF)


@pytest.mark.parametrize("fusion", ["joint", "cross"])
@pytest.mark.parametrize("coupled", [True, False, "a2v", [True, False]])
def test_masked_text_rows_are_not_read(fusion: Fusion, coupled: Coupling | list[Coupling]) -> None:
    attn = attention(FOUR, fusion)
    mask = torch.ones(2, 1, 1, sum(LENGTHS), dtype=torch.bool)
    mask[..., 5:7] = False  # the last two rows of video_text
    streams = inputs()
    changed = {**streams, "video_text": streams["video_text"].clone()}
    changed["video_text"][:, 1:] += 10
    before, after = attend(attn, streams, coupled, mask), attend(attn, changed, coupled, mask)
    for name in ("video", "audio", "audio_text"):
        torch.testing.assert_close(before[name], after[name], **ROUND_OFF)
    unmasked = attend(attn, changed, coupled)
    assert not torch.allclose(before["video"], unmasked["video"], atol=1e-3)


def test_fused_projections_equal_separate_ones_and_can_be_taken_back() -> None:
    attn = attention()
    streams = inputs()
    plain = attend(attn, streams)
    attn.fuse_projections()
    fused = attend(attn, streams)
    assert hasattr(attn.audio, "to_qkv")
    attn.unfuse_projections()
    assert not any("to_qkv" in name for name in attn.state_dict())
    for name in FOUR:
        torch.testing.assert_close(plain[name], fused[name], **ROUND_OFF)


def test_a_fresh_cross_linear_layer_adds_nothing() -> None:
    attn = JoVAJointAttention(DIM, HEADS, HEAD_DIM, TWO, "cross_linear", eps=1e-6)
    streams = inputs(TWO)
    coupled, uncoupled = attend(attn, streams, True), attend(attn, streams, False)
    for name in TWO:
        assert torch.equal(coupled[name], uncoupled[name])


def test_equal_neighbours_share_one_attention_call() -> None:
    assert sample_runs([True, True, False, "a2v", "a2v"], 5) == (
        SampleRun(True, 2),
        SampleRun(False, 1),
        SampleRun("a2v", 2),
    )
    assert sample_runs("v2a", 3) == (SampleRun("v2a", 3),)


def test_wrong_couplings_are_refused() -> None:
    with pytest.raises(ValueError, match="one value or one per sample, got 2 values for a batch of 3"):
        sample_runs([True, False], 3)
    with pytest.raises(ValueError, match="`coupled` must be True, False, 'a2v' or 'v2a', got 'both'"):
        sample_runs("both", 1)  # type: ignore[arg-type]

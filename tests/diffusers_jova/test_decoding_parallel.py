"""Two processes that decode pieces of a clip get the frames that one process decodes."""

from datetime import timedelta
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from diffusers.models._modeling_parallel import ContextParallelConfig
from torch import Tensor, distributed

from diffusers_jova import JoVAPipeline, JoVAVideoCodec, decoding_parallel, video_codec
from diffusers_jova.decoding_parallel import Pieces, agreed_decoding, cut_evenly
from diffusers_jova.wan_clip import decode_clip, full_map_bytes
from tests.diffusers_jova.test_video_codec import CHUNKED
from tests.processes import start
from tests.tiny_pipeline import WAN_VAES, build_tiny_pipeline, build_vae


ROUND_OFF = {"atol": 1e-5, "rtol": 1e-4}  # float32, another order of additions
CLIP_ROUND_OFF = {"atol": 2e-5, "rtol": 1e-4}  # that of two denoising steps in front of it
STATISTICS = {"latents_mean": [0.0] * 4, "latents_std": [1.0] * 4, "scale_factor_spatial": 8}
CASES: dict[str, tuple[int, int, int]] = {  # clips, latents, and how many of them fit a piece
    "a piece each": (1, 9, 9),
    "an even number": (1, 4, 9),
    "the fewest": (1, 3, 9),
    "several turns of uneven pieces": (1, 13, 3),
    "turns of two latents, the last pieces filled up": (2, 9, 0),
}


def codec_of(kind: str) -> JoVAVideoCodec:
    torch.manual_seed(0)
    return JoVAVideoCodec(AutoencoderKLWan(**WAN_VAES[kind] | STATISTICS).eval())


def latents_of(case: str) -> Tensor:
    num_clips, num_latents, _ = CASES[case]
    return torch.randn(num_clips, 4, num_latents, 3, 2, generator=torch.Generator().manual_seed(0))


def tiny() -> JoVAPipeline:
    pipeline = build_tiny_pipeline()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def generate(pipeline: JoVAPipeline, output_type: str = "pt") -> Tensor:
    """Frames of a clip of four latents."""
    output = pipeline(
        "a dogs",
        num_frames=13,
        guidance_scale=3.0,
        num_inference_steps=2,
        generator=torch.Generator().manual_seed(0),
        output_type=output_type,
    )
    frames: Tensor = output.frames
    return frames


def share_the_work(rank: int, folder: Path) -> None:
    """Worker: everything that is tested on two processes, with the latents that each piece had; each saves its own."""
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", f"file://{folder / 'meeting'}", timedelta(minutes=5), 2, rank)
    group = distributed.group.WORLD
    assert group is not None
    sizes: list[int] = []

    def decode_watched(vae: AutoencoderKLWan, latents: Tensor, begins: bool) -> Tensor:
        sizes.append(latents.shape[2])
        return decode_clip(vae, latents, begins)

    decoding_parallel.decode_clip = decode_watched
    results: dict[str, tuple[Tensor, list[int]]] = {}

    def keep(name: str, frames: Tensor) -> None:
        results[name] = frames, [*sizes]
        sizes.clear()

    with torch.no_grad():
        for kind in WAN_VAES:
            codec = codec_of(kind)
            for case, (_, num_latents, most) in CASES.items():
                latents, pieces = latents_of(case), cut_evenly(num_latents, 2, most)
                shared = agreed_decoding(group, pieces, latents, is_sliced=False)
                keep(f"{kind}, {case}", codec.decode(latents, shared))
            codec.vae.enable_slicing()
            keep(f"{kind}, sliced", codec.decode(latents, shared))
    assert agreed_decoding(group, Pieces(2 + rank, 1), latents, is_sliced=False) is None
    assert agreed_decoding(group, pieces, latents, is_sliced=rank == 0) is None
    other = torch.bfloat16 if rank == 0 else torch.float32
    assert agreed_decoding(group, pieces, latents, is_sliced=False, dtype=other) is None
    assert agreed_decoding(group, pieces if rank == 0 else None, latents, is_sliced=False) is None
    assert agreed_decoding(group, pieces, latents[:, :, rank:], is_sliced=False) is None

    pipelines = {"guidance": tiny(), "rows": tiny()}
    pipelines["guidance"].share_guidance()
    pipelines["rows"].transformer.enable_parallelism(config=ContextParallelConfig(ulysses_degree=2))
    for name, pipeline in pipelines.items():
        keep(name, generate(pipeline))
        keep(f"{name}, one decodes", generate(pipeline, "pt" if rank == 0 else "latent"))
    torch.save(results, folder / f"results-{rank}.pt")
    distributed.destroy_process_group()


Shared = list[dict[str, tuple[Tensor, list[int]]]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """What each of two processes got, and the latents of its pieces."""
    folder = tmp_path_factory.mktemp("shared")
    start(share_the_work, (folder,))
    return [torch.load(folder / f"results-{rank}.pt") for rank in range(2)]


@pytest.mark.parametrize("kind", WAN_VAES)
@pytest.mark.parametrize("case", CASES)
def test_two_processes_get_the_frames_of_the_whole_clip(shared: Shared, kind: str, case: str) -> None:
    (here, own), (there, others) = (results[f"{kind}, {case}"] for results in shared)
    codec = codec_of(kind)
    with torch.no_grad():
        expected = codec.decode(latents_of(case))
    torch.testing.assert_close(here, expected, **ROUND_OFF)
    assert torch.equal(here, there)
    num_latents = CASES[case][1]
    assert own == others
    assert num_latents <= sum(own + others) < 2 * num_latents  # together; apart, each decodes all


@pytest.mark.parametrize("kind", WAN_VAES)
def test_a_sliced_vae_decodes_clip_by_clip(shared: Shared, kind: str) -> None:
    case = list(CASES)[-1]
    (frames, pieces), (of_all, pieces_of_all) = shared[0][f"{kind}, sliced"], shared[0][f"{kind}, {case}"]
    assert len(frames) == CASES[case][0]
    assert pieces == CASES[case][0] * pieces_of_all
    torch.testing.assert_close(frames, of_all, **ROUND_OFF)


@pytest.mark.parametrize("sharing", ["guidance", "rows"])
def test_a_pipeline_on_two_processes_decodes_the_clip_of_one(shared: Shared, sharing: str) -> None:
    expected = generate(tiny())
    for results in shared:
        frames, pieces = results[sharing]
        torch.testing.assert_close(frames, expected, **CLIP_ROUND_OFF)
        assert pieces == [2]  # of four latents
    frames, pieces = shared[0][f"{sharing}, one decodes"]
    torch.testing.assert_close(frames, expected, **CLIP_ROUND_OFF)
    assert pieces == []
    assert shared[1][f"{sharing}, one decodes"][0].shape[2] == 4  # latents, as that process asked for


# One process


def test_a_clip_is_cut_where_each_process_decodes_less_of_it() -> None:
    assert cut_evenly(9, 2, 9) == Pieces(5, 1)
    assert cut_evenly(9, 2, 4) == Pieces(3, 2)
    assert cut_evenly(21, 8, 0) == Pieces(2, 2)
    assert cut_evenly(3, 2, 9) == cut_evenly(3, 8, 9) == Pieces(2, 1)
    assert cut_evenly(2, 2, 9) is cut_evenly(1, 8, 9) is cut_evenly(9, 1, 9) is None


@pytest.mark.parametrize("reason", sorted(CHUNKED.keys() - {"slicing"}))
def test_a_vae_that_somebody_changed_is_not_decoded_in_pieces(reason: str) -> None:
    codec = JoVAVideoCodec(build_vae())
    latents = torch.zeros(1, *codec.latent_shape(33, 16, 24))
    assert codec.pieces(latents, 2) == Pieces(5, 1)
    CHUNKED[reason](codec.vae)
    assert codec.pieces(latents, 2) is None


def test_layers_that_somebody_hooked_are_not_decoded_in_pieces() -> None:
    codec = JoVAVideoCodec(build_vae())
    codec.vae.decoder.mid_block.resnets[0].register_forward_hook(lambda *_: None)
    assert codec.pieces(torch.zeros(1, *codec.latent_shape(33, 16, 24)), 2) is None


def test_pieces_of_large_clips_are_small(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = JoVAVideoCodec(build_vae())
    latents = torch.zeros(2, *codec.latent_shape(65, 16, 24))
    bytes_of_latent = full_map_bytes(codec.vae, 4, 16, 24)
    monkeypatch.setattr(video_codec, "ONE_PASS_BYTES", 6 * bytes_of_latent)
    assert codec.pieces(latents, 2) == Pieces(3, 3)  # of both clips
    codec.vae.enable_slicing()
    assert codec.pieces(latents, 2) == Pieces(5, 2)

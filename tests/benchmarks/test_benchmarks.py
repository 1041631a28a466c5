import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan
from torch import Tensor
from torch.nn import functional as F

from benchmarks import gpu, gpu_work, guided_batch, peers
from benchmarks.block import bare_work, block_calls
from benchmarks.random_transformer import presets, random_inputs, random_transformer
from benchmarks.sound_cache import SIZES, measure_size, signal_to_noise_db, summary, table
from benchmarks.video_vae import Case, measure
from diffusers_jova import JoVACacheConfig
from tests.tiny_pipeline import WAN_VAES


def rows_of(path: Path) -> dict[str, dict[str, object]]:
    return {row["name"]: row for row in gpu.read_rows(path, "ended")}


@pytest.mark.slow
@pytest.mark.parametrize("section", ["denoising", "training"])
def test_every_measurement_of_a_gpu_runs_at_toy_sizes(section: str, tmp_path: Path) -> None:
    gpu.run_section(section, True, gpu.Reporter(tmp_path / "rows.jsonl"))
    rows = rows_of(tmp_path / "rows.jsonl")
    assert len(rows) >= 2
    for name, row in rows.items():
        assert row["outcome"] == "ok", (name, row)
        assert row["step_ms"] > 0


@pytest.mark.slow
def test_the_script_writes_what_it_measured_and_says_whether_all_went_well(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "gpu.json"
    assert gpu.main(["--toy", "--output", str(path), "--sections", "blocks", "--minutes", "5"]) == 0
    report = json.loads(path.read_text())
    assert report["machine"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    rows = {row["name"]: row for row in report["sections"]["blocks"]["rows"]}
    assert {"5B x 2 toy twin", "12B x 2 toy single-stream compiled"} <= rows.keys()
    assert {"Ovi toy text_cross", "UniAVGen toy aligned", "MOVA toy bridge"} <= rows.keys()
    assert all(row["block_ratio"] > 0 for row in rows.values())
    assert "| 5B x 2 toy twin | ok |" in capsys.readouterr().out
    assert gpu.main(["--toy", "--output", str(path), "--sections", "blocks", "--minutes", "0"]) == 1


def test_a_measurement_that_fails_costs_only_itself(tmp_path: Path) -> None:
    reporter = gpu.Reporter(tmp_path / "rows.jsonl")
    for name in ("done", "killed", "later"):
        reporter.write(name, "not reached")
    reporter.write("done", "ok", loss=float("nan"))
    reporter.write("killed", "running")
    rows = rows_of(tmp_path / "rows.jsonl")
    assert {name: row["outcome"] for name, row in rows.items()} == {
        "done": "ok",
        "killed": "failed",
        "later": "not reached",
    }
    assert (rows["done"]["loss"], rows["killed"]["error"]) == ("nan", "ended")
    assert gpu.read_rows(tmp_path / "none", "ended")[0]["outcome"] == "failed"


ATTENTIONS = {  # of one block
    "12B x 2": 1,
    "5B x 2": 3,
    **dict.fromkeys(("Ovi", "UniAVGen", "MOVA"), 6),  # of each tower to itself, to text and to the other
}


@pytest.mark.parametrize("name", ATTENTIONS)
def test_the_bare_work_of_a_block_is_all_of_its_products(name: str) -> None:
    preset = presets(is_toy=True)[name]
    transformer = random_transformer(preset.of_depth_one(), "cpu", torch.float32)
    inputs = random_inputs(transformer, preset.clips["toy"], 2, "cpu", torch.float32)
    calls = block_calls(transformer, inputs)
    assert set(calls) == set(gpu_work.kinds(preset))
    for call in calls.values():
        work = bare_work(call)
        layers = [part for part in call.block.modules() if isinstance(part, torch.nn.Linear)]
        assert sum(func is F.linear for func, _ in work.calls) == len(layers)
        weights: list[Tensor | None] = [tensors[1] for func, tensors in work.calls if func is F.linear]
        assert {id(weight) for weight in weights} == {id(layer.weight) for layer in layers}
        assert sum(func is F.scaled_dot_product_attention for func, _ in work.calls) == ATTENTIONS[name]
        work.step(True)
        call.step(True)


@pytest.mark.parametrize("subject", peers.SUBJECTS)
def test_a_peers_bare_work_is_all_of_its_products(subject: Callable[[int], peers.Subject]) -> None:
    for call in peers.calls_of(subject(1), torch.float32).values():
        work = bare_work(call)
        layers = [part for part in call.block.modules() if isinstance(part, torch.nn.Linear)]
        assert {id(tensors[1]) for func, tensors in work.calls if func is F.linear} == {
            id(part.weight) for part in layers
        }
        attended = sum(func is F.scaled_dot_product_attention for func, _ in work.calls)
        assert attended >= 1
        activated = bare_work(call, has_activations=True)
        assert len(activated.calls) > len(layers) + attended
        work.step(True)
        activated.step(True)
        call.step(True)


def test_blocks_that_take_turns_become_a_table() -> None:
    row = peers.summary([[2.0, 1.0, 1.25], [3.0, 1.5, 2.0], [8.0, 2.0, 2.5]])
    assert (row["ratio"], row["fastest_ratio"], row["activated_ratio"]) == (2.0, 2.0, 1.6)
    text = peers.table({"float32, 512": {"LTX-2": row}, "float32, 1536": {"LTX-2": row}})
    assert text.splitlines()[-1] == "| LTX-2 | 2.00 (1.60) | 2.00 (1.60) |"


@pytest.mark.slow
def test_the_whole_of_a_real_size_is_known_without_a_weight() -> None:
    billions = {}
    for name, preset in presets(is_toy=False).items():
        transformer = random_transformer(preset.config, "meta", torch.bfloat16)
        billions[name] = sum(weight.numel() for weight in transformer.parameters()) / 1e9
    assert billions["12B x 2"] == pytest.approx(24.62, abs=0.01)
    assert billions["1.6B x 2"] == pytest.approx(3.28, abs=0.01)
    assert 9 < billions["5B x 2"] < 12
    assert billions["Ovi"] == pytest.approx(11.66, abs=0.01)
    assert billions["UniAVGen"] == pytest.approx(7.05, abs=0.01)
    assert billions["MOVA"] == pytest.approx(18.37, abs=0.01)  # one of its experts


@pytest.mark.parametrize("name", SIZES)
def test_what_the_cache_spares_and_keeps_is_counted_without_weights(name: str) -> None:
    preset = presets(is_toy=True)[name]
    row = measure_size(name, preset, "toy", JoVACacheConfig())
    num_full = 18  # of 50: the first two, 15 at intervals of three, the last
    assert row["speed"] == pytest.approx(50 / (num_full + (50 - num_full) * row["audio_step_share"]))
    assert 0 < row["audio_step_share"] < 1
    assert row["kept_float8_gb"] < row["kept_bfloat16_gb"]


def test_medians_over_clips_become_a_table() -> None:
    made, reference = torch.tensor([[1.1, 0.0], [1.0, 0.01]]), torch.tensor([[1.0, 0.0], [1.0, 0.0]])
    assert signal_to_noise_db(made, reference) == pytest.approx([20, 40], abs=1e-3)
    row = summary([[1.0, 2.0, 3.0, 9.0, 5.0, 6.0, 7.0], [3.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
    assert (row["speed"], row["waveform_db"], row["lowest_waveform_db"]) == (2.0, 6.5, 4.0)
    assert "| 2.00 |" in table([row])


@pytest.mark.parametrize("name", WAN_VAES)
def test_a_clip_at_once_is_measured_beside_the_chunks_of_its_vae(name: str) -> None:
    row = measure(Case(name, AutoencoderKLWan(**WAN_VAES[name]).eval(), 9, 16), repeats=1)
    assert row["clip"] == "9x16x16"
    assert row["decode, times faster"] > 0
    assert 0 < row["decoded apart, 1e-6"] < 20  # another order of the same sums
    assert 0 < row["encoded apart, 1e-6"] < 20


def test_a_guided_batch_by_lengths_predicts_what_the_others_predict_with_less_work_than_under_a_mask() -> None:
    model = random_transformer(presets(is_toy=True)["1.6B x 2"].config, "cpu", torch.float32).requires_grad_(False)
    ways = guided_batch.ways(model)
    masked, apart, lengths = (step() for step in ways.values())
    for index, modality in enumerate(masked):
        torch.testing.assert_close(lengths[index], modality, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(torch.cat([part[index] for part in apart]), modality, atol=1e-5, rtol=1e-4)
    row = guided_batch.measure("toy", model, 1)
    assert row["apart_gflop"] < row["lengths_gflop"] < row["masked_gflop"]

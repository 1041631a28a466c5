"""Ablations: arms differ in one setting, are done once, and the table says what came out."""

import json
import os
import shlex
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from diffusers_jova import JoVADualTowerTransformer3DModel
from diffusers_jova.origin import NOTE, OriginError
from diffusers_jova.recipes import ablation_arms, ablations, jova_tiny
from diffusers_jova.recipes.ablation_arms import ARMS, arm_config, times_of_steps, train_audio_branch, write_start
from diffusers_jova.recipes.ablation_tables import (
    ABLATIONS,
    COLUMNS,
    COMPARISONS,
    FUSION,
    TOWERS,
    aggregate,
    describe,
)
from diffusers_jova.training.data.record import EMPTY_PROMPT, write_record
from diffusers_jova.training.loop.branches import branch_of
from diffusers_jova.training.loop.model import load_transformer
from jova_cli.shipped import model_folder
from tests.rounding import relative_error
from tests.tiny_pipeline import DEFAULTS, DUAL_TOWER_CONFIG, TRANSFORMER_CONFIG, build_tiny_pipeline


TOWER_CONFIG = {  # of equal width, depth and positions, as joint attention needs
    **DUAL_TOWER_CONFIG,
    "in_channels": 36,
    "num_attention_heads": 2,
    "audio_num_attention_heads": 2,
    "audio_ffn_dim": 32,
    "audio_rope_axes_dim": (4, 4, 4),
    "temporal_alignment": "time",
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A pipeline, records that fit it, and a preset of one step."""
    folder = tmp_path_factory.mktemp("ablations")
    size = {"height": 64, "width": 64, "num_frames": 17}
    pipeline = build_tiny_pipeline(defaults={**DEFAULTS, **size, "num_inference_steps": 1})
    pipeline.save_pretrained(folder / "pipeline")
    codec = pipeline.audio_codec
    header = {
        **size,
        "frame_rate": 16.0,
        "sampling_rate": 16000,
        "audio_latent_rate_hz": codec.latent_rate_hz,
        "spatial_factor": 8,
        "temporal_factor": 4,
    }
    for index in range(4):
        generator = torch.Generator().manual_seed(index)
        record = {
            "video_latents": torch.randn(16, 5, 8, 8, generator=generator),
            "image_latents": torch.randn(16, 1, 8, 8, generator=generator),
            "audio_latents": torch.randn(codec.num_latents_for(17 / 16), 4, generator=generator),
            "prompt_embeds": torch.randn(5, 16, generator=generator),
            "mouth_boxes": torch.tensor([20.0, 30.0, 40.0, 44.0]).expand(1, 17, 4),
        }
        write_record(folder / "records" / f"{index}.safetensors", record, header)
    write_record(folder / "records" / EMPTY_PROMPT, {"prompt_embeds": torch.zeros(1, 16)}, {})
    shared = "batch_size: 2\nlearning_rate: 1.0e-3\ntensorboard: false\n"
    (folder / "preset.yaml").write_text(
        f"steps: 100\nmouth_reduction: all\nwarmup_steps: 10\nema_decay: 0.99\nmodel: x\n{shared}"
    )
    (folder / "audio.yaml").write_text(f"steps: 1\nwarmup_steps: 0\nstage: audio\n{shared}")
    return folder


def result(value: float, steps: int = 5) -> dict[str, object]:
    measures = dict.fromkeys(COLUMNS, value)
    return {"settings": {"steps": steps, "clips": 2}, "samples": 80, "parameters": 7, "measures": measures}


def test_every_arm_stands_in_a_table() -> None:
    assert {arm for comparison in COMPARISONS.values() for arm in comparison.arms} == ARMS.keys()


def test_every_ablation_differs_from_the_base_in_one_setting(source: Path, tmp_path: Path) -> None:
    shared = {"data": str(source / "records")}
    base = arm_config("base", 1, tmp_path / "base", shared, source / "preset.yaml")
    for name in {*ABLATIONS.arms, *FUSION.arms}:
        arm = ARMS[name]
        config = arm_config(name, 1, tmp_path / name, shared, source / "preset.yaml")
        changes = [key for key in vars(config) if vars(config)[key] != vars(base)[key]]
        changes = [key for key in changes if key not in ("model", "output_dir")]
        changes += [key for key in arm.model if arm.model[key] != TRANSFORMER_CONFIG.get(key)]
        assert len(changes) == (name != "base"), (name, changes)


def test_every_arm_begins_with_the_branches_of_stage_1(source: Path, tmp_path: Path) -> None:
    branches = source / "pipeline" / "transformer"
    source_weights = load_transformer(str(branches)).state_dict()
    for name in {*ABLATIONS.arms, *FUSION.arms}:
        arm = ARMS[name]
        write_start(name, branches, folder=tmp_path / name)
        start = load_transformer(str(tmp_path / name))
        weights = start.state_dict()
        assert all(torch.equal(weights[key], value) for key, value in source_weights.items())
        assert not any(weights[key].any() for key in weights.keys() - source_weights.keys())
        assert {key: start.config[key] for key in arm.model} == arm.model


@torch.no_grad()
def test_what_couples_two_towers_is_silent_at_first_and_joint_attention_is_heard(tmp_path: Path) -> None:
    uncoupled = JoVADualTowerTransformer3DModel(**TOWER_CONFIG, fusion_layers=())
    for parameter in uncoupled.parameters():
        parameter.normal_(std=0.2)  # a head begins with zeros, and zeros have no difference
    uncoupled.save_pretrained(tmp_path / "branches")
    alone = predict(uncoupled)
    for name in TOWERS.arms:
        write_start(name, tmp_path / "branches", folder=tmp_path / name)
        start = load_transformer(str(tmp_path / name))
        assert type(start).__name__ == ARMS[name].model.get("_class_name", "JoVADualTowerTransformer3DModel")
        apart = predict(start, coupled=False)
        is_near = relative_error(apart, alone) < 1e-5  # weights of another file may be summed otherwise
        assert is_near == (name != "towers-aligned"), "aligned video reads its first latent twice"
        assert (relative_error(predict(start), apart) < 1e-5) == (name != "towers-joint"), name
        added = [key for key, _ in start.named_parameters() if ".fusion." in key]
        assert bool(added) == (name != "towers-joint")
        for parameter in start.parameters():
            parameter.normal_(std=0.2)
        assert not torch.equal(predict(start), predict(start, coupled=False)), f"{name} couples nothing"


def predict(transformer: Any, *, coupled: bool = True) -> torch.Tensor:
    """Both velocities of one fixed input."""
    generator = torch.Generator().manual_seed(0)
    output = transformer(
        hidden_states=torch.randn(1, 36, 3, 4, 4, generator=generator),
        audio_hidden_states=torch.randn(1, 9, 4, generator=generator),
        encoder_hidden_states=torch.randn(1, 5, 16, generator=generator),
        timestep=torch.tensor([500.0]),
        frame_rate=16.0,
        audio_latent_rate_hz=31.25,
        coupled=coupled,
    )
    return torch.cat([output.sample.flatten(), output.audio_sample.flatten()])


def test_an_arm_that_would_lose_weights_of_stage_1_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARMS, "shorter", ablation_arms.Arm(model={"num_single_layers": 0}))
    with pytest.raises(ValueError, match="shorter must keep the weights of stage 1 and add only zeros and fusions"):
        write_start("shorter", source / "pipeline" / "transformer", folder=tmp_path)


def test_an_arm_whose_additions_are_heard_is_refused(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(ARMS, "deeper", ablation_arms.Arm(model={"num_single_layers": 2}))
    with pytest.raises(ValueError, match=r"only zeros and fusions, got single_transformer_blocks\.1\."):
        write_start("deeper", source / "pipeline" / "transformer", folder=tmp_path)


@pytest.mark.slow
def test_an_audio_branch_of_its_own_takes_the_place_of_the_common_one(source: Path, tmp_path: Path) -> None:
    branches = source / "pipeline" / "transformer"
    audio = tmp_path / "audio"
    train_audio_branch("unaligned", branches, source / "records", source / "audio.yaml", audio)
    write_start("unaligned", branches, audio / "transformer", folder=tmp_path / "start")
    common, own, start = (
        load_transformer(str(path)) for path in (branches, audio / "transformer", tmp_path / "start")
    )
    assert own.config.temporal_alignment == "none"
    for name, weight in start.named_parameters():
        assert torch.equal(weight, (own if branch_of(name) == "audio" else common).get_parameter(name))
    name = "head.audio.proj_out.weight"
    assert not torch.equal(own.get_parameter(name), common.get_parameter(name)), "nothing was trained"


def test_a_shorter_run_warms_up_and_averages_over_the_same_part(source: Path) -> None:
    shortened = ablations._shortened(source / "preset.yaml", 50, {"data": "records"})
    assert shortened["warmup_steps"] == 5
    assert shortened["ema_decay"] == pytest.approx(0.98)
    own = {"data": "records", "warmup_steps": 1}
    assert "warmup_steps" not in ablations._shortened(source / "preset.yaml", 50, own)


@pytest.mark.slow
def test_the_command_runs_each_arm_once_and_fills_the_card(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tables = {"fusion": {"linear": "cross-linear", "joint": "base"}, "time": {"none": "unaligned"}}
    monkeypatch.setitem(COMPARISONS, "ablations", ABLATIONS._replace(tables=tables))
    (tmp_path / "README.md").write_text("<!-- ablations -->\n<!-- /ablations -->\n")
    places = ["--data", source / "records", "--codecs", source / "pipeline", "--config", source / "preset.yaml"]
    places += ["--branches", source / "pipeline" / "transformer", "--audio-config", source / "audio.yaml"]
    places += ["--output", tmp_path / "runs", "--report", tmp_path / "ablations.json"]
    arguments = [*map(str, places), "--steps", "1", "--seeds", "2", "--clips", "1", "--speech", "formant"]
    ablations.main(arguments)
    report = json.loads((tmp_path / "ablations.json").read_text())
    assert sorted(report["runs"]) == [
        f"{name}-seed{seed}-1" for name in ("base", "cross-linear", "unaligned") for seed in (0, 1)
    ]
    assert report["arms"]["base"]["samples"] == 2
    assert len({run["losses"]["loss/video"] for run in report["runs"].values()}) == 6, "two runs are alike"
    assert report["arms"]["base"]["parameters"] != report["arms"]["cross-linear"]["parameters"]
    table = (tmp_path / "README.md").read_text()
    assert "sees the same 2 samples of stage 2 (1 steps)" in table
    assert len([line for line in table.splitlines() if line.startswith(("| linear", "| joint"))]) == 2

    monkeypatch.setattr(ablation_arms, "Trainer", None)  # a second run trains nothing
    ablations.main(arguments)
    assert "`learning_rate` 0.001 there, 0.002 here; delete it" in refusal([*arguments, "learning_rate=2e-3"], capsys)

    result = tmp_path / "runs" / "base-seed0-1.json"
    written = json.loads(result.read_text())
    early = {name: value for name, value in written["settings"].items() if name not in ("components", "data")}
    result.write_text(json.dumps({**written, "settings": {**early, "codecs": "checkpoints and all"}}))
    ablations.main(arguments)  # a result of an earlier form is read
    result.write_text(json.dumps({**written, "settings": {**written["settings"], "components": "another"}}))
    assert "`components` another there" in refusal(arguments, capsys)

    result.unlink()  # as after an interruption: the folder of the run is there
    assert "base-seed0-1` must be made with the present settings, got `learning_rate` 0.001 there" in refusal(
        [*arguments, "learning_rate=2e-3"], capsys
    )
    note = tmp_path / "runs" / "audio-unaligned" / NOTE
    note.write_text(json.dumps({"branches": "another"}))
    assert "audio-unaligned` must be made with the present settings, got `branches`" in refusal(arguments, capsys)


def refusal(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The sentence with which the command ends."""
    with pytest.raises(SystemExit, match="2"):
        ablations.main(arguments)
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "error"),
    [
        (["--only", "foo", "0"], "`--only` must be an arm and a seed, got foo 0; the arms are base,"),
        (["--only", "base", "x"], "`--only` must be an arm and a seed, got base x"),
        (["lerning_rate=1e-3"], "did you mean `learning_rate`"),
        (["batch_size=0"], "`batch_size` must be at least 1, got 0"),
        (["--parallel", "0"], "`--parallel` must be at least 1, got 0"),
        (["--audio-config", "none.yaml"], "`none.yaml` must be an existing YAML file"),
    ],
)
def test_mistakes_are_found_before_anything_is_made(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], error: str
) -> None:
    places = ["--data", source / "records", "--codecs", source / "pipeline", "--config", source / "preset.yaml"]
    places += ["--branches", source / "pipeline" / "transformer", "--output", tmp_path / "runs", "--steps", "1"]
    assert error in refusal([*map(str, places), *words], capsys)
    assert not (tmp_path / "runs").exists()


def test_branches_that_meet_otherwise_are_refused_before_anything_is_trained(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_start("cross", source / "pipeline" / "transformer", folder=tmp_path / "cross")
    places = ["--data", source / "records", "--codecs", source / "pipeline", "--config", source / "preset.yaml"]
    places += ["--branches", tmp_path / "cross", "--output", tmp_path / "runs", "--steps", "1"]
    places += ["--report", tmp_path / "fusion.json"]
    error = refusal(["--compare", "fusion", *map(str, places)], capsys)
    assert "`--branches` must be a transformer with `fusion` joint, which the first arm keeps, got cross in" in error
    assert not (tmp_path / "runs").exists()


def test_branches_whose_weights_an_arm_would_lose_are_refused_before_anything_is_trained(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(ARMS, "cross", ablation_arms.Arm(model={"num_single_layers": 0}))
    places = ["--data", source / "records", "--codecs", source / "pipeline", "--config", source / "preset.yaml"]
    places += ["--branches", source / "pipeline" / "transformer", "--output", tmp_path / "runs", "--steps", "1"]
    places += ["--report", tmp_path / "fusion.json"]
    error = refusal(["--compare", "fusion", *map(str, places)], capsys)
    assert "cross must keep the weights of stage 1 and add only zeros and fusions, got" in error
    assert not (tmp_path / "runs").exists()


def test_a_card_without_the_section_is_refused_before_anything_is_trained(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "README.md").write_text("<!-- fusion -->\n<!-- /fusion -->\n")
    places = ["--data", source / "records", "--codecs", source / "pipeline", "--config", source / "preset.yaml"]
    places += ["--branches", source / "pipeline" / "transformer", "--output", tmp_path / "runs", "--steps", "1"]
    places += ["--report", tmp_path / "fusion_1.json"]
    error = refusal(["--compare", "fusion", *map(str, places)], capsys)
    assert "must have a line '<!-- fusion_1 -->' and a line '<!-- /fusion_1 -->'" in error
    assert not (tmp_path / "runs").exists()


def test_a_report_of_another_name_fills_a_section_of_its_own(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text("<!-- fusion -->\nshort\n<!-- /fusion -->\n<!-- fusion_1920 -->\n<!-- /fusion_1920 -->\n")
    run = {"settings": {"steps": 1920, "clips": 2}, "samples": 61_440, "parameters": 1, "measures": {}}
    results = {(name, 0): run for name in FUSION.arms}
    files = {run: Path(f"{run[0]}-0") for run in results}
    times = dict.fromkeys(FUSION.arms, 1.0)
    ablations.write_report(tmp_path / "fusion_1920.json", FUSION, files, results, times)
    assert "short" in (page := card.read_text())
    assert f"<!-- fusion_1920 -->\n## {FUSION.heading}: 61,440 samples" in page
    assert (tmp_path / "fusion_1920.json").exists()


def test_the_codecs_of_the_shipped_model_are_found_by_its_name() -> None:
    words = ["--output", "runs", "--steps", "1", "--codecs", "jova-tiny"]
    assert ablations.build_parser().parse_args(words).codecs == model_folder("jova-tiny")


@pytest.mark.parametrize(
    "own",
    [["--data", "my records"], ["--branches", "b"], ["--codecs", "jova-tiny"], ["batch_size=2"], ["--seeds", "1"]],
)
def test_a_run_with_words_of_its_own_is_repeated_by_these(own: list[str]) -> None:
    words = ["--output", "runs/fusion", "--steps", "2", "--compare", "fusion"]
    parser = ablations.build_parser()
    assert ablations.own_command(parser.parse_intermixed_args(words), words) == ""
    command = ablations.own_command(parser.parse_intermixed_args([*words, *own]), [*words, *own])
    assert command == shlex.join(["python", "-m", "diffusers_jova.recipes.ablations", *words, *own])
    summary = aggregate([result(0.2)]) | {"parameters": 9_100_000, "relative_time": 1.234}
    arms, origin = dict.fromkeys(ARMS, summary), {"date": "2026-01-01T00", "commit": "abc"}
    assert f"`{command}` repeats it" in describe(FUSION, arms, origin, command)
    assert "`make ablations COMPARE=fusion STEPS=5` repeats it" in describe(FUSION, arms, origin)


def test_records_that_do_not_fit_the_branches_end_the_command_with_one_sentence(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "records").mkdir()
    places = ["--data", tmp_path / "records", "--codecs", source / "pipeline", "--config", source / "preset.yaml"]
    places += ["--branches", source / "pipeline" / "transformer", "--output", tmp_path / "runs", "--steps", "1"]
    error = refusal([*map(str, places), "--only", "base", "0"], capsys)
    assert "records" in error.splitlines()[-1]


def test_only_what_decodes_the_clips_counts_as_codecs(source: Path, tmp_path: Path) -> None:
    codecs = tmp_path / "codecs"
    shutil.copytree(source / "pipeline", codecs)
    digest = ablation_arms.digest_decoders(codecs)
    (codecs / "checkpoints").mkdir()
    (codecs / "checkpoints" / "vae.safetensors").write_bytes(b"1")
    (codecs / "vae" / "report.json").write_text("{}")
    shutil.rmtree(codecs / "transformer")
    assert ablation_arms.digest_decoders(codecs) == digest
    weights = next((codecs / "vocoder").glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes() + b" ")
    assert ablation_arms.digest_decoders(codecs) != digest


def test_a_budget_of_other_minutes_or_settings_is_refused(source: Path, tmp_path: Path) -> None:
    words = ["--output", str(tmp_path), "--branches", str(source / "pipeline" / "transformer")]
    words += ["--config", str(source / "preset.yaml"), "--data", str(source / "records"), "--minutes-per-arm"]
    settings = {"data": str(source / "records")}
    args = ablations.build_parser().parse_args([*words, "0.001"])
    steps = ablations.find_steps(args, settings)
    assert ablations.find_steps(args, settings) == steps
    with pytest.raises(OriginError, match=r"`settings\.batch_size` 2 there, 1 here"):
        ablations.find_steps(args, settings | {"batch_size": 1})
    with pytest.raises(OriginError, match=r"budget\.json` must .* got `minutes` 0\.001 there, 5\.0 here"):
        ablations.find_steps(ablations.build_parser().parse_args([*words, "5"]), settings)
    (tmp_path / "budget.json").write_text('{"steps": 7}')  # of an earlier version
    assert ablations.find_steps(args, settings) == 7


@pytest.mark.slow
def test_a_budget_of_minutes_becomes_one_number_of_steps(source: Path, tmp_path: Path) -> None:
    settings = {"data": str(source / "records"), "batch_size": 1}
    config = arm_config("base", 0, tmp_path, settings, source / "preset.yaml")
    write_start("base", source / "pipeline" / "transformer", folder=Path(config.model))
    for minutes in (0.1, 1.0):  # the clock of a run is its own, and no two agree
        steps = ablation_arms.steps_within(minutes, config)
        seconds_per_step = 1 / ablation_arms.last_report(Path(config.output_dir))["samples_per_second"]
        assert steps == max(round(60 * minutes / seconds_per_step), 1)


def test_the_spread_is_that_over_seeds() -> None:
    summary = aggregate([result(0.2), result(0.4), result(0.6)])
    assert summary["mean"]["lse_c"] == pytest.approx(0.4)
    assert summary["spread"]["lse_c"] == pytest.approx(0.2)
    assert aggregate([result(0.2)])["spread"]["lse_c"] == 0.0
    summary |= {"parameters": 9_100_000, "relative_time": 1.234}
    for comparison in COMPARISONS.values():
        table = describe(comparison, dict.fromkeys(ARMS, summary), {"date": "2026-01-01T00", "commit": "abc"})
        num_rows = sum(map(len, comparison.tables.values()))
        assert table.count("0.400 +- 0.200") == len(COLUMNS) * num_rows
        assert table.count("| 9.1 M | 1.23 |") == (num_rows if comparison.tells_cost else 0)


def test_one_seed_has_no_spread() -> None:
    summary = aggregate([result(0.2)]) | {"parameters": 9_100_000, "relative_time": 1.234}
    for comparison in COMPARISONS.values():
        table = describe(comparison, dict.fromkeys(ARMS, summary), {"date": "2026-01-01T00", "commit": "abc"})
        assert "one seed of data order and noise, 2 held-out prompts, so no spread over seeds is known" in table
        assert "+-" not in table
        assert table.count("| 0.200 |") == 3 * sum(map(len, comparison.tables.values()))


@pytest.mark.slow
def test_two_towers_are_trained_alone_and_then_as_every_arm_couples_them(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "towers.json").write_text(
        json.dumps({"_class_name": "JoVADualTowerTransformer3DModel", **TOWER_CONFIG, "fusion_layers": []})
    )
    monkeypatch.setitem(COMPARISONS, "towers", TOWERS._replace(stage_1=str(tmp_path / "towers.json")))
    monkeypatch.setattr(jova_tiny, "PRESETS", dict.fromkeys(("video", "audio"), str(source / "audio.yaml")))
    monkeypatch.setattr(ablations, "times_of_steps", partial(times_of_steps, rounds=1))
    places = ["--data", source / "records", "--codecs", source / "pipeline", "--config", source / "preset.yaml"]
    places += ["--output", tmp_path / "runs", "--report", tmp_path / "towers.json"]
    words = ["--steps", "1", "--seeds", "1", "--clips", "1", "--speech", "formant"]
    ablations.main(["--compare", "towers", *map(str, places), *words])
    report = json.loads((tmp_path / "towers.json").read_text())
    assert sorted(report["arms"]) == sorted(TOWERS.arms)
    joint = report["arms"]["towers-joint"]
    assert joint["relative_time"] == 1
    assert all(arm["step_s"] > 0 for arm in report["arms"].values())
    assert all(arm["parameters"] > joint["parameters"] for arm in report["arms"].values() if arm is not joint)
    start = load_transformer(str(tmp_path / "runs" / "stage-1" / "start"))
    for name in TOWERS.arms:
        trained = load_transformer(str(tmp_path / "runs" / f"{name}-seed0-1" / "start"))
        assert torch.equal(trained.video.proj_out.weight, start.video.proj_out.weight)


def test_missing_records_are_named(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        ablations.main(["--output", str(tmp_path), "--steps", "1", "--codecs", str(source), "--data", "nowhere"])
    assert "`--data` must be an existing folder, got `nowhere`" in capsys.readouterr().err


def test_a_failing_process_is_an_error_after_the_others_have_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first fails once the second has begun, not before and not at some time."""
    program = tmp_path / "program"
    os.mkfifo(tmp_path / "program-begun")  # opening it waits for the other side
    program.write_text(  # called as: program -m diffusers_jova.recipes.ablations FILE
        "#!/bin/sh\n"
        'if [ "$3" = "$0-a" ]; then read word < "$0-begun"; touch "$3"; exit 1; fi\n'
        'echo > "$0-begun"; touch "$3"\n'
    )
    program.chmod(0o755)
    monkeypatch.setattr(ablations.sys, "executable", str(program))
    with pytest.raises(ablations.subprocess.CalledProcessError):
        ablations.run_parallel([[f"{program}-{name}"] for name in "ab"], 2)
    assert (tmp_path / "program-a").exists()
    assert (tmp_path / "program-b").exists()


def test_what_waits_for_a_failed_process_is_not_begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "program"
    program.write_text('#!/bin/sh\ntouch "$3"\n[ "$3" != "$0-b" ]\n')
    program.chmod(0o755)
    monkeypatch.setattr(ablations.sys, "executable", str(program))
    with pytest.raises(ablations.subprocess.CalledProcessError):
        ablations.run_parallel([[f"{program}-{name}"] for name in "abc"], 1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["program", "program-a", "program-b"]

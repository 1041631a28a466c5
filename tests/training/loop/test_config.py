import math
import re
from dataclasses import fields
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import torch
import yaml

from diffusers_jova import JoVATransformer3DModel
from diffusers_jova.training.loop.config import FREE_TO_CHANGE, TrainConfig, from_values, load_yaml, parse_overrides
from diffusers_jova.training.loop.lora import TARGETS


PATHS = {"model": "m", "data": "d", "output_dir": "o"}
PRESETS = [
    path
    for path in sorted(Path("training/configs").glob("*.yaml"))
    if "codecs" not in path.name  # another command's
]


@pytest.mark.parametrize("path", PRESETS, ids=lambda path: path.name)
def test_every_preset_is_a_valid_run_and_says_what_it_is_for(path: Path) -> None:
    load_yaml(path, PATHS)
    head = path.read_text()[:600]
    for word in ("# Goal:", "Hardware:", "Time", "esult"):
        assert word in head


def test_the_paper_presets_hold_the_numbers_of_the_paper() -> None:
    processes = {"stage1_video": 8, "stage1_audio": 8, "stage2_joint": 32}  # as their comments say
    numbers = {}
    for name, count in processes.items():
        config = load_yaml(Path("training/configs", f"{name}.yaml"), PATHS)
        batch_size = config.batch_size * config.gradient_accumulation_steps * count
        numbers[name] = (config.stage, batch_size, config.learning_rate, config.steps)
    assert numbers == {  # JoVA (arXiv:2512.13677v1), Sec. 4.2
        "stage1_video": ("video", 256, 1e-4, 80000),
        "stage1_audio": ("audio", 256, 1e-4, 80000),
        "stage2_joint": ("joint", 32, 5e-5, 50000),
    }
    joint = load_yaml("training/configs/stage2_joint.yaml", PATHS)
    assert (joint.mouth_weight, joint.mouth_reduction, joint.coupling) == (5, "mask", "shared")


def test_the_joint_preset_says_what_a_checkpoint_of_the_paper_s_model_takes() -> None:
    config = JoVATransformer3DModel.load_config("model_cards/jova-12b", subfolder="transformer")
    with torch.device("meta"):
        num_weights = sum(parameter.numel() for parameter in JoVATransformer3DModel.from_config(config).parameters())
    gigabytes = 4 * num_weights / 1e9  # of one number per weight
    weights, averages, moments = gigabytes, gigabytes, 2 * gigabytes
    disk, memory = weights + averages + moments, weights + averages + 2 * moments
    text = Path("training/configs/stage2_joint.yaml").read_text()
    assert [int(number) for number in re.findall(r"(\d+) GB\b(?! with)", text)] == [round(disk), round(memory)]
    assert f"{3 * disk / 1000:.1f} TB" in text
    text = Path("training/configs/accelerate/fsdp.yaml").read_text()
    assert [int(number) for number in re.findall(r"(\d+) GB", text)] == [round(disk), round(memory)]


def test_the_adapter_preset_suits_a_first_try_and_short_ones() -> None:
    config = load_yaml("training/configs/lora.yaml", PATHS)
    assert config.warmup_steps <= config.steps / 20
    samples_per_clip = config.steps * config.batch_size * config.gradient_accumulation_steps / 8
    assert 100 <= samples_per_clip <= 500
    assert load_yaml("training/configs/lora.yaml", PATHS | {"steps": 20}).steps == 20


def test_an_unknown_setting_is_an_error_that_names_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"`lerning_rate` in .* did you mean `learning_rate`"):
        from_values(PATHS | {"lerning_rate": 1e-4})
    with pytest.raises(ValueError, match=r"`zzzz` in .* the fields are model, data"):
        from_values(PATHS | {"zzzz": 1})


def test_paths_have_no_default() -> None:
    with pytest.raises(ValueError, match=r"`data` must be given, the configuration has none; add `data=\.\.\.`"):
        from_values({"model": "m", "output_dir": "o"})


def test_the_saved_configuration_reads_back_equal(tmp_path: Path) -> None:
    config = from_values(PATHS | {"betas": [0.9, 0.95], "ema_decay": 0.99, "validation_prompts": ["a", "b"]})
    config.save(tmp_path / "config.yaml")
    assert load_yaml(tmp_path / "config.yaml") == config


def test_values_that_yaml_reads_as_another_type_are_what_was_meant() -> None:
    assert yaml.safe_load("1e-4") == "1e-4"  # YAML 1.1 wants a dot
    assert from_values(PATHS | {"learning_rate": "1e-4", "mouth_weight": 5}).learning_rate == 1e-4
    assert yaml.safe_load("no") is False
    assert from_values(PATHS | {"mixed_precision": False}).mixed_precision == "no"


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("steps", "many", "`steps` must be a whole number, got 'many'"),
        ("steps", 2.5, r"`steps` must be a whole number, got 2\.5"),
        ("steps", True, "`steps` must be a whole number, got True"),
        ("learning_rate", "fast", "`learning_rate` must be a finite number, got 'fast'"),
        ("compile", 1, "`compile` must be true or false, got 1"),
        ("stage", "both", "`stage` must be one of video, audio, joint, got 'both'"),
        ("betas", [0.9], r"`betas` must be a list of 2, got \[0\.9\]"),
        ("validation_prompts", "a", "`validation_prompts` must be a list, got 'a'"),
        ("caption_dropout", 1.5, r"`caption_dropout` must be in \[0, 1\], got 1\.5"),
        ("steps", 0, "`steps` must be at least 1, got 0"),
        ("shift", 0, r"`shift` must be positive, got 0\.0"),
        ("ema_decay", 1.0, r"`ema_decay` must be in \(0, 1\), got 1\.0; null averages nothing"),
        ("video_learning_rate", -1, r"`video_learning_rate` must be 0 or more, got -1\.0"),
        ("num_workers", -1, "`num_workers` must be 0 or more, got -1"),
        ("stop_after_minutes", -1, r"`stop_after_minutes` must be 0 or more, got -1\.0"),
        ("betas", [1.5, 0.9], r"`betas` must be two numbers in \[0, 1\), got \[1\.5, 0\.9\]"),
        ("validate_every", 0, "`validate_every` must be at least 1, got 0; null makes none"),
        ("warmup_steps", 2000, "`warmup_steps` must be at most `steps` = 1000, got 2000; lower it, 0 has no warm-up"),
    ],
)
def test_a_value_that_breaks_its_rule_is_named_with_the_rule(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_values(PATHS | {name: value})


NUMBERS = [name for name, kind in get_type_hints(TrainConfig).items() if float in (get_args(kind) or (kind,))]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, ".inf", "nan"])
@pytest.mark.parametrize("name", NUMBERS)
def test_every_number_is_finite(name: str, value: object) -> None:
    given = [value, value] if name == "betas" else value
    with pytest.raises(ValueError, match=rf"`{name}` must be "):
        from_values(PATHS | {name: given})


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"steps": "10"}, "`steps` must be a whole number, got '10'"),
        ({"steps": 10.0}, r"`steps` must be a whole number, got 10\.0"),
        ({"mouth_box_scale": math.inf}, "`mouth_box_scale` must be finite, got inf"),
        ({"stop_after_minutes": -1.0}, r"`stop_after_minutes` must be 0 or more, got -1\.0"),
        ({"seed": True}, "`seed` must be a whole number, got True"),
        ({"stage": "both"}, "`stage` must be one of video, audio, joint, got 'both'"),
        ({"validation_prompts": "a dog"}, "`validation_prompts` must be a list, got 'a dog'"),
    ],
)
def test_a_run_that_is_built_in_python_is_checked_as_one_of_a_file_is(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        TrainConfig(**PATHS, **values)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"quantize": "nf4"}, "set `train: lora`"),
        ({"student_steps": 0}, "`student_steps` must be at least 1, got 0; 4, say, or null"),
        ({"student_steps": 5}, "`teacher_steps` must be a multiple of `student_steps` = 5, got 48; use 50, say"),
        ({"student_steps": 4, "teacher_steps": 2}, "`teacher_steps` must be a multiple of `student_steps` = 4, got 2"),
        ({"student_steps": 4, "teacher_jump": 13}, "`teacher_jump` must be at most the 12 steps .*, got 13; lower it"),
        ({"student_steps": 4, "stage": "video"}, "`student_steps` must go with `stage: joint`, .*, got 'video'"),
        ({"student_steps": 4, "model": "a.json"}, "`model` must have trained weights to teach, got the config `a.jso"),
        ({"student_steps": 4, "shift": 5.0}, "`shift` must be left out with `student_steps`: noise levels .*, got 5"),
        ({"student_steps": 4, "experts": "high"}, "`experts` must be drawn with `student_steps`, .*, got high"),
        ({"student_steps": 4, "uncoupled_probability": 0.1}, "`uncoupled_probability` must be 0 with `student_steps`"),
        ({"student_steps": 4, "validation_steps": 8}, "`validation_steps` must be left out with `student_steps`"),
        (
            {"student_steps": 4, "distribution": "fsdp"},
            "`distribution` must be none or ddp with .*, got fsdp with `tra",
        ),
        ({"student_steps": 4, "push_to_hub": "a/b"}, "`push_to_hub` must be null for a whole student, .*, got a/b"),
        (
            {"teacher_jump": 2},
            "`teacher_jump` must be left at 1 with `student_steps: null`, got 2",
        ),
        ({"init_audio_from_video": True, "stage": "video"}, "set `stage: audio` or `joint`"),
        ({"coupling": "mixed", "stage": "video"}, "`coupling` needs two modalities"),
        ({"uncoupled_probability": 0.1, "stage": "audio"}, "`uncoupled_probability` needs two modalities"),
        ({"image_probability": 0.1, "stage": "audio"}, "`image_probability` needs a video branch"),
        ({"keyframe_probability": 0.1, "stage": "audio"}, "`keyframe_probability` needs a video branch"),
        ({"keyframe_probability": 1.5}, r"`keyframe_probability` must be in \[0, 1\], got 1.5"),
        ({"train": "lora", "lora_targets": "audio", "stage": "video"}, "`lora_targets` must be trained in this stage"),
        ({"prior_data": "p"}, "`prior_data` and `prior_probability` belong together"),
        ({"validate_every": 5}, "`validate_every` needs `validation_prompts`"),
        ({"train": "lora", "quantize": "nf4", "distribution": "fsdp"}, "`quantize` cannot be sharded"),
        (
            {"ema_decay": 0.99, "distribution": "deepspeed"},
            r"`ema_decay` must be null with DeepSpeed in half precision, got 0\.99; D",
        ),
        ({"tasks": {"joint": 1}, "prefix_max_fraction": 0.3}, "`prefix_max_fraction` is read with `prefix_pro"),
        ({"tasks": {"continuation": 1}, "prefix_max_fraction": 0}, "`prefix_max_fraction` must be above 0 for the"),
        ({"stop_after_minutes": 5, "distribution": "deepspeed"}, "`stop_after_minutes` must be null with DeepSpeed"),
    ],
)
def test_settings_that_exclude_each_other_are_refused(values: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        from_values(PATHS | values)


@pytest.mark.parametrize(
    ("switch", "values", "message"),
    [
        ({"train": "full"}, {"lora_rank": 8}, "`lora_rank` must be left at 32 with `train: full`, got 8; set `train:"),
        ({"train": "full"}, {"lora_alpha": 8}, "`lora_alpha` must be left at"),
        ({"train": "full"}, {"lora_dropout": 0.1}, "`lora_dropout` must be left at"),
        ({"train": "full"}, {"lora_targets": "joint"}, "`lora_targets` must be left at attention"),
        ({"learning_rate_schedule": "constant"}, {"decay_start": 0.5}, "`decay_start` must be left at"),
        ({"learning_rate_schedule": "constant"}, {"final_learning_rate": 0.1}, "`final_learning_rate` must be left"),
        ({"push_to_hub": None}, {"hub_private_repo": False}, "`hub_private_repo` must be left at True with `push_to"),
        ({"stage": "audio"}, {"video_weight": 2}, "`video_weight` must be left at"),
        ({"stage": "video"}, {"audio_weight": 2}, "`audio_weight` must be left at"),
    ],
)
def test_settings_that_nothing_would_read_are_refused(
    switch: dict[str, object], values: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        from_values(PATHS | switch | values)
    others = {"train": "lora", "learning_rate_schedule": "cosine", "stage": "joint", "push_to_hub": "me/it"}
    from_values(PATHS | {name: others[name] for name in switch} | values)


def test_overrides_are_yaml_values() -> None:
    words = ["steps=10", "betas=[0.9, 0.95]", "ema_decay=null", "--stage=video", "learning_rate=1e-4"]
    overrides = parse_overrides(words)
    assert overrides == {
        "steps": 10,
        "betas": [0.9, 0.95],
        "ema_decay": None,
        "stage": "video",
        "learning_rate": "1e-4",
    }
    with pytest.raises(ValueError, match="must have the form name=value, got 'steps'"):
        parse_overrides(["steps"])
    with pytest.raises(ValueError, match=r"`betas=\[0\.9` must be valid YAML, got an error"):
        parse_overrides(["betas=[0.9"])


def test_a_preset_that_is_no_yaml_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("steps: [1\n")
    with pytest.raises(ValueError, match=r"a\.yaml` must be valid YAML, got an error \(.*line 1.*\); correct it$"):
        load_yaml(tmp_path / "a.yaml")
    with pytest.raises(FileNotFoundError, match=r"b\.yaml` must be an existing YAML file; `jova presets` lists some"):
        load_yaml(tmp_path / "b.yaml")


def test_the_lists_that_name_settings_name_existing_ones() -> None:
    assert set(FREE_TO_CHANGE) <= {field.name for field in fields(TrainConfig)}
    for targets in TARGETS:
        from_values(PATHS | {"train": "lora", "lora_targets": targets})


def test_a_misspelt_setting_is_sought_where_it_was_written(tmp_path: Path) -> None:
    preset = tmp_path / "preset.yaml"
    preset.write_text("model: m\ndata: d\noutput_dir: o\n")
    with pytest.raises(ValueError, match=r"`stpes` in the command line is not a setting .* did you mean `steps`"):
        load_yaml(preset, {"stpes": 60})
    preset.write_text("stpes: 60\n")
    with pytest.raises(ValueError, match=r"`stpes` in .*preset\.yaml is not a setting"):
        load_yaml(preset)


def test_a_run_shorter_than_the_warmup_of_its_preset_gets_a_shorter_one_and_says_so(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert load_yaml("training/configs/lora.yaml", PATHS | {"steps": 3}).warmup_steps == 0
    assert capsys.readouterr().out == "`warmup_steps` is 0 in place of the preset's 10, a tenth of the 3 steps\n"
    assert load_yaml("training/configs/lora.yaml", PATHS | {"steps": 10}).warmup_steps == 10
    assert capsys.readouterr().out == ""
    with pytest.raises(ValueError, match="`warmup_steps` must be at most `steps` = 3, got 4; lower it"):
        load_yaml("training/configs/lora.yaml", PATHS | {"steps": 3, "warmup_steps": 4})

"""The clip that stands for those of an estimate has the sizes that a prepared one has."""

from collections.abc import Callable
from pathlib import Path

import pytest

from diffusers_jova import JoVAPipeline
from diffusers_jova.training.assumed_clip import TEXTS, assumed_clip, describe_clip
from diffusers_jova.training.data.dataset import PrecomputedDataset
from diffusers_jova.training.prepare import main as prepare
from jova_cli.clip_limits import Bucket
from jova_cli.main import main
from tests.prepared_clips import write_clips
from tests.tiny_pipeline import build_dual_tower, build_spoken_pipeline, build_tiny_pipeline
from tests.tiny_training import MODEL, tiny_config


BUCKET = Bucket(9, 16, 32)


def build_grey() -> JoVAPipeline:
    transformer = build_dual_tower("bridge", in_channels=36, boundary=0.5)
    return build_tiny_pipeline(transformer=transformer, fills_image_with_grey=True, starts_white=True)


@pytest.mark.parametrize("build", [build_tiny_pipeline, build_spoken_pipeline, build_grey])
@pytest.mark.parametrize("keyframes", [False, True])
def test_an_assumed_clip_has_the_sizes_of_a_prepared_one(
    build: Callable[[], JoVAPipeline], keyframes: bool, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    build().save_pretrained(model)
    write_clips(tmp_path / "source", ("a",), num_frames=9)
    words = [str(tmp_path / "source"), str(tmp_path / "clips"), "--model", str(model), "--buckets", str(BUCKET)]
    prepare([*words, "--no-mouth", *(["--keyframes"] if keyframes else [])])
    (real,) = PrecomputedDataset(tmp_path / "clips").headers
    config = tiny_config(tmp_path, model=str(model), keyframe_probability=0.5 * keyframes)

    tensors, header = describe_clip(config, BUCKET)

    assert {name: float(value) for name, value in header.items()} == {
        name: float(real.metadata[name]) for name in header
    }
    boxes = {"mouth_boxes"}  # where the detector sees no mouth, there is none
    assert tensors.keys() - boxes == real.shapes.keys() - boxes
    for name in tensors.keys() - boxes:
        own, read = tuple(tensors[name].shape), real.shapes[name]
        assert tensors[name].dtype == real.dtypes[name]
        if name in TEXTS:
            assert own[0] == 64 >= read[0]  # as long as the pipeline takes them
            own, read = own[1:], read[1:]
        assert own == read


@pytest.mark.parametrize("command", ["train", "train-lora"])
def test_an_estimate_of_a_size_needs_no_clips(
    command: str, tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    places = [str(tmp_path / "none"), str(tmp_path / "run"), "--model", str(tiny_pipeline_folder)]
    if command == "train":
        names = ("data", "output_dir", "model")
        own = [f"{name}={places[number]}" for number, name in zip((0, 1, 3), names, strict=True)]
        places = ["--config", "stage2_joint", *own, "distribution=none"]
    main([command, *places, "--estimate", "--bucket", str(BUCKET), "--device", "cpu"])
    out = capsys.readouterr().out
    assert "video latents [16, 3, 2, 4] and audio latents [" in out
    assert "forward and backward" in out
    assert not list(tmp_path.iterdir())


def test_what_is_assumed_is_gone_afterwards(tiny_pipeline_folder: Path, tmp_path: Path) -> None:
    with assumed_clip(tiny_config(tmp_path, model=str(tiny_pipeline_folder)), BUCKET) as settings:
        assert len(PrecomputedDataset(Path(settings.data)).headers) == 1
    assert not Path(settings.data).exists()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--bucket", "10x32x32"], "the frames of a bucket must be 4k + 1"),
        (["--bucket", "9x30x32"], "the sides of a bucket must be multiples of 16, got 9x30x32; use 9x32x32"),
        (["--bucket", "161x32x32"], "`num_frames` must be at most 61 ("),
        (["--bucket", "9x32x272"], "`width` must be at most 256 for this model, got 272; use 256"),
        (["--bucket", "9x32"], "a bucket must be written FRAMESxHEIGHTxWIDTH, got `9x32`"),
        ([], "`data` must be an existing folder"),
    ],
)
def test_sizes_that_the_model_does_not_take_are_refused(
    more: list[str], message: str, tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(tmp_path / "none"), str(tmp_path / "run"), "--model", str(tiny_pipeline_folder), "--estimate"]
    with pytest.raises(SystemExit):
        main(["train-lora", *words, *more])
    said = capsys.readouterr().err
    assert message in said
    assert "windows" not in said
    assert said.count("\n") == 1


def test_a_size_alone_says_nothing_of_a_model_without_codecs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_config(tmp_path, MODEL).save(tmp_path / "preset.yaml")
    words = ["--config", str(tmp_path / "preset.yaml"), "--estimate", "--bucket", str(BUCKET)]
    with pytest.raises(SystemExit):
        main(["train", *words])
    assert "`--bucket` must go with a `model` in a pipeline, whose VAEs tell the sizes of latents" in (
        capsys.readouterr().err
    )
    with pytest.raises(SystemExit):
        main(["train", *words[:2], "--bucket", str(BUCKET)])
    assert "`--bucket` must be given with `--estimate`" in capsys.readouterr().err

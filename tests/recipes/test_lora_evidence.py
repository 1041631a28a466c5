"""Evidence of the adapter: the new speaker is none of the palette, and the verdict says what changed."""

import json
from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.drawn.avatars import make_clip
from diffusers_jova.drawn.portraits import PALETTE
from diffusers_jova.drawn.speaker_evaluation import correct_colours
from diffusers_jova.recipes import lora_evidence
from diffusers_jova.recipes.lora_evidence import NEW_AVATAR, judge
from diffusers_jova.training.loop.lora import ADAPTER_FILE
from tests.tiny_pipeline import DEFAULTS, build_tiny_pipeline


def test_the_new_avatar_is_far_from_the_palette_and_recognised() -> None:
    for part, colour in NEW_AVATAR.colours.items():
        distances = [np.linalg.norm(np.subtract(colour.rgb, other.rgb)) for other in PALETTE[part]]
        assert min(distances) > 45, (part, distances)
        assert colour.name not in {other.name for options in PALETTE.values() for other in options}
    hers, other = make_clip(3, identity=NEW_AVATAR), make_clip(3, subject="speaker")
    assert all(correct_colours(hers.frames, NEW_AVATAR).values())
    assert not any(correct_colours(other.frames, NEW_AVATAR).values())


@pytest.mark.parametrize(
    ("identity", "sync", "verdict"), [(0.5, 0.96, (True, True)), (0.5, 0.94, (True, False)), (0.2, 1.0, (False, True))]
)
def test_the_adapter_must_raise_identity_and_keep_all_but_a_twentieth_of_the_sync(
    identity: float, sync: float, verdict: tuple[bool, bool]
) -> None:
    def summary(identity: float, sync: float) -> dict[str, dict[str, float]]:
        return {"identity_correct": {"mean": identity}, "sync_within_one_frame": {"mean": sync}}

    found = judge({"without": summary(0.2, 1.0), "with": summary(identity, sync)})
    assert (found["raises_identity"], found["keeps_sync"]) == verdict


@pytest.mark.slow
def test_the_command_trains_an_adapter_once_and_measures_with_and_without_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"height": 64, "width": 64, "num_frames": 17}
    build_tiny_pipeline(defaults={**DEFAULTS, **size, "num_inference_steps": 1}).save_pretrained(tmp_path / "model")
    (tmp_path / "README.md").write_text("<!-- lora -->\n<!-- /lora -->\n")
    places = ["--output", str(tmp_path / "lora.json"), "--work", str(tmp_path / "work")]
    arguments = ["--model", str(tmp_path / "model"), "--clips", "1", "--speech", "formant", "--report-only", *places]
    arguments += ["steps=2", "warmup_steps=0", "learning_rate=0.1", "lora_rank=2"]
    assert lora_evidence.main(arguments) == 0
    (work,) = (tmp_path / "work").iterdir()
    assert len(list((work / "clips").glob("*.mp4"))) == len(list((work / "records").glob("*.safetensors"))) == 8
    without, with_adapter = (np.load(next((work / name).iterdir()))["frames"] for name in ("without", "with"))
    assert not np.array_equal(without, with_adapter)
    report = json.loads((tmp_path / "lora.json").read_text())
    assert (report["steps"], report["samples_per_step"], report["clips"]) == (2, 8, 1)
    assert report["summaries"]["ground_truth"]["identity_correct"]["mean"] == 1
    assert "| with the adapter |" in (tmp_path / "README.md").read_text()

    saved = (work / "adapter" / ADAPTER_FILE).read_bytes()
    monkeypatch.setattr(lora_evidence.train_lora, "main", None)  # a second run trains nothing
    assert lora_evidence.main(arguments) == 0
    assert (work / "adapter" / ADAPTER_FILE).read_bytes() == saved

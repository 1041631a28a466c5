import re
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from jova_cli.adapter_info import check_adapter
from jova_cli.given_paths import check_writable, lacking_folder
from jova_cli.info import kinds_of
from jova_cli.shipped import check_source


def test_a_file_may_lie_in_a_folder_that_is_to_be_made(tmp_path: Path) -> None:
    check_writable("--output", tmp_path / "new" / "clips" / "clip.mp4")
    assert not list(tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_refused_in_one_sentence_that_names_the_option(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").mkdir()
    (tmp_path / "file").touch()
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    for path in ("clip.mp4", "file/clip.mp4", "nowhere/clip.mp4", f"{'n' * 300}/clip.mp4", f"{'n' * 300}.mp4"):
        with pytest.raises(ValueError, match=r"`--output` must .*, got .*; (choose another|shorten it)") as refused:
            check_writable("--output", tmp_path / path)
        assert not re.search(r"\n", str(refused.value))


def test_a_checkpoint_that_is_gone_is_told_beside_those_that_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("checkpoint-00000004", "checkpoint-00000006", "validation", ".lock"):
        (tmp_path / "adapter" / name).mkdir(parents=True)
    told = "which is not in `adapter` (there: checkpoint-00000004, checkpoint-00000006)"
    assert lacking_folder("adapter/checkpoint-00000002") == told
    with pytest.raises(ValueError, match=rf"^`--lora` must be .*, got adapter/checkpoint-00000002, {re.escape(told)}"):
        check_source("--lora", "adapter/checkpoint-00000002")
    with pytest.raises(ValueError, match=r"which is not in `adapter` \(there: checkpoint-00000004, .*validation\)"):
        check_source("--lora", "adapter/nothing.safetensors")
    check_source("--lora", "adapter/name")  # may be a repository of an owner of that name
    for elsewhere in ("owner/name", "name", "adapter/validation"):
        assert lacking_folder(elsewhere) == ""


def test_what_lies_beside_an_adapter_is_told_by_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "optimizer.safetensors").touch()
    with pytest.raises(ValueError, match=r"`--lora` must be an adapter, got .* which a training keeps to go on from"):
        check_adapter("--lora", tmp_path / "optimizer.safetensors")
    save_file({"video_latents": np.zeros((1, 1, 1, 1), np.float32)}, tmp_path / "a.safetensors")
    (tmp_path / "prepare.json").write_text("{}")
    with pytest.raises(ValueError, match="in one of prepared clips; name "):
        kinds_of(tmp_path / "a.safetensors")

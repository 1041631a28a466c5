import json
import shutil
from pathlib import Path

import pytest
import torch

from diffusers_jova.training.loop import checkpoints as state
from diffusers_jova.training.loop.checkpoints import (
    CHECKPOINT_NAMES,
    check_fingerprint,
    latest_checkpoint,
    load_checkpoint,
    pack,
    rotate,
    save_checkpoint,
    unpack,
)
from diffusers_jova.whole_files import clear_leftovers


PARTS = {"model": {"a": torch.arange(3.0)}, "optimizer": {"b": torch.ones(2, dtype=torch.uint8)}}


def test_a_checkpoint_reads_back_with_the_same_bits(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 12, PARTS, {"fingerprint": {"seed": 0}})
    parts, values = load_checkpoint(path)
    assert {name: list(tensors) for name, tensors in parts.items()} == {"model": ["a"], "optimizer": ["b"]}
    assert torch.equal(parts["model"]["a"], PARTS["model"]["a"])
    assert parts["optimizer"]["b"].dtype == torch.uint8
    assert values == {"step": 12, "fingerprint": {"seed": 0}}


def test_the_newest_complete_checkpoint_is_found(tmp_path: Path) -> None:
    assert latest_checkpoint(tmp_path) is None
    for step in (5, 100, 20):
        save_checkpoint(tmp_path, step, PARTS, {})
    (tmp_path / ".checkpoint-00000200.partial-1").mkdir()  # what a kill leaves behind
    (tmp_path / "checkpoint-final").mkdir()
    assert latest_checkpoint(tmp_path) == tmp_path / "checkpoint-00000100"


@pytest.mark.parametrize("fails", ["save_file", "_flush"])
def test_a_full_disk_leaves_the_earlier_checkpoint_and_no_half_of_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    save_checkpoint(tmp_path, 1, PARTS, {})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(state, fails, full)
    with pytest.raises(OSError, match=r"No space left.* free some space .* continues from `checkpoint-00000001`"):
        save_checkpoint(tmp_path, 2, PARTS, {})
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000001"]


def test_a_checkpoint_is_written_over_what_a_kill_left(tmp_path: Path) -> None:
    partial = tmp_path / ".checkpoint-00000003.partial-1"
    partial.mkdir()
    (partial / "model.safetensors").write_bytes(b"half")
    save_checkpoint(tmp_path, 3, PARTS, {})
    assert torch.equal(load_checkpoint(latest_checkpoint(tmp_path))[0]["model"]["a"], PARTS["model"]["a"])
    assert not partial.exists()


def test_rotation_keeps_the_newest(tmp_path: Path) -> None:
    *_, newest = (save_checkpoint(tmp_path, step, PARTS, {}) for step in range(1, 6))
    rotate(tmp_path, newest, keep=2)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoint-00000004", "checkpoint-00000005"]
    rotate(tmp_path, newest, keep=5)
    assert len(list(tmp_path.iterdir())) == 2


def test_what_a_kill_left_of_checkpoints_is_deleted_and_only_that(tmp_path: Path) -> None:
    kept = [save_checkpoint(tmp_path, step, PARTS, {}) for step in (1, 2)]
    for place, content in ((1, "half"), (2, "old"), (3, "old")):  # killed while it wrote, and around its last rename
        shutil.copytree(kept[1], tmp_path / f".checkpoint-0000000{place}.partial-1" / content)
    (tmp_path / ".mine.partial-1").mkdir()
    clear_leftovers(tmp_path, CHECKPOINT_NAMES)
    found = sorted(path.name for path in tmp_path.iterdir())
    assert found == [".mine.partial-1", *(f"checkpoint-0000000{step}" for step in (1, 2, 3))]
    assert load_checkpoint(tmp_path / found[-1])[1] == {"step": 2}


def test_checkpoints_of_an_earlier_run_make_way_for_the_first_one_of_a_run_that_starts_afresh(tmp_path: Path) -> None:
    for step in (40, 50):
        save_checkpoint(tmp_path, step, PARTS, {})
    rotate(tmp_path, save_checkpoint(tmp_path, 10, PARTS, {}), keep=2)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-00000010"]


def test_a_damaged_checkpoint_is_named_with_the_remedy(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path, 1, PARTS, {})
    file = path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match=r"must be a complete checkpoint.*; delete it to use the one before"):
        load_checkpoint(path)


def test_nested_states_survive_the_way_through_tensors_and_json() -> None:
    nested = {"layer.weight": {"exp_avg": torch.ones(2), "step": 3, "quant": {"absmax": torch.zeros(1)}}, "scale": 0.5}
    tensors, values = pack(nested)
    assert set(tensors) == {"layer.weight/exp_avg", "layer.weight/quant/absmax"}
    restored = unpack(tensors, json.loads(json.dumps(values)))
    assert restored["layer.weight"]["step"] == 3
    assert restored["scale"] == 0.5
    assert torch.equal(restored["layer.weight"]["quant"]["absmax"], torch.zeros(1))


def test_a_fingerprint_names_the_settings_that_differ_and_ignores_tuples(tmp_path: Path) -> None:
    check_fingerprint({"betas": [0.9, 0.99], "free by now": 1}, {"betas": (0.9, 0.99)}, tmp_path)
    with pytest.raises(ValueError, match="`seed` is 0 there and 1 here, `shift` is null there and 3 here"):
        check_fingerprint({"seed": 0, "same": 1}, {"seed": 1, "same": 1, "shift": 3}, tmp_path)

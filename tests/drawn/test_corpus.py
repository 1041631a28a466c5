from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.drawn import corpus
from diffusers_jova.drawn.corpus import make_shards, read_array
from diffusers_jova.origin import OriginError


@pytest.mark.slow
def test_several_processes_make_the_same_shards_in_the_same_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(corpus, "CLIPS_PER_SHARD", 2)
    alone = make_shards(tmp_path / "alone", range(5))
    together = make_shards(tmp_path / "together", range(5), num_processes=2)
    assert [path.name for path in together] == [path.name for path in alone]
    assert len(alone) == 3
    np.testing.assert_array_equal(read_array(together, "frames"), read_array(alone, "frames"))
    assert read_array(alone, "captions").tolist() == read_array(together, "captions").tolist()


def test_a_folder_of_clips_of_another_voice_is_refused(tmp_path: Path) -> None:
    (shard,) = make_shards(tmp_path, range(1))
    make_shards(tmp_path, range(1), speech="formant")  # the default, by its name
    with pytest.raises(OriginError, match="`speech` formant there, espeak here"):
        make_shards(tmp_path, range(1), speech="espeak")
    assert [path.name for path in tmp_path.glob("*.npz")] == [shard.name]


def test_shards_without_a_note_count_as_made_with_the_present_options(tmp_path: Path) -> None:
    (shard,) = make_shards(tmp_path, range(1))
    (tmp_path / "origin.json").unlink()
    made = shard.stat().st_mtime_ns
    make_shards(tmp_path, range(1), motion=0.5)
    assert shard.stat().st_mtime_ns == made
    with pytest.raises(OriginError, match="`motion`"):
        make_shards(tmp_path, range(1))

import json
from pathlib import Path

import numpy as np
import pytest

from diffusers_jova.origin import OriginError, check_origin, digest_components, digest_path, keep_origin, read_origin


def test_a_folder_of_other_settings_is_refused_and_the_settings_are_named(tmp_path: Path) -> None:
    origin = {"schedule": {"steps": 3, "betas": (0.9, 0.99)}, "speech": "espeak"}
    keep_origin(tmp_path / "new", origin)
    keep_origin(tmp_path / "new", origin)
    with pytest.raises(OriginError, match=r"new` must be .* got `schedule\.steps` 3 there, 4 here; delete it"):
        keep_origin(tmp_path / "new", {**origin, "schedule": {"steps": 4, "betas": (0.9, 0.99)}})
    assert read_origin(tmp_path / "new")["schedule"]["steps"] == 3


def test_a_folder_without_a_note_counts_as_made_from_the_same_and_gets_one(tmp_path: Path) -> None:
    assert read_origin(tmp_path) == {}
    (tmp_path / "clip").touch()
    keep_origin(tmp_path, {"speech": "espeak"})
    with pytest.raises(OriginError, match="`speech` espeak there, formant here"):
        keep_origin(tmp_path, {"speech": "formant"})


def test_settings_that_only_one_version_knows_decide_nothing() -> None:
    check_origin({"old": 1, "both": {"a": 1}}, {"new": 2, "both": {"a": 1, "b": 2}}, Path("run"))


def test_the_digest_sees_weights_and_vocabulary_but_no_report(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"1")
    (tmp_path / "tokenizer.json").write_text("{}")
    digest = digest_components([tmp_path])
    (tmp_path / "report.json").write_text("{}")
    (tmp_path / "notes.txt").write_text("")
    assert digest_components([tmp_path]) == digest
    (tmp_path / "tokenizer.json").write_text("{ }")
    changed = digest_components([tmp_path])
    assert changed != digest
    (tmp_path / "model.safetensors").write_bytes(b"2")
    assert digest_components([tmp_path]) != changed


def test_the_place_that_a_component_came_from_is_no_part_of_its_digest(tmp_path: Path) -> None:
    digests = []
    for place, width in (("/here", 1), ("there", 1), ("there", 2)):
        (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": place, "width": width}))
        digests.append(digest_components([tmp_path]))
    assert digests[0] == digests[1] != digests[2]


def test_a_digest_knows_a_file_by_its_content(tmp_path: Path) -> None:
    path, twin = tmp_path / "a", tmp_path / "b"
    random = np.random.default_rng(0)
    for size in (0, 3, 2**16, 2**23 + 5):
        path.write_bytes(random.bytes(size))
        twin.write_bytes(path.read_bytes())
        digest = digest_path(path)
        assert digest == digest_path(twin)
        path.write_bytes(path.read_bytes() + b".")
        assert digest != digest_path(path)
        path.write_bytes(random.bytes(size))
        assert (digest != digest_path(path)) == (size > 0)

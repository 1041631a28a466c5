"""A ComfyUI that is tested has this copy of the pack among its custom nodes, or the test says which other one."""

from pathlib import Path

import pytest

from tests.comfyui.live_server import linked


@pytest.fixture
def comfyui(tmp_path: Path) -> Path:
    (tmp_path / "custom_nodes").mkdir()
    (tmp_path / "pack").mkdir()
    return tmp_path


def test_a_pack_is_linked_once(comfyui: Path) -> None:
    link = linked(comfyui, "jova", comfyui / "pack")
    assert linked(comfyui, "jova", comfyui / "pack") == link
    assert link.resolve() == comfyui / "pack"


def test_a_link_to_a_folder_that_is_gone_is_made_anew(comfyui: Path) -> None:
    (comfyui / "custom_nodes" / "jova").symlink_to(comfyui / "gone")
    assert linked(comfyui, "jova", comfyui / "pack").resolve() == comfyui / "pack"


def test_another_copy_of_the_pack_stays_where_it_is(comfyui: Path) -> None:
    (comfyui / "custom_nodes" / "jova").mkdir()
    with pytest.raises(AssertionError, match="another copy of the pack; remove it"):
        linked(comfyui, "jova", comfyui / "pack")

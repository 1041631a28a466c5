"""As much of ComfyUI's interface as the pack reads when it is loaded: what nodes declare, and what saves a file."""

import importlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

from tests.places import ROOT


PACK = "jova_pack"
KINDS = ("Audio", "Boolean", "Clip", "Combo", "Conditioning", "Float", "Guider", "Image", "Int", "Latent", "Mask")
KINDS += ("Model", "Sigmas", "String", "Vae", "Video")
FILES = {"diffusion_models": ["model.safetensors"], "loras": ["adapter.safetensors"]}


class Declared(dict[str, Any]):
    """A schema, or an input or output of one, as it was declared."""

    def __getattr__(self, name: str) -> Any:
        return self.get(name)

    def get_io_type(self) -> str:
        """Type of a socket, as core writes it."""
        return str(self["type"]).upper()


def socket_kind(kind: str) -> SimpleNamespace:
    """A type of socket, whose inputs and outputs remember how they were declared."""

    def declared_input(id: str, **options: Any) -> Declared:
        return Declared(type=kind, id=id, **options)

    def declared_output(id: str | None = None, **options: Any) -> dict[str, Any]:
        return {"type": kind, **({} if id is None else {"id": id}), **options}

    return SimpleNamespace(Input=declared_input, Output=declared_output)


def build_io() -> SimpleNamespace:
    """`comfy_api.v0_0_2.io`."""
    kinds = {kind: socket_kind(kind) for kind in KINDS}
    return SimpleNamespace(**kinds, ComfyNode=object, Schema=Declared, NodeOutput=lambda *values: values)


class Components:
    """`Types.VideoComponents`, and the VIDEO that is made of one."""

    def __init__(self, components: Any = None, **parts: Any) -> None:
        self.components = components
        self.__dict__.update(parts)

    def get_components(self) -> Any:
        """What it was made of."""
        return self.components


class VideoFile:
    """`InputImpl.VideoFromFile` of core 0.10; core's may write the streams anew, this one copies the file."""

    asked: ClassVar[list[dict[str, Any]]] = []  # what each call was given, the last one at the end

    def __init__(self, file: str) -> None:
        self.file = file

    def save_to(self, path: str, format: str = "auto", codec: str = "auto", metadata: Any = None) -> None:
        """Write it."""
        self.asked.append({"format": format, "codec": codec, "metadata": metadata})
        shutil.copyfile(self.file, path)


class LaterVideoFile(VideoFile):
    """That of core 0.33, whose Save Video has more widgets."""

    def save_to(
        self,
        path: str,
        format: str = "auto",
        codec: str = "auto",
        metadata: Any = None,
        bit_depth: int | None = None,
        crf: float | None = None,
        color_space: str | None = None,
    ) -> None:
        """Write it."""
        super().save_to(path, format, codec, metadata)
        self.asked[-1] |= {"bit_depth": bit_depth, "crf": crf, "color_space": color_space}


def modules(folder: Path) -> dict[str, ModuleType]:
    """ComfyUI's modules by name; `folder` holds the user's models and inputs."""
    api, numbered, paths = ModuleType("comfy_api"), ModuleType("comfy_api.v0_0_2"), ModuleType("folder_paths")
    automatic = SimpleNamespace(AUTO="auto")
    numbered.__dict__.update(
        io=build_io(),
        ComfyExtension=object,
        InputImpl=SimpleNamespace(VideoFromComponents=Components, VideoFromFile=VideoFile),
        Types=SimpleNamespace(VideoContainer=automatic, VideoCodec=automatic, VideoComponents=Components),
    )
    paths.__dict__.update(
        get_folder_paths=lambda name: [str(folder / "models" / name)],
        get_filename_list=lambda name: FILES[name],
        get_full_path_or_raise=lambda name, file: str(folder / "models" / name / file),
        get_input_directory=lambda: str(folder / "input"),
    )
    comfy, utils = ModuleType("comfy"), ModuleType("comfy.utils")  # what checks of latents call
    comfy.__dict__["utils"] = utils
    utils.__dict__["reshape_mask"] = lambda mask, shape: mask.expand(*shape)
    named = {"comfy": comfy, "comfy.utils": utils, "folder_paths": paths}
    return {"comfy_api": api, "comfy_api.v0_0_2": numbered, **named}


@contextmanager
def loaded_pack(folder: Path) -> Iterator[ModuleType]:
    """The pack as ComfyUI loads it: by the path of its folder, under a name of its own."""
    before = {*sys.modules}
    sys.modules.update(modules(folder))
    spec = importlib.util.spec_from_file_location(
        PACK, ROOT / "comfyui" / "__init__.py", submodule_search_locations=[str(ROOT / "comfyui")]
    )
    assert spec is not None
    assert spec.loader is not None
    pack = importlib.util.module_from_spec(spec)
    sys.modules[PACK] = pack
    try:
        spec.loader.exec_module(pack)
        yield pack
    finally:
        for name in {*sys.modules} - before:
            if name.split(".")[0] in (PACK, "comfy", "comfy_api", "folder_paths"):
                del sys.modules[name]

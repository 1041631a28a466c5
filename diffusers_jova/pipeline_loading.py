"""Where the components of a pipeline come from: a saved one, another one, a single file, or whoever hands them in."""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self
from weakref import WeakKeyDictionary

from diffusers import DiffusionPipeline
from diffusers.utils import logging
from huggingface_hub import hf_hub_download
from torch import nn

from jova_cli.given_paths import kind_of
from jova_cli.json_text import read_object
from jova_cli.model_info import CARD, INDEX, MERGED, SAVED, licence_lines, licence_of, licence_of_files, merged_line
from jova_cli.shipped import check_source, find_model

from .adapter_removal import check_saveable
from .component_fit import TEXT_WIDTHS, check_kinds
from .finite import check_finite_weights
from .generation_defaults import GenerationDefaults
from .hub_access import explained_hub
from .lost_weights import check_text_weights
from .model_folder import explained_configs
from .number_formats import check_named_components, component_dtype, component_dtypes
from .prompt import PROMPT_TEMPLATE
from .provenance import active_adapters, name_of_source, source_of
from .single_file import load_single_file
from .whole_files import share


logger = logging.get_logger(__name__)

HUB_OPTIONS = ("cache_dir", "local_files_only", "revision", "token")  # that say which file is meant
OF_CUSTOM_PIPELINES = ("trust_remote_code", "custom_revision")  # which `from_pipe` reads beside `custom_pipeline`


# config of the last pipeline that was made of a transformer, which `components` does not hold
CONFIGS: WeakKeyDictionary[nn.Module, Mapping[str, Any]] = WeakKeyDictionary()


class JoVALoadingMixin(DiffusionPipeline):
    """Loads a pipeline, and remembers for the record of a clip what came from elsewhere than its model.

    Attributes:
        transformer_file: Name of the single file that the transformer came from; None for one of a folder.
        handed_in: Components that came from elsewhere than the model.
        set_aside: The model's own where others stand now, but for those with weights, which are held nowhere else.
    """

    transformer_file: str | None = None
    adapter_origins: Any  # of the mixin that loads them, as `adapter_scales`
    adapter_scales: Any
    before_few_steps: Any = None  # of `JoVAFewStepsMixin`
    handed_in: frozenset[str] = frozenset()
    set_aside: Mapping[str, Any] = MappingProxyType({})

    def __setattr__(self, name: str, value: Any) -> None:
        """Set it; the record of a clip tells of a component that was put in place of the model's own."""
        registered = vars(self).get("_internal_dict", {}).get(name)
        is_component = isinstance(registered, tuple)
        if is_component and registered[0] is None and value is not None:  # else it would not be saved
            self.register_modules(**{name: value})  # which comes back here
            return
        now = vars(self).get(name)
        is_same = getattr(value, "_orig_mod", value) is getattr(now, "_orig_mod", now)  # or its compiled form
        if is_component and not is_same:
            check_kinds({name: value}, self._get_signature_types())
            if name not in self.handed_in and now is not None and not isinstance(now, nn.Module):
                self.set_aside = {**self.set_aside, name: now}
            is_own = value is None or value is self.set_aside.get(name)
            self.handed_in = self.handed_in - {name} if is_own else self.handed_in | {name}
        if name == "defaults" and name in vars(self):  # its config, which diffusers sets too, is written as JSON
            if not isinstance(value, GenerationDefaults):
                raise ValueError(
                    f"`defaults` must be `GenerationDefaults`, got {value!r}; override those that are there"
                )
            self.register_to_config(defaults=asdict(value))
            return
        super().__setattr__(name, value)

    def register_to_config(self, **kwargs: Any) -> None:
        """Keep values of the config, as diffusers does; `defaults` among them hold from the next call on.

        Raises:
            ValueError: A default is none that a call can have.
        """
        defaults = GenerationDefaults.from_dict(kwargs["defaults"] or {}) if "defaults" in kwargs else None
        super().register_to_config(**kwargs)
        if defaults is not None:
            object.__setattr__(self, "defaults", defaults)

    def keep_config(self, transformer: nn.Module | None, **values: Any) -> None:
        """Keep the values of a config, and say in one line which the transformer had in another pipeline.

        Args:
            transformer: Of this pipeline.
            values: As `__init__` was given them.
        """
        self.register_to_config(**values)
        if transformer is None:
            return
        transformer = getattr(transformer, "_orig_mod", transformer)
        before = CONFIGS.get(transformer, {})
        lost = [name for name, value in values.items() if is_untold(value) and not is_untold(before.get(name))]
        if lost:
            logger.warning(
                f"{', '.join(f'`{name}`' for name in lost)} of the pipeline that these components come from "
                f"{'is' if len(lost) == 1 else 'are'} not taken over: `components` holds no config; build it by "
                f"`{type(self).__name__}.from_pipe(pipe)`, or give them"
            )
        CONFIGS[transformer] = values

    def register_modules(self, **kwargs: Any) -> None:
        """Keep components by their names, as diffusers does; what is of another kind is refused."""
        check_kinds(kwargs, self._get_signature_types())
        super().register_modules(**kwargs)

    def save_pretrained(self, save_directory: str | os.PathLike[str], *args: Any, **kwargs: Any) -> None:
        """Save all components, as `DiffusionPipeline` does, and the licences that are stated where they came from.

        Args:
            save_directory: Folder; the licences stand in its `README.md`, unless it has one, and which adapters are in
                the weights, which the transformer's config tells as well. With `push_to_hub` it has the card of
                diffusers, which states no licences, and a line says so.
            args: What diffusers takes.
            kwargs: Likewise.

        Raises:
            ValueError: The transformer has layers of adapters, merged or not, or weights that are not finite; nothing
                is written.
        """
        if kind_of(save_directory) == "file":
            raise ValueError(f"`save_directory` must be a folder, got the file {save_directory}; name another")
        if self.transformer is not None:
            check_saveable(self.transformer, "unload_lora_weights")
            check_finite_weights(self.transformer)
        merged = [] if self.transformer is None else active_adapters(self)  # with layers of them, nothing is saved
        with told_in_config(self.transformer, merged):
            super().save_pretrained(save_directory, *args, **kwargs)
        for name in self.components:  # which safetensors gives to their owner alone
            share(Path(save_directory, name), Path(save_directory).stat().st_mode)
        card = Path(save_directory, CARD)
        if card.exists() and not kwargs.get("push_to_hub"):
            return
        try:
            lines = licence_lines(self.stated_licences())
        except (OSError, ValueError) as error:  # of another folder's card, which ends no save
            logger.warning(f"`{card}` states no licences: {error}")
            return
        if lines and card.exists():
            logger.warning(
                f"the card that was uploaded states no licences; add to its front matter {'; '.join(lines)}"
            )
        told = [merged_line(merged)] if merged else []
        if not card.exists() and (lines or told):
            matter = ["---", *lines, "---"] if lines else []
            card.write_text("\n".join([*matter, *told, ""]))

    def stated_licences(self) -> dict[str, str]:
        """Licences of the components with weights, by name, as the folders state them that they were loaded from."""
        weights = {name: part for name, part in self.components.items() if isinstance(part, nn.Module)}
        sources = {name: source_of(getattr(part, "_orig_mod", part)) for name, part in weights.items()}
        folders = {name: Path(source) for name, source in sources.items() if source and Path(source).is_dir()}
        return {
            name: licence_of(folder, name) if (folder / INDEX).is_file() else licence_of_files(folder)
            for name, folder in folders.items()  # a whole pipeline's, where it was loaded from a `subfolder`
        }

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike[str], **kwargs: Any) -> Self:
        """Load a saved pipeline as `DiffusionPipeline.from_pretrained` does; `"jova-tiny"` comes with the package.

        Without a `dtype` every component is loaded in float32, whatever its file holds; with one, the codecs still are
        unless it names them: in bfloat16 an audio VAE leaves some 10 dB of the sound.

        Args:
            pretrained_model_name_or_path: Folder, repository or shipped name.
            kwargs: What diffusers takes; `dtype` is one for transformer and text encoders, or a dict by the name of
                the component, `"default"` for the others. `defaults` replace those of the model by name.

        Raises:
            HubAccessError: If the hub does not give it.
            FileNotFoundError: If it is a folder without an index.
            ValueError: If it is no pipeline whose configs its components take, or `dtype` is no format of floats.
        """
        given = kwargs.pop("dtype", None)
        older_name = kwargs.pop("torch_dtype", None)
        names, settings = cls._get_signature_keys(cls)
        known = sorted({*names, *settings})
        for dtype in (given, older_name):
            check_named_components(dtype, sorted(names))
        kwargs["dtype"] = component_dtypes(older_name if given is None else given)
        if not isinstance(pretrained_model_name_or_path, str | os.PathLike):
            got = repr(pretrained_model_name_or_path)
            raise ValueError(f"a model must be a folder or a hub name, got {got}; name where it was saved")
        source = find_model(pretrained_model_name_or_path)
        for name in kwargs.keys() - {*known}:
            if near := difflib.get_close_matches(name, known, n=1, cutoff=0.85):
                raise ValueError(f"`{name}` must be a component or a config value; did you mean `{near[0]}`?")
        own = sorted(kwargs.keys() - {"dtype"})
        read = [name for name in names if name not in kwargs]
        with explained_hub("model", source), explained_configs(Path(source), read, own):
            if kind_of(source) == "file":
                raise ValueError(
                    f"`{source}` must be the folder of a saved pipeline, got a file; of one with the weights of a "
                    "transformer alone, use `from_single_file`"
                )
            if kind_of(source) == "folder" and not Path(source, INDEX).is_file():
                raise FileNotFoundError(
                    f"`{source}` must be a folder with a `{INDEX}`, got one without; {SAVED}, and load adapters with "
                    "`load_lora_weights`"
                )
            if not kind_of(source):  # found out here, before diffusers warns of what it tries next
                if "/" not in str(source):  # no name of a repository: the hub would be asked again and again
                    check_source("model", str(source))
                options = {name: kwargs[name] for name in HUB_OPTIONS if name in kwargs}
                index = Path(hf_hub_download(source, INDEX, **options))
            else:
                index = Path(source, INDEX)
            if isinstance(kwargs.get("defaults"), Mapping):  # those that are not given stay the model's
                kwargs["defaults"] = {**(read_object(index).get("defaults") or {}), **kwargs["defaults"]}
            made = super().from_pretrained(source, **kwargs)
        loaded = made.components.keys() - kwargs.keys()
        check_text_weights({name: made.components[name] for name in TEXT_WIDTHS if name in loaded})
        made.handed_in = frozenset(name for name in made.handed_in if name in kwargs)
        return made

    @classmethod
    def from_pipe(cls, pipeline: DiffusionPipeline, **kwargs: Any) -> Any:
        """Build a pipeline of the components of another, as `DiffusionPipeline.from_pipe` does.

        Args:
            pipeline: Those of a `JoVAPipeline` go over whatever their class; of any other, those that fit.
            kwargs: Components and config values in place of those of `pipeline`, and what diffusers takes. Without
                `dtype` the components of a `JoVAPipeline`, which both share, stay in their formats; those of any other
                are brought to float32, as diffusers does.
        """
        if isinstance(pipeline, JoVALoadingMixin) and "custom_pipeline" not in kwargs:
            names, settings = cls._get_signature_keys(cls)
            kwargs = {name: part for name, part in pipeline.components.items() if name in names} | kwargs
            if not kwargs.keys() & {"dtype", "torch_dtype"}:  # diffusers would take float32 for one that is given
                values = {name: value for name, value in pipeline.config.items() if name not in names}
                own = {name: values.pop(name) for name in settings if name in values}
                made = cls(**own | {name: value for name, value in kwargs.items() if name not in OF_CUSTOM_PIPELINES})
                made.register_to_config(**{f"_{name.removeprefix('_')}": value for name, value in values.items()})
                return made._go_on_from(pipeline)
        made = super().from_pipe(pipeline, **kwargs)
        return made._go_on_from(pipeline) if isinstance(pipeline, JoVALoadingMixin) else made

    def _go_on_from(self, pipeline: Any) -> Self:
        """Take over what is remembered of the components of another pipeline."""
        if self.transformer is pipeline.transformer:  # with its adapters
            self.adapter_origins, self.adapter_scales = pipeline.adapter_origins, pipeline.adapter_scales
            self.transformer_file = pipeline.transformer_file
            self.before_few_steps = pipeline.before_few_steps
        own = {name for name, part in pipeline.components.items() if part is getattr(self, name, None)}
        self.handed_in -= own - pipeline.handed_in
        return self

    @classmethod
    def from_single_file(
        cls, pretrained_model_link_or_path: str | Path, *, config: str | os.PathLike[str] | None = None, **kwargs: Any
    ) -> Self:
        """Load the transformer from one file, and the other components from the folder of a pipeline.

        Args:
            pretrained_model_link_or_path: Path of a file that `jova convert single_file` wrote.
            config: Folder, repository or shipped name of a pipeline that has the other components.
            kwargs: What `from_pretrained` takes; `dtype` holds for the file as well.

        Raises:
            ValueError: `config` is missing, the file is no such export, or a transformer is given besides.
        """
        if config is None:
            raise ValueError(
                "`config` must be the folder of a pipeline, because a single file holds a transformer alone, got "
                "None; pass `config=folder`, or load all of it with `from_pretrained(folder)`"
            )
        if "transformer" in kwargs:
            raise ValueError(
                "`transformer` must be left out, because the file holds it, got one besides; hand it to "
                "`from_pretrained`, or leave the file out"
            )
        dtype = component_dtype(kwargs.get("dtype", kwargs.get("torch_dtype")), "transformer")
        transformer = load_single_file(pretrained_model_link_or_path, dtype=dtype)
        made = cls.from_pretrained(config, transformer=transformer, **kwargs)
        made.transformer_file = name_of_source(pretrained_model_link_or_path)
        made.handed_in -= {"transformer"}
        return made


@contextmanager
def told_in_config(transformer: Any, merged: Sequence[Mapping[str, Any]]) -> Iterator[None]:
    """Let the config of a transformer name the adapters in its weights, while it is saved.

    Args:
        transformer: Of a pipeline, or None.
        merged: Name and scale of each.
    """
    if not merged:
        yield
        return
    transformer = getattr(transformer, "_orig_mod", transformer)
    before = transformer.config.get(MERGED)
    transformer.register_to_config(**{MERGED: [*merged]})
    try:
        yield
    finally:
        transformer.register_to_config(**{MERGED: before})


def is_untold(value: Any) -> bool:
    """Whether a value of a pipeline's config is the one that it has where none is given."""
    return value is None or value is False or value in ({}, PROMPT_TEMPLATE)

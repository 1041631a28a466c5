"""The page of `jova app`: a form in the browser around one pipeline. In a folder with its README.md it is a Space.

The fields have the names of `jova generate`'s options, so that both make the same call: a clip made here
is made there by the settings that are saved beside it.
"""

import argparse
import html
import logging
import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple


if os.environ.get("SPACES_ZERO_GPU"):  # only there; before torch and gradio, which it patches
    import spaces
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"  # before gradio, which reports while it is imported

import gradio as gr
import torch

from diffusers_jova.clip_call import (
    BAD_INPUT,
    OUT_OF_MEMORY,
    call_arguments,
    check_cost,
    draw_seed,
    load_pipeline,
    tell_strangers,
    weigh_adapters,
)
from diffusers_jova.clip_times import Measured, StepClock, Work
from diffusers_jova.cost_estimate import schedule_of
from diffusers_jova.devices import choose_device
from diffusers_jova.domain import describe_strangers
from diffusers_jova.page.form import LABELS, lay_form, number_or_none, on_page
from diffusers_jova.pipeline_jova import JoVAPipeline
from diffusers_jova.provenance import name_of_source
from diffusers_jova.training.data.encoder import video_factors
from diffusers_jova.training.data.manifest import Sample
from diffusers_jova.training.data.preparation import PrepareSettings
from diffusers_jova.training.prepare import check_detector, clip_settings
from diffusers_jova.training.preview import previews, write_preview
from jova_cli import preview as preview_words
from jova_cli.app import parse
from jova_cli.clip_settings import MEDIA, read_settings, write_settings
from jova_cli.generate import Adapter, check_clip, default_arguments, parse_adapter
from jova_cli.model_info import describe_components
from jova_cli.parser import Parser, one_line


LOOPBACK, EVERYWHERE = "127.0.0.1", "0.0.0.0"
KEEP_S = 3600  # for which a clip stays while its page is open
UNKNOWN_S = 120  # that ZeroGPU reserves for a clip before any was measured
MARGIN = 1.5  # of a reservation over the estimate: a cut-off clip is lost
TOO_LARGE = (  # said to a visitor, who did not start the page
    "use fewer `num_frames` or `steps` or a smaller size, or ask whoever runs the page to start it with "
    "`jova app --yes`"
)
RUNNING = "running"  # the file in a clip's folder; cancelling removes it
SILENT: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}  # of what is no work
# fmt: off
ESTIMATED = (  # what the time of a clip depends on
    "num_frames", "width", "height", "frame_rate", "steps", "guidance_scale", "audio_guidance_scale", "modalities",
)
EXAMPLES = (  # seen, heard, said; a model of few things shows those that it knows
    ("A cartoon woman with tan skin and spiky red hair, wearing a navy shirt, speaks on a mint background.",
     "a female voice speaking", "hello blue moon"),
    ("A cartoon man with green skin and short black hair, wearing a yellow shirt, speaks on a pink background.",
     "a male voice speaking", "wow coffee"),
    ("A cartoon dog barks on a blue background.", "a dog barking", ""),
    ("A red ball bounces on a grey background.", "a ball bouncing", ""),
    ("A man in a kitchen looks into the camera and speaks.", "a calm male voice, rain outside", "Good morning."),
    ("Waves break on a rocky coast at sunset.", "waves and gulls", ""),
)
# fmt: on


class Made(NamedTuple):
    """What a call tells besides its files: lines about it, and how long it took."""

    lines: list[str]
    measured: Measured


class Page:
    """One loaded model, its form, and the clips of those who use it.

    Every clip lies in a folder of its own, whose name nobody can guess, below Gradio's folder of files; a file
    `running` in it lasts as long as the clip may be made, in whatever process that happens.

    Args:
        args: The words of `jova app`.
        pipeline: The model that they name, loaded.
    """

    def __init__(self, args: argparse.Namespace, pipeline: JoVAPipeline) -> None:
        self.args, self.pipeline = args, pipeline
        self.model_folder = Path(args.model) if Path(args.model).exists() else Path(JoVAPipeline.download(args.model))
        self.model_name = str(name_of_source(args.model))
        self.folders: dict[str, list[Path]] = {}  # of each session
        self.measured: Measured | None = None
        self.one_at_a_time = threading.Lock()
        self.compute = self.make_clip
        if os.environ.get("SPACES_ZERO_GPU"):
            self.compute = spaces.GPU(self.make_clip, duration=self.reserved_s)

    # 1. A clip

    def generate(
        self,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008  (how Gradio is asked for one)
        *,
        image: str | None = None,
        last_image: str | None = None,
        audio: str | None = None,
        video: str | None = None,
        reference_audio: str | None = None,
        reference_transcript: str = "",
        seed: str = "",
        audio_guidance_scale: str = "",
        as_given: bool = True,
        **fields: Any,
    ) -> tuple[str | None, str | None, str, int, str]:
        """Make one clip: its video, its sound, its settings, its seed, and what is to be said about it.

        The parameters are the options of `jova generate`; `as_given` makes the clip as long as a given voice or video.
        """
        given = {"image": image, "last_image": last_image, "audio": audio, "video": video}
        given["reference_audio"] = reference_audio
        values = {**fields, **given, "seed": seed, "audio_guidance_scale": audio_guidance_scale}
        values["reference_transcript"] = reference_transcript or None  # an empty field is none
        with self.new_folder(request.session_hash) as folder, page_errors():
            args = self.arguments(values, folder, as_given)
            with self.one_at_a_time:
                made = self.compute(args, progress)
            self.measured = made.measured
            path = folder / "settings.jsonl"
            write_settings(path, args, self.model_name, self.adapter_names())
            clip, sound = (
                str(folder / name) if (folder / name).exists() else None for name in ("clip.mp4", "sound.wav")
            )
        return clip, sound, str(path), args.seed, "\n\n".join(map(on_page, made.lines))

    def arguments(self, values: dict[str, Any], folder: Path, as_given: bool) -> argparse.Namespace:
        """Check the values of the form as the words of `jova generate`."""
        args = default_arguments()
        vars(args).update(vars(self.args) | values)
        args.prompt = values["prompt"] or None
        args.seed = number_or_none("seed", values["seed"], int)
        args.seed = draw_seed(args)
        args.audio_guidance_scale = number_or_none("audio_guidance_scale", values["audio_guidance_scale"], float)
        for name in MEDIA:
            setattr(args, name, values[name] and Path(values[name]))
        if as_given and (args.audio or args.video):
            args.num_frames = None
        chosen = values.get("lora") or []
        args.lora = self.weighed([chosen] if isinstance(chosen, str) else chosen)
        args.output = folder / ("clip.mp4" if "video" in args.modalities else "sound.wav")
        check_clip(args)
        return args

    def weighed(self, words: list[str]) -> list[Adapter]:
        """All adapters of the page, with the scales of those that are chosen and 0 for the others."""
        adapters, names = [parse_adapter(word) for word in words], self.adapter_names()
        chosen = {adapter.source: adapter.scale for adapter in adapters}
        if len(chosen) < len(adapters):
            raise ValueError(f"`lora` must name each adapter once, got {', '.join(words)}; leave one out")
        for name in chosen:
            if name not in names:
                raise ValueError(f"`lora` must be one of {', '.join(names) or 'none'}, got {name}; choose from them")
        pairs = zip(names, self.args.lora, strict=True)
        return [Adapter(adapter.source, chosen.get(name, 0.0)) for name, adapter in pairs]

    def adapter_names(self) -> list[str]:
        """Names of the page's adapters, which tell no place; those of one name are numbered."""
        names: list[str] = []
        for adapter in self.args.lora:
            name = str(name_of_source(adapter.source))
            same = (name, *(f"{name}-{number}" for number in range(2, len(self.args.lora) + 2)))
            names.append(next(one for one in same if one not in names))
        return names

    def make_clip(self, args: argparse.Namespace, progress: gr.Progress) -> Made:
        """Run the pipeline and write its files; what comes in and goes out may cross to another process and back."""
        watch = StepWatch(args.output.with_name(RUNNING), progress)
        with page_errors(), told_lines() as lines:
            watch.check()
            arguments = self.touched(call_arguments(args, lines.append))
            tell_strangers(self.pipeline, args, lines.append)
            check_cost(self.pipeline, args, arguments, TOO_LARGE)
            weigh_adapters(self.pipeline, args.lora)
            generator = torch.Generator().manual_seed(args.seed)
            try:
                made: Any = self.pipeline(**arguments, generator=generator, callback_on_step_end=watch)
            finally:
                self.pipeline.maybe_free_model_hooks()
            made.save(args.output)
            if made.frames is None:
                num_frames = round(made.audio.shape[-1] / made.sampling_rate * made.frame_rate)
            else:
                num_frames = len(made.frames[0])
                if made.audio is not None:
                    made.save(args.output.with_name("sound.wav"))
            measured = watch.clock.measure(self.work({**vars(args), "num_frames": num_frames}))
        return Made(lines, measured)

    def touched(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """Arguments of a call, None for a field that stands where the model has it: nobody chose it.

        Beside a given voice or video the number of frames stays: None would be their length. So does the rate of a
        video, at which it was read.
        """
        own = vars(self.pipeline.defaults)
        kept = {"num_frames"} if {"audio", "video"} & arguments.keys() else set()
        kept |= {"frame_rate"} if "video" in arguments else set()
        return {
            name: None if name in own.keys() - kept and value == own[name] else value
            for name, value in arguments.items()
        }

    def work(self, values: dict[str, Any]) -> Work:
        """What the time of a clip grows with."""
        names = ("num_frames", "width", "height", "frame_rate", "guidance_scale", "audio_guidance_scale")
        numbers = {name: values[name] for name in names} | {"num_inference_steps": values["steps"]}
        settings = self.pipeline.defaults.override(**numbers)
        num_steps, _ = schedule_of(self.pipeline, settings)
        return Work.of(settings, values["modalities"])._replace(num_steps=num_steps)

    # 2. The files of those who use the page

    @contextmanager
    def new_folder(self, session: str | None) -> Iterator[Path]:
        """A folder for the clip of a session, with a file in it for as long as the clip may be made."""
        folder = Path(gr.utils.get_upload_folder()) / secrets.token_urlsafe(16)
        folder.mkdir(parents=True)
        (folder / RUNNING).touch()
        self.folders.setdefault(session or "", []).append(folder)
        try:
            yield folder
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        finally:
            (folder / RUNNING).unlink(missing_ok=True)

    def cancel(self, request: gr.Request) -> str:
        """End the clips that are being made for this session, each with its current step."""
        running = [
            path for folder in self.folders.get(request.session_hash or "", []) for path in folder.glob(RUNNING)
        ]
        for path in running:
            path.unlink(missing_ok=True)
        return "Cancelled." if running else "Nothing of yours was running."

    def leave(self, request: gr.Request) -> None:
        """Remove the clips of a session that ends, also those that are still being made."""
        for folder in self.folders.pop(request.session_hash or "", []):
            shutil.rmtree(folder, ignore_errors=True)

    def fill(self, path: str) -> list[Any]:
        """Values of the form from the settings that were saved beside a clip."""
        with page_errors():
            values = read_settings(Path(path))
            if values.get("model") not in (None, self.model_name):
                gr.Warning(f"these settings are of the model {values['model']}; this page has {self.model_name}")
            if missing := [LABELS[name] for name in MEDIA if values.get(name)]:
                gr.Warning(f"give these again, files are no settings: {', '.join(missing)}")
            if (values.get("lora") or []) and not self.args.lora:
                gr.Warning(f"this page has no adapters, the clip had {', '.join(values['lora'])}")
            values["as_given"] = values.get("num_frames") is None or not (values.get("audio") or values.get("video"))
        return [values.get(name, gr.skip()) for name in self.field_names if name not in MEDIA]

    # 3. Time

    def estimate(self, *shown: Any) -> str:
        """Say how long a clip is and how long it may take, from the values of the fields `ESTIMATED`."""
        values = dict(zip(ESTIMATED, shown, strict=True))
        scale = values.pop("audio_guidance_scale")
        if not all(values.values()):
            return ""
        try:
            work = self.work({**values, "audio_guidance_scale": number_or_none("audio_guidance_scale", scale, float)})
        except ValueError:  # half typed
            return ""
        length = f"{values['num_frames']} frames are {values['num_frames'] / values['frame_rate']:.2f} s."
        if self.measured is None:
            return f"{length} How long it takes is not known yet: the first clip measures the steps of this machine."
        seconds, num_steps = self.measured.estimate_s(work), self.measured.work.num_steps
        return f"{length} Estimate: {seconds:.0f} s to make it, from the {num_steps} measured steps of the last clip."

    def reserved_s(self, args: argparse.Namespace, _progress: gr.Progress) -> int:
        """Seconds for which ZeroGPU lends its GPU to a clip."""
        if self.measured is None or args.num_frames is None:  # the files tell the length, which nobody has read yet
            return UNKNOWN_S
        return round(MARGIN * self.measured.estimate_s(self.work(vars(args)))) + 10

    # 4. Mouths

    def preview(self, clip: str | None, boxes: str | None, request: gr.Request) -> tuple[str, str]:
        """Show the mouth mask of a clip as training would see it, with the words of `jova preview`."""
        with self.new_folder(request.session_hash) as folder, page_errors():
            if clip is None:
                raise ValueError("`clip` must be a video, got none; give one")
            parser = Parser()
            preview_words.add_arguments(parser)
            args = parser.parse_args([clip, str(folder), "--model", str(self.model_folder)])
            preview_words.check_words(args)
            settings = PrepareSettings(clips=clip_settings(args))
            sample = Sample(video=Path(clip), mouth_boxes=Path(boxes) if boxes else None)
            check_detector([sample], settings)
            lines: list[str] = []
            for _, shown in previews([sample], settings, tell=lines.append):
                path = folder / "preview.mp4"
                factors = video_factors(self.model_folder)[:2]
                lines.append(write_preview(path, shown, settings.clips, factors))
                return str(path), "\n\n".join(lines)
            raise ValueError("; ".join(lines))

    # 5. The page itself

    def build(self) -> gr.Blocks:
        """Lay the page out."""
        with gr.Blocks(title="JoVA", analytics_enabled=False, delete_cache=(KEEP_S // 6, KEEP_S)) as blocks:
            gr.Markdown(f"# JoVA\nVideo with its sound, in one go. Model: **{self.model_name}**")
            with gr.Tab("Make a clip"), gr.Row():
                with gr.Column():
                    refill = gr.UploadButton("Take the settings of an earlier clip", file_types=[".jsonl"], size="sm")
                    named = zip(self.adapter_names(), self.args.lora, strict=True)
                    fields = lay_form(self.pipeline, [Adapter(name, adapter.scale) for name, adapter in named])
                    estimate = gr.Markdown()
                    with gr.Row():
                        start, stop = gr.Button("Make it", variant="primary"), gr.Button("Cancel", variant="stop")
                with gr.Column():
                    outputs = lay_results()
                    again = gr.Button("Take this seed again")
            with gr.Tab("Look at a mouth mask"):
                self.lay_preview()
            self.lay_examples(fields)
            gr.Markdown(licence_table(self.model_folder))
            self.connect(blocks, fields, outputs, estimate, start, stop)
            filled = [fields[name] for name in self.field_names if name not in MEDIA]
            refill.upload(self.fill, refill, filled, **SILENT)
            again.click(str, outputs[3], fields["seed"], **SILENT)
            blocks.unload(self.leave)
        return blocks.queue(max_size=self.args.queue_size, default_concurrency_limit=1)

    def lay_preview(self) -> None:
        """The second tab: a clip in, its mouth mask out."""
        gr.Markdown("What training would see of a clip: its crop, the boxes of the mouths, and the latents they mask.")
        with gr.Row():
            with gr.Column():
                clip = gr.Video(label="Clip", sources=["upload"])
                boxes = gr.File(label="Its boxes, where they are known (.boxes.json)", file_types=[".json", ".npy"])
                show = gr.Button("Show the mask", variant="primary")
            with gr.Column():
                outputs = [
                    gr.Video(show_label=False, interactive=False, buttons=["download"]),
                    gr.Markdown(),
                ]
        show.click(self.preview, [clip, boxes], outputs, api_name="preview", concurrency_id="work")

    def lay_examples(self, fields: dict[str, Any]) -> None:
        """Prompts that the model knows, to click on."""
        domain = self.pipeline.config.get("domain")
        known = [list(parts) for parts in EXAMPLES if describe_strangers(domain, " ".join(parts), False) is None]
        if known:
            gr.Examples(known, [fields[name] for name in ("video_caption", "audio_caption", "transcript")])

    def connect(
        self, blocks: gr.Blocks, fields: dict[str, Any], outputs: list[Any], estimate: Any, start: Any, stop: Any
    ) -> None:
        """Say what the buttons do, and when the estimate changes."""
        self.field_names = [*(name for name in LABELS if name in fields), "as_given"]
        made = start.click(
            self.generate, inputs_kwargs=fields, outputs=outputs, api_name="generate", concurrency_id="work"
        )
        stop.click(self.cancel, None, outputs[-1], cancels=[made], queue=False, api_name="cancel")
        shown = [fields[name] for name in ESTIMATED]
        gr.on([blocks.load, *(field.change for field in shown)], self.estimate, shown, estimate, **SILENT)
        made.then(self.estimate, shown, estimate, **SILENT)


def lay_results() -> list[Any]:
    """Where a clip appears: its video, its sound, its settings, its seed, and what is to be said about it."""
    return [
        gr.Video(label="Clip", interactive=False, autoplay=True, loop=True, buttons=["download"]),
        gr.Audio(label="Its sound (.wav)", type="filepath", interactive=False, buttons=["download"]),
        gr.File(label="Its settings (.jsonl)", interactive=False),
        gr.Number(label="Its seed", precision=0, interactive=False),
        gr.Markdown(),
    ]


def licence_table(folder: Path) -> str:
    """The terms of a model's weights, by component, as the model's folder states them."""
    rows = [
        f"| {part.name} | {part.class_name} | {part.licence} |" for part in describe_components(folder) if part.licence
    ]
    return "\n".join(["### Licences of the weights", "| component | class | licence |", "| --- | --- | --- |", *rows])


class StepWatch:
    """After each step: ends a clip that was cancelled, tells how far it is, and takes the time.

    Args:
        running: File without which the clip ends.
        progress: Of the page.
    """

    def __init__(self, running: Path, progress: gr.Progress) -> None:
        self.running, self.progress, self.clock = running, progress, StepClock()

    def __call__(self, pipeline: JoVAPipeline, step: int, _timestep: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        """Take note of a step of the pipeline."""
        self.clock.tick()
        self.check()
        left_s = (pipeline.num_timesteps - step - 1) * self.clock.step_s
        said = f"about {left_s:.0f} s of steps left, estimated from those so far"
        if step + 1 == pipeline.num_timesteps:
            said = "decoding picture and sound"
        self.progress((step + 1, pipeline.num_timesteps), desc=said, unit="steps")
        return {}

    def check(self) -> None:
        """End the clip if it was cancelled, or if nobody waits for it any more."""
        if not self.running.exists():
            raise gr.Error("the clip was cancelled", title="Cancelled", print_exception=False)


@contextmanager
def page_errors() -> Iterator[None]:
    """Show what one sentence explains on the page, by the names that it has there."""
    try:
        yield
    except gr.Error:  # a ValueError, made for the page
        raise
    except torch.OutOfMemoryError as error:
        raise gr.Error(OUT_OF_MEMORY, print_exception=False) from error
    except BAD_INPUT as error:
        raise gr.Error(html.escape(on_page(one_line(error)), quote=False), print_exception=False) from error


@contextmanager
def told_lines() -> Iterator[list[str]]:
    """What the package warns of in this thread, line by line."""
    lines: list[str] = []
    thread = threading.get_ident()

    class Collector(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if record.thread == thread:
                lines.append(record.getMessage())

    collector, logger = Collector(logging.WARNING), logging.getLogger("diffusers_jova")
    logger.addHandler(collector)
    try:
        yield lines
    finally:
        logger.removeHandler(collector)


def open_page(page: Page) -> gr.Blocks:
    """Open a page, for this machine alone unless more is asked for, and say where; it is open until it is closed."""
    blocks, args = page.build(), page.args
    _, local, public = blocks.launch(
        server_name=args.host or (EVERYWHERE if os.environ.get("SPACE_ID") else LOOPBACK),
        server_port=args.port,
        share=args.share,
        run_history=False,
        ssr_mode=False,
        footer_links=["api"],
        quiet=True,
        prevent_thread_lock=True,
    )
    print(f"the page is open at {local}" + (f" and, for everybody, at {public}" if public else ""), flush=True)
    return blocks


def execute(parser: Parser, args: argparse.Namespace) -> None:
    """Load the model, open the page until Ctrl-C, and remove all its files in the end."""
    signal.signal(signal.SIGTERM, end)
    with tempfile.TemporaryDirectory(prefix="jova-app-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        try:
            page = Page(args, load_pipeline(args, choose_device(args.device)))
            blocks = open_page(page)
        except BAD_INPUT as error:
            parser.error(one_line(error))
        try:
            while True:
                time.sleep(1)  # as Gradio's own wait, which swallows a Ctrl-C
        finally:
            blocks.close(verbose=False)


def end(_signal: int, _frame: FrameType | None) -> None:
    """Leave as after Ctrl-C, so that the files are removed."""
    sys.exit(0)


if __name__ == "__main__":  # as a Space
    parser, args = parse()
    parser.run(execute, args)

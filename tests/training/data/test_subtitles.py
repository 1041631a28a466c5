"""Subtitles say what is said when, or are refused with the line that is wrong."""

from pathlib import Path

import pytest

from diffusers_jova.training.data.subtitles import Speech, read_subtitles, slack_s, spoken_within, write_subtitles


SRT = """1
00:00:01,000 --> 00:00:02,500
Good morning,
<i>everybody</i>.

2
00:01:00,5 --> 01:00:00,25
{\\an8}Later.
"""
VTT = """WEBVTT - a title

NOTE nothing

00:01.000 --> 00:02.500 align:start
Good morning, <c.loud>every<00:00:02.000>body</c>.

00:01:00.5 --> 01:00:00.25
La&amp;ter.
"""


def test_both_formats_are_read_without_their_markup(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text(SRT, encoding="utf-8-sig")
    (tmp_path / "a.vtt").write_text(VTT)
    assert read_subtitles(tmp_path / "a.srt") == [
        Speech("Good morning, everybody.", 1.0, 2.5),
        Speech("Later.", 60.5, 3600.25),
    ]
    assert [cue.text for cue in read_subtitles(tmp_path / "a.vtt")] == ["Good morning, everybody.", "La&ter."]
    assert [cue[1:] for cue in read_subtitles(tmp_path / "a.vtt")] == [(1.0, 2.5), (60.5, 3600.25)]


ROLLING = """WEBVTT
Kind: captions

00:00:00.000 --> 00:00:02.000 align:start position:0%
\x20
it<00:00:00.500><c> was</c>

00:00:02.000 --> 00:00:02.010 align:start position:0%
it was
\x20

00:00:02.010 --> 00:00:04.000 align:start position:0%
it was
the<00:00:02.500><c> best</c>

00:00:04.000 --> 00:00:04.010 align:start position:0%
the best
\x20

"""  # as recognisers of video sites write them


def test_captions_that_roll_say_each_word_once_at_its_time(tmp_path: Path) -> None:
    (tmp_path / "a.vtt").write_text(ROLLING)
    assert read_subtitles(tmp_path / "a.vtt") == [Speech("it was", 0.0, 2.0), Speech("the best", 2.01, 4.0)]


def test_words_that_are_said_twice_stay_two(tmp_path: Path) -> None:
    (tmp_path / "a.srt").write_text("1\n00:00:00,0 --> 00:00:01,0\nno\n\n2\n00:00:01,0 --> 00:00:02,0\nno\n")
    assert [cue.text for cue in read_subtitles(tmp_path / "a.srt")] == ["no", "no"]


@pytest.mark.parametrize("between", ["\n", " \n", "\n\n", ""])
def test_the_number_of_the_next_cue_is_not_said_and_text_below_an_empty_line_is(tmp_path: Path, between: str) -> None:
    first, second = "1\n00:00:00,0 --> 00:00:01,0\nhello\n\nblue\n", "2\n00:00:01,0 --> 00:00:02,0\n1984\n"
    (tmp_path / "a.srt").write_text(first + between + second)
    assert [cue.text for cue in read_subtitles(tmp_path / "a.srt")] == ["hello blue", "1984"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1\n00:00:0x,0 --> 00:00:02,0\nhi\n", r"line 2: a time must be written .* got `00:00:0x,0`"),
        ("00:00:03,0 --> 00:00:02,0\nhi\n", "line 1: a cue must end after it begins"),
        ("00:00:03,0 -->\nhi\n", "line 1: a time must be written"),
        ("hello", "must hold cues"),
        ("00:00:01,0 --> 00:00:02,0\n\n", "must hold cues"),
    ],
)
def test_what_is_no_subtitle_is_named(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "a.srt").write_text(text)
    with pytest.raises(ValueError, match=message):
        read_subtitles(tmp_path / "a.srt")
    (tmp_path / "a.srt").write_bytes(b"1\n00:00:01,0 --> 00:00:02,0\nSch\xf6n\n")
    with pytest.raises(ValueError, match="must be text in UTF-8, got another encoding in line 3; save it anew"):
        read_subtitles(tmp_path / "a.srt")


def test_a_word_that_is_cut_off_is_not_in_the_clip_and_none_is_in_two() -> None:
    speech = [Speech("one", 0.0, 0.4), Speech("two", 0.5, 1.02), Speech("three", 1.1, 1.4)]
    assert spoken_within(speech, 0.0, 1.0, 24) == "one two"
    assert spoken_within(speech, 0.0, 0.9, 24) == "one"
    assert spoken_within(speech, 0.12, 2.0, 24) == "two three"
    assert spoken_within(speech, 1.02, 1.3, 24) == ""
    short = [Speech("a", 0.98, 1.02)]
    assert [spoken_within(short, start, start + 1, 16) for start in (0.0, 1.0)] == ["", "a"]


def test_the_slack_of_a_word_is_half_a_frame_or_a_quarter_of_it_and_never_much() -> None:
    durations_s = (0.1, 0.2, 3.0)
    assert [slack_s(Speech("x", 1.0, 1.0 + d), 25) for d in durations_s] == pytest.approx([0.025, 0.05, 0.08])
    assert slack_s(Speech("x", 0, 0.04), 25) == pytest.approx(0.02)


def test_what_is_written_is_what_is_read(tmp_path: Path) -> None:
    speech = [Speech("Good morning.", 0.0, 0.75), Speech("It rains, again", 3661.25, 3662.0)]
    write_subtitles(tmp_path / "a.srt", speech)
    assert read_subtitles(tmp_path / "a.srt") == speech
    assert "01:01:01,250 --> 01:01:02,000" in (tmp_path / "a.srt").read_text()


@pytest.mark.parametrize("suffix", [".vtt", ".srt"])
def test_a_number_that_is_said_is_a_word(tmp_path: Path, suffix: str) -> None:
    cues = [
        "00:00:01.000 --> 00:00:02.000\n7\n",
        "00:00:03.000 --> 00:00:04.000\nor\n8\n",
        "00:00:05.000 --> 00:00:06.000\n9\n",
    ]
    path = tmp_path / f"a{suffix}"
    path.write_text("\n".join(["WEBVTT\n", *cues] if suffix == ".vtt" else cues))
    assert [cue.text for cue in read_subtitles(path)] == ["7", "or 8", "9"]

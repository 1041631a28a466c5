"""The measures of `jova evaluate`, as a table: what each says, in which unit, from where, and what it cannot see."""

from __future__ import annotations

from typing import NamedTuple


class Measure(NamedTuple):
    """One number of a clip.

    Attributes:
        name: In reports.
        group: Of measures that are taken together.
        label: For a reader.
        unit: Of the number; empty for a plain one.
        better: "higher", "lower", "zero" (near it, on either side), or "" where neither is.
        source: Where it comes from.
        blind: What it cannot see.
        limits: The least and the largest number that it can be; None for no limit.
    """

    name: str
    group: str
    label: str
    unit: str
    better: str
    source: str
    blind: str
    limits: tuple[float | None, float | None] = (None, None)

    def to_compare(self, value: float) -> float:
        """A number of which less or more is better: the distance of one that should be near zero."""
        return abs(value) if self.better == "zero" else value


VERSIONS = {  # of each group; another version measures again
    "sync": 4,
    "syncnet": 2,
    "timing": 3,
    "sound": 2,
    "picture": 2,
    "words": 6,
    "speech": 3,
    "voice": 3,
    "clap": 2,
    "identity": 2,
    "classes": 2,
    "audiobox": 2,
    "clip_score": 1,
    "desync": 2,
    "fid": 1,
    "fvd": 1,
    "flow": 1,
}
FIELD_WAY, CORRECTED_WAY = "as the field does", "corrected"
WAYS = {  # of numbers that there are several ways to take
    **dict.fromkeys(("lse_c", "lse_d", "syncnet_offset_frames"), FIELD_WAY),
    **dict.fromkeys(("lse_c_verse_bench", "lse_d_verse_bench", "word_error_rate_verse_bench"), FIELD_WAY),
    **dict.fromkeys(("clap_score_verse_bench", "identity_verse_bench", "word_error_rate_seed_tts"), FIELD_WAY),
    "motion_score_verse_bench": FIELD_WAY,
    **dict.fromkeys(("lse_c_corrected", "lse_d_corrected", "syncnet_offset_corrected_frames"), CORRECTED_WAY),
    **dict.fromkeys(
        ("word_error_rate", "clap_score", "identity_face", "identity_picture", "motion_score"), CORRECTED_WAY
    ),
}
PARTLY = {"sound": "loudness", "identity": "likeness of the face"}  # what of a group needs a package, where not all
CORRELATION, SHARE, SCORE, POSITIVE = (-1.0, 1.0), (0.0, 1.0), (1.0, 5.0), (0.0, None)  # limits
LIPS = "mouth boxes of the face mesh against the envelope of the sound"
SYNCNET = (
    "SyncNet (Chung and Zisserman 2016), weights of `--syncnet`; 25 frames a second by time, sound at 16 kHz, faces "
    "estimated around the mouths of the face mesh, shifts of 15 frames"
)
PUBLIC = (
    f"{SYNCNET}; as joonson/syncnet_python: crop .40, faces of over 100 px in 101 frames, mean of faces, zeros beyond"
)
VERSE_BENCH = f"{SYNCNET}; as Verse-Bench: crop .30, faces in 50 frames without a gap, mean of stretches, zeros beyond"
CORRECTED = (
    f"{SYNCNET}; corrected: crop .40, faces in 50 frames, the face that fits best, only frames with sound count"
)
FACES = "other people's numbers have other face boxes, here estimated from mouths, and are not comparable; "
CHANCE = "Bartlett 1946, effective number of frames; Fisher's z"
BLACKDETECT, FREEZE = "ffmpeg's blackdetect", "differences of tiles, as ffmpeg's freezedetect of whole frames"
CLAP = "CLAP (Wu et al. 2023), weights of `--clap`; 48 kHz, caption of the sound, else of the picture"
AUDIOBOX = "AudioBox-aesthetics (Tjandra et al. 2025), package and weights of `--audiobox`; windows of 10 s"
CLIP = "CLIP (Radford et al. 2021), weights of `--clip-score`; mean over up to 32 frames, evenly spaced"
DESYNC = (
    "Synchformer (Iashin et al. 2024), weights of `--synchformer`; as hkchengrex/av-benchmark: the likeliest of 21 "
    "offsets of the first and of the last 4.8 s, 25 frames a second by time, the middle square"
)
RAFT = "RAFT (Teed and Deng 2020), network of torchvision, weights of `--raft`; up to 256 pairs, evenly spaced"
DINO = (
    "DINOv3 or DINOv2, weights of `--identity`; mean over up to 32 frames, evenly spaced, against the reference image"
)
COLOURS = (
    "intersection of colour histograms (Swain and Ballard 1991) of 8 x 8 x 8 levels; mean over up to 32 frames, "
    "evenly spaced, against the reference image (the first frame where there is none), cut to the shape of the clip"
)
BS1770, DNSMOS = "ITU-R BS.1770-4", "DNSMOS (Reddy et al. 2021, 2022), package speechmos"

# fmt: off
MEASURES = (
    Measure("sync_correlation", "sync", "lips and sound correlate", "", "higher", LIPS,
            "which sounds lips should form; two short sentences of one rhythm fit each other as well", CORRELATION),
    Measure("sync_offset_ms", "sync", "lips come late by", "ms", "zero", LIPS,
            "more than a second or a third of the clip; under a third of a frame it is noise"),
    Measure("sync_confidence", "sync", "confidence of that offset", "", "higher", CHANCE,
            "that somebody else may speak; it is low for clips of two seconds", SHARE),
    Measure("face_share", "sync", "frames with a face", "", "", "BlazeFace and MediaPipe's face mesh",
            "faces in profile and smaller than a twentieth of the picture", SHARE),
    Measure("face_size", "sync", "share of the picture that the face takes", "", "",
            "median over the frames with the face that is seen most, estimated from its mouth",
            "hair, and how a head is turned", SHARE),
    Measure("lse_c", "syncnet", "LSE-C", "", "higher", PUBLIC,
            f"{FACES}lips beyond the ends are compared with nothing, so clips of other lengths differ"),
    Measure("lse_d", "syncnet", "LSE-D", "", "lower", PUBLIC, "likewise"),
    Measure("syncnet_offset_frames", "syncnet", "lips come late by (SyncNet)", "frames of 40 ms", "zero", PUBLIC,
            "more than 15 frames; parts of a frame"),
    Measure("lse_c_verse_bench", "syncnet", "LSE-C as Verse-Bench", "", "higher", VERSE_BENCH,
            f"{FACES}clips whose offset is over 13 frames have no score, so bad ones raise the mean"),
    Measure("lse_d_verse_bench", "syncnet", "LSE-D as Verse-Bench", "", "lower", VERSE_BENCH, "likewise"),
    Measure("lse_c_corrected", "syncnet", "LSE-C, corrected", "", "higher", CORRECTED,
            f"{FACES}nobody publishes this one"),
    Measure("lse_d_corrected", "syncnet", "LSE-D, corrected", "", "lower", CORRECTED, "likewise"),
    Measure("syncnet_offset_corrected_frames", "syncnet", "lips come late by (corrected)", "frames of 40 ms", "zero",
            CORRECTED, "more than 15 frames; parts of a frame"),
    Measure("length_difference_ms", "timing", "sound longer than picture by", "ms", "zero", "time stamps of the file",
            "padding that a codec hides"),
    Measure("onset_difference_ms", "timing", "first movement after first sound by", "ms", "zero",
            "first step of the tiles and of the level", "clips that move or sound from the first moment, and whether "
            "the one is the cause of the other"),
    Measure("loudness_lufs", "sound", "loudness", "LUFS", "", f"{BS1770}, package pyloudnorm",
            "what is heard; the bass of 5.1, and sound of more channels than that has none"),
    Measure("true_peak_dbtp", "sound", "true peak", "dBTP", "", f"{BS1770}, Annex 2", "how often"),
    Measure("clipped_share", "sound", "clipped samples", "", "lower", "three samples in a row at full scale",
            "distortion below full scale", SHARE),
    Measure("silence_share", "sound", "silence", "", "", "50 ms below -60 dB of full scale",
            "whether a pause belongs there", SHARE),
    Measure("black_share", "picture", "black frames", "", "lower", BLACKDETECT,
            "dark scenes that should be dark", SHARE),
    Measure("frozen_share", "picture", "frozen for half a second or more", "", "lower", FREEZE,
            "stills that should be still", SHARE),
    Measure("repeated_share", "picture", "frames like the one before", "", "lower", FREEZE,
            "repeats that a codec has made slightly different; frames that a file shows for longer", SHARE),
    Measure("sharpness", "picture", "sharpness", "", "higher",
            "median variance of the Laplacian (Pech-Pacheco 2000) in 0..255",
            "noise, which counts as sharp; clips of another size or content are not comparable", POSITIVE),
    Measure("flicker", "picture", "flicker", "% of white", "lower", "second difference of the brightness",
            "flicker of parts that leaves the mean alone; cuts count as flicker", POSITIVE),
    Measure("motion_share", "picture", "moving tiles", "", "", "tiles that change by a hundredth of white",
            "whether the motion is the right one", SHARE),
    Measure("word_error_rate", "words", "word error rate", "", "lower", "Whisper, its normaliser, jiwer",
            "errors of the recogniser, which count as errors of the clip; words of scripts without spaces", POSITIVE),
    Measure("word_error_rate_verse_bench", "words", "word error rate, as Verse-Bench", "", "lower",
            "Whisper, jiwer; as Verse-Bench, which takes SenseVoiceSmall: small letters, signs kept",
            "likewise; commas that a recogniser sets otherwise, which make words wrong", POSITIVE),
    Measure("word_error_rate_seed_tts", "words", "word error rate, as seed-tts-eval", "", "lower",
            "Whisper, jiwer; as BytedanceSpeech/seed-tts-eval: small letters, without signs, which join "
            "what they stood between; Chinese by characters (there Paraformer, and traditional ones made simplified)",
            "likewise; numbers in words or figures, hyphens and curled apostrophes, which make words wrong", POSITIVE),
    Measure("character_error_rate", "words", "character error rate", "", "lower", "Whisper, its normaliser, jiwer",
            "errors of the recogniser; in Chinese, one character that stands for another of the same sound", POSITIVE),
    Measure("speech_share", "speech", "time in which somebody speaks", "", "",
             "Silero VAD, package faster-whisper", "who speaks; singing may count as speech", SHARE),
    Measure("dnsmos_overall", "speech", "speech quality", "MOS 1..5", "higher", DNSMOS,
            "music and noises, which count as bad speech", SCORE),
    Measure("dnsmos_signal", "speech", "quality of the voice", "MOS 1..5", "higher", DNSMOS, "likewise", SCORE),
    Measure("dnsmos_background", "speech", "quiet of the background", "MOS 1..5", "higher", DNSMOS, "likewise", SCORE),
    Measure("dnsmos_p808", "speech", "speech quality (P.808)", "MOS 1..5", "higher", DNSMOS, "likewise", SCORE),
    Measure("voice_similarity", "voice", "voice like the given one", "cosine", "higher",
            "GE2E (Wan et al. 2018), package resemblyzer",
            "other languages than English, several speakers; loud noise, which counts as a voice", CORRELATION),
    Measure("clap_score", "clap", "sound as in the caption (CLAP)", "cosine", "higher",
            f"{CLAP}; the sound as it is, windows over all of it",
            "which words are said, order in time; scores of other weights are not comparable", CORRELATION),
    Measure("clap_score_verse_bench", "clap", "sound as in the caption, as Verse-Bench", "cosine", "higher",
            f"{CLAP}; as Verse-Bench: at a peak of -1 dB in 16 bits, three windows of a long one (the same each time)",
            "likewise, and how loud it is; Verse-Bench takes the first of several captions, here they are one",
            CORRELATION),
    Measure("clip_score", "clip_score", "picture as in the caption (CLIP)", "100 cos", "higher",
            f"{CLIP}, caption of the picture; a hundred times the mean cosine, 0 at least, as torchmetrics has it",
            "order in time, counts, who does what; scores of other weights are not comparable", (0.0, 100.0)),
    Measure("clip_consistency", "clip_score", "frames like their neighbours (CLIP)", "cosine", "higher", CLIP,
            "whether it should change: a still picture is best", CORRELATION),
    Measure("desync_s", "desync", "sound and picture apart (DeSync)", "s", "lower", DESYNC,
            "which comes first, less than 0.2 s, more than 2 s; speech of several faces", (0.0, 2.0)),
    Measure("motion_score", "flow", "motion (RAFT)", "% of side/s", "",
            f"{RAFT}, of pictures 1/8 s apart and 256 px high (or wide, upright), but across cuts; mean length of the "
            "flow in a second, of the shorter side", "whether the motion is the right one, or wanted: a camera that "
            "shakes counts; what moves to and fro within a quarter of a second", POSITIVE),
    Measure("motion_score_verse_bench", "flow", "motion (RAFT), as Verse-Bench", "px", "",
            f"{RAFT}, of neighbours; as Verse-Bench: sides halved until 640 px or less, mean of the flow's distances "
            "to the side and down from frame to frame, edges that fill up included", "likewise; clips of other sizes "
            "and frame rates are not comparable, cuts and repeated frames count", POSITIVE),
    Measure("audiobox_ce", "audiobox", "enjoyment (CE)", "1..10", "higher", AUDIOBOX, "what the sound should be"),
    Measure("audiobox_cu", "audiobox", "usefulness (CU)", "1..10", "higher", AUDIOBOX, "likewise"),
    Measure("audiobox_pc", "audiobox", "complexity (PC)", "1..10", "", AUDIOBOX,
            "whether complexity is wanted: JoVA takes less for better"),
    Measure("audiobox_pq", "audiobox", "production quality (PQ)", "1..10", "higher", AUDIOBOX, "likewise"),
    Measure("class_share", "classes", "likeliest class of the sound", "", "",
            "AST (Gong et al. 2021), weights of `--classifier`; of windows of 10 s, softmax of mean logits",
            "whether it is the right one; sounds that are heard together share what there is", SHARE),
    Measure("identity_face", "identity", "face like the reference", "cosine", "higher",
            f"{DINO} (the first frame where there is none); class token of squares around the face that is seen most",
            "persons: how a face is turned and lit counts as well; faces are estimated from mouths", CORRELATION),
    Measure("identity_picture", "identity", "picture like the reference", "cosine", "higher",
            f"{DINO} (the first frame where there is none), cut to the shape of the clip; class token",
            "persons: the same room with another face is near; a clip that does not move is best", CORRELATION),
    Measure("identity_verse_bench", "identity", "picture like the reference, as Verse-Bench", "cosine", "higher",
            f"{DINO} as it is; as Verse-Bench the token before the last, which is a patch at the edge (it takes all "
            "frames)", "all that is not near the right lower corner, as far as that patch does not attend to it",
            CORRELATION),
    Measure("identity_colour", "identity", "colours like the reference", "", "higher", COLOURS,
            "who it is, and where things are; backgrounds count, and another light is another colour", SHARE),
)
# fmt: on

"""A signed clip says who made it, and that nobody changed it since."""

import datetime
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from diffusers_jova import media
from diffusers_jova.provenance import basic_record, read_provenance
from jova_cli.main import main


def test_what_cannot_sign_is_refused_before_the_model_is_loaded(
    tiny_pipeline_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "a.pem").write_text("words")
    file = str(tmp_path / "a.pem")
    words = ["--model", str(tiny_pipeline_folder), "--prompt", "a dog", "--output", str(tmp_path / "dog.mp4")]
    for more, said in (
        (["--sign-key", file], "must be given together, got `--sign-key` alone"),
        (["--sign-key", file, "--sign-certificate", file, "--no-metadata"], "must be given without `--no-metadata`"),
        (["--sign-key", file, "--sign-certificate", "none.pem"], "`--sign-certificate` must be an existing PEM file"),
    ):
        with pytest.raises(SystemExit):
            main(["generate", *words, *more])
        assert said in capsys.readouterr().err


def test_the_library_that_signs_is_named_where_it_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from diffusers_jova.content_credentials import Credentials

    monkeypatch.setitem(sys.modules, "c2pa", None)
    with pytest.raises(ImportError, match="install the package with its extra `c2pa`"):
        Credentials(tmp_path / "certificate.pem", tmp_path / "key.pem")


@pytest.fixture
def signer_files(tmp_path: Path) -> tuple[Path, Path]:
    """Certificate chain and key of a signer that nobody knows; the library asks for a chain and an allowed purpose."""
    pytest.importorskip("c2pa")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def certificate(subject: str, public: Any, signer: Any, is_authority: bool) -> bytes:
        names = [
            x509.Name(
                [x509.NameAttribute(NameOID.COMMON_NAME, name), x509.NameAttribute(NameOID.ORGANIZATION_NAME, "T")]
            )
            for name in (subject, "authority")
        ]
        now = datetime.datetime.now(datetime.UTC)
        builder = x509.CertificateBuilder(*names, public, x509.random_serial_number())
        builder = builder.not_valid_before(now - datetime.timedelta(1)).not_valid_after(now + datetime.timedelta(9))
        usage = x509.KeyUsage(True, False, False, False, False, is_authority, is_authority, False, False)
        builder = builder.add_extension(x509.BasicConstraints(is_authority, None), critical=True)
        builder = builder.add_extension(usage, critical=True)
        identifiers = (
            x509.SubjectKeyIdentifier.from_public_key(public),
            x509.AuthorityKeyIdentifier.from_issuer_public_key(signer.public_key()),
        )
        for identifier in identifiers:
            builder = builder.add_extension(identifier, critical=False)
        if not is_authority:
            purpose = x509.ExtendedKeyUsage([ExtendedKeyUsageOID.EMAIL_PROTECTION])
            builder = builder.add_extension(purpose, critical=False)
        return builder.sign(signer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)

    authority, own = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    chain = certificate("signer", own.public_key(), authority, False)
    chain += certificate("authority", authority.public_key(), authority, True)
    (tmp_path / "certificate.pem").write_bytes(chain)
    formats = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8)
    (tmp_path / "key.pem").write_bytes(own.private_bytes(*formats, serialization.NoEncryption()))
    (tmp_path / "locked.pem").write_bytes(own.private_bytes(*formats, serialization.BestAvailableEncryption(b"x")))
    return tmp_path / "certificate.pem", tmp_path / "key.pem"


def state(path: Path) -> tuple[str, dict[str, Any]]:
    import c2pa

    with c2pa.Reader(str(path)) as reader:
        return reader.get_validation_state(), json.loads(reader.json())


def test_a_signed_clip_is_valid_until_somebody_changes_it(
    tiny_pipeline_folder: Path, tmp_path: Path, signer_files: tuple[Path, Path]
) -> None:
    clip = tmp_path / "dog.mp4"
    words = ["--model", str(tiny_pipeline_folder), "--prompt", "a dog", "--steps", "1", "--output", str(clip)]
    main(["generate", *words, "--sign-certificate", str(signer_files[0]), "--sign-key", str(signer_files[1])])
    valid, claims = state(clip)
    assert valid == "Valid"
    (manifest,) = claims["manifests"].values()
    actions, record = (
        next(x["data"] for x in manifest["assertions"] if x["label"] == label)
        for label in ("c2pa.actions.v2", "diffusers_jova.record")
    )
    assert actions["actions"][0]["digitalSourceType"].endswith("/trainedAlgorithmicMedia")
    assert json.loads(record["record"]) == read_provenance(clip)
    assert media.read_video(clip).frames.shape == (9, 32, 32, 3)
    assert not list(tmp_path.glob(".*"))

    content = bytearray(clip.read_bytes())
    content[content.index(b"mdat") + 100] ^= 1
    clip.write_bytes(content)
    assert state(clip)[0] == "Invalid"


def test_a_signed_wav_keeps_its_samples(tmp_path: Path, signer_files: tuple[Path, Path]) -> None:
    from diffusers_jova.content_credentials import Credentials

    sound = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 999)).astype(np.float32)
    path = tmp_path / "a.wav"
    media.write_audio(path, sound, 16000, provenance=basic_record(), credentials=Credentials(*signer_files))
    assert state(path)[0] == "Valid"
    assert np.abs(media.read_audio(path).audio - sound).max() <= 0.5 / 32768 + 1e-7  # half a step of 16 bits
    assert read_provenance(path) == basic_record()
    with pytest.raises(ValueError, match="`credentials` must have a record to sign"):
        media.write_audio(path, sound, 16000, credentials=Credentials(*signer_files))


def test_keys_that_cannot_sign_are_named(tmp_path: Path, signer_files: tuple[Path, Path]) -> None:
    from diffusers_jova.content_credentials import Credentials

    certificate, key = signer_files
    with pytest.raises(ValueError, match="`key` must be a private key without a password"):
        Credentials(certificate, tmp_path / "locked.pem")
    with pytest.raises(ValueError, match="`key` must be a private key without a password"):
        Credentials(certificate, certificate)
    (tmp_path / "words.pem").write_text("words")
    with pytest.raises(ValueError, match="`certificate` must be a PEM file"):
        Credentials(tmp_path / "words.pem", key)
    with pytest.raises(ValueError, match="`key` must be an existing PEM file"):
        Credentials(certificate, tmp_path / "none.pem")

"""Content credentials (C2PA): the origin of a file, signed with a certificate and key of whoever makes it.

`c2pa-python` writes them; the specification is at https://spec.c2pa.org.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jova_cli.parser import one_line


MEDIA_TYPES = {".mp4": "video/mp4", ".wav": "audio/wav"}
CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}  # names of X.509 and of C2PA


@dataclass(frozen=True)
class Credentials:
    """Who signs.

    Args:
        certificate: PEM file of the certificate, and of those between it and one that readers trust, in this order.
        key: PEM file of its private key, without a password.

    Raises:
        ValueError: If a file cannot be read, or holds something else.
    """

    certificate: Path
    key: Path

    def __post_init__(self) -> None:
        """Refuse what cannot sign before any work is done for it."""
        self.signer()

    def signer(self) -> Any:
        """Build what signs.

        Raises:
            ImportError: If c2pa-python is not installed.
        """
        try:
            import c2pa
        except ImportError as error:
            raise ImportError(
                "signing needs c2pa-python, which is not installed; install the package with its extra `c2pa`"
            ) from error
        certificate, key = _read("certificate", self.certificate), _read("key", self.key)
        algorithm = _algorithm(key, self.key)
        try:
            return c2pa.Signer.from_info(c2pa.C2paSignerInfo(algorithm, certificate, key, None))
        except c2pa.C2paError as error:
            raise ValueError(
                f"`certificate` must be one that may sign, with the key {self.key}, got {self.certificate} "
                f"({one_line(error)}); see https://spec.c2pa.org for what it must hold"
            ) from error


def sign_file(source: Path, target: Path, record: Mapping[str, Any], credentials: Credentials) -> None:
    """Write a copy of an mp4 or wav with a signed manifest that says how it was made.

    Args:
        source: File without credentials.
        target: File to write.
        record: Of its origin, see `diffusers_jova.provenance`.
        credentials: Who signs.

    Raises:
        ValueError: If the certificate is refused.
    """
    with credentials.signer() as signer:
        import c2pa

        try:
            builder = c2pa.Builder(manifest(record, source.suffix))
            with builder, source.open("rb") as unsigned, target.open("w+b") as signed:
                builder.sign(signer, MEDIA_TYPES[source.suffix.lower()], unsigned, signed)
        except c2pa.C2paError as error:
            raise ValueError(
                f"`certificate` must be one that readers of C2PA accept, got {credentials.certificate} "
                f"({one_line(error)}); see https://spec.c2pa.org for what it must hold"
            ) from error


def manifest(record: Mapping[str, Any], suffix: str) -> dict[str, Any]:
    """What is claimed: that a model created the file, which one, and with which settings."""
    # as text: the library takes a list of numbers for bytes
    claims = {"record": json.dumps(record)}
    name, _, version = str(record["package"]).partition(" ")
    software = {"name": name, "version": version}
    action = {
        "action": "c2pa.created",
        "digitalSourceType": record["digital_source_type"],
        "softwareAgent": software,
    }
    return {
        "claim_generator_info": [software],
        "format": MEDIA_TYPES[suffix.lower()],
        "assertions": [
            {"label": "c2pa.actions.v2", "data": {"actions": [action]}},
            {"label": "diffusers_jova.record", "data": claims},
        ],
    }


def _read(name: str, path: Path) -> bytes:
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise ValueError(f"`{name}` must be an existing PEM file, got {path} ({error.strerror}); name it") from error
    if not content.lstrip().startswith(b"-----BEGIN"):
        raise ValueError(f"`{name}` must be a PEM file, got {path}, which is none; convert it with openssl")
    return content


def _algorithm(key: bytes, path: Path) -> str:
    """C2PA's name of the signature that a private key makes."""
    from cryptography.hazmat.primitives import serialization  # comes with c2pa-python
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        private: Any = serialization.load_pem_private_key(key, password=None)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`key` must be a private key without a password, got {path} ({one_line(error)}); `openssl pkey` takes "
            "a password away"
        ) from error
    if isinstance(private, ec.EllipticCurvePrivateKey) and private.curve.name in CURVES:
        return CURVES[private.curve.name]
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return "ed25519"
    if isinstance(private, rsa.RSAPrivateKey):
        return "ps256"
    raise ValueError(f"`key` must be of RSA, Ed25519 or NIST's elliptic curves, got {path} of another kind")

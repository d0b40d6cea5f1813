"""HTTPS servers with the faults that people meet, and certificates for them."""

from __future__ import annotations

import asyncio
import contextlib
import datetime as dt
import ipaddress
import ssl
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

NOW = dt.datetime.now(dt.UTC)
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok"
_CHOSEN = bytes(32) + b"\x00" + b"\xc0\x2b" + b"\x00"  # random, session, cipher suite, compression; no extensions
HELLOS = {  # what an old server answers: a ServerHello of TLS 1.1, or of 1.2 without the extension of RFC 5746
    "tls_1_1": b"\x16\x03\x02\x00\x2a\x02\x00\x00\x26\x03\x02" + _CHOSEN,
    "no_renegotiation": b"\x16\x03\x03\x00\x2a\x02\x00\x00\x26\x03\x03" + _CHOSEN,
}
FAULTS = ("expired", "other_name", "no_intermediate", "self_signed", "tls_1_1", "no_renegotiation", "plain_http")


class Issuer:
    """An authority, its intermediate, and leaves for 127.0.0.1 that are signed by either."""

    def __init__(self) -> None:
        self.key, self.certificate = self._issued("root", None, authority=True)
        self.middle_key, self.middle = self._issued("middle", (self.key, self.certificate), authority=True)

    @property
    def pem(self) -> bytes:
        """Of the authority."""
        return _pem(self.certificate)

    def _issued(
        self,
        name: str,
        by: tuple[ec.EllipticCurvePrivateKey, x509.Certificate] | None,
        *,
        authority: bool = False,
        days: int = 30,
        host: str = "127.0.0.1",
    ) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
        """Without key identifiers, which many private authorities leave out."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by[1].subject if by else subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - dt.timedelta(days=60))
            .not_valid_after(NOW + dt.timedelta(days=days))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        )
        if not authority:
            names = [x509.IPAddress(ipaddress.ip_address(host))]
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return key, builder.sign(by[0] if by else key, hashes.SHA256())

    def serving(self, fault: str = "") -> ssl.SSLContext:
        """The context of a server with this fault, or with none."""
        middle = self.middle_key, self.middle
        if fault == "self_signed":
            key, leaf = self._issued("leaf", None)
        else:
            days = -1 if fault == "expired" else 30
            key, leaf = self._issued(
                "leaf", middle, days=days, host="10.9.9.9" if fault == "other_name" else "127.0.0.1"
            )
        chain = _pem(leaf) + (b"" if fault in ("no_intermediate", "self_signed") else _pem(self.middle))
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "both.pem")
            text = key.private_bytes(
                serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
            )
            path.write_bytes(text + chain)
            context.load_cert_chain(path)
        return context


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)


@contextlib.asynccontextmanager
async def server(issuer: Issuer, fault: str = "", said: bytes = OK) -> AsyncIterator[int]:
    """The port of a server with this fault, which answers `said` to whatever comes and then just goes away."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            await reader.read(65_536)
            writer.write(HELLOS.get(fault, said))
            await writer.drain()
        writer.close()

    context = None if fault == "plain_http" or fault in HELLOS else issuer.serving(fault)
    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    async with listening:
        yield listening.sockets[0].getsockname()[1]

"""Names of others: with certificates of their own, drafters keep theirs."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path

import grpc
import grpc.aio
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from router.front import FrontLimits
from router.server import run_router
from specfleet.tls import TlsFolder, role_uri
from tests.hostile.liar import Liar, lying
from tests.security.certificates import make


def credentials(folder: Path, name: str) -> grpc.ChannelCredentials:
    """A drafter's certificate that says a name, signed by the fleet's authority."""
    authority = x509.load_pem_x509_certificate((folder / "ca" / "tls.crt").read_bytes())
    signer = serialization.load_pem_private_key((folder / "ca" / "tls.key").read_bytes(), None)
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    assert isinstance(signer, ec.EllipticCurvePrivateKey)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(authority.subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(role_uri("drafter"))]), critical=False
        )
        .sign(signer, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return grpc.ssl_channel_credentials(
        TlsFolder(folder / "drafter").read().authorities, private, certificate.public_bytes(serialization.Encoding.PEM)
    )


def test_nobody_takes_the_name_of_another_certificate(tmp_path: Path) -> None:
    folder = make(tmp_path)

    async def run() -> None:
        async with run_router("127.0.0.1:0", limits=FrontLimits(), tls=folder / "router") as router:
            address = f"127.0.0.1:{router.port}"
            owner = Liar(address, "one", lambda heard: None, credentials=credentials(folder, "owner"))
            impostor = Liar(address, "one", lambda heard: None, credentials=credentials(folder, "impostor"))
            async with lying(owner):
                stream = router.fleet.streams["one"]
                refused = await impostor.until_refused(grpc.StatusCode.RESOURCE_EXHAUSTED)
                assert {error.code().name for error in impostor.errors[:-1]} == {"ALREADY_EXISTS"}
                assert "with another certificate" in (refused.details() or "")
                assert (router.fleet.streams["one"], impostor.num_joined) == (stream, 0)
            async with lying(owner):  # as often as it likes: what another did is not its own doing
                assert set(router.fleet.streams) == {"one"}

    asyncio.run(run())


def test_without_certificates_two_of_a_name_throw_each_other_out_until_one_of_them_is_kept_out() -> None:
    async def run() -> None:
        async with run_router("127.0.0.1:0", limits=FrontLimits()) as router:
            address = f"127.0.0.1:{router.port}"
            rivals = [Liar(address, "one", lambda heard: None) for _ in range(2)]
            fights = [asyncio.create_task(rival.until_refused(grpc.StatusCode.RESOURCE_EXHAUSTED)) for rival in rivals]
            (loser,), (winner,) = await asyncio.wait(fights, return_when=asyncio.FIRST_COMPLETED)
            assert "it joins again and again" in ((await loser).details() or "")
            assert set(router.fleet.streams) == {"one"}, "the other is in, and is left in peace"
            winner.cancel()
            await asyncio.gather(winner, return_exceptions=True)

    asyncio.run(run())

"""CURVE keys: who may reach a server from another machine, and is it the right server.

A folder holds the server's pair (`server.key`, `server.key_secret`) and, in `clients/`, the
public keys of those who may come in. Files are ZeroMQ certificates, as `zmq.auth` reads them.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import tyro
import zmq
import zmq.auth
from zmq.utils import z85

from splatmend.core.errors import InputError

__all__ = ["KeysConfig", "ServerKeys", "client_keys", "main", "make_keys", "serve_zap"]

_SERVER = "server"
_CLIENTS = "clients"
_PUBLIC, _SECRET = ".key", ".key_secret"
_DOMAIN = b"splatmend"


@dataclass(frozen=True)
class KeysConfig:
    """Make the keys of a server, or of one more client. Existing files are never replaced."""

    folder: tyro.conf.Positional[Path]
    """Stays with the server: `splatmend serve --keys FOLDER`."""
    client: str | None = None
    """Name of a client that may come in from now on; it gets FOLDER/<name>.key_secret."""
    public_key: Path | None = None
    """Let this key in, which the client has made by itself, instead of making a pair."""


def main(arguments: Sequence[str] | None = None) -> None:
    """`splatmend keys FOLDER [--client NAME]`; errors are the caller's to report."""
    config = tyro.cli(KeysConfig, args=arguments, prog="splatmend keys")
    sys.stdout.write(make_keys(config) + "\n")


def make_keys(config: KeysConfig) -> str:
    """Write what is missing; returns what to do with it.

    Raises:
        InputError: a name that is no file name, a client that exists, a folder that cannot be
            written, or a public key that is none.
    """
    folder, clients = config.folder, config.folder / _CLIENTS
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        clients.mkdir(mode=0o700, exist_ok=True)
        if not (folder / f"{_SERVER}{_SECRET}").exists():
            _write_pair(folder / f"{_SERVER}{_PUBLIC}", folder / f"{_SERVER}{_SECRET}")
        if config.client is None:
            return (
                f"keys of the server are in {folder}; next: splatmend keys {folder} --client NAME"
            )
        return _make_client(folder, clients, config.client, config.public_key)
    except OSError as error:
        raise InputError(f"cannot write keys to {folder}: {error.strerror}") from error


def _make_client(folder: Path, clients: Path, name: str, public: Path | None) -> str:
    if not name.replace("-", "").replace("_", "").isalnum() or name == _SERVER:
        raise InputError(f"a client's name has letters, digits, - and _, got {name!r}")
    allowed = clients / f"{name}{_PUBLIC}"
    if allowed.exists():
        raise InputError(f"{allowed} exists: choose another name, or remove it to shut {name} out")
    server = folder / f"{_SERVER}{_PUBLIC}"
    if public is not None:
        _load(public)
        allowed.write_bytes(public.read_bytes())
        return f"{name} may come in; give it {server}"
    secret = folder / f"{name}{_SECRET}"
    _write_pair(allowed, secret)
    return f"{name} may come in; move {secret} there, with a copy of {server}"


def _write_pair(public_file: Path, secret_file: Path) -> None:
    """A new pair as ZeroMQ certificates; the secret was never readable for others."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    descriptor = os.open(secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f'metadata\ncurve\n    public-key = "{public}"\n    secret-key = "{secret}"\n')
    public_file.write_text(f'metadata\ncurve\n    public-key = "{public}"\n')


@dataclass(frozen=True)
class ServerKeys:
    """The server's pair and its allow-list, which is read anew for each who knocks."""

    public: bytes
    secret: bytes
    clients: Path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder that `make_keys` has made.

        Raises:
            InputError: there is none, or others may read the secret.
        """
        path = folder / f"{_SERVER}{_SECRET}"
        public, secret = _load(path)
        if secret is None:
            raise InputError(f"{path} holds no secret key: make one with `splatmend keys {folder}`")
        if path.stat().st_mode & 0o077:
            raise InputError(f"others may read {path}: chmod 600 it, or make new keys")
        return cls(public, secret, folder / _CLIENTS)

    def apply(self, router: "zmq.Socket[bytes]") -> None:
        """Make a socket, before it is bound, let in none but those on the list."""
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        router.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
        router.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        # without anyone to ask, ZeroMQ would let all keys in
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def allows(self, public: bytes) -> bool:
        """Whether a client's key, as 40 characters of Z85, is on the list."""
        for path in sorted(self.clients.glob(f"*{_PUBLIC}")):
            try:
                known, _ = zmq.auth.load_certificate(path)
            except (OSError, ValueError):
                continue  # being written or removed: let the others in
            if known == public:
                return True
        return False


def client_keys(secret: Path, server: Path) -> tuple[bytes, bytes, bytes]:
    """A client's public and secret key and the server's public key.

    Raises:
        InputError: a file cannot be read, is no key, or lacks the secret.
    """
    own_public, own_secret = _load(secret)
    if own_secret is None:
        raise InputError(f"{secret} holds no secret key: give the client's {_SECRET} file")
    server_public, _ = _load(server)
    return own_public, own_secret, server_public


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is no ZeroMQ key file ({error}): make one with `splatmend keys`"
        ) from error


def serve_zap(sock: "zmq.Socket[bytes]", keys: ServerKeys) -> None:
    """Answer one question of ZeroMQ: whether a key may come in (RFC 27, ZAP 1.0)."""
    asked = sock.recv_multipart()
    version, number, domain, _address, _identity, mechanism, *credentials = asked + [b""] * 6
    may = (
        version == b"1.0"
        and domain == _DOMAIN
        and mechanism == b"CURVE"
        and len(credentials[0]) == 32
        and keys.allows(z85.encode(credentials[0]))
    )
    status = (b"200", b"OK") if may else (b"400", b"not on the list")
    sock.send_multipart([b"1.0", number, *status, b"", b""])

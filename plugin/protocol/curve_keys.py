"""CURVE keys: they let known clients reach a server from another machine, and prove the server.

A folder holds the server's pair (`server.key`, `server.key_secret`) and, in `clients/`, the
public keys of allowed clients. Files are ZeroMQ certificates, which `zmq.auth` reads.
"""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

import zmq
import zmq.auth
from zmq.utils import z85

from splatmend.core.command_line import Positional, arg, parse, shown
from splatmend.core.errors import InputError

__all__ = ["KeysConfig", "ServerKeys", "client_keys", "main", "make_keys", "serve_zap"]

_SERVER = "server"
_CLIENTS = "clients"
_PUBLIC, _SECRET = ".key", ".key_secret"
_DOMAIN = b"splatmend"


@dataclass(frozen=True)
class KeysConfig:
    """Make the keys of a server, or of one more client. Existing files are never replaced."""

    folder: Annotated[Positional[Path], arg(metavar="FOLDER")]
    """Folder on the server: `splatmend serve --keys FOLDER`."""
    client: Annotated[str | None, shown("NAME")] = None
    """Name of a client to allow; give it FOLDER/<name>.key_secret."""
    public_key: Annotated[Path | None, shown("FILE")] = None
    """Allow this key, which the client made by itself, instead of making a pair."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run `splatmend keys FOLDER [--client NAME]`; the caller reports errors."""
    config = parse(
        KeysConfig, arguments, prog="splatmend keys", description=KeysConfig.__doc__ or ""
    )
    sys.stdout.write(make_keys(config) + "\n")


def make_keys(config: KeysConfig) -> str:
    """Write the missing keys; return a text that says where they are and belong.

    Raises:
        InputError: the name is not a file name, the client exists, the folder cannot be written,
            or the public key is not one.
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
    """Write a new pair as ZeroMQ certificates; others can never read the secret."""
    public, secret = (key.decode() for key in zmq.curve_keypair())
    descriptor = os.open(secret_file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(f'metadata\ncurve\n    public-key = "{public}"\n    secret-key = "{secret}"\n')
    public_file.write_text(f'metadata\ncurve\n    public-key = "{public}"\n')


@dataclass(frozen=True)
class ServerKeys:
    """The server's pair and its allow-list, which is read anew for each connection."""

    public: bytes
    secret: bytes
    clients: Path

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read a folder made by `make_keys`.

        Raises:
            InputError: the keys are missing, or others may read the secret.
        """
        path = folder / f"{_SERVER}{_SECRET}"
        public, secret = _load(path)
        if secret is None:
            raise InputError(f"{path} has no secret key: make one with `splatmend keys {folder}`")
        if path.stat().st_mode & 0o077:
            raise InputError(f"others may read {path}: chmod 600 it, or make new keys")
        return cls(public, secret, folder / _CLIENTS)

    def apply(self, router: "zmq.Socket[bytes]") -> None:
        """Make a socket that is not bound yet let in only the clients on the list."""
        router.setsockopt(zmq.CURVE_SERVER, 1)
        router.setsockopt(zmq.CURVE_PUBLICKEY, self.public)
        router.setsockopt(zmq.CURVE_SECRETKEY, self.secret)
        router.setsockopt(zmq.ZAP_DOMAIN, _DOMAIN)
        # without this, ZeroMQ would let all keys in when nobody answers
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)

    def allows(self, public: bytes) -> bool:
        """Return whether a client's key, as 40 characters of Z85, is on the list."""
        for path in sorted(self.clients.glob(f"*{_PUBLIC}")):
            try:
                known, _ = zmq.auth.load_certificate(path)
            except (OSError, ValueError):
                continue  # the file is being written or removed: look at the others
            if known == public:
                return True
        return False


def client_keys(secret: Path, server: Path) -> tuple[bytes, bytes, bytes]:
    """Return a client's public and secret key and the server's public key.

    Raises:
        InputError: a file cannot be read, is not a key, or lacks the secret.
    """
    own_public, own_secret = _load(secret)
    if own_secret is None:
        raise InputError(f"{secret} has no secret key: give the client's {_SECRET} file")
    server_public, _ = _load(server)
    return own_public, own_secret, server_public


def _load(path: Path) -> tuple[bytes, bytes | None]:
    try:
        return zmq.auth.load_certificate(path)
    except (OSError, ValueError) as error:
        raise InputError(
            f"{path} is not a ZeroMQ key file ({error}): make one with `splatmend keys`"
        ) from error


def serve_zap(sock: "zmq.Socket[bytes]", keys: ServerKeys) -> None:
    """Answer one request of ZeroMQ: tell whether a key may come in (RFC 27, ZAP 1.0)."""
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

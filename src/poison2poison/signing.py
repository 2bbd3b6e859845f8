"""Signatures of folders with a key of the user's, offline, in the format of OpenSSF Model Signing (model-signing).

Anybody who has the public key can check them with that tool too: `model_signing verify key`. Keys are of an elliptic
curve (P-256, P-384 or P-521), in PEM files without a password.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

from poison2poison.errors import ConfigError, ModelError, listed
from poison2poison.files import write_text
from poison2poison.verify import Compared, Part, State, verify

SIGNATURE = "model.sig"
"""The signature's file, within the folder that it is of."""
SIGNED = Part("signature", "who has the key did not sign what is here")
MISMATCH = "Signature mismatch"
"""How the library's message begins where the signature is right and the files are others."""


def sign(folder: Path, key: Path) -> Path:
    """Sign all files of a folder but git's own, such as .gitignore; a signature that is there is replaced.

    Args:
        folder: An artifact folder, or one of `p2p export`, as it was recorded.
        key: The private key.

    Returns:
        The signature's file.

    Raises:
        ConfigError: The key cannot be used.
        ModelError: The folder is neither, it holds a link, or it is not what was recorded of it.
        OutputError: The signature cannot be written.
    """
    _installed()
    from model_signing import hashing, signing

    if wrong := [one.name for one in verify(folder) if one.is_wrong]:
        raise ModelError(f"{folder}: is not what was recorded of it: {listed(wrong)}; `p2p verify` tells more")
    with _of_key(key):
        config = signing.Config().use_elliptic_key_signer(private_key=key)
    config.set_hashing_config(hashing.Config().set_ignored_paths(paths=[SIGNATURE]))
    with TemporaryDirectory() as place:
        made = Path(place) / SIGNATURE
        try:
            config.sign(folder, made)
        except ValueError as error:
            raise ModelError(f"{folder}: cannot be signed ({error})") from None
        write_text(folder / SIGNATURE, made.read_text(encoding="utf-8"))
    return folder / SIGNATURE


def check_signature(folder: Path, key: Path) -> list[Compared]:
    """Hold a folder against its signature.

    Args:
        folder: The folder.
        key: The public key of who should have signed it.

    Returns:
        The signature itself, and each file that is not as it was signed.

    Raises:
        ConfigError: The key cannot be used.
    """
    _installed()
    from model_signing import verifying

    with _of_key(key):
        config = verifying.Config().use_elliptic_key_verifier(public_key=key)
    path = folder / SIGNATURE
    if not path.is_file():
        return [Compared(SIGNATURE, SIGNED, "missing")]
    try:
        config.verify(folder, path)
    except Exception as error:  # of a broken or forged file the library raises many kinds
        files = _changed(folder, path) if str(error).startswith(MISMATCH) else []
        return [Compared(SIGNATURE, SIGNED, "differs"), *files]
    return [Compared(SIGNATURE, SIGNED, "same")]


def _changed(folder: Path, signature: Path) -> Iterator[Compared]:
    """Each file that is not as it was signed; the signature is known to be right."""
    from model_signing import hashing

    envelope = json.loads(signature.read_text(encoding="utf-8"))["dsseEnvelope"]
    statement = json.loads(base64.b64decode(envelope["payload"]))["predicate"]
    signed = {one["name"]: one["digest"] for one in statement["resources"]}
    ignored = statement["serialization"]["ignore_paths"]
    now = hashing.Config().set_ignored_paths(paths=ignored).hash(folder)
    held = {one.identifier: one.digest.digest_hex for one in now.resource_descriptors()}
    for name in sorted({*signed, *held}):
        state: State = "added" if name not in signed else "missing" if name not in held else "differs"
        if signed.get(name) != held.get(name):
            yield Compared(name, SIGNED, state)


@contextmanager
def _of_key(key: Path) -> Iterator[None]:
    """Say what is wrong with a key file.

    Raises:
        ConfigError: It is missing or broken, has a password, or is of another kind.
    """
    try:
        yield
    except (OSError, ValueError, TypeError, AttributeError) as error:
        reason = "it is of no elliptic curve" if isinstance(error, AttributeError) else error
        raise ConfigError(
            f"key: {key} cannot be used ({reason}); make one with `openssl ecparam -name prime256v1 -genkey -noout`"
        ) from None


def _installed() -> None:
    if find_spec("model_signing") is None:
        raise ConfigError("key: model-signing is not installed; `pip install poison2poison[records]`")

"""Files of tensors with a checksum: weights, features and doses that were kept. Nothing in them can run code
(safetensors)."""

import hashlib
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from lib.errors import UserError
from lib.files import replace_file


def save_tensors(path: Path, tensors: dict[str, torch.Tensor], **about: str) -> None:
    """Write tensors by name, with words `about` them, as safetensors whose metadata holds their checksum."""
    tensors = {name: tensor.detach().contiguous().cpu() for name, tensor in tensors.items()}
    with replace_file(path) as temporary:
        save_file(tensors, temporary, metadata=about | {"sha256": checksum(tensors, about)})


def load_tensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """(tensors by name, words about them) of a file by `save_tensors`; UserError if it is not whole."""
    try:
        with safe_open(path, framework="pt") as stored:
            about = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}
    except (SafetensorError, OSError, ValueError, TypeError, RuntimeError) as error:
        why = str(error).splitlines()[0] if str(error) else "it is empty"
        raise UserError(f"{path} is damaged ({why})") from None
    if about.pop("sha256", None) != checksum(tensors, about):
        raise UserError(f"{path} is damaged (its tensors do not have its checksum)")
    return tensors, about


def checksum(tensors: dict[str, torch.Tensor], about: dict[str, str]) -> str:
    """SHA-256 of the words and of every name, type, shape and bit."""
    digest = hashlib.sha256(repr(sorted(about.items())).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()

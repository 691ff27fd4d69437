"""Everything that decides what a model does: a stored result is taken again for the same thing only."""

import hashlib
from collections.abc import Mapping
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor

from shortcut_policy.model import Model
from shortcut_policy.provenance import OWN_PACKAGES, code_hash, library_versions, own_code, short_hash
from shortcut_policy.trust import modules_named

#: Model -> place and sum of each of its weights when they were hashed, and the hash, which takes long.
_HASHED: WeakKeyDictionary[Model, tuple[list[Any], str]] = WeakKeyDictionary()


def fingerprint(model: Model, environment: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """The parts that decide what ``model`` does here, plain JSON that can be compared and read.

    Args:
        model: A policy or generator of images.
        environment: Specification of the one that it acts in, overrides included; None for none.

    Returns:
        ``weights`` with the statistics of the normaliser, ``specification`` and ``metadata`` as hashes;
        ``code``, that of this library, and ``modules``, that of every other module that is named, as far as
        their sources are found; the ``versions`` of libraries; and the ``environment``.
    """
    named = modules_named([model.spec, environment or {}, model.metadata.get("task", {})])
    foreign = sorted({name.partition(".")[0] for name in named} - {*OWN_PACKAGES, "torch", "gymnasium", ""})
    return {
        "weights": weights_hash(model),
        "specification": short_hash(model.spec),
        "metadata": short_hash(model.metadata),
        "code": own_code(),
        "modules": {name: code_hash(name) for name in foreign},
        "versions": library_versions(),
        **({} if environment is None else {"environment": dict(environment)}),
    }


def weights_hash(model: Model) -> str:
    """Short hash of names and values of all parameters and buffers; kept while they stay the same.

    Of a policy in another runtime, which has the weights, it is the runtime's.
    """
    runtime = getattr(model, "runtime", None)
    if runtime is not None:
        identity: str = runtime.identity
        return identity
    tensors = sorted(model.state_dict().items())
    state = [(name, tensor.data_ptr(), _checksum(tensor)) for name, tensor in tensors]
    known = _HASHED.get(model)
    if known is not None and known[0] == state:
        return known[1]
    digest = hashlib.sha256()
    for name, tensor in tensors:
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(_bytes(tensor).data)
    found = digest.hexdigest()[:16]
    _HASHED[model] = (state, found)
    return found


def _checksum(tensor: Tensor) -> int:
    """Sum of a tensor's bits, eight bytes at a time: it shows the change of a single one."""
    raw = _bytes(tensor)
    whole = len(raw) // 8 * 8
    return int(raw[:whole].view(np.int64).sum()) + int(raw[whole:].sum())


def _bytes(tensor: Tensor) -> np.ndarray:
    """The memory of a tensor of any type, NumPy's or not, on any device."""
    return tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()

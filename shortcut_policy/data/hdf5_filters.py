"""Compression that HDF5 does not know itself, such as Blosc and LZ4: the package hdf5plugin brings it."""

import importlib
from contextlib import suppress
from typing import Any

from shortcut_policy.data.source import too_large


def unreadable(dataset: Any) -> str | None:
    """What speaks against an HDF5 dataset with a row for each step, for after its name; None against most."""
    if (lost := missing_filter(dataset)) is not None:
        return f"is compressed with the HDF5 filter {lost}, which is not installed: pip install hdf5plugin"
    return too_large(dataset.shape[1:], dataset.dtype)


def missing_filter(dataset: Any) -> str | None:
    """Name and number of a filter that an HDF5 dataset needs and that is not installed; None if all are."""
    from h5py import h5z

    properties = dataset.id.get_create_plist()
    for position in range(properties.get_nfilters()):
        number, _, _, name = properties.get_filter(position)
        if h5z.filter_avail(number):
            continue
        with suppress(ImportError):
            importlib.import_module("hdf5plugin")  # makes itself known to h5py
        if not h5z.filter_avail(number):
            return f"{name.decode(errors='replace') or 'filter'} ({number})"
    return None

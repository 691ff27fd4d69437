"""Demonstrations that come with the package."""

from typing import TYPE_CHECKING

from shortcut_policy.errors import InputError
from shortcut_policy.paths import ASSETS_DIR

if TYPE_CHECKING:
    from shortcut_policy.data.robomimic_source import RobomimicSource
    from shortcut_policy.data.zarr_source import ZarrSource

SUFFIXES = (".zarr", ".hdf5")


def bundled(name: str) -> "ZarrSource | RobomimicSource":
    """Demonstrations by name: ``bundled("pusht")`` is a zarr store, ``bundled("lift")`` a robomimic file.

    Raises:
        InputError: There are none of this name.
    """
    files = {path.stem: path for suffix in SUFFIXES for path in sorted(ASSETS_DIR.glob(f"*{suffix}"))}
    if name not in files:
        raise InputError(
            f"there are no bundled demonstrations '{name}'; there are: {', '.join(sorted(files)) or 'none'} "
            "(for a file of your own use ZarrSource or RobomimicSource with its path)"
        )
    from shortcut_policy.data.robomimic_source import RobomimicSource
    from shortcut_policy.data.zarr_source import ZarrSource

    return ZarrSource(files[name]) if files[name].suffix == ".zarr" else RobomimicSource(files[name])

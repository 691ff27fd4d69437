#!/usr/bin/env bash
# imagecodecs decodes a JPEG that was cut short to a whole picture, grey from the cut on, without an error.
#
# Camera frames are kept as JPEG in zarr stores and in files of robots, and imagecodecs is what reads them there.
# Its decoders of JPEG XL, JPEG 2000 and PNG raise on a file whose end is missing, and so does Pillow for JPEG, so
# one expects the same of jpeg_decode. An interrupted copy of a data set trains on grey pictures instead. A whole
# file ends with the bytes ff d9: look for them.
#
# Seen:
#   imagecodecs 2026.3.6: jpegxl cut to half: raises; png: raises; jpeg: a picture of (64, 64, 3), its last row one grey: True
#   Pillow 12.0.0: jpeg cut to half: raises
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
python3 -m venv venv
venv/bin/python -m pip install --quiet --disable-pip-version-check imagecodecs==2026.3.6 pillow==12.0.0 2> pip.log || {
    cat pip.log
    exit 1
}
cat > look.py <<'PY'
import io
import sys

import imagecodecs
import numpy as np
import PIL
from PIL import Image

picture = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)


def decoded(codec):
    data = getattr(imagecodecs, f"{codec}_encode")(picture)
    try:
        return getattr(imagecodecs, f"{codec}_decode")(data[: len(data) // 2])
    except Exception:
        return None


found = {codec: decoded(codec) for codec in ("jpegxl", "png", "jpeg")}
jpeg = found["jpeg"]
grey = jpeg is not None and len(np.unique(jpeg[-1].reshape(-1, 3), axis=0)) == 1
words = {codec: "raises" if found[codec] is None else "a picture" for codec in ("jpegxl", "png")}
print(f"imagecodecs {imagecodecs.__version__}: jpegxl cut to half: {words['jpegxl']}; png: {words['png']}; jpeg: "
      f"{'raises' if jpeg is None else f'a picture of {jpeg.shape}, its last row one grey: {grey}'}")
data = imagecodecs.jpeg_encode(picture)
try:
    Image.open(io.BytesIO(data[: len(data) // 2])).load()
    pillow = "a picture"
except OSError:
    pillow = "raises"
print(f"Pillow {PIL.__version__}: jpeg cut to half: {pillow}")
sys.exit(set(words.values()) != {"raises"} or not grey or pillow != "raises")
PY
venv/bin/python look.py 2> errors.log || {
    cat errors.log
    echo "changed: not what is described above"
    exit 1
}
echo "as described"

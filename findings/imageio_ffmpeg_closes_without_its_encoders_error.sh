#!/usr/bin/env bash
# imageio-ffmpeg's writer closes without an error where ffmpeg could not write the film.
#
# ffmpeg writes most of a short film when its input ends. If the disk is full then, ffmpeg exits with an error. The
# writer waits for it and does not look at its exit status: `close()` of `imageio_ffmpeg.write_frames` returns, and so
# does the `with` block of `imageio.get_writer`, by which most code of robot learning writes its rollouts. What was
# written so far has the film's name. A good engineer concludes that a film that was closed without an error is there.
# What works: PyAV, which raises; or decoding the film again. A disk that is full earlier is told: the pipe breaks.
#
# /dev/full is the device of Linux that answers each write with "No space left on device".
#
# Seen:
#   imageio 2.38.1, imageio-ffmpeg 0.8.1, av 17.1.0, film of 50 frames on a full device
#   imageio_ffmpeg.write_frames: no error
#   imageio.get_writer: no error
#   av.open: OSError: No space left on device
#   ffmpeg itself: exit status not 0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check imageio==2.38.1 imageio-ffmpeg==0.8.1 av==17.1.0 numpy==2.4.6
ln -s /dev/full film.mkv
cat > look.py <<'PY'
import subprocess
import sys

import av
import imageio
import imageio_ffmpeg
import numpy as np

FRAMES = np.random.default_rng(0).integers(0, 255, (50, 128, 128, 3), dtype=np.uint8)


def writer(path):
    one = imageio_ffmpeg.write_frames(path, (128, 128), fps=10, ffmpeg_log_level="quiet")
    one.send(None)
    for frame in FRAMES:
        one.send(frame)
    one.close()


def get_writer(path):
    with imageio.get_writer(path, fps=10, ffmpeg_log_level="quiet") as film:
        for frame in FRAMES:
            film.append_data(frame)


def pyav(path):
    with av.open(path, "w") as film:
        stream = film.add_stream("libx264", rate=10, width=128, height=128, pix_fmt="yuv420p")
        for frame in FRAMES:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        film.mux(stream.encode())


def outcome(write, path):
    try:
        write(path)
    except OSError as error:
        return f"{type(error).__name__}: {error.strerror}"
    return "no error"


av.logging.set_level(None)
print(f"imageio {imageio.__version__}, imageio-ffmpeg {imageio_ffmpeg.__version__}, av {av.__version__}, "
      f"film of {len(FRAMES)} frames on a full device")
seen = {}
for name, write in {"imageio_ffmpeg.write_frames": writer, "imageio.get_writer": get_writer, "av.open": pyav}.items():
    assert outcome(write, f"{write.__name__}.mkv") == "no error", name  # on a disk with room
    seen[name] = outcome(write, "film.mkv")
    print(f"{name}: {seen[name]}")
command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "quiet", "-y", "-i", "writer.mkv", "film.mkv"]
status = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
print("ffmpeg itself: exit status", "0" if status == 0 else "not 0")
quiet = seen["imageio_ffmpeg.write_frames"] == seen["imageio.get_writer"] == "no error"
sys.exit(not (quiet and seen["av.open"] != "no error" and status != 0))
PY
venv/bin/python look.py

#!/usr/bin/env bash
# torch 2.13.0 on a CPU with AVX2 and without AVX-512 (or with oneDNN held to AVX2, as here): the gradient of a
# convolution over the few steps of an action chunk takes two to three times as long as that of the same thing written
# by hand, all windows side by side (5 copies of the input) and one product of matrices.
#
# A good engineer leaves conv1d to oneDNN, and expects copies of the input to cost. At the deepest level of Diffusion
# Policy's UNet (1,024 channels, kernel 5, 4 steps, 64 rows) forward and backward are what most of an update is.
#
# Seen with torch 2.13.0 (an AMD EPYC without AVX-512, CPU time of one thread, medians):
#   256 channels, kernel 3    conv1d  13.0 ms   product   6.2 ms
#   1024 channels, kernel 5   conv1d 392.0 ms   product 110.3 ms
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cat > "$folder/seen.py" <<'PY'
import statistics
import time

import torch
from torch.nn import functional as F

torch.set_num_threads(1)
ROWS, STEPS = 64, 4


def milliseconds(convolve, x, weight):
    times = []
    for number in range(13):
        x.grad = weight.grad = None
        start = time.process_time()
        convolve(x, weight).square().sum().backward()
        if number >= 3:
            times.append(1000 * (time.process_time() - start))
    return statistics.median(times)


def as_convolution(x, weight):
    return F.conv1d(x, weight, padding=weight.shape[2] // 2)


def as_product(x, weight):
    size = weight.shape[2]
    windows = F.pad(x, (size // 2, size // 2)).unfold(2, size, 1).transpose(1, 2).flatten(2)
    return (windows @ weight.flatten(1).T).transpose(1, 2)


print("torch", torch.__version__, torch.backends.cpu.get_cpu_capability())
ratios = {}
for channels, size in ((256, 3), (1024, 5)):
    x = torch.randn(ROWS, channels, STEPS, requires_grad=True)
    weight = torch.randn(channels, channels, size, requires_grad=True)
    torch.testing.assert_close(as_convolution(x, weight), as_product(x, weight), rtol=1e-3, atol=1e-2)
    conv, product = (milliseconds(way, x, weight) for way in (as_convolution, as_product))
    print(f"{channels} channels, kernel {size}    conv1d {conv:6.1f} ms   product {product:6.1f} ms")
    ratios[channels] = conv / product
assert ratios[1024] > 1.5, ratios
PY
ONEDNN_MAX_CPU_ISA=AVX2 "$folder/env/bin/python" "$folder/seen.py"

#!/usr/bin/env bash
# huggingface_hub 2.x raises errors of the package httpx2 where 1.x raised those of httpx.
#
# A hub that cannot be reached is no HfHubHTTPError: since 1.0 the errors of the HTTP library come through, and programs
# catch httpx.HTTPError. From 2.x on they are errors of httpx2, another package with the same class names, which is no
# subclass of anything in httpx. httpx is often installed as well, so that `except httpx.HTTPError` still imports, still
# reads right, and catches nothing: robots without a network end in a traceback. What works with both: catch the errors
# of whichever of the two is installed, or ask for the class's base by name.
#
# Seen, of a port on which nobody listens:
#   huggingface_hub 1.33.0: httpx.ConnectError, an HfHubHTTPError: False, caught by httpx.HTTPError: True
#   huggingface_hub 2.4.0: httpx2.ConnectError, an HfHubHTTPError: False, caught by httpx.HTTPError: False
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
cat > ask.py <<'PY'
import socket

import httpx
import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError

with socket.socket() as free:
    free.bind(("127.0.0.1", 0))
    port = free.getsockname()[1]
try:
    huggingface_hub.HfApi(endpoint=f"http://127.0.0.1:{port}").model_info("someone/policy")
except Exception as error:
    kind = type(error)
    print(f"huggingface_hub {huggingface_hub.__version__}: {kind.__module__}.{kind.__name__}, an HfHubHTTPError: "
          f"{isinstance(error, HfHubHTTPError)}, caught by httpx.HTTPError: {isinstance(error, httpx.HTTPError)}")
PY
found=""
for version in 1.33.0 2.4.0; do
    python3 -m venv "env-$version"
    "env-$version/bin/pip" install --quiet --disable-pip-version-check "huggingface_hub==$version" httpx==0.28.1
    found+=$(HF_HUB_OFFLINE=0 "env-$version/bin/python" ask.py)$'\n'
done
printf '%s' "$found"
[ "$found" = "huggingface_hub 1.33.0: httpx.ConnectError, an HfHubHTTPError: False, caught by httpx.HTTPError: True
huggingface_hub 2.4.0: httpx2.ConnectError, an HfHubHTTPError: False, caught by httpx.HTTPError: False
" ] || { echo "this has changed"; exit 1; }

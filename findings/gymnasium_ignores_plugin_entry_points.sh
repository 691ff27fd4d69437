#!/usr/bin/env bash
# Gymnasium 1.x reads no entry points of environment plugins, although it still speaks of them.
#
# A package that registers its environments through the entry point group "gymnasium.envs", as was the way with
# gymnasium 0.29, is silently not found by gymnasium 1.4.0. Nothing fails at installation or import. `gymnasium.make`
# asks "Have you installed the proper package", `gymnasium.envs` says in its docstring that it "loads the env plugins
# for module using the entry point", and `gymnasium.register` tells authors of plugins that "the namespace is specified
# through the entry point package metadata": a good engineer concludes that the group is read. What works: the module
# before a colon, gymnasium.make("plug_envs:plug/Two-v0"), or importing it first.
#
# Seen:
#   gymnasium 0.29.1: plug/One-v0 found after `import gymnasium` alone: True
#   gymnasium 1.4.0: plug/One-v0 found after `import gymnasium` alone: False (NamespaceNotFound)
#   gymnasium 1.4.0: docstring speaks of plugins: True; plug_envs:plug/Two-v0: plug/Two-v0
set -euo pipefail

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

mkdir plugin
cat > plugin/pyproject.toml <<'TOML'
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "plug-envs"
version = "1.0"
[project.entry-points."gymnasium.envs"]
plug = "plug_envs:register_environments"
[tool.setuptools]
py-modules = ["plug_envs"]
TOML
cat > plugin/plug_envs.py <<'PY'
from gymnasium.envs.registration import register

def register_environments():
    register(id="One-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")

register(id="plug/Two-v0", entry_point="gymnasium.envs.classic_control:CartPoleEnv")
PY
cat > look.py <<'PY'
import sys
import gymnasium

version, old = gymnasium.__version__, gymnasium.__version__.startswith("0.")
try:
    found, why = gymnasium.make("plug/One-v0").spec.id == "plug/One-v0", ""
except gymnasium.error.Error as error:
    found, why = False, f" ({type(error).__name__})"
print(f"gymnasium {version}: plug/One-v0 found after `import gymnasium` alone: {found}{why}")
if old:
    sys.exit(not found)
import gymnasium.envs

speaks = "plugins" in gymnasium.envs.__doc__
two = gymnasium.make("plug_envs:plug/Two-v0").spec.id
print(f"gymnasium {version}: docstring speaks of plugins: {speaks}; plug_envs:plug/Two-v0: {two}")
sys.exit(found or why != " (NamespaceNotFound)" or not speaks or two != "plug/Two-v0")
PY
for pins in "gymnasium==0.29.1 numpy==1.26.4" "gymnasium==1.4.0 numpy==2.4.6"; do
    rm -rf venv
    python3 -m venv venv
    # shellcheck disable=SC2086
    venv/bin/python -m pip install --quiet --disable-pip-version-check $pins setuptools ./plugin 2> pip.log || {
        cat pip.log
        exit 1
    }
    venv/bin/python look.py 2> errors.log || {
        cat errors.log
        echo "changed: not what is described above"
        exit 1
    }
done
echo "as described"

#!/usr/bin/env bash
# torch 2.13.0: an optimizer with fused=True changes weights without raising their version counters, on the CPU too.
#
# A good engineer relies on autograd to refuse a backward pass through weights that were changed after the forward pass
# ("modified by an inplace operation"), as it does with foreach=True or foreach=False. After a fused step it does not:
# two losses of one forward pass, a step between their backward passes, and the second gradient is that of no function,
# without a word. What is kept "until the weights change" by the counter goes stale the same way: after fused training a
# cache keyed on it still serves the old weights.
#
# Seen with torch 2.13.0:
#   foreach=False  version +2  refused
#   foreach=True   version +2  refused
#   fused=True     version +0  no error
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3}" -m venv "$folder/env"
"$folder/env/bin/pip" install --quiet --disable-pip-version-check torch==2.13.0 numpy
cat > "$folder/seen.py" <<'PY'
import torch


def second_backward(**kind):
    torch.manual_seed(0)
    net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.Tanh(), torch.nn.Linear(8, 1))
    optimizer = torch.optim.AdamW(net.parameters(), lr=0.1, **kind)
    out = net(torch.randn(16, 4))
    first, second = out.square().mean(), out.abs().mean()
    before, weight = net[2].weight._version, net[2].weight.detach().clone()
    first.backward(retain_graph=True)
    optimizer.step()
    assert not weight.equal(net[2].weight)
    try:
        second.backward()
        said = "no error"
    except RuntimeError as error:
        assert "modified by an inplace operation" in str(error), error
        said = "refused"
    return net[2].weight._version - before, said


found = {}
for name, kind in (("foreach=False", {"foreach": False}), ("foreach=True", {"foreach": True}), ("fused=True", {"fused": True})):
    version, said = found[name] = second_backward(**kind)
    print(f"{name:14} version +{version}  {said}")
print("torch", torch.__version__)
assert found["foreach=False"][1] == found["foreach=True"][1] == "refused", found
assert found["fused=True"] == (0, "no error"), found
PY
"$folder/env/bin/python" "$folder/seen.py"

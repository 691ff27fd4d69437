"""Acts once with this exported policy; needs numpy and what it imports below."""

import json

import numpy as np

manifest = json.load(open("manifest.json"))
shapes = {part["name"]: (part["shape"][1:], part["dtype"]) for part in manifest["inputs"]}
# Your robot's last 2 observations, oldest first, in the units of the demonstrations; zeros here.
obs = {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in shapes.items() if name != "noise"}
noise = np.random.default_rng(0).standard_normal((1, *shapes["noise"][0])).astype(np.float32)

import onnxruntime
session = onnxruntime.InferenceSession("policy.onnx", providers=["CPUExecutionProvider"])
action, chunk = session.run(None, {**obs, "noise": noise})
# action: the next 2 actions, (1, 2, 2); chunk: all of them.
print(np.asarray(action).round(3))

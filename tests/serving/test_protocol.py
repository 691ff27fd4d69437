"""Messages: arrays come through unchanged, and nothing else does."""

import pickle

import msgpack
import numpy as np
import pytest

from shortcut_client import messages
from shortcut_policy.errors import InputError
from shortcut_policy.serving.protocol import REQUEST, Options, pack, read_request, unpack

ARRAYS = [
    np.arange(6, dtype=np.uint8).reshape(1, 2, 3),
    np.array(2.5),
    np.zeros((0, 3), np.float32),
    np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    np.array([True, False]),
    np.arange(3, dtype=">i4"),
    np.float16([1, 2]),
]


@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
@pytest.mark.parametrize(("packs", "unpacks"), [(pack, messages.unpack), (messages.pack, unpack)])
def test_both_sides_read_each_other(packs, unpacks, array):
    found = unpacks(packs({"x": array, "n": 3, "text": "two", "list": [1, 2.0, None]}))
    assert found["x"].dtype == array.dtype and np.array_equal(found["x"], array)
    assert found["x"].flags.writeable
    assert (found["n"], found["text"], found["list"]) == (3, "two", [1, 2.0, None])


def test_scalars_of_numpy_are_numbers():
    assert unpack(pack({"x": np.float32(2.5)})) == {"x": 2.5}
    scalar = {b"__npgeneric__": True, b"data": 3, b"dtype": "<i8"}
    assert unpack(msgpack.packb({"x": scalar})) == {"x": 3}


def packed_array(**changes):
    content = {"__ndarray__": True, "data": bytes(8), "dtype": "<f4", "shape": [2]} | changes
    return msgpack.packb({"x": {name.encode(): value for name, value in content.items()}})


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        (packed_array(dtype="|O"), "'|O' is refused"),
        (packed_array(dtype="<c8"), "'<c8' is refused"),
        (packed_array(dtype="<M8"), "is refused"),
        (packed_array(dtype="f4,f4"), "is refused"),
        (packed_array(dtype=[["a", "<f4"]]), "is refused"),
        (packed_array(dtype="<f16"), "is refused"),
        (packed_array(shape=[3]), "takes 12 bytes, and holds 8 bytes"),
        (packed_array(shape=[2**40, 2**40]), "takes"),
        (packed_array(shape=[-2]), "whole numbers"),
        (packed_array(shape=[1.5]), "whole numbers"),
        (packed_array(shape=[1] * 9), "at most 8"),
        (packed_array(shape="2"), "whole numbers"),
        (packed_array(data="text"), "holds str"),
        (msgpack.packb({b"__npgeneric__": True, b"data": [1], b"dtype": "|O"}), "is refused"),
        (msgpack.packb({b"__npgeneric__": True, b"data": 2**40, b"dtype": "<i4"}), "no msgpack"),
        (
            msgpack.packb({b"__npgeneric__": True, b"data": b"xx", b"dtype": "<i4"}),
            "is a number, and not bytes",
        ),
        (
            msgpack.packb({b"__npgeneric__": True, b"data": ["1"], b"dtype": "<f4"}),
            "is a number, and not list",
        ),
        (msgpack.packb(msgpack.ExtType(1, b"x")), "extension of type 1"),
        (b"\x91" * 100_000, "no msgpack"),
        (b"\xdd\xff\xff\xff\xff", "no msgpack"),
        (packed_array()[:-3], "no msgpack"),
        (packed_array() + b"\x00", "no msgpack"),
        (b"", "no msgpack"),
        (pickle.dumps({"x": np.zeros(2)}), "no msgpack"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(message, sentence):
    with pytest.raises(InputError) as caught:
        unpack(message)
    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 300


def test_nothing_is_unpickled(monkeypatch):
    def never(*arguments, **settings):
        raise AssertionError("pickle was used")

    for name in ("load", "loads", "Unpickler"):
        monkeypatch.setattr(pickle, name, never)
    with pytest.raises(InputError):
        unpack(packed_array(dtype="|O"))
    assert unpack(pack({"x": np.zeros(2)}))["x"].shape == (2,)
    for side in (pack, messages.pack):
        with pytest.raises(TypeError, match="numbers only"):
            side({"x": np.array([object()])})


def test_requests_have_options():
    obs, options = read_request(pack({"x": 1, REQUEST: {"steps": 4, "seed": 2}}))
    assert obs == {"x": 1}
    assert options == Options(steps=4, seed=2)


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("text", "message of bytes"),
        (pack([1, 2]), "not list"),
        (pack({1: 2}), "map of names"),
        (pack({REQUEST: {"step": 4}}), "did you mean 'steps'?"),
        (pack({REQUEST: 4}), "must be a map of options: steps, "),
        (pack({REQUEST: {"s" * 1000: 4}}), "must be a map of options: steps, "),
        (pack({"x" * 1000: 4}), "a name of more than 200 characters"),
        (pack({REQUEST: {"steps": 0}}), "__request__.steps=0 must be a whole number from 1"),
        (pack({REQUEST: {"steps": 1.5}}), "__request__.steps"),
        (pack({REQUEST: {"seed": -1}}), "__request__.seed"),
        (pack({REQUEST: {"episode": True}}), "__request__.episode"),
        (pack({REQUEST: {"guidance": float("nan")}}), "__request__.guidance"),
        (pack({REQUEST: {"reset": 1}}), "__request__.reset"),
    ],
)
def test_wrong_requests_are_one_sentence(message, sentence):
    with pytest.raises(InputError) as caught:
        read_request(message)
    assert sentence in str(caught.value)

"""Damages files that were valid: their bytes, or the values that JSON, HDF5, Parquet, MCAP and zip hold.

Every draw comes from the generator that is handed in. Damage to the bytes is what a format's own checks find,
too;
damage to the values passes these checks and finds what the readers of this library take for granted.
"""

import json
import math
import shutil
import warnings
import zipfile
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

#: Values that no key expects everywhere.
ODD: tuple[Callable[[], Any], ...] = tuple(
    lambda value=value: value
    for value in (
        *(
            None,
            True,
            False,
            0,
            -1,
            1,
            2,
            3,
            255,
            2**31,
            -(2**31),
            2**63 - 1,
            2**63,
            2**64,
            10**30,
            -(10**400),
        ),
        *(0.5, -0.0, 1e-320, 1e308, math.nan, math.inf, -math.inf),
        *(
            "",
            " ",
            "0",
            "none",
            "null",
            "../../up",
            "/absolute",
            "a\nb",
            "\x00",
            "{",
            "{0}",
            "{x.y}",
            "%s",
            "é" * 300,
        ),
        *(
            "float32",
            "object",
            "<U4",
            "|O",
            "M8[ns]",
            "float16",
            "complex64",
            ">f8",
            "bool",
            "pickle",
            "x" * 5000,
        ),
        *(
            [],
            {},
            [[]],
            [None],
            [1, "a"],
            [-1],
            [0],
            [10**12],
            [10**12, 10**12],
            [1] * 40,
            {"": None},
            {"a": {"b": 1}},
        ),
    )
)


def nested(depth: int, rng: Random) -> Any:
    """Lists or mappings in each other."""
    value: Any = 0
    for _ in range(depth):
        value = [value] if rng.random() < 0.5 else {"a": value}
    return value


def odd(rng: Random) -> Any:
    """Any odd value; now and then a deep one."""
    return nested(rng.choice((5, 60, 300)), rng) if rng.random() < 0.03 else rng.choice(ODD)()


def damage_bytes(data: bytes, rng: Random) -> bytes:
    """Flip bits, cut, blank, repeat, put in, or write extreme numbers, one to four times."""
    for _ in range(rng.randint(1, 4)):
        size = len(data)
        at, length = rng.randrange(size + 1), rng.choice((1, 2, 4, 8, 16, 64))
        kind = rng.randrange(7)
        if kind == 0 and size:
            changed = bytearray(data)
            for _ in range(rng.choice((1, 1, 2, 8))):
                changed[rng.randrange(size)] ^= 1 << rng.randrange(8)
            data = bytes(changed)
        elif kind == 1:
            data = data[:at]
        elif kind == 2:
            data = data[:at] + data[at + length :]
        elif kind == 3:
            data = data[:at] + data[at : at + length] * rng.choice((2, 3, 100)) + data[at + length :]
        elif kind == 4:
            data = data[:at] + rng.randbytes(length) + data[at + length :]
        elif kind == 5:
            width = rng.choice((1, 2, 4, 8))
            number = rng.choice((0, 1, 2 ** (8 * width - 1), 2 ** (8 * width) - 1, 2 ** (8 * width - 1) - 1))
            data = data[:at] + number.to_bytes(width, rng.choice(("little", "big"))) + data[at + width :]
        else:
            data = data[:at] + bytes(length) + data[at + length :]
    return data


def damage_value(value: Any, rng: Random) -> Any:
    """Another value of JSON: one place of it is changed, left out, doubled or renamed."""
    places = list(_places(value))
    if not places:
        return odd(rng)
    holder, key = rng.choice(places)
    kind = rng.randrange(6)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, dict):
        holder[rng.choice(("", "x", "_target_", "__class__", str(key) * 2, "é"))] = holder.pop(key)
    elif kind == 2 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == 3:
        other, name = rng.choice(places)
        try:
            holder[key] = json.loads(json.dumps(other[name]))
        except (KeyError, IndexError, ValueError):
            holder[key] = odd(rng)
    elif kind == 4 and isinstance(holder[key], int | float) and not isinstance(holder[key], bool):
        holder[key] = rng.choice(
            (-holder[key], holder[key] + 1, holder[key] * 1000, str(holder[key]), [holder[key]])
        )
    else:
        holder[key] = odd(rng)
    return value


def _places(value: Any) -> Any:
    """Every mapping or list in a value, with each of its keys."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in list(items):
        yield value, key
        yield from _places(item)


def damage_json(text: bytes, rng: Random) -> bytes:
    """A document of JSON, or lines of them, with one to three other values."""
    try:
        lines = [json.loads(line) for line in text.decode().splitlines()] if b"}\n{" in text else None
        document = lines if lines is not None else json.loads(text)
    except ValueError:
        return damage_bytes(text, rng)
    for _ in range(rng.randint(1, 3)):
        document = damage_value(document, rng)
    if lines is not None and isinstance(document, list):
        return b"".join(json.dumps(line).encode() + b"\n" for line in document)
    return json.dumps(document).encode()


def damage_file(path: Path, rng: Random) -> None:
    """Change one file: by what it holds where that is known, or else its bytes, or whether it is one."""
    if (chance := rng.random()) < 0.06:
        path.unlink()
        if chance < 0.02:
            path.mkdir()
        elif chance < 0.03:
            path.symlink_to(path.with_name("nowhere"))
        elif chance < 0.04:
            path.symlink_to(path.parent, target_is_directory=True)
        return
    text = path.suffix in (".json", ".jsonl") or path.name.startswith(".z")
    if text and rng.random() < 0.75:
        path.write_bytes(damage_json(path.read_bytes(), rng))
    elif path.suffix in STRUCTURED and rng.random() < 0.6:
        try:
            STRUCTURED[path.suffix](path, rng)
        except Exception:  # the damage was not possible
            path.write_bytes(damage_bytes(path.read_bytes(), rng) if path.is_file() else b"")
    else:
        path.write_bytes(damage_bytes(path.read_bytes(), rng))


def damage_folder(root: Path, rng: Random) -> None:
    """Change one to three files below a folder, metadata as often as all others together."""
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        files = sorted(path for path in root.rglob("*") if path.is_file() and not path.is_symlink())
        about = [path for path in files if path.suffix in (".json", ".jsonl") or path.name.startswith(".z")]
        if not files:
            return
        damage_file(rng.choice(about if about and rng.random() < 0.5 else files), rng)


def damage_hdf5(path: Path, rng: Random) -> None:
    """Change what a file of HDF5 holds: types, shapes, attributes, links."""
    import h5py

    with h5py.File(path, "r+") as file:
        names: list[str] = []
        file.visit(names.append)
        for _ in range(rng.randint(1, 2)):
            name = rng.choice(names)
            if name not in file:
                continue
            holder, kind = file[name], rng.randrange(9)
            if kind == 0:
                del file[name]
            elif kind == 1:
                attribute = rng.choice([*holder.attrs, "num_samples", "x"])
                holder.attrs[attribute] = rng.choice(
                    (
                        -1,
                        0,
                        2**62,
                        1.5,
                        "x",
                        "{",
                        b"\xff",
                        [1, 2],
                        np.zeros((2, 2)),
                        h5py.Empty("f4"),
                        "null",
                        "[]",
                    )
                )
            elif kind == 2 and holder.attrs:
                del holder.attrs[rng.choice(list(holder.attrs))]
            elif kind == 3:
                del file[name]
                file[name] = h5py.SoftLink(rng.choice(("/nowhere", "/", f"/{name}")))
            elif kind == 4:
                del file[name]
                file[name] = h5py.ExternalLink(rng.choice(("nowhere.hdf5", path.name)), "/")
            elif kind == 5:
                file[f"{name.rpartition('/')[0] or '/'}/again"] = file[
                    rng.choice(("/", name.partition("/")[0]))
                ]
            elif kind == 6:
                del file[name]
                file.create_group(name)
            else:
                del file[name]
                _odd_dataset(file, name, rng)


def _odd_dataset(file: Any, name: str, rng: Random) -> None:
    import h5py

    shape = rng.choice(((), (0,), (3,), (6, 2), (6, 0), (6, 2, 2), (2**40,), (6, 2**36), (2**62, 2)))
    types = (
        "f4",
        "f8",
        "i8",
        "u1",
        "f2",
        ">f4",
        "S5",
        "bool",
        "c8",
        h5py.string_dtype(),
        h5py.vlen_dtype("f4"),
    )
    kind = rng.choice(
        (*types, np.dtype([("a", "f4"), ("b", "i2")]), h5py.ref_dtype, h5py.enum_dtype({"a": 1}))
    )
    if rng.random() < 0.1:
        file.create_dataset(name, data=h5py.Empty(kind))
        return
    large = math.prod(shape) > 1000
    file.create_dataset(
        name, shape, kind, chunks=tuple(min(size, 64) or 1 for size in shape) if large else None
    )
    if not large and kind in ("f4", "f8") and shape and rng.random() < 0.5:
        file[name][...] = rng.choice((math.nan, math.inf, 1e30, -5))


def damage_parquet(path: Path, rng: Random) -> None:
    """Write a table again with columns of other types, other rows, or without a column."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    table = parquet.read_table(path)
    rows, at, kind = len(table), rng.randrange(table.num_columns), rng.randrange(8)
    name = table.column_names[at]
    if kind == 0:
        table = table.drop_columns([name])
    elif kind == 1:
        table = table.slice(rng.randrange(rows + 1), rng.randrange(rows + 1))
    elif kind == 2:
        table = pa.concat_tables([table, table.slice(0, rng.randint(1, max(1, rows)))])
    elif kind == 3:
        table = table.take(pa.array(rng.sample(range(rows), rows)))
    elif kind == 4:
        table = table.rename_columns([rng.choice(("x", "", other)) for other in table.column_names])
    else:
        values = rng.choice(
            (
                pa.nulls(rows),
                pa.array(["a"] * rows),
                pa.array([None, *[1] * (rows - 1)]) if rows else pa.nulls(0),
                pa.array([[1.0] * (i % 3) for i in range(rows)]),
                pa.array([2**62] * rows),
                pa.array([-1] * rows),
                pa.array([math.nan] * rows),
                pa.array([True] * rows),
                pa.array([b"\xff\xd8"] * rows),
                pa.array([{"bytes": b"x", "path": "../x"}] * rows),
                pa.array([1] * rows).cast(pa.timestamp("ns")),
                pa.array(["a"] * rows).dictionary_encode(),
                pa.array([1.5] * rows, pa.float16() if hasattr(pa, "float16") else pa.float32()),
            )
        )
        table = table.set_column(at, name, values)
    parquet.write_table(table, path)


def damage_zip(path: Path, rng: Random) -> None:
    """Write an archive again, its members damaged, renamed, doubled, linked or packed otherwise."""
    with zipfile.ZipFile(path) as archive:
        members = [(info, archive.read(info)) for info in archive.infolist()]
    out = BytesIO()
    chosen = rng.randrange(len(members))
    with warnings.catch_warnings(), zipfile.ZipFile(out, "w") as archive:
        warnings.simplefilter("ignore")  # of doubled names
        for number, (info, content) in enumerate(members):
            packing = zipfile.ZIP_STORED
            if number == chosen:
                kind = rng.randrange(8)
                text = info.filename.endswith((".json", ".zarray", ".zattrs", ".zgroup"))
                if kind == 0:
                    continue
                if kind == 1:
                    info.filename = rng.choice(
                        ("../x", "/x", "a\\..\\b", "", "x" * 300, f"{info.filename}/x", "é")
                    )
                elif kind == 2:
                    archive.writestr(info, content)
                elif kind == 3:
                    info.external_attr = rng.choice((0o120777, 0o010644, 0o020644)) << 16
                elif kind == 4:
                    packing, content = zipfile.ZIP_DEFLATED, bytes(rng.choice((10**5, 5 * 10**6)))
                elif text:
                    content = damage_json(content, rng)
                else:
                    content = damage_bytes(content, rng)
            archive.writestr(info, content, packing)
    path.write_bytes(out.getvalue() if rng.random() < 0.8 else damage_bytes(out.getvalue(), rng))


def damage_safetensors(path: Path, rng: Random) -> None:
    """Another header: names, types, shapes and places of tensors, before the same numbers."""
    data = path.read_bytes()
    size = int.from_bytes(data[:8], "little")
    header = damage_json(data[8 : 8 + size], rng)
    claimed = len(header) if rng.random() < 0.9 else rng.choice((0, 2**63, 2**32, len(header) - 1))
    path.write_bytes(claimed.to_bytes(8, "little") + header + data[8 + size :])


def damage_mcap(path: Path, rng: Random) -> None:
    """Write a recording again, with sound checksums: other messages, times, schemas, encodings, topics."""
    from mcap.reader import make_reader
    from mcap.writer import CompressionType, Writer

    with path.open("rb") as file:
        messages = list(make_reader(file).iter_messages())
    kind, out = rng.randrange(7), BytesIO()
    chosen = rng.randrange(len(messages))
    writer = Writer(out, chunk_size=rng.choice((200, 2000)), compression=rng.choice(list(CompressionType)))
    writer.start()
    topics: dict[str, int] = {}
    for number, (schema, channel, message) in enumerate(messages):
        assert schema is not None
        if channel.topic not in topics:
            text, name, form = schema.data, schema.name, channel.message_encoding
            if kind == 0 and rng.random() < 0.5:
                text = damage_bytes(text, rng)
            elif kind == 1:
                lines = text.split(b"\n")
                at = rng.randrange(len(lines))
                lines[at] = rng.choice(
                    (lines[at] * 2, b"float64[3] x", b"string[] y", b"float64[<=2] z", b"int8 A=1")
                )
                text = b"\n".join(lines)
            elif kind == 2:
                name, form = rng.choice((name, "sensor_msgs/msg/Image", "x")), rng.choice(("cdr", "json", ""))
            number_of_schema = writer.register_schema(name, "ros2msg", text)
            topics[channel.topic] = writer.register_channel(channel.topic, form, number_of_schema)
        data, logged = message.data, message.log_time
        if number == chosen or kind == 3:
            data = damage_bytes(data, rng)
        if kind == 4 and rng.random() < 0.3:
            logged = rng.choice((0, 2**63, 2**64 - 1, logged + 10**9, max(0, logged - 10**9)))
        if kind == 5 and rng.random() < 0.3:
            continue
        writer.add_message(topics[channel.topic], logged, data, logged)
    writer.finish()
    path.write_bytes(out.getvalue())


def damage_npz(path: Path, rng: Random) -> None:
    """Write arrays again, one of them of another type or shape, or gone, or one that only pickle holds."""
    with np.load(path) as stored:
        arrays = dict(stored)
    name = rng.choice(sorted(arrays))
    value = arrays.pop(name)
    odd_ones = (
        value.astype(float) * math.nan,
        value[:0],
        value.ravel(),
        value[..., None],
        np.array("x"),
        value > 1,
    )
    choice = rng.randrange(len(odd_ones) + 2)
    if choice < len(odd_ones):
        arrays[name] = odd_ones[choice]
    elif choice == len(odd_ones):
        arrays[name] = np.array([None, {}], object)
    with path.open("wb") as file:
        np.savez(file, **arrays)


STRUCTURED: dict[str, Callable[[Path, Random], None]] = {
    ".hdf5": damage_hdf5,
    ".parquet": damage_parquet,
    ".zip": damage_zip,
    ".safetensors": damage_safetensors,
    ".mcap": damage_mcap,
    ".npz": damage_npz,
}


def fresh_copy(source: Path, target: Path) -> None:
    """``target`` as ``source`` is."""
    if target.is_symlink() or target.is_file():
        target.unlink()
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(source, target)

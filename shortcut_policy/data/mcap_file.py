"""MCAP files opened: what goes wrong with one becomes a sentence, and which types its topics have."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from shortcut_policy.data.packed import other_kind
from shortcut_policy.errors import InputError

if TYPE_CHECKING:
    from mcap.reader import McapReader
    from mcap.records import Channel
    from mcap.summary import Summary

#: What a file begins and ends with, 8 bytes each, and its last record, of 29: a shorter one is none.
LEAST_BYTES = 45
#: Encoding of messages and of their schema that are read, those of ROS 2.
ROS_2 = ("cdr", "ros2msg")
#: First bytes of other files that recorders of ROS write -> what to do.
OTHERS = {
    b"SQLite format 3": "is a recording of ROS 2 in SQLite (.db3): make MCAP of it, with 'ros2 bag convert'",
    b"#ROSBAG": "is a recording of ROS 1: make one of ROS 2 of it, with 'rosbags-convert'",
}
#: First byte of a message in CDR, and first bytes of what zstd has compressed.
CDR, ZSTD = b"\0", b"\x28\xb5\x2f\xfd"


@contextmanager
def opened(path: Path) -> Iterator["McapReader"]:
    """A reader of a file, with a summary.

    Raises:
        InputError: Whatever goes wrong with the file, here and in what the reader is used for.
    """
    try:
        from mcap.reader import make_reader
        from mcap_ros2.decoder import DecoderFactory
    except ImportError as error:
        raise InputError(
            "MCAP files need mcap and mcap-ros2-support, which are not installed: "
            "pip install 'shortcut-policy[mcap]'"
        ) from error

    class Checked(DecoderFactory):
        """A decoder that refuses what is not CDR, of which it would make other numbers."""

        def decoder_for(self, message_encoding: str, schema: Any) -> Any:
            decode = super().decoder_for(message_encoding, schema)

            def decoded(data: bytes) -> Any:
                _check_cdr(data, schema.name)
                assert decode is not None
                return decode(data)

            return None if decode is None else decoded

    if not path.is_file():
        raise InputError(f"{path} does not exist; give the path of an MCAP file")
    size = path.stat().st_size
    if size < LEAST_BYTES:
        raise InputError(
            f"{path} has {size} bytes, which is no MCAP file: it was cut off at its beginning or never "
            "written; copy it again, or leave it out"
        )
    if (what := _other_recording(path)) is not None:
        raise InputError(f"{path} {what}")
    try:
        with path.open("rb") as file:
            reader = make_reader(file, validate_crcs=True, decoder_factories=[Checked()])
            if reader.get_summary() is None:
                raise InputError(
                    f"{path} has no summary at its end: the recording was cut off, or written without one, "
                    "as 'fastwrite' does; mend it with 'mcap recover' of the MCAP command line"
                )
            yield reader
    except InputError as error:
        raise InputError(f"{path}: {error}" if str(path) not in str(error) else str(error)) from error
    except Exception as error:  # mcap and what it decompresses with raise many kinds
        what = str(error) or type(error).__name__
        raise InputError(
            f"{path} cannot be read as MCAP ({what}); if it was cut off, mend it with 'mcap recover' of the "
            "MCAP command line"
        ) from error


def types_of_topics(reader: "McapReader", path: Path, users: Mapping[str, str]) -> dict[str, str]:
    """Topic -> type of its messages.

    Args:
        reader: Of the file.
        path: Of the file, for errors.
        users: Topic -> who names it.

    Raises:
        InputError: A topic is not there, has messages of several types, or some that are not of ROS 2.
    """
    summary = reader.get_summary()
    assert summary is not None
    there: dict[str, list[Channel]] = {}
    for channel in summary.channels.values():
        there.setdefault(channel.topic, []).append(channel)
    statistics = summary.statistics
    if not there and statistics is not None and statistics.channel_count:
        raise InputError(
            f"the summary at the end of {path} leaves out its {statistics.channel_count} topics: write the "
            "file again with them, with 'mcap recover' of the MCAP command line"
        )
    kinds = {}
    for topic, user in users.items():
        if topic not in there:
            raise InputError(
                f"{path} has no topic {topic}, which {user} names; it has "
                f"{', '.join(sorted(there)) or 'none'}"
            )
        types = sorted({_type(summary, channel, path) for channel in there[topic]})
        if len(types) > 1:
            raise InputError(
                f"topic {topic} of {path} has messages of several types, {' and '.join(types)}: cut the file "
                "where the type changes, or give each a topic of its own"
            )
        kinds[topic] = types[0]
    return kinds


def recordings_without_mcap(folder: Path) -> str:
    """What to do about a folder that holds recordings of another kind, for the end of a sentence."""
    if any(folder.glob("*.mcap.zstd")):
        return ", but with compressed ones: unpack them, with unzstd"
    if any(folder.glob("*.db3")):
        return ", but with recordings in SQLite (.db3): make MCAP of them, with 'ros2 bag convert'"
    inside = sorted({file.parent.name for file in folder.glob("*/*.mcap")})
    return f"; did you mean {folder / inside[0]}?" if inside else ""


def _type(summary: "Summary", channel: "Channel", path: Path) -> str:
    schema = summary.schemas.get(channel.schema_id)
    form = (channel.message_encoding, schema.encoding if schema else "none")
    if schema is None or form != ROS_2:
        raise InputError(
            f"the messages of {channel.topic} in {path} are stored as {form[0]} with a schema of {form[1]}; "
            "only those of ROS 2 are read, as cdr with ros2msg"
        )
    return str(schema.name)


def _other_recording(path: Path) -> str | None:
    with path.open("rb") as file:
        begins = file.read(16)
    what = next((what for first, what in OTHERS.items() if begins.startswith(first)), None)
    return what or other_kind(path)


def _check_cdr(data: bytes, kind: str) -> None:
    if data[:1] == CDR:
        return
    how = (
        "are compressed one by one with zstd: write them as they are, with 'ros2 bag convert'"
        if data.startswith(ZSTD)
        else f"are not in CDR, but begin with {data[:4]!r}: record them again"
    )
    raise InputError(f"messages of type {kind} {how}")

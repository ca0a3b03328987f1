"""What a sound file's container claims against the bytes that are there, so that no sound is lost in silence.

libsndfile believes headers: it stops where they say that the sound ends. Here every claim is held against
the file. More sound than claimed is heard to its end, and told; less, by more than `_SLACK`, is refused as
truncated.
"""

import io
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

# bytes: a length that counts its own header, or an odd one out
_SLACK = 64
# Bytes: writers to a pipe leave a length within so much of 2^31 or 2^32.
_NEAR = 1 << 16
# of each container: byte order, the chunk that holds the samples
_CHUNKS = {b"RIFF": ("<", b"data"), b"RIFX": (">", b"data"), b"FORM": (">", b"SSND")}
_W64 = bytes.fromhex("726966662e91cf11a5d628db04c10000"), bytes.fromhex("64617461f3acd3118cd100c04f8edb8a")
# its decoder knows how much there should be
_PLAIN = b"fLaC"
# kbit/s by index, of MPEG 1 and of 2 and 2.5, layer III; Hz by version
_MP3_RATES = (
    (0, 8, 16, 24, 32, 40, 48, 56, 64, 80, 96, 112, 128, 144, 160),
    (0, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320),
)
_MP3_HZ = {3: (44100, 48000, 32000), 2: (22050, 24000, 16000), 0: (11025, 12000, 8000)}


@dataclass
class Parts:
    """What to decode, one after the other; None: the file as it is. `notes` tell what was found."""

    parts: list[bytes | None] = field(default_factory=lambda: [None])
    notes: list[str] = field(default_factory=list)
    # bytes that the file must have by its own account; 0: it says nothing that could be checked
    least: int = 0


def unfilled(length: int) -> bool:
    """Whether a length is what writers leave that could not know it."""
    return any(abs(length - (1 << bits)) <= _NEAR for bits in (31, 32)) or length >= (1 << 63) - 1


def parts_of(file: io.BytesIO | io.FileIO) -> Parts | None:
    """What a file holds, by its first bytes; None for formats whose end nobody could check."""
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    start = file.read(40)
    if start[:4] in _CHUNKS:
        return _chunks(file, size, start)
    if start.startswith(b"OggS"):
        return _ogg(file, size)
    if start.startswith(b"RF64"):
        return _rf64(file, size)
    if start.startswith(_W64[0]):
        return _w64(file, size)
    if start.startswith((b".snd", b"dns.")) and len(start) >= 12:
        offset, length = struct.unpack(">II" if start[0] == b"."[0] else "<II", start[4:12])
        return _ends(offset, length)
    if start.startswith(b"caff"):
        return _caf(file, size)
    if start.startswith(b"NIST_1A"):
        return _nist(file)
    if start[:3] == b"ID3" or (len(start) > 1 and start[0] == 0xFF and start[1] >= 0xE2):
        file.seek(0)
        return _mp3(file.read())
    return Parts() if start.startswith(_PLAIN) else None


def _ends(at: int, length: int) -> Parts:
    """Samples of that length from `at` on, by the file's own account."""
    return Parts(least=0 if unfilled(length) else at + max(length - _SLACK, 0))


# ---- RIFF, AIFF and their kin


def _chunks(file: io.BytesIO | io.FileIO, size: int, start: bytes) -> Parts:
    """Where the samples of a WAV or AIFF end; a WAV whose writer died before it said so is mended."""
    if len(start) < 12:
        return Parts()
    order, samples = _CHUNKS[start[:4]]
    at = 12
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack(order + "4sI", file.read(8))
        if kind == samples:
            end = at + 8 + length
            if order == "<" and end < size - _SLACK and not _are_chunks(file, end + length % 2, size, order):
                return _lengthened(file, at + 4, order, size - at - 8, length)
            return _ends(at + 8, length)
        at += 8 + length + length % 2
    whole = 8 + struct.unpack(order + "I", start[4:8])[0]
    return Parts(least=0 if unfilled(whole) else max(at, whole))


def _are_chunks(file: io.BytesIO | io.FileIO, at: int, size: int, order: str) -> bool:
    """Whether from `at` on there is what a WAV file may have behind its samples: chunks, or a tag."""
    while at + 8 <= size:
        file.seek(at)
        kind, length = struct.unpack(order + "4sI", file.read(8))
        if kind[:3] in (b"TAG", b"ID3"):
            return True
        if not all(32 <= byte < 127 for byte in kind) or at + 8 + length > size + _SLACK:
            return False
        at += 8 + length + length % 2
    return True


def _lengthened(file: io.BytesIO | io.FileIO, at: int, order: str, length: int, claimed: int) -> Parts:
    file.seek(0)
    data = bytearray(file.read())
    data[at : at + 4] = struct.pack(order + "I", min(length, 0xFFFFFFFF))
    data[4:8] = struct.pack(order + "I", min(len(data) - 8, 0xFFFFFFFF))
    note = f"its header speaks of {claimed} bytes of samples, {length} are there: all of them are heard"
    return Parts([bytes(data)], [note])


def _rf64(file: io.BytesIO | io.FileIO, size: int) -> Parts:
    """The 64-bit length in its ds64 chunk."""
    file.seek(12)
    head = file.read(8 + 24)
    if head[:4] != b"ds64" or len(head) < 32:
        return Parts()
    length = struct.unpack("<Q", head[16:24])[0]
    at = 12
    while at + 8 <= size:
        file.seek(at)
        kind, own = struct.unpack("<4sI", file.read(8))
        if kind == b"data":
            return _ends(at + 8, length)
        at += 8 + own + own % 2
    return Parts(least=at)


def _w64(file: io.BytesIO | io.FileIO, size: int) -> Parts:
    """Sony's chunks: a GUID and a 64-bit length that counts both, on multiples of 8."""
    at = 40
    while at + 24 <= size:
        file.seek(at)
        kind, length = struct.unpack("<16sQ", file.read(24))
        if kind == _W64[1] or length < 24:
            return _ends(at + 24, length - 24)
        at += (length + 7) // 8 * 8
    return Parts(least=at)


def _caf(file: io.BytesIO | io.FileIO, size: int) -> Parts:
    at = 8
    while at + 12 <= size:
        file.seek(at)
        kind, length = struct.unpack(">4sq", file.read(12))
        if kind == b"data":
            # -1: not known, to the end
            return _ends(at + 12, length)
        at += 12 + max(length, 0)
    return Parts(least=at)


def _nist(file: io.BytesIO | io.FileIO) -> Parts:
    """SPHERE's text header: samples, channels and bytes of each."""
    file.seek(0)
    lines = file.read(1024).split(b"\n")
    stated = {words[0]: words[2] for line in lines if len(words := line.split()) == 3}
    try:
        header = int(lines[1])
        names = (b"sample_count", b"channel_count", b"sample_n_bytes")
        count, channels, width = (int(stated[name]) for name in names)
    except (KeyError, ValueError, IndexError):
        return Parts()
    return _ends(header, count * channels * width)


# ---- Ogg


def _ogg(file: io.BytesIO | io.FileIO, size: int) -> Parts:
    """The last page's end; and each link of a chain by itself, for libsndfile decodes the first alone."""
    file.seek(0)
    data = file.read()
    page = data.rfind(b"OggS\0", max(0, size - (1 << 17)))
    end = 0
    if page >= 0:
        segments = data[page + 26] if page + 26 < size else 0
        end = page + 27 + segments + sum(data[page + 27 : page + 27 + segments])
    links = list(_links(data))
    if len(links) < 2:
        return Parts(least=end)
    cuts = [*links, size]
    note = f"{len(links)} sounds joined in one file: all of them are heard"
    return Parts([data[a:b] for a, b in pairwise(cuts)], [note], end)


def _links(data: bytes) -> Iterator[int]:
    """Where each link begins: at a first page that does not follow another one."""
    at, before = 0, False
    while data.startswith(b"OggS\0", at) and at + 27 <= len(data):
        first = bool(data[at + 5] & 2)
        if first and not before:
            yield at
        before, segments = first, data[at + 26]
        at += 27 + segments + sum(data[at + 27 : at + 27 + segments])


# ---- MP3


class _Frame(NamedTuple):
    at: int
    size: int
    # of a Xing or Info header: how many frames follow it; None: this frame is sound
    stated: int | None


def _mp3(data: bytes) -> Parts:
    """Each stream with a header that states all of its frames: without one libsndfile guesses a length from
    the first frame's bit rate, and of joined files it hears the first.
    """
    streams: list[list[_Frame]] = []
    for frame in _frames(data):
        if frame.stated is not None or not streams:
            streams.append([])
        streams[-1].append(frame)
    whole = [stream for stream in streams if any(frame.stated is None for frame in stream)]
    if not whole:
        return Parts()
    parts: list[bytes | None] = []
    lost = 0
    for stream in whole:
        sound = [frame for frame in stream if frame.stated is None]
        stated = stream[0].stated
        begin, end = sound[0].at, sound[-1].at + sound[-1].size
        # encoders count their own header or not
        if stated is not None and stated > len(sound) + 1:
            lost += (stated - len(sound)) * (end - begin) // len(sound)
        if stated is not None and stated >= len(sound):
            parts.append(data[stream[0].at : end])
        else:
            parts.append(_xing(data, sound[0], len(sound), end - begin) + data[begin:end])
    least = len(data) + lost if lost else 0
    if len(whole) > 1:
        return Parts(parts, [f"{len(whole)} sounds joined in one file: all of them are heard"], least)
    stated = whole[0][0].stated
    as_it_is = stated is not None and stated >= len(whole[0]) - 1
    return Parts(least=least) if as_it_is else Parts(parts)


def _frames(data: bytes) -> Iterator[_Frame]:
    at = 0
    while at + 4 <= len(data):
        if data.startswith(b"ID3", at) and at + 10 <= len(data):
            # seven bits of each byte
            a, b, c, d = data[at + 6 : at + 10]
            at += 10 + (a << 21 | b << 14 | c << 7 | d)
            continue
        size = _frame_size(data, at)
        # by chance two bytes look like a frame; not where another one follows, or nothing
        after = at + size
        ends = after >= len(data) - 128 or data[after : after + 3] in (b"TAG", b"ID3", b"APE")
        if not size or not (ends or _frame_size(data, after)):
            at = data.find(b"\xff", at + 1)
            if at < 0:
                return
            continue
        if after > len(data) + _SLACK:
            return
        yield _Frame(at, size, _stated_count(data, at))
        at = after


def _frame_size(data: bytes, at: int) -> int:
    """Bytes of the layer III frame whose header is at `at`; 0 where there is none."""
    if at + 4 > len(data):
        return 0
    word = int.from_bytes(data[at : at + 4], "big")
    version, layer, rate = word >> 19 & 3, word >> 17 & 3, word >> 12 & 15
    hz, padding = word >> 10 & 3, word >> 9 & 1
    if word >> 21 != 0x7FF or version == 1 or layer != 1 or rate in (0, 15) or hz == 3:
        return 0
    first = version == 3
    return (144 if first else 72) * _MP3_RATES[first][rate] * 1000 // _MP3_HZ[version][hz] + padding


def _side(word: int) -> int:
    """Where a Xing header stands in a frame: behind the header and the side information."""
    mono, first = word >> 6 & 3 == 3, word >> 19 & 3 == 3
    return 4 + ((17 if mono else 32) if first else (9 if mono else 17))


def _stated_count(data: bytes, at: int) -> int | None:
    word = int.from_bytes(data[at : at + 4], "big")
    place = at + _side(word)
    if data[place : place + 4] in (b"Xing", b"Info"):
        flags = int.from_bytes(data[place + 4 : place + 8], "big")
        return int.from_bytes(data[place + 8 : place + 12], "big") if flags & 1 else 0
    if data[at + 36 : at + 40] == b"VBRI":
        return int.from_bytes(data[at + 50 : at + 54], "big")
    return None


def _xing(data: bytes, frame: _Frame, count: int, length: int) -> bytes:
    """A frame of silence that states how many follow it, in the form of the stream's own."""
    word = int.from_bytes(data[frame.at : frame.at + 4], "big")
    # without a checksum, at a bit rate at which the header has room
    word = (word | 1 << 16) & ~(0xF << 12 | 1 << 9) | 9 << 12
    header = word.to_bytes(4, "big")
    size, place = _frame_size(header + bytes(8), 0), _side(word)
    body = header + bytes(place - 4) + b"Xing" + struct.pack(">III", 3, count, length + size)
    return body + bytes(size - len(body))

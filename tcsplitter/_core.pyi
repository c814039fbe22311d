"""Types of the compiled core. Wire formats: PROTOCOL.md.

`Aead`, `Bytes`, `Ranges` and `Record` are names for type checkers alone: the compiled module has them not.
"""

from collections.abc import Sequence
from typing import Any, Final, Protocol, TypeVar, final

from typing_extensions import Buffer

Bytes = bytes | bytearray | memoryview

class Aead(Protocol):
    """What the core asks of a cipher: AESGCM of the `cryptography` package."""

    def encrypt_into(self, nonce: bytes, data: Bytes, associated_data: Bytes | None, buf: Bytes) -> int: ...
    def decrypt_into(self, nonce: bytes, data: Bytes, associated_data: Bytes | None, buf: Bytes) -> int: ...

# Sizes and limits, in bytes unless said.
HEADER_SIZE: Final[int]  # 13
TAG_SIZE: Final[int]  # 16
MAX_SEALED: Final[int]  # 1,064,960: body and tag
MAX_HELLO_SEALED: Final[int]  # 81,920
MAX_VARINT: Final[int]  # 2**62 - 1
MAX_ACK_RANGES: Final[int]  # 32
MAX_FRAMES: Final[int]  # 4,096 in a body
REPLAY_WINDOW: Final[int]  # 2**17 shot numbers
MAX_JUMP: Final[int]  # 2**24 shot numbers
MAX_DATAGRAM: Final[int]  # 65,507
ROOM_AROUND: Final[int]  # bytes to both sides of what a stream's data are read into, so that a shot can be sealed there

# Ways to calculate parity that this machine has, the fastest first; they differ in nothing but speed.
FEC_KERNELS: Final[tuple[str, ...]]

# Flags of a shot.
FINAL: Final[int]
HELLO: Final[int]
PARITY: Final[int]

# Kinds of frames, the first member of every tuple that `open_frames` returns.
PING: Final[int]
ACK: Final[int]
CREDIT: Final[int]
STREAM_CREDIT: Final[int]
RESET: Final[int]
CLOSE: Final[int]
STREAM: Final[int]
SKIP: Final[int]
GONE: Final[int]
ASK: Final[int]
GREETING: Final[int]
DATAGRAM: Final[int]

# Verdicts of ReplayWindow.check.
FRESH: Final[int]
SEEN: Final[int]
OLD: Final[int]

Ranges = list[tuple[int, int]]  # (low, high), inclusive; the highest range first
Record = tuple[int, int, int, bytes | memoryview]  # flags, epoch, number, the whole sealed shot
_Block = TypeVar("_Block", bound=Buffer)

@final
class ShotReader:
    """Cuts the bytes of a carrier into sealed shots, whatever pieces they come in.

    With `expect_hello` the first shot must be a hello (the session id before it is the caller's to take off), otherwise none
    may be. Unknown flags, a length beyond the limits of its kind, a hello out of place and bytes after a FINAL shot raise
    RemoteProtocolError before anything is kept of them, and so does every call after an error. What was whole before the
    error in the same call is lost with it.
    """

    def __init__(self, expect_hello: bool = False) -> None: ...
    def feed(self, data: bytes | memoryview, skip: int = 0) -> list[Record]:
        """Take what was read, but for its first `skip` bytes; return the shots that are now whole. Those that came in
        pieces are bytes; of the others there are no copies if `data` is a view: they are views of the same."""
    @property
    def pending(self) -> int:
        """Bytes kept of a shot that is not whole."""
    @property
    def missing(self) -> int:
        """Bytes that it lacks, as far as is known how long it is."""

@final
class ShotWriter:
    """Builds one body at a time in a buffer of its own and seals it. Reused for every shot of a session.

    What cannot be put on the wire (a body that would be too large, values out of range, no body begun) raises
    LocalProtocolError and leaves the body as it was.
    """

    def __init__(self) -> None: ...
    def begin(self, want: int, held: int) -> None:
        """Start a body, in place of one that was not sealed; `want` and `held` above 65,535 are cut to that."""
    def greeting(self, kind: int, connect_us: int) -> None:
        """The first frame of a hello: the carrier's kind, and how long it took to connect, cut to 2**32 - 1 µs. It is sealed with
        HELLO, in MAX_HELLO_SEALED bytes at the most."""
    def ping(self) -> None: ...
    def ack(self, answered: int, delay_us: int, ranges: Ranges, rebuilt: Ranges) -> None: ...
    def credit(self, total: int) -> None: ...
    def stream_credit(self, stream_id: int, limit: int, read: int) -> None:
        """The stream may be sent up to `limit`; its program has taken all below `read`."""
    def reset(self, stream_id: int, code: int, final_size: int) -> None: ...
    def close(self, code: int, reason: str) -> None:
        """Ends the session; the reason is cut to 255 bytes of UTF-8."""
    def stream(self, stream_id: int, offset: int, data: Buffer, fin: bool) -> None: ...
    def skip(self, stream_id: int, offset: int) -> None:
        """What this end gets of the stream below `offset` it needs no more."""
    def gone(self, number: int) -> None:
        """The carrier whose hello had this number was given up."""
    def ask(self, number: int) -> None:
        """Whether the shot of this number arrived is to be said again."""
    def datagram(self, flow_id: int, number: int, stamp: int, deadline: int, total: int, offset: int, data: Buffer) -> None:
        """A datagram of `total` bytes, at most MAX_DATAGRAM, or where `data` is shorter the fragment from `offset` on.

        It is timed unless `stamp` is below 0: `stamp` (when it was read, on a clock of the sender's) and `deadline` are
        milliseconds.
        """
    @property
    def size(self) -> int:
        """Bytes of the body so far, its head included; 0 before `begin`."""
    def parity(self, index: int, data: int, parity: int, numbers: list[int], block: bytes) -> None:
        """Block `index` of `parity` over the shots of `data` numbers, which rise. Nothing else goes into this body; it is sealed
        with PARITY."""
    def seal(self, aead: Aead, flags: int, epoch: int, number: int, before: bytes = b"") -> bytes:
        """Seal the body: the shot as it goes on the wire, behind what goes `before` it, which is not sealed. The body is gone
        after that. `flags` is 0 or FINAL."""

def open_frames(aead: Aead, record: bytes | memoryview) -> tuple[int, int, list[tuple[Any, ...]]]:
    """Open a shot and take its body apart: want, held, and frames as

    (PING,) · (ACK, answered, delay_us, ranges, rebuilt) · (CREDIT, total) · (STREAM_CREDIT, id, limit, read) ·
    (RESET, id, code, final_size) · (CLOSE, code, reason) · (STREAM, id, offset, data, fin) · (SKIP, id, offset) ·
    (GONE, number) · (ASK, number) · (DATAGRAM, flow, number, stamp, deadline, total, offset, data) ·
    (GREETING, kind, connect_us), the first of a hello and of nothing else

    Stamp and deadline are -1 in a datagram that is not timed; a whole one has its length as total and 0 as offset.
    `data` is bytes, or a memoryview of the opened body when it is at least half of it.
    Raises cryptography's InvalidTag where it does not open, RemoteProtocolError where it opens and is malformed, holds parity, or
    has a header that ShotReader would refuse. An ack of a number never sent is the caller's to find.
    """

def open_parity(aead: Aead, record: bytes | memoryview) -> tuple[int, int, int, int, list[int], memoryview]:
    """Open a parity shot: want, held, the block's index, how many parity blocks there are, the numbers of the shots that it
    covers (rising), and the block.

    Raises cryptography's InvalidTag where it does not open, RemoteProtocolError where it opens and is malformed or holds frames.
    """

@final
class ReplayWindow:
    """The numbers opened so far (RFC 6479's bitmap): REPLAY_WINDOW up to the highest."""

    def __init__(self) -> None: ...
    @property
    def highest(self) -> int:
        """Highest number marked, -1 before the first."""
    def check(self, number: int) -> int:
        """FRESH, SEEN or OLD; changes nothing."""
    def mark(self, number: int) -> None:
        """Mark an opened number. Raises RemoteProtocolError for a jump over MAX_JUMP, ValueError if it is not FRESH."""

@final
class RangeSet:
    """A set of integers kept as sorted inclusive ranges."""

    def __init__(self) -> None: ...
    def add(self, low: int, high: int) -> None:
        """Add all integers from `low` to `high` (both within 63 bits); ValueError if there are none."""
    def __contains__(self, number: int) -> bool: ...
    def __len__(self) -> int:
        """How many ranges."""
    def ranges(self) -> Ranges: ...

@final
class AckLog:
    """Shot numbers to be acknowledged. Each goes into three acks; newest ranges first, MAX_ACK_RANGES in each.

    What finds no room in an ack waits for the next one. At most 4,096 ranges are held of numbers reported never, and as many each
    of those reported once and twice; beyond that the oldest are forgotten, and the other end sends again what they held.
    """

    def __init__(self) -> None: ...
    def add(self, number: int) -> None: ...
    def add_rebuilt(self, number: int) -> None: ...
    def __bool__(self) -> bool:
        """Whether anything is left to report."""
    def take(self) -> tuple[Ranges, Ranges]:
        """Ranges of received and of rebuilt numbers for one ack; counts as one report of each."""

@final
class Quantiles:
    """Quantiles of delays: a histogram of eighths of octaves from 1 µs, older samples fading by halves whenever more than `fade`
    of them count. What lies outside of 1 µs to 134 s is taken for one or the other."""

    def __init__(self, fade: float = 2048) -> None: ...
    def add(self, seconds: float) -> None: ...
    def at(self, share: float) -> float:
        """The delay that `share` of the samples did not exceed, rounded up to a bucket's end; 0 without samples."""

@final
class SendBuffer:
    """Bytes of a stream that were never sent, in order."""

    def __init__(self) -> None: ...
    def write(self, data: bytes | memoryview) -> None: ...
    def take(self, limit: int) -> bytes | memoryview:
        """Remove and return the next min(limit, unsent) bytes as one object: a view where they are many of one buffer."""
    def clear(self) -> int:
        """Drop all; return how many bytes."""
    @property
    def offset(self) -> int:
        """Stream offset of the next byte to be taken."""
    def __len__(self) -> int:
        """Unsent bytes."""

@final
class RecvBuffer:
    """Reassembly of one direction of a stream: pieces in any order, repeated, overlapping; bytes in order.

    Pieces that touch are joined, so the count of pieces is the count of gaps. Flow control is the caller's: it checks
    `end` of a piece against the credit before it inserts.
    """

    def __init__(self) -> None: ...
    def insert(self, offset: int, data: bytes | memoryview, fin: bool) -> int:
        """Keep what is new. Returns how many bytes became readable. Raises RemoteProtocolError for data beyond the
        final size or a contradicting final size."""
    def peek(self, limit: int = ...) -> list[bytes | memoryview]:
        """Readable buffers in order: at most `limit` bytes and 64 buffers; none only if `readable` or `limit` is 0.

        They do not change after they were returned.
        """
    def consume(self, count: int) -> None:
        """Forget the next `count` readable bytes; ValueError if there are fewer."""
    def skip(self) -> int:
        """Go past the gap that the reader stands at: to the first waiting piece, or to the final size if it is known and nothing
        waits. Returns how many bytes that were; 0 if there is no gap, or readable bytes are left. What comes of them later is
        not kept."""
    def clear(self) -> int:
        """Drop all that is held; return how many bytes were held. Those that were readable count as consumed."""
    @property
    def readable(self) -> int: ...
    @property
    def read_offset(self) -> int:
        """Bytes consumed or skipped so far."""
    @property
    def highest(self) -> int:
        """End of the furthest byte seen."""
    @property
    def held(self) -> int:
        """Bytes held: readable, or waiting for a gap to be filled."""
    @property
    def pieces(self) -> int:
        """Separate pieces that wait for a gap to be filled."""
    @property
    def final_size(self) -> int:
        """-1 while unknown."""
    @property
    def at_end(self) -> bool:
        """Everything up to the final size was consumed or skipped."""

@final
class Playout:
    """The jitter buffer's beat: which of the payloads that are in order may be forwarded now (`--buffer T:N`).

    Times are seconds. beat 0: everything at once. Otherwise each `beat` forwards one payload (`merge` 0) or `merge` payloads
    together; a beat that finds no payload is skipped and not made up, unless `catch_up`, when the next one
    forwards all that piled up. Until `free_until` everything is forwarded at once; the first payload after it starts the
    clock, and the first beat is one `beat` later.

    Payloads are pushed one by one, or by their stream offsets: `expect` each one's end as it comes, in whatever order, then
    `advance` to where the stream is in order. Of payloads that come in order no end waits. At most 65,536 ends wait to be
    reached; beyond that borders are forgotten, so that payloads run together.
    """

    def __init__(self, beat: float, merge: int, catch_up: bool, free_until: float) -> None:
        """ValueError for a beat below 0, between 0 and 1 µs, or without end, and for a `merge` below 0."""
    def expect(self, end: int) -> None:
        """A payload that ends at this stream offset has come. Nothing happens where that is known, pushed or passed."""
    def advance(self, offset: int, now: float) -> None:
        """The stream is in order up to `offset`: push the payloads that end at or below it, each from the end of the one before,
        or from what was passed. Bytes above the last of these ends wait for the next call after their own end is expected."""
    def pass_by(self, offset: int) -> None:
        """The bytes from what was pushed up to `offset` were skipped: they are no payload, and no end is expected there."""
    def push(self, length: int, now: float) -> None:
        """A payload of `length` bytes is in order now. Lengths beyond 65,536 waiting payloads are added to the last one.
        One of 0 bytes is no payload; ValueError below 0.
        """
    def release(self, now: float) -> int:
        """Bytes that may be forwarded now and were not released before."""
    def deadline(self) -> float:
        """When `release` has to be called next, at once if that is past; infinity while nothing waits."""
    def beat(self, now: float, count: int) -> float:
        """When the beat is that comes `count` beats after the first one at or after `now`.

        Beats keep to the grid of the first one. Where none runs yet it is `count` beats from now, with a beat of 0 now.
        """
    @property
    def waiting(self) -> int:
        """Bytes pushed and not released."""
    @property
    def skipped(self) -> int:
        """Beats that found no payload, counted when the next payload comes or `release` is called."""

@final
class Fec:
    """Systematic Reed-Solomon over shots: with zfec's matrices, but without its hazards, and many times as fast.

    The matrices of the shapes and patterns of loss that were last in use are kept, so an object is cheap to make.
    """

    def __init__(self, data: int, parity: int, kernel: str = ...) -> None:
        """1 <= data, 1 <= parity, data + parity <= 256, `kernel` one of FEC_KERNELS; ValueError otherwise."""
    def encode(self, shots: Sequence[bytes]) -> list[bytes]:
        """The `parity` blocks of `data` shots of any lengths up to MAX_SEALED + HEADER_SIZE; ValueError otherwise."""
    def rebuild(self, shots: dict[int, bytes], parity: dict[int, _Block]) -> dict[int, bytes]:
        """The missing data shots, by index, from the present ones (index 0 to data - 1) and parity blocks (index 0 to
        parity - 1; any buffers). Raises ValueError where there are fewer than `data` or an index is out of range,
        RemoteProtocolError where they contradict each other.
        """

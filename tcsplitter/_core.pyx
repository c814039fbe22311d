# cython: language_level=3, auto_pickle=False, cdivision=True
"""The compiled core: cutting, sealing and numbering of shots, acks, buffers, beat and parity.

Everything here works on bytes and numbers that are handed in; it knows no socket and no clock. Wire formats: PROTOCOL.md.
The classes stand in the order in which a payload meets them, from the program that writes to the program that reads. Those that
share nothing with the others but small helpers are in files of their own, included in their place.
"""

cimport cython
from cpython.buffer cimport PyBUF_READ, PyBUF_SIMPLE, PyBUF_WRITE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.memoryview cimport (
    PyMemoryView_Check,
    PyMemoryView_FromMemory,
    PyMemoryView_FromObject,
    PyMemoryView_GET_BUFFER,
    PyMemoryView_GetContiguous,
)
from libc.math cimport INFINITY, exp2, floor, isfinite, log2
from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcmp, memcpy, memmove, memset

from functools import lru_cache

import zfec

from tcsplitter.errors import LocalProtocolError, RemoteProtocolError


cpdef enum:
    HEADER_SIZE = 13
    TAG_SIZE = 16
    MAX_SEALED = 1_064_960
    MAX_HELLO_SEALED = 81_920
    MAX_ACK_RANGES = 32
    MAX_FRAMES = 4096  # in a body: they cost memory that their bytes do not show
    REPLAY_WINDOW = 1 << 17
    MAX_JUMP = 1 << 24
    MAX_DATAGRAM = 65_507

cpdef enum:
    FINAL = 0x01
    HELLO = 0x02
    PARITY = 0x04

cpdef enum:
    PING = 0x01
    ACK = 0x02
    CREDIT = 0x04
    STREAM_CREDIT = 0x05
    RESET = 0x06
    CLOSE = 0x07
    STREAM = 0x08
    SKIP = 0x0c
    GONE = 0x0d
    ASK = 0x0e
    GREETING = 0x0f
    DATAGRAM = 0x10

cpdef enum:
    FRESH = 0
    SEEN = 1
    OLD = 2

cdef enum:
    _KNOWN_FLAGS = FINAL | HELLO | PARITY
    _ACK_REBUILT = 0x03  # the other type byte of an ACK frame
    _STREAM_FIN = 0x01  # bits of the type byte of a STREAM frame
    _STREAM_OPEN_ENDED = 0x02
    _DATAGRAM_FRAGMENT = 0x01  # bits of the type byte of a DATAGRAM frame
    _DATAGRAM_TIMED = 0x02
    _WANT_SIZE = 2
    _MAX_WANT = 65_535
    _BODY_HEAD = 2 * _WANT_SIZE
    _MIN_SEALED = _BODY_HEAD + TAG_SIZE
    _MAX_BODY = MAX_SEALED - TAG_SIZE
    _MAX_KIND = 3  # of a carrier
    _MAX_REASON = 255
    _FRAME_HEAD = 1 + 7 * 8  # the longest frame but ACK, without data and reason
    _PARITY_HEAD = 3  # index and counts
    _ACK_HEAD = 1 + 2 * 8 + 2 * (8 + MAX_ACK_RANGES * 2 * 8)
    _FIRST_CAPACITY = 16_384
    _NO_LIMIT = 0x7fff_ffff
    _JOIN_SIZE = 4_096  # neighbours in a run that fit into this are joined
    _LEND_FROM = 4_096  # data of a frame that are worth sealing in place
    _PEEK_BUFFERS = 64  # well below IOV_MAX of every system
    _COMPACT_AFTER = 64  # used-up entries of a list before it is cut
    _ACK_GENERATIONS = 3  # acks each number is listed in
    _MAX_HELD_RANGES = 4_096  # per generation
    _WORD_BITS = 64
    _WINDOW_WORDS = _REPLAY_WORDS
    _MAX_WAITING_PAYLOADS = 65_536
    _NUMBER_SIZE = 8  # bytes of a shot's number, the last of its header
    _NONCE_SIZE = 12  # the number behind zeros
    _MAX_BLOCKS = 256  # of a stripe: the field of zfec is GF(2**8)
    _MAX_MATRICES = 256
    _BLOCK_PREFIX = 3
    _MAX_BLOCK = _BLOCK_PREFIX + HEADER_SIZE + MAX_SEALED

# An enum of C need not hold more than an int.
cdef int64_t _MAX_VARINT = (<int64_t> 1 << 62) - 1
MAX_VARINT = _MAX_VARINT
ROOM_AROUND = _ROOM_AROUND


# --- Integers on the wire -------------------------------------------------------------------------------------------------
# What: big-endian integers and the varints of RFC 9000 section 16. Invariant: by shifts, so neither the machine's byte order
# nor alignment matters. Bound: the caller has made sure of the room. Cost: a few instructions.

cdef inline uint64_t _load(const uint8_t* at, int count) noexcept nogil:
    cdef uint64_t value = 0
    cdef int i
    for i in range(count):
        value = value << 8 | at[i]
    return value


cdef inline void _store(uint8_t* at, uint64_t value, int count) noexcept nogil:
    cdef int i
    for i in range(count - 1, -1, -1):
        at[i] = <uint8_t> (value & 0xff)
        value >>= 8


cdef inline int _store_varint(uint8_t* at, uint64_t value) noexcept nogil:
    """Returns the bytes it took."""
    cdef int exponent = 0 if value < 1 << 6 else 1 if value < 1 << 14 else 2 if value < 1 << 30 else 3
    _store(at, value, 1 << exponent)
    at[0] |= exponent << 6
    return 1 << exponent


# --- SendBuffer and the run of chunks below it ----------------------------------------------------------------------------
# What: consecutive bytes of a stream in the buffers they came in. Invariant: `size` is the length of the chunks from `first`
# on, less `skip`; two neighbours together are longer than _JOIN_SIZE, so a stream of single bytes costs no object each. Only a
# bytearray ever grows, and it is made bytes before anyone outside sees it. Bound: the caller's. Cost: O(1) per chunk, one copy
# of at most _JOIN_SIZE bytes where chunks are joined; prepend and absorb move the list's pointers.

@cython.final
cdef class _Run:
    def __cinit__(self, int64_t start):
        self.start = start
        self.chunks = []

    cdef int append(self, object chunk) except -1:
        cdef Py_ssize_t last = len(self.chunks) - 1
        if last >= self.first and len(self.chunks[last]) + len(chunk) <= _JOIN_SIZE:
            if type(self.chunks[last]) is not bytearray:
                self.chunks[last] = bytearray(self.chunks[last])
            self.chunks[last] += chunk
        else:
            self.chunks.append(chunk)
        self.size += len(chunk)
        return 0

    cdef int prepend(self, object chunk) except -1:
        """Only for a run of which nothing was dropped yet."""
        if len(self.chunks[0]) + len(chunk) <= _JOIN_SIZE:
            self.chunks[0] = bytearray(chunk) + self.chunks[0]
        else:
            self.chunks.insert(0, chunk)
        self.size += len(chunk)
        self.start -= len(chunk)
        return 0

    cdef int absorb(self, _Run following) except -1:
        """Take over the run that starts where this one ends."""
        cdef Py_ssize_t size = self.size + following.size
        self.append(following.chunks[0])
        self.chunks.extend(following.chunks[1:])
        self.size = size
        return 0

    cdef list views(self, Py_ssize_t limit, Py_ssize_t most):
        cdef list found = []
        cdef Py_ssize_t at = self.first, skip = self.skip, left = min(limit, self.size), length
        while left > 0 and len(found) < most:
            chunk = self.chunks[at]
            if type(chunk) is bytearray:
                self.chunks[at] = chunk = bytes(chunk)
            length = min(len(chunk) - skip, left)
            if length < len(chunk):
                chunk = PyMemoryView_FromObject(chunk)[skip:skip + length]
            found.append(chunk)
            left -= length
            skip = 0
            at += 1
        return found

    cdef int drop(self, Py_ssize_t count) except -1:
        self.start += count
        self.size -= count
        if self.size == 0:
            self.chunks.clear()
            self.first = self.skip = 0
            return 0
        count += self.skip
        while count >= len(self.chunks[self.first]):
            count -= len(self.chunks[self.first])
            self.chunks[self.first] = None
            self.first += 1
        self.skip = count
        if self.first >= _COMPACT_AFTER and 2 * self.first >= len(self.chunks):
            del self.chunks[:self.first]
            self.first = 0
        return 0


@cython.final
cdef class SendBuffer:
    """Bytes of a stream that were never sent, in order."""

    def __cinit__(self):
        self._unsent = _Run(0)

    cpdef write(self, data):
        """Add to the end."""
        if len(data):
            self._unsent.append(data)

    cpdef object take(self, Py_ssize_t limit):
        """Remove and return the next min(limit, unsent) bytes as one object: a view where they are many of one buffer."""
        cdef list views = self._unsent.views(limit, self._unsent.size)
        cdef object taken = views[0] if len(views) == 1 and len(views[0]) > _JOIN_SIZE else b"".join(views)
        if views:
            self._unsent.drop(len(taken))
            self.offset = self._unsent.start
        return taken

    def clear(self):
        """Drop all; return how many bytes."""
        cdef Py_ssize_t count = self._unsent.size
        self._unsent.drop(count)
        self.offset = self._unsent.start
        return count

    def __len__(self):
        return self._unsent.size


# --- ShotWriter -----------------------------------------------------------------------------------------------------------
# What: builds a body frame by frame, then seals it (PROTOCOL.md sections 3 and 5). Invariant: `size` covers whole frames only;
# a frame is written from `_at` on and counts once it is known to fit, so a refused frame leaves the body as it was. Bound: one
# buffer, about twice the largest body. Cost: one copy of the sealed body behind its header, where the shot is made.
#
# Data that make up most of a body are not copied into it, if what they were cut from has room to both sides: they stay where they
# are until the body is sealed, and what goes before and behind them is then put there for that moment. So `_buffer` holds the
# first `_cut` bytes of the body and, right behind them, what follows the `_lent` bytes at `_data`.

@cython.final
cdef class ShotWriter:
    """Builds one body at a time in a buffer of its own and seals it. Reused for every shot of a session."""

    def __cinit__(self):
        self._buffer = bytearray(_FIRST_CAPACITY)

    cdef int _start(self, Py_ssize_t most) except -1:
        """Make room for a frame of at most `most` bytes."""
        if self.size == 0 or self._is_parity:
            raise LocalProtocolError("a frame was added to parity" if self.size else "a frame was added before the body was begun")
        self._at = self.size - self._lent
        self._reserve(self._at + most)
        return 0

    cdef int _reserve(self, Py_ssize_t size) except -1:
        if size > len(self._buffer):
            PyByteArray_Resize(self._buffer, max(size, min(2 * len(self._buffer), 2 * _MAX_BODY)))
        return 0

    cdef int _finish(self) except -1:
        if self._at + self._lent > _MAX_BODY:
            raise LocalProtocolError(f"a body of {self._at + self._lent} bytes, but a shot holds {_MAX_BODY}")
        self.size = self._at + self._lent
        return 0

    cdef inline uint8_t* _end(self) noexcept:
        return <uint8_t*> PyByteArray_AS_STRING(self._buffer) + self._at

    cdef inline void _put_byte(self, uint8_t value) noexcept:
        self._end()[0] = value
        self._at += 1

    cdef int _put_varint(self, int64_t value) except -1:
        if not 0 <= value <= _MAX_VARINT:
            raise LocalProtocolError(f"{value} does not fit into a varint")
        self._at += _store_varint(self._end(), value)
        return 0

    cdef inline void _put_bytes(self, const void* data, Py_ssize_t count) noexcept:
        memcpy(self._end(), data, count)
        self._at += count

    cdef int _put_ranges(self, list ranges) except -1:
        if not 1 <= len(ranges) <= MAX_ACK_RANGES:
            raise LocalProtocolError(f"{len(ranges)} ranges in an ack: 1 to {MAX_ACK_RANGES} are possible")
        self._put_varint(len(ranges))
        previous = None
        for low, high in ranges:
            if low < 0:
                raise LocalProtocolError(f"a range from {low} on in an ack")
            self._put_varint(high if previous is None else previous - high - 2)
            self._put_varint(high - low)
            previous = low
        return 0

    cdef int _put_head(self, uint8_t kind, tuple values, Py_ssize_t rest) except -1:
        """What a frame begins with, and room for `rest` bytes behind it."""
        self._start(_FRAME_HEAD + rest)
        self._put_byte(kind)
        for value in values:
            self._put_varint(value)
        return 0

    cdef int _put_frame(self, uint8_t kind, tuple values) except -1:
        self._put_head(kind, values, 0)
        return self._finish()

    cdef int _put_data(self, const Py_buffer* data) except -1:
        """The length and the data with which a frame ends."""
        self._put_varint(data.len)
        self._put_bytes(data.buf, data.len)
        return self._finish()

    cpdef begin(self, int64_t want, int64_t held):
        """Start a body; `want` and `held` above 65,535 are cut to that."""
        cdef uint8_t* head = <uint8_t*> PyByteArray_AS_STRING(self._buffer)
        if want < 0 or held < 0:
            raise LocalProtocolError(f"want is {want}, held is {held}")
        _store(head, min(want, _MAX_WANT), _WANT_SIZE)
        _store(head + _WANT_SIZE, min(held, _MAX_WANT), _WANT_SIZE)
        self.size = _BODY_HEAD
        self._is_parity = self._is_hello = False
        self._give_back()

    cpdef greeting(self, int kind, int64_t connect_us):
        """Begin a hello: the first frame, which makes the shot one. What is above 2**32 - 1 µs is cut to that."""
        if self.size != _BODY_HEAD or not 0 <= kind <= _MAX_KIND or connect_us < 0:
            raise LocalProtocolError(f"no greeting: kind {kind}, {connect_us} µs, {self.size} bytes before it")
        self._start(_FRAME_HEAD)
        self._put_byte(GREETING)
        self._put_byte(kind)
        _store(self._end(), min(connect_us, 0xffffffff), 4)
        self._at += 4
        self._finish()
        self._is_hello = True

    def ping(self):
        self._put_frame(PING, ())

    cpdef ack(self, int64_t answered, int64_t delay_us, list ranges, list rebuilt):
        """An ack of `ranges` and, where there are any, of `rebuilt` ones. LocalProtocolError for ranges out of order."""
        self._start(_ACK_HEAD)
        self._put_byte(_ACK_REBUILT if len(rebuilt) else ACK)  # None is no list of ranges: len() raises
        self._put_varint(answered)
        self._put_varint(delay_us)
        self._put_ranges(ranges)
        if rebuilt:
            self._put_ranges(rebuilt)
        self._finish()

    def credit(self, total):
        self._put_frame(CREDIT, (total,))

    def stream_credit(self, stream_id, limit, read):
        """The stream may be sent up to `limit`; its program has taken all below `read`."""
        self._put_frame(STREAM_CREDIT, (stream_id, limit, read))

    def reset(self, stream_id, code, final_size):
        self._put_frame(RESET, (stream_id, code, final_size))

    def close(self, code, str reason not None):
        """Ends the session. The reason is cut to 255 bytes of UTF-8."""
        # Cut in the middle of a character it would be no UTF-8 any more.
        cdef bytes text = reason.encode("utf-8", "replace")[:_MAX_REASON].decode("utf-8", "ignore").encode("utf-8")
        self._start(_FRAME_HEAD + _MAX_REASON)
        self._put_byte(CLOSE)
        self._put_varint(code)
        self._put_byte(<uint8_t> len(text))
        self._put_bytes(PyBytes_AS_STRING(text), len(text))
        self._finish()

    cpdef stream(self, int64_t stream_id, int64_t offset, data, bint fin):
        """Stream bytes from `offset` on, which must not change before the body is sealed. LocalProtocolError where they do not
        fit into the body."""
        cdef Py_buffer view
        cdef bint lent
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if view.len > _MAX_BODY or offset > _MAX_VARINT - view.len:
                raise LocalProtocolError(f"{view.len} bytes at offset {offset} are too many for a frame")
            lent = self._is_lendable(data, &view)
            self._start(_FRAME_HEAD if lent else _FRAME_HEAD + view.len)
            self._put_byte(STREAM | _STREAM_FIN if fin else STREAM)
            self._put_varint(stream_id)
            self._put_varint(offset)
            if lent:
                self._put_varint(view.len)
                self._borrow(data, &view)
            else:
                self._put_data(&view)
        finally:
            PyBuffer_Release(&view)

    cdef bint _is_lendable(self, object data, const Py_buffer* view) except -1:
        """Whether a body may be sealed around the data, and it is worth while: they are a part of a bytearray, which may change,
        in the middle of it, and no other data were lent."""
        cdef Py_ssize_t before
        if view.len < _LEND_FROM or self._lent or not PyMemoryView_Check(data):
            return False
        cdef object whole = data.obj
        if type(whole) is not bytearray:
            return False
        before = <char*> view.buf - PyByteArray_AS_STRING(whole)
        return before >= _ROOM_AROUND and PyByteArray_GET_SIZE(whole) - before - view.len >= _ROOM_AROUND

    cdef int _borrow(self, object data, const Py_buffer* view) except -1:
        """Leave a frame's data where they are."""
        if self._at + view.len > _MAX_BODY:
            raise LocalProtocolError(f"a body of {self._at + view.len} bytes, but a shot holds {_MAX_BODY}")
        self._lender = data
        self._data = <char*> view.buf
        self._lent = view.len
        self._cut = self._at
        return self._finish()

    cdef void _give_back(self) noexcept:
        self._lender = None
        self._lent = 0

    cdef int _copy_lent(self) except -1:
        """Have all of the body in one piece: what goes around the data has grown too long for the place there is."""
        cdef Py_ssize_t behind = self.size - self._lent - self._cut
        cdef char* at
        self._reserve(self.size)
        at = PyByteArray_AS_STRING(self._buffer) + self._cut
        memmove(at + self._lent, at, behind)
        memcpy(at, self._data, self._lent)
        self._give_back()
        return 0

    def skip(self, stream_id, offset):
        """What this end gets of the stream below `offset` it needs no more."""
        self._put_frame(SKIP, (stream_id, offset))

    def gone(self, number):
        """The carrier whose hello had this number was given up."""
        self._put_frame(GONE, (number,))

    def ask(self, number):
        """Whether the shot of this number arrived is to be said again."""
        self._put_frame(ASK, (number,))

    def datagram(self, flow_id, number, stamp, deadline, total, offset, data):
        """A datagram of `total` bytes, or the fragment of it from `offset` on; timed unless `stamp` is below 0."""
        cdef Py_buffer view
        cdef uint8_t kind = DATAGRAM
        cdef tuple values = (flow_id, number)
        if stamp >= 0:
            kind |= _DATAGRAM_TIMED
            values += (stamp, deadline)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            if total > MAX_DATAGRAM or offset < 0 or offset + view.len > total:
                raise LocalProtocolError(f"{view.len} bytes at offset {offset} of a datagram of {total}")
            if view.len != total:
                kind |= _DATAGRAM_FRAGMENT
                values += (total, offset)
            self._put_head(kind, values, view.len)
            self._put_data(&view)
        finally:
            PyBuffer_Release(&view)

    def parity(self, index, data, parity, list numbers not None, bytes block not None):
        """One of `parity` blocks over the shots of `data` numbers, which rise; the body holds nothing else."""
        if self.size != _BODY_HEAD or not 0 <= index < parity or data != len(numbers) or not 1 <= data <= _MAX_BLOCKS - parity:
            raise LocalProtocolError(f"parity {index} of {data}+{parity} over {len(numbers)} shots")
        self._start(_PARITY_HEAD + data * 8 + len(block))
        self._put_byte(index)
        self._put_byte(data)
        self._put_byte(parity)
        previous = None
        for number in numbers:
            self._put_varint(number if previous is None else number - previous - 1)
            previous = number
        self._put_bytes(PyBytes_AS_STRING(block), len(block))
        self._finish()
        self._is_parity = True

    cpdef bytes seal(self, aead, int flags, int epoch, int64_t number, bytes before=b""):
        """Seal the body: the shot as it goes on the wire, behind what goes `before` it. The body is gone after that."""
        if self.size == 0:
            raise LocalProtocolError("there is no body to be sealed")
        if flags not in (0, FINAL):
            raise LocalProtocolError(f"flags {flags:#x}: those of a body's kind come by themselves")
        if self._is_parity:
            flags |= PARITY
        if self._is_hello:
            flags |= HELLO
            if self.size + TAG_SIZE > MAX_HELLO_SEALED:
                raise LocalProtocolError(f"a hello with a body of {self.size} bytes")
        if self._lent and self.size - self._lent > _ROOM_AROUND:
            self._copy_lent()
        cdef bytes shot
        if self._lent:
            shot = self._seal_around(aead, flags, epoch, number, before)
        else:
            shot = _seal(aead, flags, epoch, number, PyMemoryView_FromObject(self._buffer)[:self.size], self.size, before)
        self.size = 0
        self._give_back()
        return shot

    cdef bytes _seal_around(self, object aead, int flags, int epoch, int64_t number, bytes before):
        """Seal the body where its data are. What stands to both sides of them is other data, and is there again after that."""
        cdef char[_ROOM_AROUND] kept
        cdef char* own = PyByteArray_AS_STRING(self._buffer)
        cdef char* first = self._data - self._cut
        cdef char* behind = self._data + self._lent
        cdef Py_ssize_t rest = self.size - self._lent - self._cut
        cdef object body = PyMemoryView_FromMemory(first, self.size, PyBUF_READ)
        memcpy(kept, first, self._cut)
        memcpy(kept + self._cut, behind, rest)
        try:
            memcpy(first, own, self._cut)
            memcpy(behind, own + self._cut, rest)
            return _seal(aead, flags, epoch, number, body, self.size, before)
        finally:
            memcpy(first, kept, self._cut)
            memcpy(behind, kept + self._cut, rest)
            body.release()  # as in _crypt


cdef bytes _seal(object aead, int flags, int epoch, int64_t number, object body, Py_ssize_t size, bytes before):
    """What goes before, header and sealed body. The tag's size is the cipher's promise, so it is checked."""
    cdef uint8_t header[HEADER_SIZE]
    cdef bytes head, shot
    cdef Py_ssize_t first = len(before)
    cdef char* at
    if not 0 <= epoch <= 255 or not 0 <= number <= _MAX_VARINT:
        raise LocalProtocolError(f"epoch {epoch}, number {number}: out of range")
    header[0] = flags
    header[1] = epoch
    _store(header + 2, size + TAG_SIZE, 3)
    _store(header + 5, number, 8)
    head = PyBytes_FromStringAndSize(<char*> header, HEADER_SIZE)
    shot = PyBytes_FromStringAndSize(NULL, first + HEADER_SIZE + size + TAG_SIZE)
    at = PyBytes_AS_STRING(shot)
    memcpy(at, PyBytes_AS_STRING(before), first)
    memcpy(at + first, header, HEADER_SIZE)
    _crypt(aead.encrypt_into, head, body, at + first + HEADER_SIZE, size + TAG_SIZE)
    return shot


cdef int _crypt(object cipher, bytes head, object data, char* at, Py_ssize_t size) except -1:
    """Let the cipher write its `size` bytes to `at`, into a bytes object that nobody else has seen yet."""
    cdef object into = PyMemoryView_FromMemory(at, size, PyBUF_WRITE)
    cdef bytes nonce = PyBytes_FromStringAndSize(NULL, _NONCE_SIZE)
    memset(PyBytes_AS_STRING(nonce), 0, _NONCE_SIZE - _NUMBER_SIZE)
    memcpy(
        PyBytes_AS_STRING(nonce) + _NONCE_SIZE - _NUMBER_SIZE,
        PyBytes_AS_STRING(head) + HEADER_SIZE - _NUMBER_SIZE,
        _NUMBER_SIZE,
    )
    cdef Py_ssize_t made = cipher(nonce, data, head, into)
    into.release()  # so that the cipher, had it kept a view, would fail here instead of writing there later
    if made != size:
        raise LocalProtocolError(f"the cipher made {made} bytes of {len(data)}, not {size}")
    return 0


# --- Fec ------------------------------------------------------------------------------------------------------------------
# Parity over the sealed shots of a stripe.

include "_fec.pxi"


# --- ShotReader -----------------------------------------------------------------------------------------------------------
# What: cuts what a carrier brings into sealed shots (PROTOCOL.md sections 3 and 4). Invariant: the first `pending` bytes of
# `_partial` are the start of one shot whose header, once it is there, was checked; nobody else sees that object before it is the
# whole shot. Nothing is kept of a refused one. Bound: one shot, and twice what came of it. Cost: none for whole shots of a view,
# or where bytes are exactly one; otherwise one copy of each byte, two at the most where a shot came in pieces.

@cython.final
cdef class ShotReader:
    """Cuts the bytes of a carrier into sealed shots, whatever pieces they come in."""

    def __cinit__(self, bint expect_hello=False):
        self._partial = b""
        self._expect_hello = expect_hello

    cpdef list feed(self, data, Py_ssize_t skip=0):
        """Take what was read, but for its first `skip` bytes; return the shots that are now whole. RemoteProtocolError once and
        for good."""
        cdef Py_buffer view
        cdef object plain = _plain(data)
        if self._failed:
            raise RemoteProtocolError("this carrier has already broken the protocol")
        PyObject_GetBuffer(plain, &view, PyBUF_SIMPLE)
        try:
            return self._cut(plain, &view, skip)
        except BaseException:
            self._failed = True
            self._forget()
            raise
        finally:
            PyBuffer_Release(&view)

    cdef list _cut(self, object data, const Py_buffer* view, Py_ssize_t at):
        cdef list records = []
        cdef const uint8_t* base = <const uint8_t*> view.buf
        cdef Py_ssize_t end = view.len, size
        if self.pending:
            at += self._complete(base + at, end - at, records)
        while at < end:
            if self._ended:
                raise RemoteProtocolError("bytes after the shot that was marked as the last one")
            size = HEADER_SIZE if end - at < HEADER_SIZE else _shot_size(base + at, self._expect_hello)
            if size > end - at:
                self._keep(base + at, end - at, size)
                break
            records.append(self._record(base + at, data if size == end else data[at:at + size]))
            at += size
        return records

    cdef Py_ssize_t _complete(self, const unsigned char* data, Py_ssize_t count, list records) except -1:
        """Add to the partial shot; return how many bytes it took."""
        cdef Py_ssize_t used = 0, size
        cdef bytes shot
        if self.pending < HEADER_SIZE:
            used = min(HEADER_SIZE - self.pending, count)
            self._keep(data, used, HEADER_SIZE)
            if self.pending < HEADER_SIZE:
                return used
        size = _shot_size(<const uint8_t*> PyBytes_AS_STRING(self._partial), self._expect_hello)
        count = min(size - self.pending, count - used)
        self._keep(data + used, count, size)
        if self.pending == size:
            shot = self._partial
            self._forget()
            records.append(self._record(<const uint8_t*> PyBytes_AS_STRING(shot), shot))
        return used + count

    cdef int _keep(self, const unsigned char* data, Py_ssize_t count, Py_ssize_t size) except -1:
        """Add to the partial shot, of which `size` bytes are to come as far as that is known."""
        cdef bytes wider
        if self.pending + count > len(self._partial):
            wider = PyBytes_FromStringAndSize(NULL, min(size, 2 * (self.pending + count)))
            memcpy(PyBytes_AS_STRING(wider), PyBytes_AS_STRING(self._partial), self.pending)
            self._partial = wider
        memcpy(PyBytes_AS_STRING(self._partial) + self.pending, data, count)
        self.pending += count
        self.missing = size - self.pending
        return 0

    cdef void _forget(self) noexcept:
        self._partial = b""
        self.pending = self.missing = 0

    cdef tuple _record(self, const uint8_t* header, object shot):
        self._expect_hello = False
        self._ended = header[0] & FINAL != 0
        return header[0], header[1], _load(header + 5, 8), shot


cdef Py_ssize_t _shot_size(const uint8_t* header, bint hello) except -1:
    """Bytes of a whole shot, after the checks of its flags, length and number."""
    cdef Py_ssize_t sealed = <Py_ssize_t> _load(header + 2, 3)
    if header[0] & ~_KNOWN_FLAGS:
        raise RemoteProtocolError(f"unknown flags {header[0]:#x}")
    if (header[0] & HELLO != 0) != hello:
        raise RemoteProtocolError("a shot where a hello was due" if hello else "a hello where a shot was due")
    if not _MIN_SEALED <= sealed <= (MAX_HELLO_SEALED if hello else MAX_SEALED):
        raise RemoteProtocolError(f"a sealed length of {sealed}")
    if _load(header + 5, 8) > <uint64_t> _MAX_VARINT:
        raise RemoteProtocolError("a number beyond the last")
    return HEADER_SIZE + sealed


# --- ReplayWindow ---------------------------------------------------------------------------------------------------------
# What: which numbers were opened (RFC 6479). Invariant: for every number of the window a bit, set where it was opened; the one
# word beyond the window lets whole words be cleared when it moves. Bound: 16 KB, inside the object. Cost: O(1); moving on
# clears each word at most once.

@cython.final
cdef class ReplayWindow:
    """The numbers opened so far: REPLAY_WINDOW up to the highest."""

    @property
    def highest(self):
        """Highest number marked, -1 before the first."""
        return <int64_t> self._next - 1

    cpdef int check(self, uint64_t number) except -1:
        """FRESH, SEEN or OLD; changes nothing."""
        if number >= self._next:
            return FRESH
        if number + REPLAY_WINDOW < self._next:
            return OLD
        return SEEN if self._bits[number // _WORD_BITS % _WINDOW_WORDS] >> number % _WORD_BITS & 1 else FRESH

    cpdef mark(self, uint64_t number):
        """Mark an opened number. RemoteProtocolError for a jump over MAX_JUMP, ValueError if it is not FRESH."""
        if self.check(number) != FRESH:
            raise ValueError(f"number {number} was marked before or is too old")
        if number >= self._next:
            if number - self._next >= MAX_JUMP:
                raise RemoteProtocolError(f"shot {number} is too far above {self.highest}")
            self._advance(number)
        self._bits[number // _WORD_BITS % _WINDOW_WORDS] |= <uint64_t> 1 << number % _WORD_BITS

    cdef void _advance(self, uint64_t number) noexcept:
        # The word of `_next` itself is in use already, unless `_next` is its first bit.
        cdef uint64_t word = (self._next + _WORD_BITS - 1) // _WORD_BITS
        cdef uint64_t last = number // _WORD_BITS
        if last >= word + _WINDOW_WORDS:
            word = last + 1 - _WINDOW_WORDS
        while word <= last:
            self._bits[word % _WINDOW_WORDS] = 0
            word += 1
        self._next = number + 1


# --- open_frames, open_parity ---------------------------------------------------------------------------------------------
# What: opens a shot and takes its body apart in one call (PROTOCOL.md sections 3 to 5). Invariant: a cursor never passes the
# end of the body; every length and count is checked against what is left, or its limit, before it is used. Bound: one list entry
# for each frame. Cost: one pass; data that makes up half of the body is not copied.

cdef struct _Cursor:
    const uint8_t* base
    Py_ssize_t at
    Py_ssize_t end


cdef const uint8_t* _read(_Cursor* cursor, int64_t count) except NULL:
    """The next `count` bytes."""
    cdef const uint8_t* found = cursor.base + cursor.at
    if count > cursor.end - cursor.at:
        raise RemoteProtocolError("a frame is cut short")
    cursor.at += count
    return found


cdef int64_t _read_varint(_Cursor* cursor) except -1:
    cdef const uint8_t* first = _read(cursor, 1)
    cdef int size = 1 << (first[0] >> 6)
    _read(cursor, size - 1)
    return <int64_t> (_load(first, size) & ((<uint64_t> 1 << (8 * size - 2)) - 1))


cdef list _read_ranges(_Cursor* cursor):
    cdef int64_t count = _read_varint(cursor), high, low = 0, i
    cdef list ranges = []
    if not 1 <= count <= MAX_ACK_RANGES:
        raise RemoteProtocolError(f"{count} ranges in an ack")
    for i in range(count):
        high = low - 2 - _read_varint(cursor) if i else _read_varint(cursor)
        low = high - _read_varint(cursor)
        if low < 0:
            raise RemoteProtocolError("a range below 0 in an ack")
        ranges.append((low, high))
    return ranges


cdef tuple _read_ack(_Cursor* cursor, bint with_rebuilt):
    cdef int64_t answered = _read_varint(cursor), delay_us = _read_varint(cursor)
    cdef list ranges = _read_ranges(cursor)
    return ACK, answered, delay_us, ranges, _read_ranges(cursor) if with_rebuilt else []


cdef tuple _read_close(_Cursor* cursor):
    cdef int64_t code = _read_varint(cursor)
    cdef int length = _read(cursor, 1)[0]
    cdef bytes reason = PyBytes_FromStringAndSize(<const char*> _read(cursor, length), length)
    try:
        return CLOSE, code, reason.decode("utf-8")
    except UnicodeDecodeError:
        raise RemoteProtocolError("the reason of a close is not UTF-8") from None


cdef object _read_data(_Cursor* cursor, int64_t length, bytes body):
    cdef Py_ssize_t start = cursor.at
    _read(cursor, length)
    # A view of a small part would keep the whole body alive.
    return PyMemoryView_FromObject(body)[start:cursor.at] if length and 2 * length >= len(body) else body[start:cursor.at]


cdef tuple _read_stream(_Cursor* cursor, int kind, bytes body):
    cdef int64_t stream_id = _read_varint(cursor), offset = _read_varint(cursor), length
    length = cursor.end - cursor.at if kind & _STREAM_OPEN_ENDED else _read_varint(cursor)
    cdef object data = _read_data(cursor, length, body)
    if offset > _MAX_VARINT - length:
        raise RemoteProtocolError(f"stream data ends above {_MAX_VARINT}")
    return STREAM, stream_id, offset, data, kind & _STREAM_FIN != 0


cdef tuple _read_datagram(_Cursor* cursor, int kind, bytes body):
    cdef int64_t flow_id = _read_varint(cursor), number = _read_varint(cursor), stamp = -1, deadline = -1
    cdef int64_t total = -1, offset = 0, length
    if kind & _DATAGRAM_TIMED:
        stamp = _read_varint(cursor)
        deadline = _read_varint(cursor)
    if kind & _DATAGRAM_FRAGMENT:
        total = _read_varint(cursor)
        offset = _read_varint(cursor)
    length = _read_varint(cursor)
    if total < 0:
        total = length
    if total > MAX_DATAGRAM or offset > total - length:
        raise RemoteProtocolError(f"{length} bytes at offset {offset} of a datagram of {total}")
    return DATAGRAM, flow_id, number, stamp, deadline, total, offset, _read_data(cursor, length, body)


cdef tuple _read_greeting(_Cursor* cursor):
    cdef const uint8_t* frame = _read(cursor, 6)
    if frame[0] != GREETING or frame[1] > _MAX_KIND:
        raise RemoteProtocolError(f"a hello that begins with {frame[0]:#x}, kind {frame[1]}")
    return GREETING, frame[1], _load(frame + 2, 4)


cdef tuple _read_frame(_Cursor* cursor, bytes body):
    cdef int kind = _read(cursor, 1)[0]
    if STREAM <= kind <= STREAM | _STREAM_FIN | _STREAM_OPEN_ENDED:
        return _read_stream(cursor, kind, body)
    if kind == ACK or kind == _ACK_REBUILT:
        return _read_ack(cursor, kind == _ACK_REBUILT)
    if kind == PING:
        return (PING,)
    if kind == CREDIT:
        return CREDIT, _read_varint(cursor)
    if kind == STREAM_CREDIT:
        return STREAM_CREDIT, _read_varint(cursor), _read_varint(cursor), _read_varint(cursor)
    if kind == RESET:
        return RESET, _read_varint(cursor), _read_varint(cursor), _read_varint(cursor)
    if DATAGRAM <= kind <= DATAGRAM | _DATAGRAM_FRAGMENT | _DATAGRAM_TIMED:
        return _read_datagram(cursor, kind, body)
    if kind == SKIP:
        return SKIP, _read_varint(cursor), _read_varint(cursor)
    if kind == GONE:
        return GONE, _read_varint(cursor)
    if kind == ASK:
        return ASK, _read_varint(cursor)
    if kind == CLOSE:
        return _read_close(cursor)
    raise RemoteProtocolError(f"unknown frame type {kind:#x}")


cdef bytes _open(object aead, object record, int* flags):
    """The body and the flags of a shot. One that was rebuilt from parity has not met a ShotReader, so the header is checked here
    too."""
    cdef Py_buffer view
    cdef const uint8_t* header
    cdef bytes head, body
    cdef Py_ssize_t size
    PyObject_GetBuffer(record, &view, PyBUF_SIMPLE)
    try:
        header = <const uint8_t*> view.buf
        if view.len < HEADER_SIZE or view.len != _shot_size(header, header[0] & HELLO != 0):
            raise RemoteProtocolError(f"a shot of {view.len} bytes is not as long as it says")
        flags[0] = header[0]
        head = PyBytes_FromStringAndSize(<const char*> header, HEADER_SIZE)
        size = view.len - HEADER_SIZE - TAG_SIZE
        body = PyBytes_FromStringAndSize(NULL, size)
        sealed = PyMemoryView_FromMemory(<char*> header + HEADER_SIZE, size + TAG_SIZE, PyBUF_READ)
        _crypt(aead.decrypt_into, head, sealed, PyBytes_AS_STRING(body), size)
        sealed.release()  # as in _crypt
        return body
    finally:
        PyBuffer_Release(&view)


cpdef tuple open_frames(aead, record):
    """Open a shot and take its body apart: want, held, and the frames in order. Raises InvalidTag or RemoteProtocolError."""
    cdef int flags
    cdef bytes body = _open(aead, record, &flags)
    cdef _Cursor cursor
    cdef list frames = []
    if flags & PARITY:
        raise RemoteProtocolError("parity where frames were due")
    cursor.base = <const uint8_t*> PyBytes_AS_STRING(body)
    cursor.at = _BODY_HEAD
    cursor.end = len(body)
    if flags & HELLO:
        frames.append(_read_greeting(&cursor))
    while cursor.at < cursor.end:
        if len(frames) == MAX_FRAMES:
            raise RemoteProtocolError(f"more than {MAX_FRAMES} frames in a shot")
        frames.append(_read_frame(&cursor, body))
    return _load(cursor.base, _WANT_SIZE), _load(cursor.base + _WANT_SIZE, _WANT_SIZE), frames


def open_parity(aead, record):
    """Open a parity shot: want, held, index, number of parity blocks, the numbers it covers, its block. Raises InvalidTag or
    RemoteProtocolError."""
    cdef int flags
    cdef bytes body = _open(aead, record, &flags)
    cdef const uint8_t* base = <const uint8_t*> PyBytes_AS_STRING(body)
    cdef _Cursor cursor
    cdef list numbers = []
    cdef int64_t number = -1
    cdef int i, data, parity
    if not flags & PARITY or flags & HELLO:
        raise RemoteProtocolError("frames where parity was due")
    cursor.base = base
    cursor.at = _BODY_HEAD + _PARITY_HEAD
    cursor.end = len(body)
    if cursor.at > cursor.end:
        raise RemoteProtocolError("parity is cut short")
    data = base[_BODY_HEAD + 1]
    parity = base[_BODY_HEAD + 2]
    if data == 0 or base[_BODY_HEAD] >= parity or data + parity > _MAX_BLOCKS:
        raise RemoteProtocolError(f"parity {base[_BODY_HEAD]} of {data}+{parity}")
    for i in range(data):
        number += 1 + _read_varint(&cursor)
        if number > _MAX_VARINT:
            raise RemoteProtocolError("parity over shots beyond the last number")
        numbers.append(number)
    cdef object block = PyMemoryView_FromObject(body)[cursor.at:]
    return _load(base, _WANT_SIZE), _load(base + _WANT_SIZE, _WANT_SIZE), base[_BODY_HEAD], parity, numbers, block


# --- RangeSet, AckLog -----------------------------------------------------------------------------------------------------
# Sets of numbers, and what is still to be acknowledged.

include "_numbers.pxi"


# --- Quantiles ------------------------------------------------------------------------------------------------------------
# What: a histogram of delays in eighths of octaves from 1 µs on. Invariant: `_total` is the sum of `_counts`, and at most `_fade`
# after each sample. Bound: 2 KB, inside the object. Cost: O(1) to add; O(buckets) to ask, and once for every `_fade` / 2 samples.

@cython.final
cdef class Quantiles:
    """Quantiles of delays, older samples fading by halves whenever more than `fade` of them count."""

    def __cinit__(self, double fade=2048):
        self._fade = fade

    cpdef add(self, double seconds):
        cdef double eighths = 8 * log2(max(seconds * 1e6, 1.0))
        cdef int i
        self._counts[<int> min(eighths, _DELAY_BUCKETS - 1)] += 1
        self._total += 1
        if self._total > self._fade:
            for i in range(_DELAY_BUCKETS):
                self._counts[i] /= 2
            self._total /= 2

    cpdef double at(self, double share):
        """The delay that `share` of the samples did not exceed, rounded up to a bucket's end; 0 without samples."""
        cdef double wanted = share * self._total
        cdef int bucket = 0
        if not wanted:
            return 0.0
        while bucket < _DELAY_BUCKETS - 1 and wanted > self._counts[bucket]:
            wanted -= self._counts[bucket]
            bucket += 1
        return exp2((bucket + 1) / 8.0) * 1e-6


# --- RecvBuffer -----------------------------------------------------------------------------------------------------------
# What: puts the pieces of a stream in order again. Invariant: `_ready` is what may be read now; `_waiting` holds runs sorted by
# offset, each with a gap before it; `held` is the length of all. A view is kept only of bytes at most twice as long. Bound: the
# caller's, by `end` of a piece, `held` and `pieces`. Cost: O(1) in order; else a bisection and moving the list's pointers.

@cython.final
cdef class RecvBuffer:
    """Reassembly of one direction of a stream: pieces in any order, repeated, overlapping; bytes in order."""

    def __cinit__(self):
        self._ready = _Run(0)
        self._waiting = []
        self.final_size = -1

    cpdef Py_ssize_t insert(self, int64_t offset, data, bint fin) except -1:
        """Keep what is new; return how many bytes became readable. RemoteProtocolError for data beyond the final size or a
        contradicting final size."""
        cdef object piece = _plain(data)
        cdef int64_t next_offset = self._ready.start + self._ready.size, end = offset + len(piece)
        cdef Py_ssize_t readable = self.readable
        if offset < 0:
            raise ValueError(f"stream offset {offset}")
        self._check_size(end, fin)
        self.highest = max(self.highest, end)
        if end > next_offset:
            if offset == next_offset and not self._waiting:
                self._ready.append(_kept(piece))
                self.held += len(piece)
            else:
                self._fill(piece, offset, end)
        self._state()
        return self.readable - readable

    cdef void _state(self) noexcept:
        """Something has changed: state what follows for those who ask often."""
        self.readable = self._ready.size
        self.read_offset = self._ready.start
        self.pieces = len(self._waiting)
        self.at_end = self.read_offset == self.final_size

    cdef int _check_size(self, int64_t end, bint fin) except -1:
        if self.final_size >= 0 and (end > self.final_size or fin and end != self.final_size):
            raise RemoteProtocolError(f"stream data up to {end}, but it ends at {self.final_size}")
        if fin:
            if end < self.highest:
                raise RemoteProtocolError(f"a stream ends at {end}, but had data up to {self.highest}")
            self.final_size = end
        return 0

    cdef int _fill(self, object piece, int64_t offset, int64_t end) except -1:
        """Keep the parts of a piece that fall into gaps."""
        cdef int64_t at = offset, stop
        cdef Py_ssize_t index
        cdef _Run run
        while True:
            at = max(at, self._ready.start + self._ready.size)
            if at >= end:
                return 0
            stop = end
            index = self._find(at)
            if index < len(self._waiting):
                run = self._waiting[index]
                stop = min(end, run.start)
            if at < stop:
                self._put(_kept(piece[at - offset:stop - offset]), at, index)
                at = stop
            else:
                at = run.start + run.size

    cdef Py_ssize_t _find(self, int64_t offset) except -1:
        """Index of the first waiting run that ends above `offset`."""
        cdef Py_ssize_t low = 0, high = len(self._waiting), middle
        cdef _Run run
        while low < high:
            middle = (low + high) // 2
            run = self._waiting[middle]
            if run.start + run.size <= offset:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int _put(self, object part, int64_t at, Py_ssize_t index) except -1:
        """Keep a part that fits into the gap before the waiting run `index`."""
        cdef _Run left = self._waiting[index - 1] if index else self._ready
        cdef _Run right = self._waiting[index] if index < len(self._waiting) else None
        cdef bint meets_right = right is not None and at + len(part) == right.start
        self.held += len(part)
        if left.start + left.size == at:
            left.append(part)
            if meets_right:
                left.absorb(right)
                del self._waiting[index]
        elif meets_right:
            right.prepend(part)
        else:
            left = _Run(at)
            left.append(part)
            self._waiting.insert(index, left)
        return 0

    cpdef list peek(self, Py_ssize_t limit=_NO_LIMIT):
        """Readable buffers in order, at most `limit` bytes and 64 buffers."""
        return self._ready.views(limit, _PEEK_BUFFERS)

    cpdef consume(self, Py_ssize_t count):
        """Forget the next `count` readable bytes; ValueError if there are fewer."""
        if not 0 <= count <= self.readable:
            raise ValueError(f"{count} bytes to consume, {self.readable} readable")
        self._ready.drop(count)
        self.held -= count
        self._state()

    def skip(self):
        """Go past the gap that the reader stands at: to the first waiting piece, or to the final size if it is known and nothing
        waits. Returns how many bytes that were; 0 if there is no gap, or readable bytes are left."""
        cdef int64_t start = self.read_offset
        if self.readable:
            return 0
        if self._waiting:
            self._ready = self._waiting.pop(0)
        elif self.final_size >= 0:
            self._ready.start = self.final_size
        self._state()
        return self.read_offset - start

    def clear(self):
        """Drop all that is held; return how many bytes were held. Readable bytes count as consumed."""
        cdef Py_ssize_t count = self.held
        self._ready.drop(self._ready.size)
        self._waiting.clear()
        self.held = 0
        self._state()
        return count


cdef object _plain(object data):
    """Bytes, or a view whose indices are bytes."""
    if type(data) is bytes:
        return data
    if type(data) is not memoryview:
        raise TypeError(f"bytes or a memoryview, not {type(data).__name__}")
    cdef Py_buffer* view = PyMemoryView_GET_BUFFER(data)
    return data if view.ndim == 1 and view.itemsize == 1 else bytes(data)


cdef object _kept(object data):
    """What may be kept of it: a view must not change, nor keep much more alive than it shows."""
    if type(data) is bytes:
        return data
    if type(data.obj) is bytes and data.contiguous and 2 * len(data) >= len(data.obj):
        return data
    return bytes(data)


# --- Playout --------------------------------------------------------------------------------------------------------------
# The beat at which payloads in order go on to the program.

include "_playout.pxi"

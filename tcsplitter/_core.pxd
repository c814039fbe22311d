"""What the compiled modules of the session use of the core without going through Python."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef enum:
    _DELAY_BUCKETS = 8 * 27  # up to 134 s
    _REPLAY_WORDS = (1 << 17 >> 6) + 1
    _ROOM_AROUND = 256  # bytes to both sides of what a stream's data are read into: shots are sealed there, without a copy


cdef class _Run:
    cdef int64_t start
    cdef Py_ssize_t size
    cdef list chunks
    cdef Py_ssize_t first
    cdef Py_ssize_t skip

    cdef int append(self, object chunk) except -1
    cdef int prepend(self, object chunk) except -1
    cdef int absorb(self, _Run following) except -1
    cdef list views(self, Py_ssize_t limit, Py_ssize_t most)
    cdef int drop(self, Py_ssize_t count) except -1


cdef class SendBuffer:
    cdef _Run _unsent
    cdef readonly int64_t offset

    cpdef write(self, data)
    cpdef object take(self, Py_ssize_t limit)


cdef class ShotWriter:
    cdef bytearray _buffer
    cdef readonly Py_ssize_t size
    cdef Py_ssize_t _at
    cdef bint _is_parity, _is_hello
    cdef object _lender
    cdef char* _data
    cdef Py_ssize_t _lent, _cut

    cdef int _start(self, Py_ssize_t most) except -1
    cdef int _reserve(self, Py_ssize_t size) except -1
    cdef int _finish(self) except -1
    cdef inline uint8_t* _end(self) noexcept
    cdef inline void _put_byte(self, uint8_t value) noexcept
    cdef int _put_varint(self, int64_t value) except -1
    cdef inline void _put_bytes(self, const void* data, Py_ssize_t count) noexcept
    cdef int _put_ranges(self, list ranges) except -1
    cdef int _put_head(self, uint8_t kind, tuple values, Py_ssize_t rest) except -1
    cdef int _put_frame(self, uint8_t kind, tuple values) except -1
    cdef int _put_data(self, const Py_buffer* data) except -1
    cpdef begin(self, int64_t want, int64_t held)
    cpdef greeting(self, int kind, int64_t connect_us)
    cpdef ack(self, int64_t answered, int64_t delay_us, list ranges, list rebuilt)
    cpdef stream(self, int64_t stream_id, int64_t offset, data, bint fin)
    cdef bint _is_lendable(self, object data, const Py_buffer* view) except -1
    cdef int _borrow(self, object data, const Py_buffer* view) except -1
    cdef void _give_back(self) noexcept
    cdef int _copy_lent(self) except -1
    cpdef bytes seal(self, aead, int flags, int epoch, int64_t number, bytes before=?)
    cdef bytes _seal_around(self, object aead, int flags, int epoch, int64_t number, bytes before)


cdef class ShotReader:
    cdef bytes _partial
    cdef readonly Py_ssize_t pending, missing
    cdef bint _expect_hello
    cdef bint _ended
    cdef bint _failed

    cpdef list feed(self, data, Py_ssize_t skip=?)
    cdef list _cut(self, object data, const Py_buffer* view, Py_ssize_t at)
    cdef Py_ssize_t _complete(self, const unsigned char* data, Py_ssize_t count, list records) except -1
    cdef int _keep(self, const unsigned char* data, Py_ssize_t count, Py_ssize_t size) except -1
    cdef void _forget(self) noexcept
    cdef tuple _record(self, const uint8_t* header, object shot)


cdef class ReplayWindow:
    cdef uint64_t _next
    cdef uint64_t _bits[_REPLAY_WORDS]

    cpdef int check(self, uint64_t number) except -1
    cpdef mark(self, uint64_t number)
    cdef void _advance(self, uint64_t number) noexcept


cpdef tuple open_frames(aead, record)


cdef class RangeSet:
    cdef list _lows
    cdef list _highs

    cpdef add(self, int64_t low, int64_t high)
    cdef int trim(self, Py_ssize_t most) except -1


cdef class _Reports:
    cdef list _generations

    cdef int add(self, int64_t number) except -1
    cdef bint any(self) except -1
    cdef list take(self)
    cdef list _newest(self)
    cdef int _age(self, int64_t lowest) except -1
    cdef bint _all_from(self, int64_t lowest) except -1


cdef class AckLog:
    cdef _Reports _received
    cdef _Reports _rebuilt
    cdef int64_t _highest

    cpdef add(self, int64_t number)
    cpdef add_rebuilt(self, int64_t number)
    cpdef tuple take(self)


cdef class Quantiles:
    cdef double _counts[_DELAY_BUCKETS]
    cdef double _total
    cdef double _fade

    cpdef add(self, double seconds)
    cpdef double at(self, double share)


cdef class RecvBuffer:
    cdef _Run _ready
    cdef list _waiting
    cdef readonly Py_ssize_t held
    cdef readonly int64_t highest
    cdef readonly int64_t final_size
    cdef readonly Py_ssize_t readable, pieces
    cdef readonly int64_t read_offset
    cdef readonly bint at_end

    cdef void _state(self) noexcept
    cpdef Py_ssize_t insert(self, int64_t offset, data, bint fin) except -1
    cpdef list peek(self, Py_ssize_t limit=?)
    cpdef consume(self, Py_ssize_t count)
    cdef int _check_size(self, int64_t end, bint fin) except -1
    cdef int _fill(self, object piece, int64_t offset, int64_t end) except -1
    cdef Py_ssize_t _find(self, int64_t offset) except -1
    cdef int _put(self, object part, int64_t at, Py_ssize_t index) except -1

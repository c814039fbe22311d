cimport cython

from tcsplitter._core cimport RecvBuffer, SendBuffer
from tcsplitter.chunks cimport Chunk, LostChunks
from tcsplitter.credit cimport SendWindow, StreamWindow
from tcsplitter.shared cimport Shared


cdef class Stream:
    cdef public object app, queue, reset_code, sent_reset
    cdef public long long deficit, id, unacknowledged
    cdef public double beat_at
    cdef public RecvBuffer incoming
    cdef object _forwarding, _host
    cdef Shared _shared
    cdef long long _gate, _passed, _pending_chunks, _read, _send_limit, _sent, _whole
    cdef SendBuffer _unsent
    cdef LostChunks _lost
    cdef StreamWindow _window
    cdef bint _fin_cut, _finishing, _opened, _reset_acked, _reset_came, _stopped

    @cython.locals(
        size=cython.longlong, sending=SendWindow, unsent=cython.longlong, used=cython.longlong, ahead=cython.longlong,
        share=cython.longlong, room=cython.longlong,
    )
    cdef long long _find_room(self)
    cpdef write(self, data)
    cpdef list peek(self, Py_ssize_t limit)
    cpdef consume(self, Py_ssize_t count, double now)
    cdef _read_on(self, double now)
    cpdef grant(self, double now)
    cdef _granted(self)
    cdef _forward(self, double now)
    cpdef Chunk cut(self, Py_ssize_t limit)
    cpdef Chunk cut_lost(self, Py_ssize_t limit)
    cdef Chunk _cut_new(self, Py_ssize_t limit)
    cpdef chunk_acked(self, Chunk chunk)
    cpdef bint chunk_lost(self, Chunk chunk)
    cdef _give_up(self, Chunk chunk)
    cpdef bint raise_send_limit(self, long long limit, long long read)
    cpdef receive(self, long long offset, data, bint fin)
    cdef _drop_outgoing(self)
    cdef _drop_incoming(self, long long end)
    cdef _give_back(self, long long offset)

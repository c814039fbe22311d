from tcsplitter._core cimport ShotWriter
from tcsplitter.shared cimport Shared
from tcsplitter.streams cimport Stream


cdef class StreamTable:
    cdef public Shared shared
    cdef public dict large
    cdef public long long opened, pieces
    cdef bint _client
    cdef dict _control, _open
    cdef long long _next_id
    cdef object _closed

    cpdef Stream known(self, long long stream_id)
    cpdef Stream accept(self, long long stream_id)
    cpdef forget_if_done(self, Stream stream)
    cdef _count_streams(self)
    cdef bint _opened_here(self, long long stream_id)
    cpdef queue_control(self, kind, subject=?)
    cpdef bint has_control(self)
    cpdef list write_control(self, ShotWriter writer)
    cpdef count_received(self, long long fresh, long long pieces)
    cpdef return_credit(self, long long count)

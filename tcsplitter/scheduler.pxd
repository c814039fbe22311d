from tcsplitter._core cimport ShotWriter
from tcsplitter.payload cimport PayloadSize


cdef class Scheduler:
    cdef public object bulk, sparse
    cdef public dict lost
    cdef PayloadSize _size
    cdef long long _passed, _sparse_bytes

    cpdef bint is_sparse(self, stream)
    cpdef schedule(self, stream)
    cpdef list fill(self, ShotWriter writer, long long most, bint may_send_bulk)
    cdef bint _bulk_is_due(self)
    cdef _charge(self, stream, long long count)
    cdef _remove(self, stream)

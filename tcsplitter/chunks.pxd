from tcsplitter._core cimport ShotWriter
from tcsplitter.credit cimport SendWindow


cdef class Chunk:
    cdef public object source
    cdef public long long offset
    cdef public object data
    cdef public bint acked, fin

    cpdef write(self, ShotWriter writer)


cdef class LostChunks:
    cdef readonly list waiting
    cdef SendWindow _sending

    cpdef add(self, Chunk chunk)
    cpdef Chunk take_first(self)
    cpdef remove(self, Chunk chunk)
    cpdef list take_below(self, long long offset)
    cpdef clear(self)

cdef class Chunk:
    cdef public object source
    cdef public long long offset
    cdef public object data
    cdef public bint acked, fin

    cpdef write(self, writer)

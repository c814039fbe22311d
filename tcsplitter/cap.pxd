from tcsplitter.payload cimport PayloadSize


cdef class Cap:
    cdef public double rate, opens_at, sparse_at
    cdef PayloadSize _size
    cdef readonly double _paid_at

    cpdef spend(self, long long size, bint first, double now)
    cpdef double within(self, double seconds)

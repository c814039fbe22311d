cdef class Cap:
    cdef public double rate, opens_at, sparse_at
    cdef double _shot, _burst, _ahead
    cdef readonly double _paid_at

    cpdef spend(self, long long size, bint first, double now)
    cpdef double within(self, double seconds)

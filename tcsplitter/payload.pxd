cdef double GROW_FROM, SHRINK_BELOW, NEWS
cdef long long LARGE, REUSED, FIRST_FLIGHT, SEGMENT


cdef class PayloadSize:
    cdef public long long bytes
    cdef readonly long long flights
    cdef long long _least
    cdef double _most_small, _used
    cdef bint _fresh

    cpdef int flights_of(self, long long size)
    cpdef bint follow(self, double rate, double used, double rtt)

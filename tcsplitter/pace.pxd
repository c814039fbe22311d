cdef class _Held:
    cdef public object source
    cdef public long long count
    cdef public double opens_at


cdef class Tock:
    cdef public double wait
    cdef long long _bytes, _size
    cdef object _held
    cdef list _fresh

    cpdef double deadline(self)
    cpdef run(self, double now)
    cdef _let_go(self, long long count)


cdef class Beats:
    cdef readonly list _heap
    cdef long long _armed, _serial

    cpdef at(self, member, double when)
    cpdef run(self, double now)
    cpdef double deadline(self)

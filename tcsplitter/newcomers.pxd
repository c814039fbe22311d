from tcsplitter.carrier cimport Carrier


cdef class Newcomers:
    cdef readonly Carrier latest
    cdef readonly str latest_host
    cdef double _latest_at, _check_at
    cdef object _random
    cdef list _actions
    cdef dict _all, _by_host
    cdef long long _partial

    cpdef accept(self, str host, double now)
    cdef _keep_latest(self)
    cpdef get(self, Carrier carrier)
    cpdef remove(self, Carrier carrier)
    cpdef double deadline(self)

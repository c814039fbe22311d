cdef class Epoch:
    cdef public object open, seal
    cdef public long long number, opened, sealed, volume
    cdef public double expires_at, made_at

    cpdef bint worn(self, double now)


cdef class Keyring:
    cdef public Epoch sealing
    cdef public double check_at
    cdef bint _client
    cdef dict _epochs

    cpdef bint can_seal(self)
    cpdef Epoch get(self, number)
    cpdef opened(self, Epoch epoch, long long size, double now)
    cdef _switch_to(self, Epoch epoch, double now)

cdef class Watched:
    cdef public object reactor
    cdef public int asked, events, fd
    cdef public bint closed

    cpdef watch(self, int events)
    cpdef rest(self, int events)
    cpdef ask(self)
    cpdef leave(self, closable)
    cpdef part(self)

cdef enum:
    _MOST_RECEIVED = 135_168  # bytes of one read: the largest payload without --frags, with all that a shot adds, in one piece


cdef class ReadBuffer:
    cdef char[_MOST_RECEIVED] _bytes
    cdef Py_ssize_t _count


cdef class TcpSocket:
    cdef readonly int fd, family

    cdef void _close(self) noexcept
    cdef int connect(self, tuple sockaddr) except -1
    cpdef recv(self, ReadBuffer into)
    cpdef Py_ssize_t send(self, data, bint more=?) except -1
    cpdef setsockopt(self, int level, int name, value)
    cpdef int error(self) except -1
    cpdef int unacknowledged(self) except -1
    cpdef int wait_for(self, int count) except -1
    cpdef int abort(self) except -1
    cpdef int shutdown(self) except -1


cpdef bint is_of_this_machine(str host)
cpdef tuple start_connect(tuple target, prepare=?)

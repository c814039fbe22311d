cimport cython


cdef class ReceiveWindow


cpdef long long first_windows(long long streams)


cdef class StreamWindow:
    cdef public long long limit
    cdef ReceiveWindow _receiving
    cdef long long _returned, _size
    cdef double _began_at
    cdef bint _gap

    cpdef begin(self, double now)
    cpdef expect(self, long long highest, double now)
    cpdef long long returned(self, long long offset)
    cpdef note_gap(self, long long highest)
    @cython.locals(size=cython.longlong)
    cpdef bint grow_behind_gap(self, long long read_offset, bint short, double now)
    cpdef bint consumed(self, long long read_offset, double soon, double now)
    cdef _grant(self, long long read_offset, long long size, double now)


cdef class SendWindow:
    cdef public dict held
    cdef public long long limit, lost_chunks, streams, total, unsent

    cpdef long long left(self)
    cpdef long long room(self)
    @cython.locals(left=cython.longlong, free=cython.longlong, beyond=cython.longlong)
    cpdef long long share(self, long long unread, long long size)
    cpdef took(self, long long count)
    cpdef bint raise_limit(self, long long total)


cdef class ReceiveWindow:
    cdef public long long limit, streams
    cdef readonly long long _received
    cdef long long _free_before, _returned, _size

    cpdef count(self, long long fresh)
    cpdef bint has_shrunk(self)
    cpdef widen(self, long long size)
    @cython.locals(limit=cython.longlong)
    cpdef bint give_back(self, long long count)

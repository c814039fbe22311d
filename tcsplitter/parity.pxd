from tcsplitter.lateness cimport Lateness
from tcsplitter.recovery cimport Recovery
from tcsplitter.shots cimport SentShot


cdef class Stripe:
    cdef public double began_at, closed_at
    cdef public list numbers, sealed
    cdef public long long longest
    cdef public set carriers
    cdef public bint urgent


cdef class Parity:
    cdef public Stripe stripe
    cdef public int index, count
    cdef public bytes block


cdef class Stripes:
    cdef public bint auto, used
    cdef int _data, _parity
    cdef double _tock
    cdef bint _resend
    cdef Recovery _recovery
    cdef Lateness _lateness
    cdef Stripe _open
    cdef object _waiting
    cdef long long _bytes

    cpdef add(self, SentShot shot, bytes sealed, double others, bint urgent, double now)
    cpdef run(self, double now, double delay)
    cpdef double deadline(self, double delay)
    cdef double _closes_at(self, double delay)
    cpdef forget(self)
    cdef _uncover(self, Stripe stripe)
    cdef Stripe _drop(self)
    cpdef sent(self, carrier)

from tcsplitter.acks cimport ack_delay
from tcsplitter.recovery cimport Recovery
from tcsplitter.shots cimport SentShot
from tcsplitter.stats cimport Counters

cdef double AGAIN_SECONDS, AGAIN_SHARE, SMALL_SHARE, LARGE_PER_LATE, LEAST_LARGE_SHARE, MOST_LARGE_SHARE
cdef long long SMALL_RATE, SMALL_BURST, LARGE_BURST, MOST_SPARE


cdef class Allowance:
    cdef public double share
    cdef double _rate, _burst, _left, _filled_at
    cdef long long _sent

    cpdef bint spend(self, long long size, long long sent, double now)


cdef class Hedger:
    cdef bint _auto, _parity, _on, _resend, _spare
    cdef Recovery _recovery
    cdef Counters _counters
    cdef Allowance _small, _large
    cdef list _watched, _lagging
    cdef object _others, _overdue

    cpdef int spare(self, int shots)
    cpdef bint at_once(self)
    cpdef watch(self, SentShot shot)
    cdef _watch(self, SentShot shot, double due_at)
    cpdef mind(self, SentShot shot)
    cpdef int twins_at_once(self, long long size, double now)
    cpdef run(self, double now, bint spare)
    cdef _look_at(self, SentShot shot, double now)
    cdef _judge(self, SentShot shot, double now)
    cdef bint _spend_on_large(self, long long size, double now)
    cdef double _again_at(self, SentShot shot, double now)
    cdef double _late_after(self)
    cpdef double deadline(self)
    cdef bint _needs_one(self, SentShot shot)
    cdef bint _lacks(self, SentShot shot)

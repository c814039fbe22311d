cimport cython

from tcsplitter.shots cimport SentShot

cdef double IN_TIME, SLACK, JITTER, LONG_QUEUE, LONG_SECONDS, LEAST_SHARE, DEVIATIONS, STRAYS, FADES, STUBBORN_SHARE, EASE
cdef long long LEAST_SHOTS, LEAST_KNOWN, STUBBORN, MOST_PATIENCE


cdef class Round:
    cdef public double began, ended, rate
    cdef public bint tries
    cdef public long long bytes, in_time, shots


cdef class Overrun:
    cdef public double limit
    cdef public int patience
    cdef object _rounds
    cdef long long _judged
    cdef double _counts_from, _heard_at, _judge_from, _limit_before, _long_queue, _margin, _newest, _share_before, _silence
    cdef double _usual_late, _usual_shots
    cdef int _reductions

    cpdef begin_round(self, double rate, bint tries, double rtt, double queue, double jitter, double now)
    cdef _look_at_first(self)
    @cython.locals(latest=Round)
    cpdef on_sent(self, SentShot shot)
    @cython.locals(sent_in=Round)
    cpdef on_delivered(self, SentShot shot, double now)
    cpdef bint has_news(self)
    cpdef forget(self, double now)
    cpdef search(self, double now)
    cpdef bint judge(self, double queue, double now)
    cdef bint _judge(self, Round done, double now)
    cdef _note_usual(self, Round done, long long late)
    cdef _raise(self, Round done)
    cdef _reduce(self, Round done, double share, double usual, double sent, double now)

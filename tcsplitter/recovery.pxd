cimport cython

from tcsplitter.acks cimport ack_delay
from tcsplitter.congestion cimport Congestion
from tcsplitter.lateness cimport Lateness
from tcsplitter.shots cimport SentShot

cdef double LOST_RTTS, LOST_SECONDS, GIVE_UP_RTTS, GIVE_UP_SECONDS, GIVE_UP_TURNS, LOST_MEMORY
cdef double MAX_PATIENCE, PATIENCE_FADES, MAX_BACKOFF
cdef long long LATE_WINDOWS, MAX_UNACKED_CHUNKS


cdef class Recovery:
    cdef public dict sent, lost
    cdef public long long in_flight, late_bytes, chunks_in_flight, wrong_verdicts
    cdef public Congestion congestion
    cdef public Lateness lateness
    cdef double _patience, _backoff, _quick_dial_at
    cdef object _young
    cdef double _halve_at, _newest_delivered
    cdef long long _highest_delivered

    cpdef dialled(self, double seconds, double now)
    cpdef sample_rtt(self, double seconds, double now, long long size=?)
    @cython.locals(patience=double)
    cpdef double lost_after(self)
    @cython.locals(patience=double)
    cpdef double give_up_after(self)
    cpdef long long under_way(self)
    cpdef long long chunks_left(self)
    cpdef bint may_send(self, double now)
    cpdef bint line_allows(self, double now)
    cpdef bint has_room(self)
    cpdef on_sent(self, SentShot shot)
    @cython.locals(rtt=double, limit=double, shot=SentShot)
    cpdef note_late(self, double now)
    cpdef bint was_overtaken(self, SentShot shot)
    cdef _leave(self, SentShot shot)
    @cython.locals(rtt=double, flights=cython.longlong)
    cdef SentShot _deliver(self, long long number, delay, long long highest_before, double now)
    cpdef tuple on_ack(self, long long answered, double delay, list ranges, list rebuilt, long long next_number, double now)
    cdef SentShot _rebuild(self, long long number, double now)
    cdef list _known(self, long long low, long long high)
    cdef SentShot _move_to_lost(self, long long number, double now)
    cdef _never_came(self, SentShot shot)

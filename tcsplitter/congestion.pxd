cimport cython

from tcsplitter.cap cimport Cap
from tcsplitter.overrun cimport Overrun
from tcsplitter.payload cimport PayloadSize
from tcsplitter.shots cimport SentShot

cdef double DEFAULT_RTT, MIN_RTT_SECONDS, STARTUP_WINDOW, CRUISE_GAIN, CONTEST_GAIN, STARTUP_GAIN, PROBE_GAIN, LEAST_GAIN
cdef double HEADROOM, DRAIN_RTTS, FOUND, SLACK, PACED_RTT, SHORT_GAIN, BURST_SHARE, BURST_SECONDS, LONGEST_PAUSE, ROUND_SECONDS
cdef double QUEUE_SHARE, QUEUE_SECONDS, JITTER_SECONDS, JITTER_NEWS, QUEUE_JITTER, JITTER_WINDOW, FULL_SHARE, FULL_SECONDS
cdef double FULL_JITTER, GROWTH, STUBBORN, STUBBORN_RTTS, NEWS, RELAX, LONGEST_WAIT, RATE_SECONDS, MIN_RATE_WINDOW
cdef double SMALLEST_SHARE, REGAIN, STILL_SHARE, LESS
cdef long long FIRST_RATE, LEAST_INITIAL, MOST_INITIAL, FIRST_LIMIT, LEAST_SHOTS, PROBE_ROUNDS, TRIED_ROUNDS, FOUND_AGAIN
cdef long long SLOW_RATE, FULL_SAMPLES, FIRST_SAMPLES, ENOUGH_SHOTS, FLAT_ROUNDS, CONTEST_ROUNDS, RATE_ROUNDS
cdef long long STILL_ROUNDS, TRUST_ROUNDS


cdef class Congestion:
    cdef public PayloadSize size
    cdef public Cap cap
    cdef public Overrun overrun
    cdef public bint polite
    cdef public double rate, min_rtt, rtt, queue, jitter, opens_at, began_at
    cdef public long long rounds
    cdef double _gain, _pace
    cdef public bint starting
    cdef bint _is_first, _untried
    cdef long long _proved
    cdef double _min_rtt_before, _min_rtt_now, _min_rtt_since, _round_at, _round_rtt, _round_rate
    cdef int _flat_rounds
    cdef double _last_rtt
    cdef int _long_samples, _probe_in, _found
    cdef double _yielded, _longest, _rate_before
    cdef readonly int _contest
    cdef int _still, _trusted
    cdef double _stood, _stood_since, _arrived
    cdef long long _stood_delivered
    cdef double _share
    cdef long long _under_way, _delivered
    cdef double _delivered_at, _first_sent_at
    cdef long long _limited_until, _most_delivered
    cdef object _rates, _marks
    cdef double _ceiling, _round_began
    cdef long long _round_delivered

    cpdef sample_rtt(self, double seconds, long long size, double now)
    cdef _count_long(self, double queue, bint dialled)
    cpdef on_sent(self, SentShot shot, long long under_way)
    cpdef on_limited(self, long long under_way)
    cpdef on_delivered(self, SentShot shot, double now)
    cpdef double window(self)
    cpdef double flight(self)
    cdef double _first_bytes(self)
    cpdef double rate_at(self, double now)
    @cython.locals(rate=double)
    cpdef double takes(self, long long size)
    cpdef double takes_least(self)
    cpdef bint is_short(self)
    cdef _set_pace(self, double now)
    cdef _keep_rate(self, double rate, double now)
    cdef _heed_overrun(self, double now)
    cdef _choose_size(self, double now)
    cdef _end_round(self, bint limited, double now)
    cdef _bound_rate(self, bint stands, double now)
    cdef _look_for_end(self, bint limited)
    cdef _end_startup(self)
    cdef _choose_gain(self, double excess, double now)
    cdef _notice_others(self, double excess, double now)
    cdef bint _is_longer(self, double excess, double now)
    cdef _take_longer(self, double now)
    cdef _regain_rate(self, double now)
    cdef _search(self, double now)

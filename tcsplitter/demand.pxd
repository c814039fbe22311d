from tcsplitter.congestion cimport Congestion
from tcsplitter.credit cimport SendWindow
from tcsplitter.table cimport StreamTable

cdef double CLIENT_TURNS, SERVER_TURNS, TURN_SECONDS, LEAST_AHEAD, MOST_AHEAD, RAISE, FALL, OPENING_RTTS
cdef long long STARTUP_AHEAD, OPENING_BYTES, MAX_OPENING


cdef class Demand:
    cdef bint _client
    cdef long long _fresh
    cdef double _turns
    cdef Congestion _congestion
    cdef StreamTable _streams
    cdef SendWindow _sending
    cdef long long _opened
    cdef double _opened_at, _ahead
    cdef bint _starved
    cdef long long _round

    cpdef payloads(self, long long in_flight, double now)
    cdef double _bytes(self, Congestion line, double turn, long long in_flight, double now)
    cdef int _opening(self, double now)
    cdef _adapt(self)

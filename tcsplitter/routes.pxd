from tcsplitter.carrier cimport Carrier, CarrierSet, PeerCarriers
from tcsplitter.recovery cimport Recovery

cdef double SYNC_RTTS, SYNC_SECONDS, YIELD_RTTS, YIELD_SECONDS


cdef class Routes:
    cdef long long _reserve
    cdef CarrierSet _carriers
    cdef PeerCarriers _peer
    cdef Recovery _recovery
    cdef bint _yields
    cdef set _silent

    cpdef Carrier payload(self, bint urgent, double now)
    cpdef Carrier repair(self, bint urgent, double now, without)
    cdef long long _left_to_peer(self, double now)
    cpdef Carrier control(self, double now)
    cpdef Carrier sync(self, double now)

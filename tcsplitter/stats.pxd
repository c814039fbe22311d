cdef class KindCounters:
    cdef public long long dialled, sent_on, received_on, both_ways, timed_out, replaced


cdef class Counters:
    cdef public long long carriers, carriers_died, shots_sent, shots_received, bytes_sent, bytes_received
    cdef public long long shots_lost, shots_dropped, shots_refused, payloads_resent, payloads_given_up, payloads_skipped
    cdef public long long parity_sent, parity_received, shots_rebuilt, stripes_lost
    cdef public long long hedges_sent, hedges_won, hedge_bytes
    cdef public long long datagrams_sent, datagrams_received, datagrams_dropped, datagrams_late, datagrams_lost
    cdef public dict kinds

    cpdef KindCounters of(self, kind)

cdef class KindCounters:
    cdef public long long both_ways, dialled, received_on, replaced, sent_on, timed_out


cdef class Counters:
    cdef public long long bytes_received, bytes_sent, carriers, carriers_died
    cdef public long long datagrams_dropped, datagrams_late, datagrams_lost, datagrams_received, datagrams_sent
    cdef public long long hedge_bytes, hedges_sent, hedges_won, parity_received, parity_sent
    cdef public long long payloads_given_up, payloads_resent, payloads_skipped
    cdef public long long shots_dropped, shots_lost, shots_rebuilt, shots_received, shots_refused, shots_sent, stripes_lost
    cdef public dict kinds

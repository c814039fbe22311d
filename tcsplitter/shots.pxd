from tcsplitter.carrier cimport Carrier


cdef class SentShot:
    cdef public bint by_time, covered, ends_half, is_twin, late, limited, rebuilt, settled
    cdef public double delivered_at, first_sent_at, judged_from, sent_at
    cdef public long long delivered, number, round, size
    cdef public Carrier carrier
    cdef public Copies copies
    cdef public list chunks, control


cdef class Copies:
    cdef public bint arrived, replaced
    cdef public list shots

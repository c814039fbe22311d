from tcsplitter._core cimport AckLog, ShotWriter

cdef double SHORTEST_DELAY
cdef long long ACK_RTT_SHARE

cpdef double ack_delay(double min_rtt, bint small=?)


cdef class Acks:
    cdef public double due_at
    cdef public bint for_payload
    cdef AckLog _log
    cdef long long _answered
    cdef double _answered_at

    cpdef add(self, long long number)
    cpdef elicited(self, long long number, double delay, double now)
    cpdef add_rebuilt(self, long long number, double delay, double now)
    cdef _due_in(self, double delay, double now)
    cpdef write(self, ShotWriter writer, double now, bint settles=?)

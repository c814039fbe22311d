from tcsplitter._core cimport Quantiles


cdef class Lateness:
    cdef public Quantiles delay
    cdef public double late_after, share, doubt
    cdef public bint queueing
    cdef Quantiles _recent
    cdef object _small
    cdef double _usual, _quickest
    cdef long long _seen, _weight

    cpdef begin(self, double rtt)
    cpdef bint sample(self, double age, long long size, double rtt, double ack_delay)
    cpdef double in_time(self, double rtt, double ack_delay)
    cpdef double overdue_after(self, double rtt, double ack_delay)
    cpdef count(self, bint late)
    cpdef int twins(self)

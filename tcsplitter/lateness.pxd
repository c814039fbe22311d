from tcsplitter._core cimport Quantiles

cdef double LATE_RTTS, LATE_QUANTILE, LATE_SPREAD, FIRST_LATE_RTTS, LATE_SLACK, OUTLIER, FIRST_DOUBT, OVERDUE_RTTS
cdef double OVERDUE_SPREAD, OVERDUE_SLACK, QUEUE_RTTS, QUEUE_SLACK, CLEAN_SHARE, FAILED_STRIPES, FAILED_COPIES
cdef long long LATE_SAMPLES, SHARE_SAMPLES, USUAL_SAMPLES, REFRESH_SAMPLES, SMALL_SAMPLES, MAX_TWINS


cdef class Lateness:
    cdef public Quantiles delay
    cdef public double late_after, share, doubt
    cdef public bint queueing
    cdef Quantiles _recent
    cdef object _small
    cdef list _small_sorted
    cdef double _usual, _quickest
    cdef long long _seen, _weight

    cpdef begin(self, double rtt)
    cpdef bint sample(self, double age, long long size, double rtt, double ack_delay, long long flights=?)
    cpdef double in_time(self, double rtt, double ack_delay)
    cpdef double overdue_after(self, double rtt, double ack_delay)
    cpdef count(self, bint late)
    cpdef bint seems_clean(self)
    cpdef bint is_clean(self)
    cpdef bint needs_parity(self)
    cpdef int twins(self)

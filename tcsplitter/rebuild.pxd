from tcsplitter.stats cimport Counters


cdef class _Stripe:
    cdef public long long count, length, size
    cdef public double ends_at
    cdef public list numbers
    cdef public dict blocks, shots


cdef class Rebuilder:
    cdef public bint keeping
    cdef public dict rebuilt
    cdef Counters _counters
    cdef object _has
    cdef readonly object _kept_until
    cdef readonly dict _done, _kept, _ready, _stripes, _waits_for
    cdef readonly long long _kept_bytes, _stripe_bytes
    cdef double _quiet_from

    cpdef arrived(self, long long number, bytes record, double now)
    cpdef list take_ready(self)
    cpdef run(self, double now)
    cpdef double deadline(self)
    cdef _make_room(self)
    cdef _add_shot(self, _Stripe stripe, long long at, bytes record)
    cdef _count(self, _Stripe stripe, long long size)
    cdef _look_at(self, _Stripe stripe)
    cdef list _rebuild(self, _Stripe stripe)
    cdef _give_up(self, _Stripe stripe)
    cdef _end(self, _Stripe stripe)
    cdef _release(self, list numbers)
    cdef _finish(self, long long first)
    cdef _forget_oldest(self)

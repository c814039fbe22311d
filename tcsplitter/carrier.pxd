from tcsplitter._core cimport ShotReader


cdef class Carrier:
    cdef public object io, kind, session
    cdef public double ack_by, asked_at, dial_seconds, expires_at, idle_for, used_at
    cdef public long long backlog, hello, outstanding, trim_at, tx_left
    cdef public bytes greeting
    cdef public ShotReader reader
    cdef public bint brought, carried, closed, delivered, eof, owes_ack, rx_final, tx_final
    cdef public list sent

    cpdef bint is_ungreeted(self)


cdef class PeerCarriers:
    cdef public long long held, want
    cdef public double payload_at, said_at
    cdef long long _number

    cpdef state(self, long long number, long long want, long long held, double now)


cdef class CarrierSet:
    cdef public dict alive, all, greeted, idle, unconfirmed
    cdef public tuple payload
    cdef public object answers, due
    cdef public long long partial
    cdef public double check_at
    cdef bint _client
    cdef long long _reuse
    cdef list _actions
    cdef long long _offers
    cdef double _offered_at
    cdef long long _highest_confirmed

    cpdef adopt(self, Carrier carrier, session, double idle_for, double now)
    cpdef greet(self, Carrier carrier, long long number)
    cpdef confirm(self, list ranges)
    cpdef Py_ssize_t count_idle(self)
    cpdef list feed(self, Carrier carrier, data)
    cpdef make_due(self, Carrier carrier, double by)
    cpdef Carrier next_due(self)
    cpdef Carrier take(self, long long reserve, bint sure=?, without=?)
    cpdef Carrier take_idle(self, kind, bint sure=?, without=?)
    cpdef used(self, Carrier carrier, bint final, double give_up_after, double now)
    cdef _count_offer(self, double now)
    cpdef suspend(self, Carrier carrier)
    cpdef resume(self, Carrier carrier)
    cpdef bint is_silent(self, Carrier carrier)
    cpdef finished(self, Carrier carrier, double ack_delay, double give_up_after, double now)
    cpdef drop(self, Carrier carrier, op)
    cpdef expire(self, Carrier carrier, double at)


cdef Carrier _first(due)
cdef _prune(due)
cdef bint _is_due(Carrier carrier)

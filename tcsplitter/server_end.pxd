from tcsplitter.carrier cimport Carrier
from tcsplitter.newcomers cimport Newcomers
from tcsplitter.pace cimport Beats
from tcsplitter.session cimport Session


cdef class ServerEnd:
    cdef public dict sessions
    cdef public object outbox
    cdef object _config, _gate, _random
    cdef Beats _timers
    cdef Newcomers _newcomers
    cdef bytes _instance
    cdef dict _held, _over_cap, _touched
    cdef list _provisional
    cdef long long _total_held
    cdef double _sweep_at

    cpdef accepted(self, str host, double now)
    cpdef carrier_received(self, Carrier carrier, data, double now)
    cdef bint _greets(self, Carrier carrier, data, double now)
    cdef bint _welcome(self, Carrier carrier, Session session, list records, str host, double now)

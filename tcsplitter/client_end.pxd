from tcsplitter.carrier cimport Carrier
from tcsplitter.session cimport Session


cdef class ClientEnd:
    cdef public Session session
    cdef public object failed, outbox
    cdef object _config, _dialling, _name, _psk, _random
    cdef dict _attempts, _touched, _waiting
    cdef bytes _instance
    cdef str _trouble
    cdef bint _announced, _asked_sync, _stopping
    cdef double _ask_at, _asking_since, _failing_since, _patience, _ping_at, _ping_gap, _reasons_from, _started_at
    cdef readonly double _pinged_at

    cdef _leave_ended_session(self, double now)
    cpdef carrier_connected(self, Carrier carrier, double dial_seconds, double now)
    cpdef carrier_received(self, Carrier carrier, data, double now)
    cpdef carrier_eof(self, Carrier carrier, double now)

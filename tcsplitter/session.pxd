from tcsplitter.carrier cimport Carrier, CarrierSet, PeerCarriers
from tcsplitter.keyring cimport Keyring
from tcsplitter.receiving cimport Receiver
from tcsplitter.recovery cimport Recovery
from tcsplitter.routes cimport Routes
from tcsplitter.sending cimport Sender
from tcsplitter.shared cimport Shared
from tcsplitter.stats cimport Counters
from tcsplitter.table cimport StreamTable

cdef double STALL_RTTS, SUSPECT_RTTS, SUSPECT_SECONDS


cdef class Session:
    cdef public Counters counters
    cdef public object closed, config, flows, name, outbox
    cdef public bytes id
    cdef public dict touched
    cdef public double beat_at, now, waiting_since
    cdef public Shared shared
    cdef public StreamTable streams
    cdef public CarrierSet carriers
    cdef public Recovery recovery
    cdef public PeerCarriers peer
    cdef public Keyring keys
    cdef public long long epochs_made
    cdef Routes _routes
    cdef readonly Sender _sender
    cdef object _repair
    cdef readonly Receiver _receiver
    cdef bint _at_rest, _datagrams
    cdef double _trusted_at

    cpdef enter(self, double now)
    cpdef double unheard_for(self, double now)
    cpdef double asks_from(self, double since, double now)
    cpdef hello(self, Carrier carrier, double idle_for, double now)
    cdef _adopt(self, Carrier carrier, double idle_for)
    cpdef bint welcome(self, Carrier carrier, tuple record, double now)
    cpdef receive(self, Carrier carrier, data, double now)
    cpdef receive_records(self, Carrier carrier, list records, double now)
    cdef _open(self, Carrier carrier, list records)
    cpdef carrier_eof(self, Carrier carrier, double now)
    cpdef flush(self, double now)
    cpdef double deadline(self)
    cdef _rebuild(self)

cimport cython

from tcsplitter._core cimport ReplayWindow, open_frames
from tcsplitter.acks cimport Acks, ack_delay
from tcsplitter.carrier cimport Carrier, CarrierSet, PeerCarriers
from tcsplitter.keyring cimport Epoch, Keyring
from tcsplitter.rebuild cimport Rebuilder
from tcsplitter.recovery cimport Recovery
from tcsplitter.sending cimport Sender
from tcsplitter.shared cimport Shared
from tcsplitter.shots cimport SentShot
from tcsplitter.stats cimport Counters
from tcsplitter.table cimport StreamTable


cdef class Receiver:
    cdef public double data_at, heard_at
    cdef public bint suspect
    cdef public Rebuilder rebuilder
    cdef CarrierSet _carriers
    cdef PeerCarriers _peer
    cdef Recovery _recovery
    cdef Acks _acks
    cdef Keyring _keys
    cdef StreamTable _streams
    cdef Shared _shared
    cdef Sender _sender
    cdef Counters _counters
    cdef object _flows, _repair
    cdef ReplayWindow _replay
    cdef bint _payload_came, _takes_streams
    cdef dict _handlers

    cpdef tuple hello(self, tuple record)
    cpdef greeted(self, Carrier carrier, tuple record, tuple body)
    cpdef bint shot(self, Carrier carrier, tuple record)
    cdef _end_half(self, Carrier carrier, int flags)
    cdef _act(self, Carrier carrier, long long number, sealed, list frames, double now)
    cdef _opened(self, Epoch epoch, long long size, double now)
    cdef _take(self, Carrier carrier, Epoch epoch, long long number, sealed)
    cdef _take_parity(self, Carrier carrier, Epoch epoch, long long number, sealed)
    cdef _take_late(self, Carrier carrier, Epoch epoch, long long number, sealed)
    cdef double _ack_delay(self)
    cdef _owe_ack(self, Carrier carrier, long long number, long long size, double now)
    cdef _note_payload(self, Carrier carrier, double now)
    cdef bint _has_room(self, list frames)
    @cython.locals(frame=tuple)
    cdef bint _act_on(self, list frames)
    @cython.locals(shot=SentShot, carrier=Carrier)
    cdef _on_ack(self, long long answered, long long delay_us, list ranges, list rebuilt)
    cdef _on_stream(self, long long stream_id, long long offset, data, bint fin)
    cdef _settle(self, SentShot shot)

from tcsplitter._core cimport ShotWriter
from tcsplitter.acks cimport Acks, ack_delay
from tcsplitter.cap cimport Cap
from tcsplitter.carrier cimport Carrier, CarrierSet
from tcsplitter.demand cimport Demand
from tcsplitter.hedging cimport Hedger
from tcsplitter.keyring cimport Epoch, Keyring
from tcsplitter.pace cimport Tock
from tcsplitter.parity cimport Parity, Stripe, Stripes
from tcsplitter.recovery cimport Recovery
from tcsplitter.routes cimport Routes
from tcsplitter.shared cimport Shared
from tcsplitter.shots cimport SentShot
from tcsplitter.stats cimport Counters
from tcsplitter.table cimport StreamTable

cdef double FILL_TIMES, TAIL_JITTER, GREET_SECONDS
cdef long long TAIL_FROM, MAX_GONE


cdef class Sender:
    cdef public long long next_number
    cdef object _config
    cdef Counters _counters
    cdef ShotWriter _writer
    cdef Stripes _stripes
    cdef Tock _tock
    cdef list _actions
    cdef int _reserve, _parity
    cdef bint _may_take_along
    cdef long long _most
    cdef public object _gone
    cdef CarrierSet _carriers
    cdef Routes _routes
    cdef Recovery _recovery
    cdef Cap _cap
    cdef Acks _acks
    cdef Keyring _keys
    cdef StreamTable _streams
    cdef Shared _shared
    cdef Demand _demand
    cdef Hedger _hedger
    cdef double _full_at, _bulk_since
    cdef list _greeters

    cpdef want(self)
    cdef int _spare(self)
    cpdef flush(self)
    cpdef double deadline(self)
    cdef double _cap_deadline(self)
    cdef double _stripe_delay(self)
    cdef bint _waits_for_pace(self)
    cdef _send_lost(self)
    cdef _send_waiting(self)
    cdef _notice_full_line(self)
    cdef _send_auto_parity(self)
    cdef bint _send_next(self)
    cdef _send_parity(self)
    cdef _send_twins(self)
    cdef Carrier _for_twin(self, SentShot shot, bint urgent)
    cdef bint _send_twin(self, SentShot shot, Carrier carrier, bint payload=?)
    cdef _finish_due(self)
    cdef bint _has_said_all(self)
    cdef bint _send_data(self, Carrier carrier, bint payload=?, bint lost=?)
    cdef _protect(self, SentShot shot, bytes data, bint takes_parity)
    cdef bint _takes_parity(self)
    cdef bint _hedge(self, SentShot shot)
    cdef double _others(self, Carrier carrier)
    cdef _send_ack(self, Carrier carrier)
    cdef list _fill(self, bint lost)
    cdef list _write_control(self, Carrier carrier)
    cdef _write_ack(self, Carrier carrier)
    cdef _begin_body(self, Carrier carrier)
    cpdef hello(self, Carrier carrier, bytes session_id)
    cpdef greet(self)
    cdef _greet_alone(self, Carrier carrier)
    cdef tuple _seal_data(self, Carrier carrier, list chunks, list control)
    cdef _note_payload(self, Carrier carrier)
    cdef bint _needs_tail(self, long long size)
    cdef bytes _seal(self, Carrier carrier, bint final, op=?)
    cdef double _ack_delay(self)
    cdef Epoch _epoch(self)
    cdef long long _take_number(self, Epoch epoch)
    cdef _write(self, Carrier carrier, bytes data, op=?)

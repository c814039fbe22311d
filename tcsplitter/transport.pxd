cimport cython

from tcsplitter._tcp cimport ReadBuffer, TcpSocket, start_connect
from tcsplitter.carrier cimport Carrier
from tcsplitter.watched cimport Watched

cdef long long MOST_RECEIVED
cdef int LEAST_AWAITED, MOST_AWAITED, RECV_ROUNDS


cdef class Dialler:
    cdef public object end, prepare
    cdef readonly dict _routes

    cdef dial(self, CarrierSocket conn, double now)
    cdef connected(self, CarrierSocket conn, double dial_seconds, double now)


cdef class _Route:
    cdef public object address
    cdef readonly object _resolver
    cdef object _reactor
    cdef long long _turn
    cdef double _reached_at

    cpdef dial(self, CarrierSocket conn, double now)
    cpdef reached(self, target, double now)
    cdef _current(self)
    cpdef _connect(self, CarrierSocket conn, double now)


cdef class Carriers:
    cdef public object end, reactor, read_clock
    cdef public Dialler dialler
    cdef public set open
    cdef readonly ReadBuffer read_buffer
    cdef bint _reading_paused
    cdef long long _read_since_check
    cdef set _paused
    cdef object _pause_timer
    cdef readonly object awaiting

    cpdef accepted(self, TcpSocket sock, Carrier carrier, double now)
    @cython.locals(last=Py_ssize_t, index=Py_ssize_t, conn=CarrierSocket)
    cpdef execute(self, list actions, double now)
    cdef bint may_read(self, Carrier carrier)
    cdef count_read(self, long long size)
    cdef forget(self, CarrierSocket conn)


cdef class CarrierSocket(Watched):
    cdef bint _closing, _corked, _discarding, _shut
    cdef public bint connected
    cdef double _dialled_at
    cdef int _awaited
    cdef public object _queue, target
    cdef public TcpSocket _sock
    cdef public Carrier carrier
    cdef public Carriers carriers

    cdef attach(self, TcpSocket sock)
    cdef dial(self, double now)
    cdef connect(self, target, double now)
    cdef write(self, bytes data, bint more, double now)
    cdef shut(self, double now)
    cdef close(self)
    cdef bint _all_arrived(self)
    cdef reset(self)
    cpdef drop(self)
    cdef _finish_connect(self, bint may_have_failed, double now)
    cdef _is_connected(self, double now)
    cdef _read(self, double now)
    @cython.locals(missing=Py_ssize_t, awaited=Py_ssize_t)
    cdef _await(self, Carrier carrier)
    cdef _throw_away(self)
    cdef _enqueue(self, data, double now)
    cdef _write_queue(self, double now)
    cdef _shut_down(self, double now)
    cdef _lost(self, double now)


cdef bint _shares_segment(tuple following, Carrier carrier)

cimport cython

from tcsplitter.credit cimport ReceiveWindow, SendWindow
from tcsplitter.pace cimport Beats, Tock
from tcsplitter.payload cimport PayloadSize
from tcsplitter.scheduler cimport Scheduler
from tcsplitter.stats cimport Counters

cdef long long UNSENT_PAYLOADS, LEAST_PAYLOADS, SHORT_TIMES


cdef class Shared:
    cdef public Counters counters
    cdef public object handling, touch
    cdef public Beats beats
    cdef public Tock tock
    cdef public dict news
    cdef public long long peer_skip
    cdef public PayloadSize size
    cdef public ReceiveWindow receiving
    cdef public SendWindow sending
    cdef public Scheduler scheduler
    cdef public double now, rtt
    cdef public bint short

    @cython.locals(size=cython.longlong, always=cython.longlong, most=cython.longlong, times=cython.longlong)
    cpdef long long most_unsent(self)
    cpdef long long few_unsent(self)
    cpdef schedule(self, source)
    cpdef tell(self, member)
    cpdef let_go(self)

# cython: language_level=3, auto_pickle=False, cdivision=True
"""TCP sockets that do not block, in as few steps as a connection for every payload needs.

What the calls of socket(7) and tcp(7) say, without what Python's sockets add to them: time limits, addresses of every family,
letting go of the interpreter for calls that never wait.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_FromStringAndSize, PyByteArray_Resize
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.exc cimport PyErr_SetFromErrno
from cpython.memoryview cimport PyMemoryView_FromObject
from libc.errno cimport EALREADY, EINPROGRESS, EINVAL, errno
from libc.stdint cimport uint16_t, uint32_t
from libc.string cimport memcmp, memset

import os

from tcsplitter._core cimport _ROOM_AROUND

cdef extern from "<arpa/inet.h>" nogil:
    uint16_t htons(uint16_t value)
    uint32_t htonl(uint32_t value)
    int inet_pton(int family, const char* text, void* address)
    const char* inet_ntop(int family, const void* address, char* text, unsigned int size)

cdef extern from "<netinet/in.h>" nogil:
    int IPPROTO_TCP
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        uint16_t sin_family, sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        uint16_t sin6_family, sin6_port
        uint32_t sin6_flowinfo, sin6_scope_id
        in6_addr sin6_addr

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<sys/ioctl.h>" nogil:
    unsigned long TIOCOUTQ
    int ioctl(int fd, unsigned long request, ...)

cdef extern from "<sys/socket.h>" nogil:
    int AF_INET, AF_INET6, MSG_MORE, MSG_NOSIGNAL, SHUT_WR, SOCK_CLOEXEC, SOCK_NONBLOCK, SOCK_STREAM
    int SOL_SOCKET, SO_ERROR, SO_LINGER, SO_RCVLOWAT
    struct sockaddr:
        pass
    struct linger_option "linger":
        int l_onoff, l_linger
    int c_accept "accept4"(int fd, sockaddr* address, unsigned int* size, int flags)
    int c_connect "connect"(int fd, const sockaddr* address, unsigned int size)
    int c_getsockopt "getsockopt"(int fd, int level, int name, void* value, unsigned int* size)
    ssize_t c_recv "recv"(int fd, void* buffer, size_t size, int flags)
    ssize_t c_send "send"(int fd, const void* buffer, size_t size, int flags)
    int c_setsockopt "setsockopt"(int fd, int level, int name, const void* value, unsigned int size)
    int c_shutdown "shutdown"(int fd, int how)
    int c_socket "socket"(int family, int kind, int protocol)

cdef extern from "<unistd.h>" nogil:
    int c_close "close"(int fd)

MOST_RECEIVED = _MOST_RECEIVED

cdef enum:
    _COPIED = 4_096  # bytes that are not worth keeping what they were read into
    _HOST_SIZE = 46  # an address of IPv6 in letters, INET6_ADDRSTRLEN

cdef union _Address:
    sockaddr any
    sockaddr_in v4
    sockaddr_in6 v6

cdef _Address _last_peer
cdef str _last_host = ""


@cython.final
cdef class ReadBuffer:
    """What all sockets of an end are read into, one after the other, so that it stays in the processor's cache. As a buffer it
    has what the last read brought, and is not to be written to."""

    def __getbuffer__(self, Py_buffer* view, int flags):
        PyBuffer_FillInfo(view, self, self._bytes, self._count, 1, flags)


@cython.final
cdef class TcpSocket:
    """A socket that does not block: what it cannot do at once raises BlockingIOError. Closed when nobody holds it any more."""

    def __cinit__(self, int fd, int family):
        self.fd = fd
        self.family = family

    def __dealloc__(self):
        self._close()

    cdef void _close(self) noexcept:
        if self.fd >= 0:
            c_close(self.fd)
            self.fd = -1

    def close(self):
        """Close it now; what was written still goes, unless `abort` was called."""
        self._close()

    def fileno(self):
        """The descriptor; -1 once it is closed."""
        return self.fd

    def detach(self):
        """The descriptor, which is the caller's from here on."""
        fd, self.fd = self.fd, -1
        return fd

    cdef int connect(self, tuple sockaddr) except -1:
        """Begin, or go on, to connect; the error number, 0 when it is connected."""
        cdef _Address address
        cdef unsigned int size = _pack(&address, self.family, sockaddr)
        return 0 if c_connect(self.fd, &address.any, size) == 0 else errno

    cpdef recv(self, ReadBuffer into):
        """A view of what has come, up to MOST_RECEIVED bytes; none at the end of the stream. The next read into this buffer
        changes it."""
        cdef ssize_t count = c_recv(self.fd, into._bytes, _MOST_RECEIVED, 0)
        if count < 0:
            PyErr_SetFromErrno(OSError)
        into._count = count
        return PyMemoryView_FromObject(into)

    cpdef Py_ssize_t send(self, data, bint more=False) except -1:
        """Give it as much of `data` as it takes; how many bytes. `more`: something follows at once."""
        cdef Py_buffer view
        cdef ssize_t sent
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            sent = c_send(self.fd, view.buf, view.len, MSG_NOSIGNAL | MSG_MORE if more else MSG_NOSIGNAL)
            if sent < 0:
                PyErr_SetFromErrno(OSError)
            return sent
        finally:
            PyBuffer_Release(&view)

    cpdef setsockopt(self, int level, int name, value):
        """Set an option to a number, or to bytes."""
        cdef int number
        cdef bytes raw
        if isinstance(value, bytes):
            raw = value
            if c_setsockopt(self.fd, level, name, <const char*> raw, len(raw)) < 0:
                PyErr_SetFromErrno(OSError)
        else:
            number = value
            if c_setsockopt(self.fd, level, name, &number, sizeof(number)) < 0:
                PyErr_SetFromErrno(OSError)

    cpdef int error(self) except -1:
        """The number of the error that is pending, which is none from here on; 0 without one."""
        cdef int number = 0
        cdef unsigned int size = sizeof(number)
        if c_getsockopt(self.fd, SOL_SOCKET, SO_ERROR, &number, &size) < 0:
            PyErr_SetFromErrno(OSError)
        return number

    cpdef int unacknowledged(self) except -1:
        """Bytes in the send queue that the other kernel has not acknowledged (tcp(7), SIOCOUTQ)."""
        cdef int count = 0
        if ioctl(self.fd, TIOCOUTQ, &count) < 0:
            PyErr_SetFromErrno(OSError)
        return count

    cpdef int wait_for(self, int count) except -1:
        """Let it become readable when so many bytes have come, or when the stream has ended (socket(7), SO_RCVLOWAT)."""
        if c_setsockopt(self.fd, SOL_SOCKET, SO_RCVLOWAT, &count, sizeof(count)) < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    cpdef int abort(self) except -1:
        """Let the close that follows reset the connection, so that the other end learns that it was cut off."""
        cdef linger_option option
        option.l_onoff = 1
        option.l_linger = 0
        if c_setsockopt(self.fd, SOL_SOCKET, SO_LINGER, &option, sizeof(option)) < 0:
            PyErr_SetFromErrno(OSError)
        return 0

    cpdef int shutdown(self) except -1:
        """Say that nothing follows what was written."""
        if c_shutdown(self.fd, SHUT_WR) < 0:
            PyErr_SetFromErrno(OSError)
        return 0


def receive(int fd, Py_ssize_t most):
    """Up to `most` bytes of what has come at this socket, or at any that does not block; none at the end of the stream.

    Where they are many it is a view, with ROOM_AROUND bytes to both sides of it, of something that nobody else has.
    """
    cdef bytearray whole = PyByteArray_FromStringAndSize(NULL, most + 2 * _ROOM_AROUND)
    cdef ssize_t count = c_recv(fd, PyByteArray_AS_STRING(whole) + _ROOM_AROUND, most, 0)
    if count < 0:
        PyErr_SetFromErrno(OSError)
    if count <= _COPIED:
        return PyBytes_FromStringAndSize(PyByteArray_AS_STRING(whole) + _ROOM_AROUND, count)
    PyByteArray_Resize(whole, count + 2 * _ROOM_AROUND)
    return PyMemoryView_FromObject(whole)[_ROOM_AROUND:_ROOM_AROUND + count]


cdef unsigned int _pack(_Address* address, int family, tuple sockaddr) except 0:
    """A numeric address as Python has it, as the kernel has it; its size."""
    cdef bytes host = (<str> sockaddr[0]).encode("ascii")
    memset(address, 0, sizeof(_Address))
    if family == AF_INET:
        address.v4.sin_family = AF_INET
        address.v4.sin_port = htons(sockaddr[1])
        if inet_pton(AF_INET, host, &address.v4.sin_addr) == 1:
            return sizeof(sockaddr_in)
    elif family == AF_INET6:
        address.v6.sin6_family = AF_INET6
        address.v6.sin6_port = htons(sockaddr[1])
        address.v6.sin6_flowinfo = htonl(sockaddr[2])
        address.v6.sin6_scope_id = sockaddr[3]
        if inet_pton(AF_INET6, host, &address.v6.sin6_addr) == 1:
            return sizeof(sockaddr_in6)
    raise OSError(EINVAL, f"{sockaddr[0]} is no numeric address of family {family}")


cdef str _host_of(const _Address* address):
    """The host of an address in letters."""
    cdef char text[_HOST_SIZE]
    cdef int family = address.v4.sin_family
    cdef const void* host = <const void*> &address.v4.sin_addr if family == AF_INET else <const void*> &address.v6.sin6_addr
    if inet_ntop(family, host, text, _HOST_SIZE) == NULL:
        PyErr_SetFromErrno(OSError)
    return text.decode("ascii")


def accept(int fd):
    """A connection that waits at this listening socket, and the numeric address that it came from. Raises BlockingIOError where
    none does."""
    global _last_host, _last_peer
    cdef _Address peer
    cdef unsigned int size = sizeof(peer)
    memset(&peer, 0, sizeof(peer))
    cdef int accepted = c_accept(fd, &peer.any, &size, SOCK_NONBLOCK | SOCK_CLOEXEC)
    if accepted < 0:
        PyErr_SetFromErrno(OSError)
    cdef int family = peer.v4.sin_family
    cdef TcpSocket sock = TcpSocket(accepted, family)
    peer.v4.sin_port = 0  # at the same place in both
    if memcmp(&peer, &_last_peer, sizeof(peer)) != 0:
        _last_host = _host_of(&peer)
        _last_peer = peer
    return sock, _last_host


cpdef bint is_of_this_machine(str host):
    """Whether a numeric address is one of loopback."""
    return host.startswith("127.") or host == "::1"


cpdef tuple start_connect(tuple target, prepare=None):
    """A socket that is connecting, and whether it is connected already; else it becomes writable when that is decided.
    OSError if it is refused at once.

    `prepare` sees to the socket before it connects.
    """
    cdef int family = target[0], one = 1, code
    cdef tuple sockaddr = target[1]
    cdef int fd = c_socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, IPPROTO_TCP)
    if fd < 0:
        PyErr_SetFromErrno(OSError)
    cdef TcpSocket sock = TcpSocket(fd, family)
    if c_setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) < 0:
        PyErr_SetFromErrno(OSError)
    if prepare is not None:
        prepare(sock, sockaddr[0])
    code = sock.connect(sockaddr)
    if code == EINPROGRESS and is_of_this_machine(sockaddr[0]):
        code = sock.connect(sockaddr)  # within the first call it was connected; only the second one says so
    if code != 0 and code != EINPROGRESS and code != EALREADY:
        raise OSError(code, os.strerror(code))
    return sock, code == 0

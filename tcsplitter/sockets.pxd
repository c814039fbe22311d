cpdef bint is_of_this_machine(str host)
cpdef abort(sock)
cpdef long long unacknowledged(int fd)
cpdef tuple start_connect(tuple target, prepare=?)

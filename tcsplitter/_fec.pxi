# --- Fec ------------------------------------------------------------------------------------------------------------------
# What: parity over sealed shots (PROTOCOL.md section 6). Which factors there are is zfec's to say, once per shape and per
# pattern of loss: it is given unit vectors, so what it makes of them are its matrices. The shots are multiplied by _gf256.h.
# Invariant: zfec sees distinct numbers below m, bytes of one length, and tuples made for it alone: it hangs on a repeated
# primary, returns garbage for a repeated or foreign number, and reorders the tuples it is given. Bound: parity or missing blocks
# of at most _MAX_BLOCK bytes, and _MAX_MATRICES of each kind, 16 KB at most. Cost: one pass over the shots per four blocks;
# nothing of them is copied but their ends. A new matrix is some µs for 10+3, 3 ms for 128+128.

cdef extern from "_gf256.h" nogil:
    enum:
        GF_MAX_KERNELS

    ctypedef struct gf_source:
        const uint8_t* bytes
        size_t size
        const uint8_t* factors

    ctypedef void (*gf_run)(uint8_t* const*, int, int, const gf_source*, int, size_t, size_t) noexcept

    ctypedef struct gf_kernel:
        const char* name
        gf_run run

    void gf_init()
    int gf_kernels(gf_kernel*)
    void gf_combine(gf_run, uint8_t* const*, int, size_t, gf_source*, int)


gf_init()
cdef gf_kernel[GF_MAX_KERNELS] _kernels
FEC_KERNELS = tuple([_kernels[i].name.decode() for i in range(gf_kernels(_kernels))])


@cython.final
cdef class Fec:
    """Systematic Reed-Solomon over shots, with zfec's matrices."""

    cdef int _data
    cdef int _parity
    cdef gf_run _run
    cdef bytes _factors

    def __cinit__(self, data, parity, kernel=FEC_KERNELS[0]):
        if data < 1 or parity < 1 or data + parity > _MAX_BLOCKS:
            raise ValueError(f"{data} data and {parity} parity blocks: at least one of each, {_MAX_BLOCKS} together")
        self._data = data
        self._parity = parity
        self._run = _kernels[FEC_KERNELS.index(kernel)].run
        self._factors = _encoding(self._data, self._parity)

    def encode(self, shots):
        """The `parity` blocks of `data` shots. ValueError for another count of shots or one that is too long."""
        cdef list given = list(shots)
        if len(given) != self._data:
            raise ValueError(f"{len(given)} shots, not {self._data}")
        cdef Py_ssize_t longest = max(map(len, given))
        if _BLOCK_PREFIX + longest > _MAX_BLOCK:
            raise ValueError(f"a shot of {longest} bytes")
        cdef _Stripe stripe
        stripe.count = 0
        for shot in given:
            _add_shot(&stripe, shot, self._factors, self._parity)
        cdef uint8_t* rows[_MAX_BLOCKS]
        cdef list blocks = _new_rows(rows, self._parity, _BLOCK_PREFIX + longest)
        gf_combine(self._run, rows, self._parity, _BLOCK_PREFIX, stripe.prefixes, stripe.count)
        cdef int i
        for i in range(self._parity):
            rows[i] += _BLOCK_PREFIX
        gf_combine(self._run, rows, self._parity, longest, stripe.shots, stripe.count)
        return blocks

    def rebuild(self, dict shots not None, dict parity not None):
        """The missing data shots by index. ValueError for too few blocks or an index out of range; RemoteProtocolError
        where blocks contradict each other."""
        cdef list present = [i for i in range(self._data) if i in shots]
        cdef list spare = [i for i in range(self._parity) if i in parity]
        if len(present) < len(shots) or len(spare) < len(parity):
            raise ValueError("a shot or a parity block with an index that is not of this stripe")
        cdef list missing = [i for i in range(self._data) if i not in shots]
        if not missing:
            return {}
        if len(spare) < len(missing):
            raise ValueError(f"{len(missing)} shots are missing, but there are {len(spare)} parity blocks")
        del spare[len(missing):]
        cdef dict views = {i: PyMemoryView_GetContiguous(block, PyBUF_READ, b"C") for i, block in parity.items()}
        cdef Py_ssize_t longest = _parity_length(shots, views) - _BLOCK_PREFIX
        cdef int count = <int> len(missing)
        cdef bytes factors = _decoding(self._data, self._parity, tuple(present + [self._data + i for i in spare]))
        cdef _Stripe stripe
        stripe.count = 0
        for i in present:
            _add_shot(&stripe, shots[i], factors, count)
        for i in spare:
            _add_block(&stripe, PyMemoryView_GET_BUFFER(views[i]), factors, count)
        return self._rebuilt(&stripe, missing, longest)

    cdef dict _rebuilt(self, _Stripe* stripe, list missing, Py_ssize_t longest):
        cdef int i, count = <int> len(missing)
        cdef uint8_t[_MAX_BLOCKS][_BLOCK_PREFIX] prefixes
        cdef uint8_t* rows[_MAX_BLOCKS]
        for i in range(count):
            rows[i] = prefixes[i]
        gf_combine(self._run, rows, count, _BLOCK_PREFIX, stripe.prefixes, stripe.count)
        cdef list padded = _new_rows(rows, count, longest)
        gf_combine(self._run, rows, count, longest, stripe.shots, stripe.count)
        cdef dict rebuilt = {}
        for i in range(count):
            rebuilt[missing[i]] = _shot_of(padded[i], <Py_ssize_t> _load(prefixes[i], _BLOCK_PREFIX))
        return rebuilt


@lru_cache(maxsize=_MAX_MATRICES)
def _encoding(int data, int parity):
    """Of each shot its factors, one for each parity block."""
    return _columns(zfec.Encoder(data, data + parity).encode(_unit_vectors(data), tuple(range(data, data + parity))))


@lru_cache(maxsize=_MAX_MATRICES)
def _decoding(int data, int parity, tuple numbers not None):
    """Of each block whose number is given, shots first, its factors, one for each missing shot."""
    cdef list whole = zfec.Decoder(data, data + parity).decode(_unit_vectors(data), tuple(list(numbers)))
    cdef set present = set(numbers)
    return _columns([whole[i] for i in range(data) if i not in present])


cdef tuple _unit_vectors(int size):
    return tuple([bytes(i) + b"\1" + bytes(size - 1 - i) for i in range(size)])


cdef bytes _columns(list rows):
    return b"".join([bytes(column) for column in zip(*rows)])


# The blocks that enter a calculation. What stands before a shot is kept apart from it, so that no shot is copied to follow it.
cdef struct _Stripe:
    int count
    gf_source[_MAX_BLOCKS] prefixes
    gf_source[_MAX_BLOCKS] shots
    uint8_t[_MAX_BLOCKS * _BLOCK_PREFIX] lengths


cdef int _add_shot(_Stripe* stripe, bytes shot, bytes factors, int each) except -1:
    cdef uint8_t* length = stripe.lengths + stripe.count * _BLOCK_PREFIX
    _store(length, len(shot), _BLOCK_PREFIX)
    _add(stripe, length, <const uint8_t*> PyBytes_AS_STRING(shot), len(shot), factors, each)
    return 0


cdef void _add_block(_Stripe* stripe, const Py_buffer* block, bytes factors, int each) noexcept:
    cdef const uint8_t* prefix = <const uint8_t*> block.buf
    _add(stripe, prefix, prefix + _BLOCK_PREFIX, block.len - _BLOCK_PREFIX, factors, each)


cdef inline void _add(
    _Stripe* stripe, const uint8_t* prefix, const uint8_t* shot, Py_ssize_t size, bytes factors, int each
) noexcept:
    """`factors` has `each` of them for every block, in the order in which the blocks are added."""
    cdef const uint8_t* own = <const uint8_t*> PyBytes_AS_STRING(factors) + stripe.count * each
    stripe.prefixes[stripe.count] = gf_source(prefix, _BLOCK_PREFIX, own)
    stripe.shots[stripe.count] = gf_source(shot, size, own)
    stripe.count += 1


cdef list _new_rows(uint8_t** rows, int count, Py_ssize_t size):
    """Bytes objects, to be filled through `rows` before anyone else sees them."""
    cdef list made = []
    cdef int i
    for i in range(count):
        made.append(PyBytes_FromStringAndSize(NULL, size))
        rows[i] = <uint8_t*> PyBytes_AS_STRING(made[i])
    return made


cdef Py_ssize_t _parity_length(dict shots, dict views) except -1:
    """The one length of all blocks of a stripe."""
    cdef set lengths = {PyMemoryView_GET_BUFFER(view).len for view in views.values()}
    if len(lengths) != 1:
        raise RemoteProtocolError("parity blocks of different lengths")
    cdef Py_ssize_t length = lengths.pop()
    if not _BLOCK_PREFIX <= length <= _MAX_BLOCK or any([_BLOCK_PREFIX + len(shot) > length for shot in shots.values()]):
        raise RemoteProtocolError(f"a parity block of {length} bytes does not fit its shots")
    return length


cdef bytes _shot_of(bytes padded, Py_ssize_t size):
    cdef Py_ssize_t padding = len(padded) - size
    cdef const char* end = PyBytes_AS_STRING(padded) + size
    if padding < 0 or padding > 0 and (end[0] != 0 or memcmp(end, end + 1, padding - 1) != 0):
        raise RemoteProtocolError("the blocks of a stripe contradict each other")
    return padded if padding == 0 else padded[:size]

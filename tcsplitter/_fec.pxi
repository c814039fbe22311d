# --- Fec ------------------------------------------------------------------------------------------------------------------
# What: parity over sealed shots (PROTOCOL.md section 6), and the only caller of zfec. Invariant: zfec sees distinct numbers
# below m, bytes of one length, and tuples made for it alone: it hangs on a repeated primary, returns garbage for a repeated or
# foreign number, and reorders the tuples it is given. Bound: data + parity blocks of at most _MAX_BLOCK bytes, each present
# shot copied once. Cost: zfec's, O(parity or missing * data * length).

@cython.final
cdef class Fec:
    """Systematic Reed-Solomon over shots, zfec behind its one guard."""

    cdef int _data
    cdef int _parity
    cdef tuple _parity_numbers
    cdef object _encoder
    cdef object _decoder

    def __cinit__(self, data, parity):
        if data < 1 or parity < 1 or data + parity > _MAX_BLOCKS:
            raise ValueError(f"{data} data and {parity} parity blocks: at least one of each, {_MAX_BLOCKS} together")
        self._data = data
        self._parity = parity
        self._parity_numbers = tuple(range(data, data + parity))
        self._encoder = zfec.Encoder(data, data + parity)
        self._decoder = zfec.Decoder(data, data + parity)

    def encode(self, shots):
        """The `parity` blocks of `data` shots. ValueError for another count of shots or one that is too long."""
        cdef list given = list(shots)
        if len(given) != self._data:
            raise ValueError(f"{len(given)} shots, not {self._data}")
        cdef Py_ssize_t length = _BLOCK_PREFIX + max(map(len, given))
        if length > _MAX_BLOCK:
            raise ValueError(f"a shot of {length - _BLOCK_PREFIX} bytes")
        cdef list blocks = []
        for shot in given:
            blocks.append(_block(shot, length))
        return self._encoder.encode(tuple(blocks), self._parity_numbers)

    def rebuild(self, dict shots not None, dict parity not None):
        """The missing data shots by index. ValueError for too few blocks or an index out of range; RemoteProtocolError
        where blocks contradict each other."""
        if not all(0 <= i < self._data for i in shots) or not all(0 <= i < self._parity for i in parity):
            raise ValueError("a shot or a parity block with an index that is not of this stripe")
        cdef list missing = [i for i in range(self._data) if i not in shots]
        if not missing:
            return {}
        if len(parity) < len(missing):
            raise ValueError(f"{len(missing)} shots are missing, but there are {len(parity)} parity blocks")
        cdef Py_ssize_t length = _parity_length(shots, parity)
        cdef list numbers = sorted(shots), blocks = []
        for i in numbers:
            blocks.append(_block(shots[i], length))
        for i in sorted(parity)[:len(missing)]:
            numbers.append(self._data + i)
            blocks.append(bytes(parity[i]))
        cdef list whole = self._decoder.decode(tuple(blocks), tuple(numbers))
        cdef dict rebuilt = {}
        for i in missing:
            rebuilt[i] = _shot_of(whole[i])
        return rebuilt


cdef Py_ssize_t _parity_length(dict shots, dict parity) except -1:
    """The one length of all blocks of a stripe."""
    cdef set lengths = {len(block) for block in parity.values()}
    if len(lengths) != 1:
        raise RemoteProtocolError("parity blocks of different lengths")
    cdef Py_ssize_t length = lengths.pop()
    if not _BLOCK_PREFIX <= length <= _MAX_BLOCK or any([_BLOCK_PREFIX + len(shot) > length for shot in shots.values()]):
        raise RemoteProtocolError(f"a parity block of {length} bytes does not fit its shots")
    return length


cdef bytes _block(bytes shot, Py_ssize_t length):
    """A shot as it enters the calculation: its length, itself, zeros up to `length`."""
    cdef bytes block = PyBytes_FromStringAndSize(NULL, length)
    cdef uint8_t* at = <uint8_t*> PyBytes_AS_STRING(block)
    cdef Py_ssize_t used = _BLOCK_PREFIX + len(shot)
    _store(at, len(shot), _BLOCK_PREFIX)
    memcpy(at + _BLOCK_PREFIX, PyBytes_AS_STRING(shot), len(shot))
    memset(at + used, 0, length - used)
    return block


cdef bytes _shot_of(bytes block):
    cdef Py_ssize_t used = _BLOCK_PREFIX + <Py_ssize_t> _load(<const uint8_t*> PyBytes_AS_STRING(block), _BLOCK_PREFIX)
    if used > len(block) or block.count(0, used) != len(block) - used:
        raise RemoteProtocolError("the blocks of a stripe contradict each other")
    return block[_BLOCK_PREFIX:used]

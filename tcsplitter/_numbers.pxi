# --- RangeSet -------------------------------------------------------------------------------------------------------------
# What: integers as ranges. Invariant: `_lows` and `_highs` run in parallel, rising, with a gap of at least one integer between
# ranges. Bound: the caller's. Cost: O(1) to extend the highest range or to add one above it, else a bisection and moving the
# lists' pointers.

@cython.final
cdef class RangeSet:
    """A set of integers kept as sorted inclusive ranges."""

    def __cinit__(self):
        self._lows = []
        self._highs = []

    cpdef add(self, int64_t low, int64_t high):
        """Add all integers from `low` to `high`; ValueError if there are none."""
        cdef Py_ssize_t last = len(self._lows) - 1, first, after
        if low > high:
            raise ValueError(f"no range: {low} to {high}")
        if last < 0 or low - 1 > <int64_t> self._highs[last]:
            self._lows.append(low)
            self._highs.append(high)
        elif low >= <int64_t> self._lows[last]:
            if high > <int64_t> self._highs[last]:
                self._highs[last] = high
        else:
            first = _bisect(self._highs, low - 1)
            after = _bisect(self._lows, high + 2)
            if first < after:
                low = min(low, <int64_t> self._lows[first])
                high = max(high, <int64_t> self._highs[after - 1])
            self._lows[first:after] = [low]
            self._highs[first:after] = [high]

    def __contains__(self, int64_t number):
        cdef Py_ssize_t at = _bisect(self._highs, number)
        return at < len(self._lows) and <int64_t> self._lows[at] <= number

    def __len__(self):
        return len(self._lows)

    def ranges(self):
        """(low, high) of each range, the highest first."""
        return list(zip(reversed(self._lows), reversed(self._highs)))

    cdef int trim(self, Py_ssize_t most) except -1:
        """Forget the lowest ranges beyond `most`."""
        if len(self._lows) > most:
            del self._lows[:len(self._lows) - most]
            del self._highs[:len(self._highs) - most]
        return 0


cdef Py_ssize_t _bisect(list rising, int64_t value) except -1:
    """Index of the first entry that is not below `value`."""
    cdef Py_ssize_t low = 0, high = len(rising), middle
    while low < high:
        middle = (low + high) // 2
        if <int64_t> rising[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


# --- AckLog ---------------------------------------------------------------------------------------------------------------
# What: numbers that are still to be listed in acks, by how often they were. Invariant: what an ack lists is the top of all
# generations down to one number, so no range is torn when it moves to the next generation. Bound: _MAX_HELD_RANGES in each
# generation; beyond that the oldest are forgotten, and the other end sends what they held again. Cost: add O(1) for a number
# next to the newest range; take O(ranges listed).

@cython.final
cdef class _Reports:
    def __cinit__(self):
        self._generations = [RangeSet() for _ in range(_ACK_GENERATIONS)]

    cdef int add(self, int64_t number) except -1:
        cdef RangeSet new = self._generations[0]
        if number < 0:
            raise ValueError(f"shot number {number}")
        new.add(number, number)
        new.trim(_MAX_HELD_RANGES)
        return 0

    cdef bint any(self) except -1:
        cdef RangeSet generation
        for generation in self._generations:
            if generation._lows:
                return True
        return False

    cdef list take(self):
        cdef list ranges
        if not self.any():
            return []
        ranges = self._newest()
        self._age(ranges[len(ranges) - 1][0])
        return ranges

    cdef list _newest(self):
        """The newest MAX_ACK_RANGES ranges of all generations together."""
        cdef list ranges = []
        cdef RangeSet generation
        cdef Py_ssize_t left[_ACK_GENERATIONS]
        cdef int64_t low = 0, high = -1, top
        cdef int i, best
        for i in range(_ACK_GENERATIONS):
            left[i] = len(<RangeSet> self._generations[i])
        while True:
            best = -1
            top = -1
            for i in range(_ACK_GENERATIONS):
                generation = self._generations[i]
                if left[i] and <int64_t> generation._highs[left[i] - 1] > top:
                    best = i
                    top = generation._highs[left[i] - 1]
            if high >= 0 and (best < 0 or top < low - 1):
                ranges.append((low, high))
                high = -1
            if best < 0 or len(ranges) == MAX_ACK_RANGES:
                return ranges
            left[best] -= 1
            generation = self._generations[best]
            low = generation._lows[left[best]] if high < 0 else min(low, <int64_t> generation._lows[left[best]])
            high = max(high, top)

    cdef int _age(self, int64_t lowest) except -1:
        """Everything from `lowest` on was listed once more."""
        cdef RangeSet generation
        cdef list lows, highs
        cdef Py_ssize_t at
        if self._all_from(lowest):
            generation = self._generations.pop()
            generation._lows.clear()
            generation._highs.clear()
            self._generations.insert(0, generation)
            return 0
        lows, highs = [], []
        for generation in self._generations:
            at = _bisect(generation._lows, lowest)
            lows, generation._lows[at:] = generation._lows[at:], lows
            highs, generation._highs[at:] = generation._highs[at:], highs
            generation.trim(_MAX_HELD_RANGES)
        return 0


    cdef bint _all_from(self, int64_t lowest) except -1:
        """Whether there is nothing below."""
        cdef RangeSet generation
        for generation in self._generations:
            if generation._lows and <int64_t> generation._lows[0] < lowest:
                return False
        return True


@cython.final
cdef class AckLog:
    """Shot numbers to be acknowledged. Each goes into three acks; newest ranges first, MAX_ACK_RANGES in each."""

    def __cinit__(self):
        self._received = _Reports()
        self._rebuilt = _Reports()
        self._highest = -1

    cpdef add(self, int64_t number):
        """A shot came in and was taken in. ValueError for a number below 0."""
        self._received.add(number)
        self._highest = max(self._highest, number)

    cpdef add_rebuilt(self, int64_t number):
        """A shot was rebuilt from parity. ValueError for a number below 0."""
        self._rebuilt.add(number)

    def __bool__(self):
        return self._received.any() or self._rebuilt.any()

    cpdef tuple take(self):
        """Ranges of received and of rebuilt numbers for one ack; counts as one report of each."""
        cdef list received = self._received.take(), rebuilt = self._rebuilt.take()
        # An ACK frame lists at least one received number.
        if rebuilt and not received and self._highest >= 0:
            received = [(self._highest, self._highest)]
        return received, rebuilt

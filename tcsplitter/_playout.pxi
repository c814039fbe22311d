# --- Playout --------------------------------------------------------------------------------------------------------------
# What: the beat at which payloads in order are forwarded. Invariant: beat k is at `_start` + k * `_beat`, so it does not drift;
# `_due` was granted and not yet released, `_queued` waits in `_lengths` from `_first` on; `_ends` rise, all above `_pushed`, the
# end of what was pushed or passed. Bound: _MAX_WAITING_PAYLOADS lengths, as many ends. Cost: O(1) per payload in order, else a
# bisection and moving the list's pointers; beats that find nothing are counted, not walked.

@cython.final
cdef class Playout:
    """The jitter buffer's beat: which of the payloads that are in order may be forwarded now. Times are seconds."""

    cdef double _beat
    cdef Py_ssize_t _merge
    cdef bint _catch_up
    cdef double _free_until
    cdef double _start
    cdef int64_t _next_beat
    cdef bint _behind
    cdef readonly int64_t skipped
    cdef list _lengths
    cdef Py_ssize_t _first
    cdef int64_t _queued
    cdef int64_t _due
    cdef double _due_since
    cdef list _ends
    cdef int64_t _pushed

    def __cinit__(self, double beat, Py_ssize_t merge, bint catch_up, double free_until):
        if not isfinite(beat) or beat < 0 or 0 < beat < 1e-6 or merge < 0:
            raise ValueError(f"no beat: every {beat} s, {merge} payloads")
        self._beat = beat
        self._merge = max(merge, 1)
        self._catch_up = catch_up
        self._free_until = free_until
        self._lengths = []
        self._ends = []

    def expect(self, int64_t end):
        """A payload that ends at this stream offset has come. Nothing happens where that is known, pushed or passed."""
        cdef Py_ssize_t count = len(self._ends), at
        cdef bint full = count >= _MAX_WAITING_PAYLOADS
        if end <= self._pushed:
            return
        if count == 0 or end > <int64_t> self._ends[count - 1]:
            # The highest end must stay: without it bytes would never be pushed.
            if full:
                self._ends[count - 1] = end
            else:
                self._ends.append(end)
        elif not full:
            at = _bisect(self._ends, end)
            if <int64_t> self._ends[at] != end:
                self._ends.insert(at, end)

    def advance(self, int64_t offset, double now):
        """The stream is in order up to `offset`: push the payloads that end at or below it."""
        cdef Py_ssize_t count = 0
        cdef int64_t end
        while count < len(self._ends) and <int64_t> self._ends[count] <= offset:
            end = self._ends[count]
            self.push(end - self._pushed, now)
            self._pushed = end
            count += 1
        if count:
            del self._ends[:count]

    def pass_by(self, int64_t offset):
        """The bytes from what was pushed to `offset` were skipped: they are no payload, and nothing is expected there."""
        self._pushed = max(self._pushed, offset)
        del self._ends[:_bisect(self._ends, self._pushed + 1)]

    cpdef push(self, int64_t length, double now):
        """A payload of `length` bytes is in order now; ValueError if it is below 0, nothing happens if it is 0."""
        if length < 0:
            raise ValueError(f"a payload of {length} bytes")
        if length == 0:
            return
        if self._beat == 0 or now < self._free_until:
            self._grant(length, now)
            return
        if self._next_beat == 0:
            self._start = now
            self._next_beat = 1
        # A payload that comes with a beat is in time for it.
        self._run_beats(now, False)
        if len(self._lengths) - self._first < _MAX_WAITING_PAYLOADS:
            self._lengths.append(length)
        else:
            self._lengths[len(self._lengths) - 1] += length
        self._queued += length

    def release(self, double now):
        """Bytes that may be forwarded now and were not released before."""
        cdef int64_t count
        if self._next_beat:
            self._run_beats(now, True)
        count = self._due
        self._due = 0
        return count

    def deadline(self):
        """When `release` has to be called next, at once if that is past; infinity while nothing waits."""
        if self._due:
            return self._due_since
        return self._beat_time(self._next_beat) if self._queued else INFINITY

    def beat(self, double now, int64_t count):
        """When the beat is that comes `count` beats after the first at or after `now`; `count` beats from now if none runs."""
        if self._next_beat == 0:
            return now + count * self._beat
        return self._beat_time(self._beat_from(1, now, False) + count)

    @property
    def waiting(self):
        """Bytes pushed and not released."""
        return self._queued + self._due

    cdef inline double _beat_time(self, int64_t beat) noexcept:
        return self._start + beat * self._beat

    cdef inline bint _passed(self, int64_t beat, double now, bint inclusive) noexcept:
        return self._beat_time(beat) < now or inclusive and self._beat_time(beat) == now

    cdef int64_t _beat_from(self, int64_t least, double now, bint inclusive) noexcept:
        """The first beat, `least` or later, that is not passed."""
        # One early, because the division may round up.
        cdef int64_t beat = max(least, <int64_t> floor((now - self._start) / self._beat) - 1)
        while self._passed(beat, now, inclusive):
            beat += 1
        return beat

    cdef int _run_beats(self, double now, bint inclusive) except -1:
        cdef int64_t beat
        while self._passed(self._next_beat, now, inclusive):
            if self._queued:
                self._forward()
                self._next_beat += 1
                continue
            beat = self._beat_from(self._next_beat, now, inclusive)
            self.skipped += beat - self._next_beat
            self._next_beat = beat
            self._behind = True
        return 0

    cdef int _forward(self) except -1:
        """Grant what this beat forwards."""
        cdef Py_ssize_t count = len(self._lengths) - self._first, i
        if not (self._catch_up and self._behind):
            count = min(count, self._merge)
        for i in range(self._first, self._first + count):
            self._queued -= <int64_t> self._lengths[i]
            self._grant(self._lengths[i], self._beat_time(self._next_beat))
        self._first += count
        self._behind = False
        if self._queued == 0 or self._first >= _COMPACT_AFTER and 2 * self._first >= len(self._lengths):
            del self._lengths[:self._first]
            self._first = 0
        return 0

    cdef int _grant(self, int64_t length, double now) except -1:
        if self._due == 0:
            self._due_since = now
        self._due += length
        return 0

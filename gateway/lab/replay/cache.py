"""The prompt cache of one workspace, in blocks.

Pure: `now` (seconds) is an argument. A request reads its leading blocks that are there, and that keeps them for another
TTL; from the moment its response begins, all its blocks are there for one. So a block never outlives the one before it,
and the longest readable prefix can be searched by halves. The last block of a prompt may be shorter than the others and
is cached like them; tokens beyond the blocks of a request never are.
"""

from __future__ import annotations

_SWEEP = 1 << 16


class BlockCache:
    """Blocks by the time when they expire."""

    def __init__(self, ttl: float) -> None:
        self.ttl = ttl
        self._expires: dict[int, float] = {}
        self._sweep_at = _SWEEP

    def __len__(self) -> int:
        return len(self._expires)

    def peek(self, blocks: tuple[int, ...], now: float) -> int:
        """How many leading blocks are readable."""
        expires = self._expires
        low, high = 0, len(blocks)
        while low < high:
            middle = (low + high) // 2
            if expires.get(blocks[middle], now) > now:
                low = middle + 1
            else:
                high = middle
        return low

    def read(self, blocks: tuple[int, ...], now: float) -> int:
        """How many leading blocks are readable; they are kept for another TTL."""
        count = self.peek(blocks, now)
        self._keep(blocks[:count], now)
        return count

    def write(self, blocks: tuple[int, ...], now: float) -> None:
        """The response has begun: all blocks are readable from here on."""
        self._keep(blocks, now)
        if len(self._expires) > self._sweep_at:
            self._expires = {block: at for block, at in self._expires.items() if at > now}
            self._sweep_at = max(_SWEEP, 2 * len(self._expires))

    def _keep(self, blocks: tuple[int, ...], now: float) -> None:
        self._expires.update(dict.fromkeys(blocks, now + self.ttl))

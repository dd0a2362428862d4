"""Who owns which block of the KV cache: reference counts, copy-on-write, and a prefix tree shared
by all requests.

The cache is paged in blocks of 16 tokens. A sequence's block table holds one reference per block; a
block referenced twice is shared and must not be written. Full blocks are published in a tree whose
edges are their 16 tokens, so that a later prompt with the same beginning takes them over instead of
computing them. Blocks that nobody references stay in the tree until their memory is wanted, least
recently used first.

Knows no tensors (the runner holds the memory; `copy` is called where two blocks must part) and no
requests. Whoever publishes a block promises that its 16 positions are computed. The tree is plain
data (`_edge`, `_child`): saving it to disk is a walk over `nodes()` beside the runner's bytes.
"""

from __future__ import annotations

from array import array
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable, Iterator

from codellama.engine.runner import BLOCK_SIZE

__all__ = ["Blocks", "KVPool", "blocks_for"]

Blocks = array  # array("i"): a block table that NumPy reads without a loop
ROOT = -1
KEY_BYTES = BLOCK_SIZE * array("i").itemsize


def blocks_for(tokens: int) -> int:
    """Blocks that hold so many tokens."""
    return -(-tokens // BLOCK_SIZE)


class KVPool:
    """Blocks 0 … n_blocks − 1, their owners and the prefix tree.

    Invariant: a published block is referenced only by tables that also reference its parent, in
    front of it; tables are released from the back. So in the idle queue a child always comes before
    its parent, and the least recently used idle block is a leaf: evicting it never leaves an
    orphan.
    """

    def __init__(
        self, n_blocks: int, copy: Callable[[int, int], None], *, caching: bool = True
    ) -> None:
        self.n_blocks = n_blocks
        self._copy = copy
        self._caching = caching
        self._references = [0] * n_blocks
        self._edge: list[tuple[int, bytes] | None] = [None] * n_blocks  # (parent block, its tokens)
        self._child: dict[tuple[int, bytes], int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict.fromkeys(range(n_blocks))

    @property
    def available(self) -> int:
        """Blocks that can be allocated now: unreferenced ones, published or not."""
        return len(self._idle)

    @property
    def published(self) -> int:
        """Blocks in the prefix tree."""
        return len(self._child)

    def match(self, tokens: list[int], limit: int) -> array[int]:
        """Take references on the longest published chain over at most `limit` of these tokens."""
        blocks = array("i")
        raw = array("i", tokens[:limit]).tobytes()
        parent = ROOT
        for start in range(0, len(raw) - KEY_BYTES + 1, KEY_BYTES):
            block = self._child.get((parent, raw[start : start + KEY_BYTES]))
            if block is None:
                break
            self._acquire(block)
            blocks.append(block)
            parent = block
        return blocks

    def allocate(self, count: int) -> array[int]:
        """`count` fresh blocks, at most `available`; the least recently used leave the tree."""
        assert count <= self.available, f"{count} blocks wanted, {self.available} available"
        blocks = array("i")
        for _ in range(count):
            block, _none = self._idle.popitem(last=False)
            self._unpublish(block)
            self._references[block] = 1
            blocks.append(block)
        return blocks

    def share(self, blocks: Iterable[int]) -> array[int]:
        """One more reference on each: the table of a fork."""
        table = array("i", blocks)
        for block in table:
            assert self._references[block] > 0, "only a living table can be shared"
            self._references[block] += 1
        return table

    def release(self, blocks: array[int]) -> None:
        """Drop one reference on each, from the back: leaves go before what leads to them."""
        for block in reversed(blocks):
            self._references[block] -= 1
            assert self._references[block] >= 0, f"block {block} released twice"
            if not self._references[block]:
                self._idle[block] = None
                if self._edge[block] is None:  # nothing worth keeping: first to be taken
                    self._idle.move_to_end(block, last=False)

    def is_shared(self, block: int) -> bool:
        return self._references[block] > 1

    def make_private(self, blocks: array[int], index: int) -> None:
        """Copy-on-write: give the table a block of its own at `index`, with the same content."""
        shared = blocks[index]
        if self.is_shared(shared):
            (blocks[index],) = self.allocate(1)
            self._copy(shared, blocks[index])
            self._references[shared] -= 1

    def publish(self, blocks: array[int], index: int, tokens: list[int]) -> None:
        """Put the table's full block `index`, holding these 16 tokens, into the tree; those before
        it are there.

        Where the tree already has the same prefix (two requests computed it side by side), the
        table takes over that block and gives its own back.
        """
        if not self._caching:
            return
        own = blocks[index]
        edge = (blocks[index - 1] if index else ROOT, array("i", tokens).tobytes())
        known = self._child.get(edge)
        if known is None:
            self._edge[own] = edge
            self._child[edge] = own
        elif known != own:
            self._acquire(known)
            blocks[index] = known
            self.release(array("i", [own]))

    def would_free(self, tables: Iterable[array[int]]) -> int:
        """Blocks that become available when all these tables are released."""
        dropped = Counter(block for table in tables for block in table)
        return sum(self._references[block] == count for block, count in dropped.items())

    def nodes(self) -> Iterator[tuple[int, int, bytes]]:
        """The prefix tree, parents first: (block, parent or −1, its tokens as int32 bytes)."""
        children: dict[int, list[tuple[int, bytes]]] = {}
        for (parent, key), block in self._child.items():
            children.setdefault(parent, []).append((block, key))
        level = [ROOT]
        while level:
            parent = level.pop()
            for block, key in children.get(parent, ()):
                yield block, parent, key
                level.append(block)

    def recent(self, most: int) -> list[tuple[int, int, bytes]]:
        """The `most` published blocks that were used last, as in `nodes`; parents come first."""
        held = [block for block, _parent, _key in self.nodes() if self._references[block]]
        idle = [b for b in reversed(self._idle) if self._edge[b] is not None]
        chosen = [*held, *idle][:most]
        return [(block, *edge) for block in chosen if (edge := self._edge[block]) is not None]

    def adopt(self, nodes: Iterable[tuple[int, bytes]]) -> list[tuple[int, bool]]:
        """Publish blocks whose content the caller then writes, before anyone else has a turn.

        Args:
            nodes: (place of the parent in this list, or −1; 16 tokens as int32 bytes), parents
                first, most recently used first.

        Returns (block, whether its content is to be written: the tree had the others already), in
        order: as many as there is room for.
        """
        adopted: list[tuple[int, bool]] = []
        for parent, key in nodes:
            edge = (adopted[parent][0] if parent >= 0 else ROOT, key)
            known = self._child.get(edge)
            if known is not None:
                self._acquire(known)
            elif not self.available or not self._caching:
                break
            block = self.allocate(1)[0] if known is None else known
            self._edge[block] = edge
            self._child[edge] = block
            adopted.append((block, known is None))
        self.release(array("i", [block for block, _new in adopted]))
        return adopted

    def forget(self) -> int:
        """Empty the tree but for what living tables hold; how many blocks left it."""
        idle = [block for block in self._idle if self._edge[block] is not None]
        for block in idle:
            self._unpublish(block)
        return len(idle)

    def check_integrity(self, tables: Iterable[array[int]]) -> None:
        """Assert that counts, queue and tree agree with the living block tables."""
        held = Counter(block for table in tables for block in table)
        for block, references in enumerate(self._references):
            assert references == held[block], (
                f"block {block}: {references} counted, {held[block]} held"
            )
            assert (references == 0) == (block in self._idle), (
                f"block {block} is idle and held, or neither"
            )
        for edge, block in self._child.items():
            assert self._edge[block] == edge, (
                f"block {block} hangs at an edge that it does not know"
            )
        assert sum(edge is not None for edge in self._edge) == len(self._child), (
            "an edge leads nowhere"
        )
        assert len(list(self.nodes())) == len(self._child), "a published block hangs at no root"
        seen: set[int] = set()
        for block in self._idle:
            edge_here = self._edge[block]
            assert edge_here is None or edge_here[0] not in seen, f"block {block} would be orphaned"
            seen.add(block)

    def _acquire(self, block: int) -> None:
        if not self._references[block]:
            del self._idle[block]
        self._references[block] += 1

    def _unpublish(self, block: int) -> None:
        edge = self._edge[block]
        if edge is not None:
            del self._child[edge]
            self._edge[block] = None

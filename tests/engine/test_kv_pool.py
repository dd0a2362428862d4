"""Blocks: counted, copied before sequences part, found by prefix, evicted leaf first."""

from __future__ import annotations

from array import array

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from codellama.engine.kv_pool import KVPool, blocks_for
from codellama.engine.runner import BLOCK_SIZE


def pool_of(n_blocks: int, copies: list[tuple[int, int]] | None = None, **keywords: bool) -> KVPool:
    log = copies if copies is not None else []
    return KVPool(n_blocks, lambda source, target: log.append((source, target)), **keywords)


def fill(pool: KVPool, tokens: list[int]) -> array[int]:
    """What a sequence does: match, allocate, compute, publish."""
    table = pool.match(tokens, len(tokens) - 1)
    known = len(table)
    table.extend(pool.allocate(blocks_for(len(tokens)) - known))
    for index in range(known, len(tokens) // BLOCK_SIZE):
        pool.publish(table, index, tokens[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE])
    return table


@pytest.mark.parametrize(("tokens", "blocks"), [(0, 0), (1, 1), (16, 1), (17, 2)])
def test_blocks_for(tokens: int, blocks: int) -> None:
    assert blocks_for(tokens) == blocks


def test_a_prefix_is_found_in_full_blocks_up_to_the_limit() -> None:
    pool = pool_of(8)
    tokens = list(range(40))
    table = fill(pool, tokens)
    pool.release(table)
    assert list(pool.match(tokens, 40)) == list(table[:2])
    assert list(pool.match(tokens[:32], 31)) == list(table[:1]), "one token must be left to compute"
    assert list(pool.match(tokens[:20] + [99] * 20, 40)) == list(table[:1])
    assert list(pool.match([99, *tokens], 40)) == []


def test_the_same_tokens_after_another_prefix_are_another_block() -> None:
    pool = pool_of(8)
    same = list(range(16))
    first = fill(pool, [1] * 16 + same)
    second = fill(pool, [2] * 16 + same)
    assert not set(first) & set(second)


def test_equal_blocks_computed_side_by_side_become_one() -> None:
    pool = pool_of(4)
    tokens = list(range(16))
    first, second = pool.allocate(1), pool.allocate(1)
    pool.publish(first, 0, tokens)
    pool.publish(second, 0, tokens)
    assert first == second
    assert pool.available == 3
    pool.check_integrity([first, second])


def test_a_shared_block_is_copied_before_it_is_written() -> None:
    copies: list[tuple[int, int]] = []
    pool = pool_of(4, copies)
    parent = pool.allocate(2)
    fork = pool.share(parent)
    pool.make_private(fork, 1)
    assert fork[0] == parent[0] and fork[1] != parent[1]
    assert copies == [(parent[1], fork[1])]
    pool.make_private(parent, 1)
    assert len(copies) == 1, "the last owner writes in place"
    pool.check_integrity([parent, fork])


def test_the_oldest_leaf_is_evicted_first() -> None:
    pool = pool_of(6)
    old, recent = [1] * 32, [2] * 32
    pool.release(fill(pool, old))
    pool.release(fill(pool, recent))
    pool.release(pool.match(old, 32))  # used again: now `recent` is the older one
    pool.allocate(2)  # takes the two blocks that were never used
    pool.allocate(1)
    assert len(pool.match(old, 32)) == 2
    assert len(pool.match(recent, 32)) == 1, "its leaf went, its root stayed"


def test_blocks_without_a_prefix_are_taken_before_kept_ones() -> None:
    pool = pool_of(3)
    pool.release(fill(pool, [1] * 32))
    pool.release(pool.allocate(1))  # partial: worth nothing to others
    pool.allocate(1)
    assert pool.published == 2


def test_without_caching_nothing_is_published() -> None:
    pool = pool_of(4, caching=False)
    pool.release(fill(pool, list(range(32))))
    assert pool.published == 0
    assert not pool.match(list(range(32)), 32)


def test_nodes_walk_from_the_roots() -> None:
    pool = pool_of(8)
    fill(pool, [1] * 48)
    fill(pool, [1] * 16 + [2] * 16)
    seen = {-1}
    for block, parent, key in pool.nodes():
        assert parent in seen
        assert len(key) == 4 * BLOCK_SIZE
        seen.add(block)
    assert len(seen) == 5


def test_misuse_is_caught() -> None:
    pool = pool_of(2)
    table = pool.allocate(2)
    with pytest.raises(AssertionError, match="available"):
        pool.allocate(1)
    pool.release(table)
    with pytest.raises(AssertionError, match="released twice"):
        pool.release(table)


class PoolMachine(RuleBasedStateMachine):
    """Random sequences over few tokens; the content of every block is tracked beside the pool."""

    def __init__(self) -> None:
        super().__init__()
        self.content: dict[int, list[int]] = {}
        self.pool = KVPool(12, self.copied)
        self.tables: list[tuple[array[int], list[int]]] = []

    def copied(self, source: int, target: int) -> None:
        self.content[target] = list(self.content[source])

    @rule(tokens=st.lists(st.sampled_from([1, 2]), min_size=1, max_size=5), tail=st.integers(1, 15))
    def start(self, tokens: list[int], tail: int) -> None:
        text = [token for token in tokens for _ in range(BLOCK_SIZE)] + [7] * tail
        table = self.pool.match(text, len(text) - 1)
        for index, block in enumerate(table):
            assert self.content[block] == text[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
        missing = blocks_for(len(text)) - len(table)
        if self.pool.available < missing:
            self.pool.release(table)
            return
        known = len(table)
        table.extend(self.pool.allocate(missing))
        for index in range(known, len(table)):
            part = text[index * BLOCK_SIZE : (index + 1) * BLOCK_SIZE]
            self.content[table[index]] = list(part)
            if len(part) == BLOCK_SIZE:
                self.pool.publish(table, index, part)
        self.tables.append((table, text))

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 100))
    def fork(self, which: int) -> None:
        table, text = self.tables[which % len(self.tables)]
        self.tables.append((self.pool.share(table), list(text)))

    @precondition(lambda self: self.tables and self.pool.available)
    @rule(which=st.integers(0, 100), token=st.integers(3, 6))
    def write(self, which: int, token: int) -> None:
        """Overwrite the last token: what a decode into a partial block does."""
        table, text = self.tables[which % len(self.tables)]
        self.pool.make_private(table, len(table) - 1)
        text[-1] = token
        self.content[table[-1]][-1] = token

    @precondition(lambda self: self.tables)
    @rule(which=st.integers(0, 100))
    def end(self, which: int) -> None:
        table, _text = self.tables.pop(which % len(self.tables))
        self.pool.release(table)

    @invariant()
    def whole(self) -> None:
        self.pool.check_integrity(table for table, _text in self.tables)
        for table, text in self.tables:
            assert [token for block in table for token in self.content[block]] == text

    def teardown(self) -> None:
        for table, _text in self.tables:
            self.pool.release(table)
        assert self.pool.available == 12
        self.pool.check_integrity([])


TestPoolMachine = PoolMachine.TestCase
TestPoolMachine.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)

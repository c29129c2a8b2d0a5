"""What a byte costs the memory budget from its arrival until it is durable."""

HOLDING_FACTOR = 2
"""How many times a byte is charged while it is held until durable. It waits as it came, and zstd may need as much again
for its result. What nobody compresses is sent from where it lies, but the allocator keeps holes between blocks that
come and go: without this the process grew to one and a half times what it held (docs/performance.md)."""

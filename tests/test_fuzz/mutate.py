"""Damage to files and structures, by number: the same number gives the same damage."""
import copy
import random
import signal
from contextlib import contextmanager

JUNK = [None, True, -1, 0, 2**70, 1e300, float('nan'), float('inf'), '', 'text', '\0', b'bytes', [],
        {}, [[]], {'a': {}}, [None] * 3, 'x' * 5000]


def mutate_bytes(data, rng):
    """Flips bits, cuts, inserts, removes, repeats or overwrites bytes."""
    data = bytearray(data)
    kind = rng.choice(['flip', 'flip', 'cut', 'insert', 'remove', 'repeat', 'overwrite'])
    place = rng.randrange(len(data))
    length = rng.choice([1, 2, 8, 100, 1000])
    if kind == 'flip':
        for _ in range(rng.choice([1, 3, 20, 200])):
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    elif kind == 'cut':
        del data[place:]
    elif kind == 'insert':
        data[place:place] = rng.randbytes(length)
    elif kind == 'remove':
        del data[place:place + length]
    elif kind == 'repeat':
        data[place:place] = data[place:place + length]
    else:
        data[place:place + length] = bytes([rng.choice([0, 255, 0x80, 0x2e])]) * length
    return bytes(data)


def holders(node):
    """All containers in nested dicts and lists."""
    found = [node]
    for child in node.values() if isinstance(node, dict) else node:
        if isinstance(child, (dict, list)):
            found += holders(child)
    return [h for h in found if h]


def mutate_structure(content, rng, junk=JUNK):
    """Changes one to three entries anywhere in nested dicts and lists."""
    content = copy.deepcopy(content)
    for _ in range(rng.choice([1, 1, 2, 3])):
        found = holders(content)
        if not found:
            return content
        holder = rng.choice(found)
        key = rng.choice(list(holder)) if isinstance(holder, dict) else rng.randrange(len(holder))
        kind = rng.choice(['junk', 'junk', 'drop', 'swap', 'move', 'wrap', 'rename', 'deep'])
        if kind == 'junk':
            holder[key] = copy.deepcopy(rng.choice(junk))
        elif kind == 'drop':
            del holder[key]
        elif kind in ('swap', 'move'):
            other = rng.choice(list(holder)) if isinstance(holder, dict) else \
                rng.randrange(len(holder))
            holder[key], holder[other] = holder[other], (holder[key] if kind == 'swap' else
                                                         holder[other])
        elif kind == 'wrap':
            holder[key] = [holder[key]]
        elif kind == 'rename' and isinstance(holder, dict):
            holder[rng.choice(['', 'x', key * 2 if isinstance(key, str) else 'y'])] = \
                holder.pop(key)
        else:
            node = holder[key]
            for _ in range(rng.choice([5, 150])):
                node = [node]
            holder[key] = node
    return content


@contextmanager
def time_limit(seconds):
    """Fails where something takes too long."""

    def stop(number, frame):
        raise AssertionError(f'still running after {seconds} s')

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def numbers(count):
    """A generator for each damaged file."""
    return [random.Random(i) for i in range(count)]

"""Work for Python: every line printed is a function of SCALE alone."""
import collections
import gc
import hashlib
import json
import re
import sys
import threading
import zlib

scale = int(sys.argv[1])
words = [f"w{(i * 7919) % 1009}" for i in range(2000 * scale)]
print(collections.Counter(words).most_common(3))
text = " ".join(words)
print(len(re.findall(r"\bw(\d)\1\b", text)), re.sub(r"w(\d+)", lambda m: m.group(1)[::-1], text)[:60])
packed = zlib.compress(text.encode(), 9)
print(len(zlib.decompress(packed)) == len(text), hashlib.sha256(text.encode()).hexdigest()[:16])
tree = {"leaf": 0}
for i in range(200):
    tree = {"left": tree if i % 3 else [i] * 5, "n": i, "right": {str(i): [i, i / 7, None, True]}}
print(hashlib.md5(json.dumps(tree, sort_keys=True).encode()).hexdigest(), len(json.loads(json.dumps(tree))))


class Node:
    def __init__(self, value):
        self.value, self.peer = value, None


for i in range(500 * scale):
    a, b = Node(i), Node(-i)
    a.peer, b.peer = b, a
print("collected", gc.collect() >= 0)
results = [0] * 4


def work(index):
    results[index] = sum(len(str(n) * 3) for n in range(index, 3000 * scale, 4))


threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
print(results, sum(bytearray(range(256)) * scale))

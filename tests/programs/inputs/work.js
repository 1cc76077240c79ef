// Work for node: what it prints depends on its argument alone.
const scale = Number(process.argv[2]);
const { createHash } = require('crypto');
const zlib = require('zlib');
const counts = new Map();
for (let i = 0; i < 20000 * scale; i++) {
    const key = `k${(i * 7919) % 487}`;
    counts.set(key, (counts.get(key) || 0) + 1);
}
console.log(counts.size, [...counts].sort().slice(0, 3).join(' '));
const text = JSON.stringify([...counts.keys()].map((key, n) => ({ key, n, half: n / 2 })));
console.log(createHash('sha256').update(text).digest('hex').slice(0, 16));
const packed = zlib.deflateSync(Buffer.from(text.repeat(20)));
console.log(zlib.inflateSync(packed).length);
let kept = [];
for (let i = 0; i < 200 * scale; i++) {
    kept.push(Buffer.alloc(10000, i));
    if (kept.length > 20) kept = kept.slice(10);
}
console.log(kept.length, text.replace(/k(\d)\1/g, '<$1>').length);
Promise.all([1, 2, 3].map((n) => new Promise((done) => setTimeout(() => done(n * n), n)))).then((all) => console.log(all));

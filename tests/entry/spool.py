#!/usr/bin/python3
"""Runs a command with a spool of our own in place of `moat run`'s, and prints what its processes say of themselves.

Usage: spool.py LIBRARY COMMAND...
The records are read by what guard/report/spool.c says of their form, not by its code. Process ids are shown as p1, p2 ... in
order of appearance, the spool's directory as DIR."""
import os
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib

HEADER_BYTES = 4096
TAKEN_AT = 16
TYPES = {1: "finding", 2: "check-in", 3: "exec", 4: "exec-gone", 5: "summary", 6: "note"}


def make_spool(path):
    header = bytearray(HEADER_BYTES)
    struct.pack_into("<8sIBBxxQQq", header, 0, b"MOATSPL1", 1, 1, 0, HEADER_BYTES, HEADER_BYTES, os.getpid())
    with open(path, "wb") as spool:
        spool.write(header)


def take_all(path, done):
    """Says of everything in the spool that it was taken, so that nobody waits."""
    with open(path, "r+b", buffering=0) as spool:
        while not done.is_set():
            size = os.fstat(spool.fileno()).st_size
            os.pwrite(spool.fileno(), struct.pack("<QQ", size, size), TAKEN_AT)
            time.sleep(0.001)


def text_at(body, at):
    length = struct.unpack_from("<H", body, at)[0]
    return body[at + 2:at + 2 + length].decode("utf-8", "backslashreplace"), at + 2 + length


def records_of(data):
    at = 0
    while at < len(data):
        magic, version, kind, zero, length, body_sum, header_sum = struct.unpack_from("<4sBBHIII", data, at)
        body = data[at + 20:at + 20 + length]
        assert (magic, version, zero) == (b"MoaR", 1, 0), f"no record at {at}"
        assert zlib.crc32(data[at:at + 16]) == header_sum and zlib.crc32(body) == body_sum, f"wrong sum at {at}"
        bits, bug, repeats, pid, value0, value1 = struct.unpack_from("<BIQqQQ", body, 0)
        assert bits == struct.calcsize("P") * 8
        program, end = text_at(body, 37)
        command, end = text_at(body, end)
        note, end = text_at(body, end)
        if kind in (2, 3, 4):
            assert end == length and (bug, repeats, value1) == (0, 0, 0), "more than there should be"
        yield TYPES[kind], pid, value0, program, command, note
        at += 20 + length


def main():
    library, command = sys.argv[1], sys.argv[2:]
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "spool")
        make_spool(path)
        done = threading.Event()
        taker = threading.Thread(target=take_all, args=(path, done))
        taker.start()
        environment = dict(os.environ, LD_PRELOAD=library, MOAT_OPTIONS=f"spool={path}:leak_check=0")
        status = subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=False).returncode
        done.set()
        taker.join()
        with open(path, "rb") as spool:
            data = spool.read()[HEADER_BYTES:]
    names = {}

    def name(pid):
        return names.setdefault(pid, f"p{len(names) + 1}")

    here = os.getcwd()
    for kind, pid, about, program, command_line, note in records_of(data):
        if kind == "check-in":
            print(f"{name(pid)} check-in {os.path.basename(program)} [{command_line}]")
        elif kind in ("exec", "exec-gone"):
            assert program == command_line == ""
            print(f"{name(pid)} {kind} {name(about)} {note.replace(here, 'DIR')}")
        elif kind != "summary":
            print(f"{name(pid)} {kind}: {note}")
    print(f"status {status}")


main()

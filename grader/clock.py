"""A service whose clock can be put forward: what takes a minute is checked in a second.

All boxes have the machine's clock. But Nginx asks for the time by a function of the C library,
`gettimeofday`, and a library that is loaded before that one (LD_PRELOAD) can answer instead: the
kernel's time, and some seconds more. It is small enough to be put together here, without a
compiler. Nginx's timers go by another clock, which stays as it is.
"""

from __future__ import annotations

import platform
import struct
from typing import TYPE_CHECKING

from grader.errors import GraderError
from grader.machine import File
from grader.site import wait_for

if TYPE_CHECKING:
    from grader.site import Service

PATH = "/run/clock.so"
NAME = b"gettimeofday"
# gettimeofday(tv, tz): ask the kernel, then add the 8 bytes before this code to tv->tv_sec.
# ELF's number of the machine, and the code.
CODE = {
    "x86_64": (
        62,
        "b860000000"  # mov eax, 96
        "0f05"  # syscall
        "488b05eaffffff"  # mov rax, [the seconds]
        "480107"  # add [rdi], rax
        "31c0c3",  # xor eax, eax; ret
    ),
    "aarch64": (
        183,
        "e90300aa"  # mov x9, x0
        "281580d2"  # mov x8, 169
        "010000d4"  # svc 0
        "6affff58"  # ldr x10, [the seconds]
        "2b0140f9"  # ldr x11, [x9]
        "6b010a8b"  # add x11, x11, x10
        "2b0100f9"  # str x11, [x9]
        "e0031f2a"  # mov w0, wzr
        "c0035fd6",  # ret
    ),
}
HEAD, PROGRAM, SYMBOL, ENTRY = 64, 56, 24, 16  # bytes of ELF's structures
SECONDS = HEAD + 2 * PROGRAM  # where the seconds stand in the library
PAGE = 0x10000  # the largest there is on these machines


def library(machine: str) -> bytes:
    """Put the library together: one segment, one function, and the tables to find it by its name.

    Args:
        machine: as `platform.machine` calls it.

    Raises:
        GraderError: there is no code for this one.
    """
    if machine not in CODE:
        raise GraderError(f"a clock cannot be set on a machine of the kind {machine}")
    number, text = CODE[machine]
    code = bytes(8) + bytes.fromhex(text)
    code += bytes(-len(code) % 8)
    symbols = SECONDS + len(code)
    hashes = symbols + 2 * SYMBOL
    strings = hashes + 24
    names = b"\0" + NAME + b"\0"
    names += bytes(-len(names) % 8)
    dynamic = strings + len(names)
    size = dynamic + 6 * ENTRY
    function = (1, 0x12, 0, 1, SECONDS + 8, len(code) - 8)  # a global function, after the seconds
    tables = ((4, hashes), (5, strings), (6, symbols), (10, len(names)), (11, SYMBOL), (0, 0))
    return b"".join(
        (
            b"\x7fELF\2\1\1" + bytes(9),
            struct.pack("<HHIQQQIHHHHHH", 3, number, 1, 0, HEAD, 0, 0, HEAD, PROGRAM, 2, 0, 0, 0),
            struct.pack("<IIQQQQQQ", 1, 5, 0, 0, 0, size, size, PAGE),  # all of it, readable, code
            struct.pack("<IIQQQQQQ", 2, 4, dynamic, dynamic, dynamic, 6 * ENTRY, 6 * ENTRY, 8),
            code,
            bytes(SYMBOL) + struct.pack("<IBBHQQ", *function),
            struct.pack("<IIIIII", 1, 2, 1, 0, 0, 0),  # one bucket, with the second symbol in it
            names,
            *(struct.pack("<QQ", *one) for one in tables),
        )
    )


def restart_with_clock(service: Service) -> None:
    """Start a service anew, with a clock that `put_forward` can set.

    Raises:
        GraderError: not on this kind of machine.
        NotLive: the site is no box.
    """
    box = service.site.box
    box.write(File(PATH, library(platform.machine())))
    put_forward(service, 0)  # where nothing else runs beside the services, it says so now
    service.stop()
    service.env["LD_PRELOAD"] = PATH
    service.start()


def put_forward(service: Service, seconds: int) -> None:
    """Let a service's clock be ahead of the machine's, from now on.

    The kernel shows what is written to a file in the programs that have loaded it.
    """
    octal = "".join(f"\\{byte:03o}" for byte in struct.pack("<q", seconds))
    write = f"printf '{octal}' | dd of={PATH} bs=1 seek={SECONDS} conv=notrunc status=none"
    box = service.site.box
    box.spawn("clock", ["sh", "-c", write], {})

    def ended() -> bool:
        return box.request("status")["services"]["clock"]["status"] is not None

    if not wait_for(ended, 10) or box.log("clock", "stderr"):
        raise GraderError(f"the clock was not set: {box.log('clock', 'stderr')}")

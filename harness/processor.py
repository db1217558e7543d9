"""The processor's name, and whether a name tells one kind of machine from another.

``/proc/cpuinfo`` has another form on each architecture: x86 gives the maker's name, ARM and RISC-V give numbers, and a
virtual machine gives what its host chose. The name must differ where processors differ, because speeds are compared
between equal names.
"""

import functools
import platform
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from harness.external import output_of

_MAKERS = {
    "0x41": "ARM", "0x42": "Broadcom", "0x43": "Cavium", "0x46": "Fujitsu", "0x48": "HiSilicon", "0x4e": "NVIDIA",
    "0x50": "APM", "0x51": "Qualcomm", "0x61": "Apple", "0x6d": "Microsoft", "0x70": "Phytium", "0xc0": "Ampere",
}  # fmt: skip
"""ARM's numbers of those who design cores."""

_VECTORS = ("amx_tile", "avx512f", "avx2", "avx", "sse4_2")
"""Flags of an x86 processor that decide how fast it multiplies, the widest first."""

_ARCHITECTURE = re.compile(
    r"x86(_64)?|i\d86|amd64|arm\w*|aarch64\w*|(ppc|powerpc)\w*|s390x?|(riscv|loongarch|mips|sparc)\w*|unknown"
    r"|(armv\d|aarch64)\S* processor.*",
    re.IGNORECASE,
)
"""Names of an architecture, which all its processors share."""

_STAND_IN = re.compile(r"QEMU Virtual CPU|Common .*KVM processor|riscv-virtio,qemu|part 0x0+\b", re.IGNORECASE)
"""Names that an emulator or hypervisor gives whatever the processor below it is."""

_GENERIC = re.compile(
    r"\b(Intel|AMD|EPYC|Xeon|VirtualApple|DO|KVM|QEMU|CPU|Processor|Graphics|Class)\b|\dxx|[0-9a-f]{2}/[0-9a-f]{2}",
    re.IGNORECASE,
)
"""Words of names that need a model number to say which one is meant."""

_NUMBERS = re.compile(r"\(family \d+ model \d+|\bpart 0x")
"""The numbers that :func:`name_in` puts where the maker's name has no model number."""

Block = Mapping[str, str]


@functools.cache
def cpu_model() -> str | None:
    """The processor's name; None where only the architecture is known."""
    if platform.system() == "Darwin":
        return output_of("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string") or None
    return name_in(_text(Path("/proc/cpuinfo")), board(Path("/")))


def identifies(name: str) -> bool:
    """Return whether equal names mean equal processors (or GPUs), as far as anybody can tell from a name.

    ``aarch64``, ``QEMU Virtual CPU version 2.5+`` and ``Intel(R) Xeon(R) Processor`` are names of unlike machines. A
    name with a model number tells them apart, and so does one with the numbers that :func:`name_in` adds.
    """
    if not name.strip() or _ARCHITECTURE.fullmatch(name.strip()) or _STAND_IN.search(name):
        return False
    return bool(_NUMBERS.search(name)) or not _GENERIC.search(name) or _has_model_number(name)


def _has_model_number(name: str) -> bool:
    """Return whether some word has three digits, as ``8488C``, ``7B13`` and ``i7-8700``; ``E312xx`` is a series."""
    bare = re.sub(r"\(.*?\)|@?\s*[\d.]+\s*[GM]Hz", " ", name)
    words = [word.lower() for word in re.split(r"[\s/_,]+", bare)]
    digits = [re.sub(r"\D", "", word) for word in words if "xx" not in word and not word.endswith("-core")]
    return "class" not in name.lower() and any(len(own) >= 3 and own.strip("0") for own in digits)


def name_in(cpuinfo: str, board_name: str = "") -> str | None:
    """The name of the processor that the text of ``/proc/cpuinfo`` describes.

    Cores of different kinds are all named. What has no model number gets the numbers that stand there: family, model,
    stepping, cache and vector instructions of x86; maker, part, revision and timer of ARM.

    Args:
        cpuinfo: the text.
        board_name: the board or virtual machine, which tells ARM and RISC-V processors with the same core apart.

    Returns:
        None where it names no processor.
    """
    blocks = [_fields(part) for part in re.split(r"\n\s*\n", cpuinfo)]
    cores = list(dict.fromkeys(core for block in blocks if (core := _core(block))))
    if any(_ARCHITECTURE.fullmatch(core) for core in cores):
        return None
    needs_board = any({"cpu part", "isa", "cpu"} & block.keys() for block in blocks)
    place = _board_in(blocks) or board_name if needs_board else ""
    return ", ".join(filter(None, [" + ".join(cores), place])) or None


def _fields(block: str) -> Block:
    """Key -> value; the keys in small letters and with single spaces."""
    lines = (line.partition(":") for line in block.splitlines())
    return {" ".join(key.lower().split()): " ".join(value.split()) for key, _, value in lines}


def _core(block: Block) -> str:
    """Return what a block says of its core; "" if nothing."""
    if "cpu part" in block:
        return _arm(block)
    if "isa" in block:
        return _riscv(block)
    if "cpu" in block:
        return _power(block)
    return _mainframe(block) or _named(block)


def _arm(block: Block) -> str:
    maker, name = block.get("cpu implementer", ""), block.get("model name", "")
    stage = f"r{block.get('cpu variant', '?').removeprefix('0x')}p{block.get('cpu revision', '?')}"
    made = f"{_MAKERS.get(maker, f'implementer {maker}')} part {block['cpu part']} {stage}"
    # ARMv8 computes them from the frequency of a timer; older ones measure them, another number at every start
    has_timer = block.get("cpu architecture") in ("8", "AArch64") and "bogomips" in block
    timer = f" ({block['bogomips']} BogoMIPS)" if has_timer else ""
    known = f"{name} " if name and not _ARCHITECTURE.fullmatch(name) else ""
    return f"{known}{made}{timer}"


def _riscv(block: Block) -> str:
    numbers = (f"{key} {block[key]}" for key in ("mvendorid", "marchid", "mimpid") if block.get(key, "").strip("0x"))
    return " ".join(filter(None, [block.get("model name") or block.get("uarch"), *numbers]))


def _power(block: Block) -> str:
    name = block["cpu"].removesuffix(", altivec supported")
    return f"{name} revision {block['revision']}" if "revision" in block else name


def _mainframe(block: Block) -> str:
    """IBM Z: the type of the machine, without the identification, which is its serial number."""
    said = (value for key, value in block.items() if re.fullmatch(r"processor \d+", key))
    types = [f"machine = {block['machine']}"] if "cpu number" in block and "machine" in block else list(said)
    found = re.search(r"machine = (\w+)", types[0]) if types else None
    return f"IBM/S390 machine {found[1]}" if found else ""


def _named(block: Block) -> str:
    """The maker's name, and the numbers of x86 if it has no model number."""
    known = {key: value for key, value in block.items() if value.lower() not in ("", "unknown")}
    name = known.get("model name") or known.get("cpu model", "")
    parts = {"family": "cpu family", "model": "model", "stepping": "stepping"}
    if (name and identifies(name)) or not all(known.get(key, "").isdigit() for key in parts.values()):
        return name
    flags = set(known.get("flags", "").split())
    details = [
        " ".join(f"{label} {known[key]}" for label, key in parts.items()),
        f"cache {known['cache size']}" if "cache size" in known else "",
        next((flag for flag in _VECTORS if flag in flags), ""),
    ]
    return f"{name or known.get('vendor_id', 'x86')} ({', '.join(filter(None, details))})"


def _board_in(blocks: Sequence[Block]) -> str:
    """The board that ``/proc/cpuinfo`` names after the cores: that of a Raspberry Pi, or of POWER."""
    for block in blocks:
        if "cpu number" not in block and "machine" in block:
            return block["machine"]
        if "model" in block and {"serial", "hardware"} & block.keys():
            return block["model"]
    return ""


def board(root: Path) -> str:
    """The board by the device tree, or the machine by its firmware; "" if neither says.

    Args:
        root: the folder that holds ``proc`` and ``sys``.
    """
    for tree in ("proc/device-tree/model", "sys/firmware/devicetree/base/model"):
        if model := _text(root / tree):
            return model
    firmware = root / "sys/class/dmi/id"
    return " ".join(filter(None, (_text(firmware / name) for name in ("sys_vendor", "product_name"))))


def _text(path: Path) -> str:
    """Return what a file of the kernel holds; "" if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip(" \0\n")
    except OSError:
        return ""

"""The processor's name: what each architecture says of it, and which names tell machines apart."""

from itertools import combinations
from pathlib import Path

import cpuinfo
import pytest
from cpuinfo import x86

from harness import processor
from harness.processor import board, identifies, name_in

EPYC = x86("AMD EPYC 7763 64-Core Processor", 1, family=25, vendor="AuthenticAMD", cache="512 KB")
XEON = x86("Intel(R) Xeon(R) Platinum 8488C", 143, stepping=8)
SKYLAKE_GUEST = x86("Intel Xeon Processor (Skylake, IBRS)", 85, stepping=4, flags="avx avx2 avx512f")
QEMU = x86("QEMU Virtual CPU version 2.5+", 13, stepping=3, cache="4096 KB", flags="sse2 hypervisor")

NAMES = {
    "graviton2": (cpuinfo.GRAVITON2, "Amazon EC2 m6g.large",
        "ARM part 0xd0c r3p1 (243.75 BogoMIPS), Amazon EC2 m6g.large"),
    "graviton2 in a container": (cpuinfo.GRAVITON2, "", "ARM part 0xd0c r3p1 (243.75 BogoMIPS)"),
    "altra in a container": (cpuinfo.ALTRA, "", "ARM part 0xd0c r3p1 (50.00 BogoMIPS)"),
    "graviton3": (cpuinfo.GRAVITON3, "", "ARM part 0xd40 r1p1 (2100.00 BogoMIPS)"),
    "m1 under linux": (cpuinfo.APPLE_M1, "Apple Mac mini (M1, 2020)",
        "Apple part 0x022 r1p1 (48.00 BogoMIPS) + Apple part 0x023 r1p1 (48.00 BogoMIPS), Apple Mac mini (M1, 2020)"),
    "pi 4": (cpuinfo.PI_4, "", "ARM part 0xd08 r0p3 (108.00 BogoMIPS), Raspberry Pi 4 Model B Rev 1.4"),
    "pi 5": (cpuinfo.PI_5, "", "ARM part 0xd0b r4p1 (108.00 BogoMIPS), Raspberry Pi 5 Model B Rev 1.0"),
    "pi zero": (cpuinfo.PI_ZERO, "", "ARM part 0xb76 r0p7, Raspberry Pi Zero W Rev 1.1"),
    "two kinds of cores": (cpuinfo.BIG_LITTLE, "Radxa ROCK 5B",
        "ARM part 0xd05 r2p0 (48.00 BogoMIPS) + ARM part 0xd0b r4p0 (48.00 BogoMIPS), Radxa ROCK 5B"),
    "kunpeng": (cpuinfo.KUNPENG, "", "HUAWEI,Kunpeng 920 HiSilicon part 0xd01 r1p0 (200.00 BogoMIPS)"),
    "power9": (cpuinfo.POWER9, "", "POWER9 revision 2.2 (pvr 004e 1202), PowerNV 8335-GTH"),
    "z15": (cpuinfo.Z15, "", "IBM/S390 machine 8561"),
    "z13": (cpuinfo.Z13, "", "IBM/S390 machine 2964"),
    "visionfive": (cpuinfo.VISIONFIVE, "StarFive VisionFive 2 v1.3B",
        "sifive,u74-mc mvendorid 0x489 marchid 0x8000000000000007 mimpid 0x4210427, StarFive VisionFive 2 v1.3B"),
    "risc-v on a known board": (cpuinfo.RISCV_ALONE, "SiFive HiFive Unleashed A00", "SiFive HiFive Unleashed A00"),
    "loongson": (cpuinfo.LOONGSON, "", "Loongson-3A5000"),
    "epyc": (EPYC, "Google Google Compute Engine", "AMD EPYC 7763 64-Core Processor"),
    "xeon": (XEON, "Amazon EC2 m7i.large", "Intel(R) Xeon(R) Platinum 8488C"),
    "skylake guest": (SKYLAKE_GUEST, "",
        "Intel Xeon Processor (Skylake, IBRS) (family 6 model 85 stepping 4, cache 16384 KB, avx512f)"),
    "xeon without a number": (x86("Intel(R) Xeon(R) CPU @ 2.20GHz", 79, stepping=0, cache="56320 KB"), "",
        "Intel(R) Xeon(R) CPU @ 2.20GHz (family 6 model 79 stepping 0, cache 56320 KB, avx2)"),
    "the same on another host": (x86("Intel(R) Xeon(R) CPU @ 2.20GHz", 85, stepping=7, cache="39424 KB"), "",
        "Intel(R) Xeon(R) CPU @ 2.20GHz (family 6 model 85 stepping 7, cache 39424 KB, avx2)"),
    "droplet": (x86("DO-Regular", 63, stepping=2, cache="4096 KB"), "",
        "DO-Regular (family 6 model 63 stepping 2, cache 4096 KB, avx2)"),
    "no name": (x86("unknown", 85, stepping=4), "",
        "GenuineIntel (family 6 model 85 stepping 4, cache 16384 KB, avx2)"),
    "two sockets": (x86("Intel(R) Xeon(R) CPU E5-2680 v4", 79) + x86("Intel(R) Xeon(R) CPU E5-2690 v4", 79), "",
        "Intel(R) Xeon(R) CPU E5-2680 v4 + Intel(R) Xeon(R) CPU E5-2690 v4"),
}  # fmt: skip
"""Machine -> the text, the board, and the name."""


@pytest.mark.parametrize("machine", NAMES)
def test_each_machine_has_its_name(machine: str) -> None:
    text, where, name = NAMES[machine]
    assert name_in(text, where) == name
    assert identifies(name)


def test_no_two_machines_have_one_name() -> None:
    for (one, (*_, name)), (other, (*_, its_name)) in combinations(NAMES.items(), 2):
        assert name != its_name, (one, other)


def test_a_serial_number_is_never_in_the_name() -> None:
    """Two machines of one kind are equal."""
    serials = ("10000000abcdef01", "20000000abcdef01", "0000000017e39a99", "0A1B2C")
    names = [name_in(text, where) or "" for text, where, _ in NAMES.values()]
    assert not [name for name in names if any(serial in name for serial in serials)]


@pytest.mark.parametrize("text", [
    "", "processor\t: 0\n", cpuinfo.RISCV_ALONE, cpuinfo.GVISOR, "model name\t: ARMv7 Processor rev 3 (v7l)\n",
    "model name\t: AArch64 Processor rev 4 (aarch64)\n", "\0\ufffd:::\n:\n",
], ids=["empty", "a number", "risc-v", "gvisor", "armv7", "aarch64", "garbage"])  # fmt: skip
def test_where_only_the_architecture_is_known_there_is_no_name(text: str) -> None:
    assert name_in(text) is None


def test_no_text_raises() -> None:
    """Not even one that is cut off, or that lacks a line."""
    for text, where, _ in NAMES.values():
        lines = text.splitlines()
        for place in range(len(lines)):
            name_in("\n".join(lines[:place]), where)
            name_in("\n".join(lines[:place] + lines[place + 1 :]), where)
            name_in("\n".join(lines).replace(lines[place], lines[place].partition(":")[0]), where)


@pytest.mark.parametrize(("text", "where"), [
    (QEMU, ""), (x86("Common KVM processor", 6, family=15), ""), (x86("Common 32-bit KVM processor", 6, family=15), ""),
    (cpuinfo.APPLE_GUEST, "Apple Inc. Apple Virtualization Generic Platform"), (cpuinfo.APPLE_GUEST_OF_DOCKER, ""),
    (cpuinfo.RISCV_QEMU, "riscv-virtio,qemu"),
], ids=["qemu", "kvm", "kvm32", "apple", "docker", "risc-v"])  # fmt: skip
def test_a_stand_in_is_named_and_tells_no_machines_apart(text: str, where: str) -> None:
    name = name_in(text, where)
    assert name
    assert not identifies(name)


@pytest.mark.parametrize("name", [
    "aarch64", "arm64", "armv7l", "x86_64", "i686", "ppc64le", "s390x", "riscv64", "ARMv7 Processor rev 3 (v7l)",
    "Intel(R) Xeon(R) Processor", "Intel(R) Xeon(R) Processor @ 2.70GHz", "Intel(R) Xeon(R) CPU @ 2.20GHz",
    "Intel Xeon Processor (Skylake, IBRS)", "Intel Core Processor (Haswell, no TSX)", "AMD EPYC Processor",
    "AMD EPYC-Rome Processor", "Intel Xeon E312xx (Sandy Bridge)", "Westmere E56xx/L56xx/X56xx (Nehalem-C)",
    "Virtual CPU", "DO-Regular", "Hygon Dhyana Processor",
    "AMD Opteron 240 (Gen 1 Class Opteron)", "Genuine Intel(R) CPU 0000 @ 2.00GHz", "VirtualApple @ 2.50GHz processor",
    "QEMU Virtual CPU version 1.5.3", "06/55", "AMD Radeon Graphics", "",
])  # fmt: skip
def test_names_that_many_machines_share_do_not_identify(name: str) -> None:
    """Older rows have them without numbers."""
    assert not identifies(name)


@pytest.mark.parametrize("name", [
    "Intel(R) Core(TM) i7-8700 CPU @ 3.20GHz", "13th Gen Intel(R) Core(TM) i7-1365U", "AMD EPYC 7B13", "AMD EPYC 9R14",
    "Intel(R) Xeon(R) 6980P", "AMD Ryzen 9 7950X 16-Core Processor", "Apple M1 Pro", "Apple M1 (Virtual)",
    "Intel(R) N100", "Chip 9",
    "NVIDIA H100 80GB HBM3", "NVIDIA H100 80GB HBM3 MIG 1g.10gb", "AMD Instinct MI300X gfx942",
    "AMD Radeon Graphics gfx1103",
])  # fmt: skip
def test_names_with_a_model_identify(name: str) -> None:
    assert identifies(name)


def write(root: Path, path: str, text: str) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(text.encode())


def test_the_board_is_that_of_the_device_tree_or_of_the_firmware(tmp_path: Path) -> None:
    assert board(tmp_path) == ""
    write(tmp_path, "sys/class/dmi/id/sys_vendor", "Amazon EC2\n")
    assert board(tmp_path) == "Amazon EC2"
    write(tmp_path, "sys/class/dmi/id/product_name", "m6g.large\n")
    assert board(tmp_path) == "Amazon EC2 m6g.large"
    write(tmp_path, "sys/firmware/devicetree/base/model", "Raspberry Pi 4 Model B Rev 1.4\0")
    assert board(tmp_path) == "Raspberry Pi 4 Model B Rev 1.4"
    write(tmp_path, "proc/device-tree/model", "Raspberry Pi 5\xff\0")
    assert board(tmp_path) == "Raspberry Pi 5\xff"


def test_macos_is_asked_for_the_brand(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def output_of(*command: str) -> str | None:
        asked.append(command)
        return "Apple M1 Pro" if len(asked) == 1 else None

    monkeypatch.setattr(processor.platform, "system", lambda: "Darwin")
    monkeypatch.setattr(processor, "output_of", output_of)
    assert processor.cpu_model.__wrapped__() == "Apple M1 Pro"
    assert asked == [("/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string")]
    assert processor.cpu_model.__wrapped__() is None

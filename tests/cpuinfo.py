"""What ``/proc/cpuinfo`` holds on machines of several makers: the lines that tell them apart, for one or two cores."""


def arm(
    part: str, variant: str, revision: str, *, maker: str = "0x41", bogomips: str = "108.00", more: str = ""
) -> str:
    """A block of a 64-bit ARM core."""
    return (
        f"processor\t: 0\n{more}BogoMIPS\t: {bogomips}\nFeatures\t: fp asimd evtstrm aes crc32\n"
        f"CPU implementer\t: {maker}\nCPU architecture: 8\nCPU variant\t: {variant}\nCPU part\t: {part}\n"
        f"CPU revision\t: {revision}\n\n"
    )


def x86(name: str, model: int, *, family: int = 6, stepping: int = 1, cache: str = "16384 KB", **more: str) -> str:
    """Two blocks of an x86 core."""
    vendor, flags = more.get("vendor", "GenuineIntel"), more.get("flags", "fpu vme sse sse4_2 avx avx2 hypervisor")
    block = (
        f"processor\t: %d\nvendor_id\t: {vendor}\ncpu family\t: {family}\nmodel\t\t: {model}\nmodel name\t: {name}\n"
        f"stepping\t: {stepping}\nmicrocode\t: 0x1\ncpu MHz\t\t: 2600.%03d\ncache size\t: {cache}\ncpu cores\t: 2\n"
        f"flags\t\t: {flags}\nbogomips\t: 5200.00\npower management:\n\n"
    )
    return block % (0, 0) + block % (1, 812)


GRAVITON2 = arm("0xd0c", "0x3", "1", bogomips="243.75") * 2
ALTRA = arm("0xd0c", "0x3", "1", bogomips="50.00") * 2
GRAVITON3 = arm("0xd40", "0x1", "1", bogomips="2100.00") * 2
APPLE_M1 = arm("0x022", "0x1", "1", maker="0x61", bogomips="48.00") * 4 + (
    arm("0x023", "0x1", "1", maker="0x61", bogomips="48.00") * 4
)
APPLE_GUEST = arm("0x000", "0x0", "0", maker="0x61", bogomips="48.00") * 2
APPLE_GUEST_OF_DOCKER = arm("0x000", "0x0", "0", maker="0x00", bogomips="48.00") * 2
PI_4 = arm("0xd08", "0x0", "3") * 4 + (
    "Revision\t: c03114\nSerial\t\t: 10000000abcdef01\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"
)
PI_5 = arm("0xd0b", "0x4", "1") * 4 + (
    "Revision\t: d04170\nSerial\t\t: 20000000abcdef01\nModel\t\t: Raspberry Pi 5 Model B Rev 1.0\n"
)
PI_ZERO = """\
processor	: 0
model name	: ARMv6-compatible processor rev 7 (v6l)
BogoMIPS	: 997.08
Features	: half thumb fastmult vfp edsp java tls
CPU implementer	: 0x41
CPU architecture: 7
CPU variant	: 0x0
CPU part	: 0xb76
CPU revision	: 7

Hardware	: BCM2835
Revision	: 9000c1
Serial		: 0000000017e39a99
Model		: Raspberry Pi Zero W Rev 1.1
"""
BIG_LITTLE = arm("0xd05", "0x2", "0", bogomips="48.00") * 4 + arm("0xd0b", "0x4", "0", bogomips="48.00") * 4
KUNPENG = arm("0xd01", "0x1", "0", maker="0x48", bogomips="200.00", more="model name\t: HUAWEI,Kunpeng 920\n")
POWER9 = """\
processor	: 0
cpu		: POWER9, altivec supported
clock		: 3783.000000MHz
revision	: 2.2 (pvr 004e 1202)

processor	: 4
cpu		: POWER9, altivec supported
clock		: 2300.000000MHz
revision	: 2.2 (pvr 004e 1202)

timebase	: 512000000
platform	: PowerNV
model		: 8335-GTH
machine		: PowerNV 8335-GTH
firmware	: OPAL
MMU		: Radix
"""
Z15 = """\
vendor_id       : IBM/S390
# processors    : 2
bogomips per cpu: 24038.00
max thread id   : 0
features	: esan3 zarch stfle msa ldisp eimm dfp edat etf3eh highgprs te vx vxd vxe gs vxe2 vxp sort dflt sie
cache0          : level=1 type=Data scope=Private size=128K line_size=256 associativity=8
processor 0: version = 00,  identification = 0A1B2C,  machine = 8561
processor 1: version = 00,  identification = 0A1B2C,  machine = 8561

cpu number      : 0
version         : 00
identification  : 0A1B2C
machine         : 8561
cpu MHz dynamic : 5200
cpu MHz static  : 5200

"""
Z13 = Z15.replace("8561", "2964")
VISIONFIVE = """\
processor	: 0
hart		: 1
isa		: rv64imafdc_zicntr_zicsr_zifencei_zihpm_zba_zbb
mmu		: sv39
uarch		: sifive,u74-mc
mvendorid	: 0x489
marchid		: 0x8000000000000007
mimpid		: 0x4210427

"""
RISCV_ALONE = "processor\t: 0\nhart\t\t: 0\nisa\t\t: rv64imafdc\nmmu\t\t: sv48\n\n"
RISCV_QEMU = RISCV_ALONE.rstrip() + "\nmvendorid\t: 0x0\nmarchid\t\t: 0x70200\nmimpid\t\t: 0x70200\n\n"
LOONGSON = """\
system type		: generic-loongson-machine

processor		: 0
package			: 0
core			: 0
CPU Family		: Loongson-64bit
Model Name		: Loongson-3A5000
CPU Revision		: 0x10
FPU Revision		: 0x00
"""
GVISOR = """\
processor	: 0
vendor_id	: unknown
cpu family	: unknown
model		: unknown
model name	: unknown
stepping	: unknown
cpu MHz		: 2600.000
"""

"""The data sets: how many images each has, their statistics, and how its files are known to be the true ones.

To add a set of 28 x 28 grey images in ten classes, add an entry here and a file ``conf/data/NAME.yaml``. Nothing here
imports torch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DataSet:
    """One choice of ``data=``.

    Attributes:
        train_images: number of training images.
        test_images: number of test images.
        mean: of all training pixels, scaled to 0..1; what ``data.scaling=standardised`` subtracts.
        std: of the same pixels; what it then divides by.
        torchvision: the class of ``torchvision.datasets`` that says where the four files are downloaded from and gives
            the MD5 sums of the archives. None: the images are embedded in this package.
        sha256: name of each file -> its SHA-256, which every load verifies. The name is that of the unpacked file if
            its sum is known. Else it is that of the archive (``.gz``), which is then kept beside the unpacked file,
            and the unpacked file must be exactly what the archive holds.
    """

    train_images: int
    test_images: int
    mean: float
    std: float
    torchvision: str | None = None
    sha256: Mapping[str, str] = field(default_factory=dict)


DATASETS = {
    "mnist5k": DataSet(5_000, 1_000, mean=0.1307, std=0.3081),
    "mnist": DataSet(
        60_000,
        10_000,
        mean=0.1307,
        std=0.3081,
        torchvision="MNIST",
        sha256={
            "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
            "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
            "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
            "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
        },
    ),
    "fashion_mnist": DataSet(
        60_000,
        10_000,
        mean=0.2860,
        std=0.3530,
        torchvision="FashionMNIST",
        sha256={
            "train-images-idx3-ubyte.gz": "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
            "train-labels-idx1-ubyte.gz": "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
            "t10k-images-idx3-ubyte.gz": "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
            "t10k-labels-idx1-ubyte.gz": "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
        },
    ),
    "kmnist": DataSet(
        60_000,
        10_000,
        mean=0.1918,
        std=0.3483,
        torchvision="KMNIST",
        sha256={
            "train-images-idx3-ubyte.gz": "51467d22d8cc72929e2a028a0428f2086b092bb31cfb79c69cc0a90ce135fde4",
            "train-labels-idx1-ubyte.gz": "e38f9ebcd0f3ebcdec7fc8eabdcdaef93bb0df8ea12bee65224341c8183d8e17",
            "t10k-images-idx3-ubyte.gz": "edd7a857845ad6bb1d0ba43fe7e794d164fe2dce499a1694695a792adfac43c5",
            "t10k-labels-idx1-ubyte.gz": "20bb9a0ef54c7db3efc55a92eef5582c109615df22683c380526788f98e42a1c",
        },
    ),
}
"""Name of ``data=`` -> what it is.

Means and standard deviations are the published ones, to four decimals, so that results compare with other people's. A
test computes those of MNIST from all of its training images, and those of a set whose files are given to it. The sums
of Fashion-MNIST's and KMNIST's archives are the published ones too, e.g. in torchvision's prototype data sets.
"""
